//! Filling the template: `{{machine}}`, `{{summary}}`, `{{figure A}}` and `{{plot NAME}}` stand for
//! what was measured.

use std::fmt::Write as _;

use super::Reason;
use crate::Failure;
use crate::figures;
use crate::machine::Machine;
use crate::record::{Book, Record};

/// Says at the top of the page where it comes from.
const ORIGIN: &str = "<!-- Written by `make bench` from performance.json and performance/template.md. Change those. -->\n\n";

/// The page's text.
///
/// # Errors
/// When the template has a placeholder that is not known.
pub fn fill(
    template: &str,
    book: &Book,
    reasons: &[Reason],
    plots: &[String],
) -> Result<String, Failure> {
    let mut page = ORIGIN.to_owned();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, behind) = after
            .split_once("}}")
            .ok_or("the template has {{ without }}")?;
        page += before;
        page += &one(name.trim(), book, reasons, plots)?;
        rest = behind;
    }
    page += rest;
    Ok(page)
}

fn one(name: &str, book: &Book, reasons: &[Reason], plots: &[String]) -> Result<String, Failure> {
    match name.split_once(' ') {
        None if name == "machine" => Ok(machines(book)),
        None if name == "summary" => Ok(summary(book)),
        Some(("figure", letter)) => {
            figures::by_letter(letter)?;
            Ok(figure(letter, book, reasons))
        }
        // Nothing to draw as long as the figure was never measured.
        Some(("plot", plot)) => Ok(if plots.iter().any(|it| it == plot) {
            format!("![{plot}](performance/{plot}.svg)")
        } else {
            String::new()
        }),
        _ => Err(format!("the template asks for {{{{{name}}}}}, which there is not").into()),
    }
}

/// The machines that the figures were measured on: one, unless some were measured elsewhere.
fn machines(book: &Book) -> String {
    let mut groups: Vec<(&Machine, Vec<&str>)> = Vec::new();
    for (figure, run) in &book.runs {
        let Some(machine) = &run.machine else {
            continue;
        };
        match groups.iter_mut().find(|(known, _)| *known == machine) {
            Some((_, figures)) => figures.push(figure),
            None => groups.push((machine, vec![figure])),
        }
    }
    let mut text = String::from(
        "| figures | processor | cores | clock | caches | memory | kernel | DPDK | compiler | commit | date |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (machine, figures) in groups {
        let _ = writeln!(
            text,
            "| {} | {}, {} | {} | {} | {} | {} MB | {} | {} | {} | `{}` | {} |",
            figures.join(" "),
            machine.processor,
            machine.kind,
            machine.cores,
            machine.clock,
            machine.caches,
            machine.memory_mb,
            machine.kernel,
            machine.dpdk,
            machine.rustc,
            machine.commit,
            machine.date
        );
    }
    text.trim_end().to_owned()
}

/// How many goals are reached, and which are not.
fn summary(book: &Book) -> String {
    let with_goal: Vec<&Record> = book
        .records
        .iter()
        .filter(|it| it.goal() != crate::goal::Goal::Told)
        .collect();
    let missed: Vec<&&Record> = with_goal.iter().filter(|it| !it.reached).collect();
    let mut text = format!(
        "{} of {} goals are reached.",
        with_goal.len() - missed.len(),
        with_goal.len()
    );
    if !missed.is_empty() {
        text += " Missed:\n";
        for record in missed {
            let _ = write!(text, "\n- {}: {}", record.figure, record.case);
        }
    }
    text
}

fn figure(letter: &str, book: &Book, reasons: &[Reason]) -> String {
    let mut text = String::new();
    if let Some(why) = book.runs.get(letter).and_then(|run| run.failure.as_ref()) {
        let _ = write!(
            text,
            "**The last run could not measure this figure**: {why}. What follows, if anything, is older.\n\n"
        );
    }
    let records: Vec<&Record> = book
        .records
        .iter()
        .filter(|it| it.figure == letter)
        .collect();
    if records.is_empty() {
        text += "Not measured yet.";
        return text;
    }
    text += "| case | value | least – most | unit | yardstick | its value | ratio | goal | reached |\n\
             |---|---:|---:|---|---|---:|---:|---|---|\n";
    for record in &records {
        let or_dash = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
        let _ = writeln!(
            text,
            "| {} | **{}** | {} – {} | {} | {} | {} | {} | {} | {} |",
            record.case,
            number(record.value),
            number(record.min),
            number(record.max),
            record.unit,
            record.yardstick.as_deref().unwrap_or("–"),
            or_dash(record.yardstick_value),
            record
                .ratio
                .map_or_else(|| "–".to_owned(), |it| format!("{it:.2}")),
            record.goal(),
            match (record.goal(), record.reached) {
                (crate::goal::Goal::Told, _) => "–",
                (_, true) => "yes",
                (_, false) => "**no**",
            }
        );
    }
    let repetitions = records.iter().map(|it| it.repetitions);
    let (least, most) = (repetitions.clone().min(), repetitions.max());
    if let (Some(least), Some(most)) = (least, most) {
        let _ = if least == most {
            write!(text, "\nMedians of {least} repetitions.")
        } else {
            write!(text, "\nMedians of {least} to {most} repetitions.")
        };
    }
    for record in records.iter().filter(|it| !it.reached) {
        let reason = reasons
            .iter()
            .find(|it| it.figure == letter && record.case.starts_with(&it.case));
        let why = reason.map_or("no reason has been found yet.", |it| it.text.trim());
        let _ = write!(text, "\n\nMissed, {}: {why}", record.case);
    }
    text
}

/// A number as people read it: thousands apart, no digits that mean nothing.
pub(super) fn number(value: f64) -> String {
    if value.abs() < 1_000.0 {
        return value.to_string();
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Book {
        let mut book = Book::default();
        let records = vec![
            Record::new('A', "dsr-l2, 4K flows", "Mpps", &[20.0]).beside("testpmd 5tswap", &[40.0]),
            Record::new('A', "nat, 4K flows", "Mpps", &[30.0]).beside("testpmd 5tswap", &[40.0]),
        ];
        book.measured("A", records, Machine::here());
        book
    }

    #[test]
    fn a_missed_goal_stands_in_the_table_with_its_reason() {
        let reasons = [Reason {
            figure: "A".into(),
            case: "dsr-l2".into(),
            text: "the cache is small.".into(),
        }];
        let page = fill("x {{summary}}\n\n{{figure A}}\n", &book(), &reasons, &[]).unwrap();
        assert!(
            page.contains("1 of 2 goals are reached. Missed:\n\n- A: dsr-l2, 4K flows"),
            "{page}"
        );
        assert!(page.contains("| dsr-l2, 4K flows | **20** | 20 – 20 | Mpps | testpmd 5tswap | 40 | 0.50 | ≥ 0.6 × yardstick | **no** |"), "{page}");
        assert!(
            page.contains("Missed, dsr-l2, 4K flows: the cache is small."),
            "{page}"
        );
    }

    #[test]
    fn a_figure_that_could_not_be_measured_says_so() {
        let mut book = book();
        book.failed("A", "no huge pages");
        let page = fill("{{figure A}}", &book, &[], &[]).unwrap();
        assert!(
            page.contains("could not measure this figure**: no huge pages"),
            "{page}"
        );
        assert!(page.contains("nat, 4K flows"));
    }

    #[test]
    fn an_unknown_placeholder_is_refused() {
        assert!(fill("{{figure Z}}", &Book::default(), &[], &[]).is_err());
        assert!(fill("{{wish}}", &Book::default(), &[], &[]).is_err());
        assert!(fill("{{machine", &Book::default(), &[], &[]).is_err());
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(number(139_600.0), "139,600");
        assert_eq!(number(999.5), "999.5");
        assert_eq!(number(1_000_000.0), "1,000,000");
    }
}
