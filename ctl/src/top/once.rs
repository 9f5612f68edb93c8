//! `--once`: one frame for scripts, all tables one below the other, or all of it as JSON.

use std::io::{self, Write};
use std::time::Duration;

use super::grid::{Grid, Tab, figure};
use super::picture::Picture;
use crate::output::{span, table, text_table};

pub(super) fn write(out: &mut dyn Write, picture: &Picture) -> io::Result<()> {
    let rate = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), figure);
    let total = &picture.total;
    writeln!(
        out,
        "weir {}, up {}, generation {}, process {}",
        picture.instance,
        span(Duration::from_secs(picture.uptime_s)),
        picture.generation,
        picture.pid
    )?;
    writeln!(
        out,
        "in {} pps, {} bps; out {} pps, {} bps; dropped {}/s; {} of {} backends up",
        rate(total.received_pps),
        rate(total.received_bps),
        rate(total.forwarded_pps),
        rate(total.forwarded_bps),
        rate(total.dropped_pps),
        total.backends_up,
        total.backends
    )?;
    for tab in Tab::ALL.into_iter().filter(|tab| *tab != Tab::Events) {
        let mut grid = Grid::new(tab, picture);
        if grid.rows.is_empty() {
            continue;
        }
        let (column, descending) = tab.order();
        grid.sort(column, descending);
        let heads: Vec<String> = grid
            .columns
            .iter()
            .map(|column| format!("{}{}", if column.right { ">" } else { "" }, column.head))
            .collect();
        let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
        let rows = grid
            .rows
            .into_iter()
            .map(|row| row.into_iter().map(|cell| cell.text).collect());
        let text = if tab == Tab::Drops {
            text_table(&heads, rows)
        } else {
            table(&heads, rows)
        };
        writeln!(out, "\n{text}")?;
    }
    Ok(())
}
