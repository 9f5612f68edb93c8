//! A measurement's report as tables, for people.

use comfy_table::Table;

use super::figure::{Case, Figure};
use super::{Measurement, Report};
use super::{align_right, buffers_line, grid, missed_line, moves_line, pairs, verdict};

impl Report for Measurement {
    fn tables(&self) -> Vec<Table> {
        let mut summary = vec![
            (
                "machine",
                format!("{}, {} cores", self.machine.cpu, self.machine.cores),
            ),
            (
                "traffic",
                format!("{} to {}", self.profile.protocol, self.profile.vip),
            ),
        ];
        summary.extend(
            self.settings
                .iter()
                .map(|(name, value)| (name.as_str(), value.clone())),
        );
        if self.command == "churn" {
            summary.push(("moves", moves_line(&self.moves)));
        }
        summary.push(("missed, no buffer, errors", missed_line(&self.devices)));
        summary.push(("buffers free", buffers_line(&self.pool)));
        let failed: Vec<&str> = self.failed.iter().map(String::as_str).collect();
        let verdict = if self.interrupted {
            "INTERRUPTED".into()
        } else {
            verdict(&failed, &self.pool)
        };
        summary.push(("verdict", verdict));
        let mut tables = vec![pairs(&self.command, summary)];
        tables.extend(figure_tables(&self.figures));
        if !self.events.is_empty() {
            let mut table = grid(&["at", "command", "exit", "took"]);
            for event in &self.events {
                let exit = event
                    .exit
                    .map_or_else(|| "none".into(), |code| code.to_string());
                table.add_row([
                    format!("{:.3} s", event.at_s),
                    event.command.clone(),
                    exit,
                    format!("{:.1} ms", event.took_ms),
                ]);
            }
            tables.push(table);
        }
        tables
    }
}

/// One table for each run of figures with the same name; latency has a column for each percentile.
fn figure_tables(figures: &[Figure]) -> Vec<Table> {
    let plain: Vec<&Figure> = figures
        .iter()
        .filter(|f| f.case.percentile.is_none())
        .collect();
    let mut tables = Vec::new();
    if !plain.is_empty() {
        let mut table = grid(&["figure", "case", "value", "spread", "limited by"]);
        for figure in plain {
            table.add_row([
                figure.name.clone(),
                figure.case.to_string(),
                figure.text(),
                figure.spread(),
                figure.limited_by.map_or("", |limit| limit.name()).into(),
            ]);
        }
        for column in [2, 3] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(comfy_table::CellAlignment::Right);
            }
        }
        tables.push(table);
    }
    tables.extend(latency_table(figures));
    tables
}

fn latency_table(figures: &[Figure]) -> Option<Table> {
    let rows = latency_rows(figures);
    let (_, first) = rows.first()?;
    let names = first.iter().filter_map(|f| f.case.percentile.as_deref());
    let header: Vec<&str> = ["latency"].into_iter().chain(names).collect();
    let mut table = grid(&header);
    for (case, figures) in &rows {
        let cells = figures.iter().map(|figure| figure.text());
        table.add_row([case.to_string()].into_iter().chain(cells));
    }
    align_right(&mut table, 1);
    Some(table)
}

/// The figures of each case that has percentiles, in the order of the percentiles.
#[must_use]
pub fn latency_rows(figures: &[Figure]) -> Vec<(Case, Vec<&Figure>)> {
    let mut rows: Vec<(Case, Vec<&Figure>)> = Vec::new();
    for figure in figures.iter().filter(|f| f.case.percentile.is_some()) {
        let case = Case {
            percentile: None,
            ..figure.case.clone()
        };
        match rows.iter_mut().find(|(other, _)| *other == case) {
            Some((_, row)) => row.push(figure),
            None => rows.push((case, vec![figure])),
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::super::measurement::tests::{churn, rfc2544, scale};
    use super::*;

    fn tables(report: &Measurement) -> String {
        let mut text = Vec::new();
        report.print(false, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_tables_of_each_command_are_the_ones_people_know() {
        insta::assert_snapshot!("tables-rfc2544", tables(&rfc2544()));
        insta::assert_snapshot!("tables-scale", tables(&scale()));
        insta::assert_snapshot!("tables-churn", tables(&churn()));
    }
}
