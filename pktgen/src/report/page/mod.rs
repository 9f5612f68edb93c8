//! The reports as one HTML page that needs nothing else: styles, tables and drawings are in it, so
//! that it can be mailed, archived, and opened years later.
//!
//! The page is well-formed XML too, so that a test can read it with a strict parser.

pub mod axis;
pub mod chart;
pub mod plots;

use std::fmt::Write;

use self::chart::{Chart, PlotError};
use super::compare::{self, Change, Verdict};
use super::figure::Figure;
use super::maglev::Maglev;
use super::measurement::Measurement;
use super::tables::latency_rows;

const STYLE: &str = "
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222b33; background: #f5f7f9; margin: 0 auto; max-width: 1360px;
  padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .3rem 0; color: #56626e; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr)); gap: 1rem; }
figure { margin: 0; background: #fff; border: 1px solid #dde3e8; border-radius: 6px; padding: .8rem 1rem; }
figcaption { font-weight: 600; } figcaption span { display: block; font-weight: 400; font-size: .85rem; color: #56626e; }
figure svg { display: block; width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; background: #fff; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid #dde3e8; padding: .25rem .6rem; text-align: left; }
th { background: #eef2f5; } td.n, th.n { text-align: right; }
.bad { color: #a3222f; font-weight: 600; } .good { color: #1d6b41; font-weight: 600; }
";

/// What goes onto a page.
#[derive(Debug, Clone, Copy)]
pub struct Contents<'a> {
    /// The measurements.
    pub reports: &'a [Measurement],
    /// The Maglev figures.
    pub maglev: Option<&'a Maglev>,
    /// What has changed since an older measurement.
    pub changes: &'a [Change],
}

/// The page.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn page(contents: &Contents<'_>) -> Result<String, PlotError> {
    let mut body = String::new();
    let commands: Vec<&str> = contents
        .reports
        .iter()
        .map(|r| r.command.as_str())
        .collect();
    let title = match (commands.join(", "), contents.maglev) {
        (names, None) => format!("weir-pktgen: {names}"),
        (names, Some(_)) if names.is_empty() => "weir-pktgen: Maglev".into(),
        (names, Some(_)) => format!("weir-pktgen: {names}, Maglev"),
    };
    push(&mut body, &format!("<h1>{}</h1>", escape(&title)));
    for report in contents.reports {
        section(&mut body, report)?;
    }
    if let Some(maglev) = contents.maglev {
        push(&mut body, "<h2>Maglev tables</h2>");
        drawings(&mut body, &plots::of_maglev(maglev))?;
    }
    if !contents.changes.is_empty() {
        changes(&mut body, contents.changes);
    }
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        escape(&title)
    ))
}

fn section(body: &mut String, report: &Measurement) -> Result<(), PlotError> {
    push(body, &format!("<h2>{}</h2>", escape(&report.command)));
    let machine = &report.machine;
    let lines = [
        format!(
            "{} – {}, {} cores, Linux {}, weir-pktgen {}",
            report.date(),
            machine.cpu,
            machine.cores,
            machine.kernel,
            machine.pktgen
        ),
        format!(
            "{} to {}, clients {}, frame sizes {}, seed {}",
            report.profile.protocol,
            report.profile.vip,
            report.profile.clients,
            report.profile.sizes,
            report.profile.seed
        ),
        report
            .settings
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect::<Vec<_>>()
            .join(", "),
    ];
    for line in lines.iter().filter(|line| !line.is_empty()) {
        push(body, &format!("<p>{}</p>", escape(line)));
    }
    if report.interrupted {
        push(
            body,
            "<p class=\"bad\">Interrupted: what follows is what had been measured.</p>",
        );
    }
    if !report.failed.is_empty() {
        let failed = escape(&report.failed.join(", "));
        push(body, &format!("<p class=\"bad\">Failed: {failed}</p>"));
    }
    drawings(body, &plots::of(report))?;
    figures(body, &report.figures);
    latencies(body, &report.figures);
    events(body, report);
    Ok(())
}

fn drawings(body: &mut String, charts: &[Chart]) -> Result<(), PlotError> {
    if charts.is_empty() {
        return Ok(());
    }
    push(body, "<div class=\"plots\">");
    for chart in charts {
        let (title, note) = (escape(&chart.title), escape(&chart.note));
        push(
            body,
            &format!("<figure><figcaption>{title}<span>{note}</span></figcaption>"),
        );
        push(body, &chart.svg()?);
        push(body, "</figure>");
    }
    push(body, "</div>");
    Ok(())
}

fn figures(body: &mut String, figures: &[Figure]) {
    let plain: Vec<&Figure> = figures
        .iter()
        .filter(|f| f.case.percentile.is_none())
        .collect();
    if plain.is_empty() {
        return;
    }
    push(body, "<h3>Figures</h3>");
    let header = ["figure", "case", "value", "spread", "samples", "limited by"];
    let rows = plain.iter().map(|figure| {
        vec![
            figure.name.clone(),
            figure.case.to_string(),
            figure.text(),
            figure.spread(),
            figure.samples.len().to_string(),
            figure
                .limited_by
                .map_or("", |limit| limit.name())
                .to_owned(),
        ]
    });
    table(body, &header, 2..5, rows, |_| "");
}

fn latencies(body: &mut String, figures: &[Figure]) {
    let rows = latency_rows(figures);
    let Some((_, first)) = rows.first() else {
        return;
    };
    let names = first.iter().filter_map(|f| f.case.percentile.as_deref());
    let header: Vec<&str> = ["case"].into_iter().chain(names).collect();
    push(body, "<h3>Latency</h3>");
    let rows = rows.iter().map(|(case, row)| {
        let cells = row.iter().map(|figure| figure.text());
        [case.to_string()].into_iter().chain(cells).collect()
    });
    table(body, &header, 1..header.len(), rows, |_| "");
}

fn events(body: &mut String, report: &Measurement) {
    if !report.moves.is_empty() {
        let moves = super::moves_line(&report.moves);
        let line = format!(
            "<p>Connections moved, from backend to backend: {}</p>",
            escape(&moves)
        );
        push(body, &line);
    }
    if report.events.is_empty() {
        return;
    }
    push(body, "<h3>Commands run meanwhile</h3>");
    let header = ["at, s", "took, ms", "exit", "command", "problem"];
    let rows = report.events.iter().map(|event| {
        vec![
            format!("{:.3}", event.at_s),
            format!("{:.1}", event.took_ms),
            event
                .exit
                .map_or_else(|| "none".into(), |code| code.to_string()),
            event.command.clone(),
            event.problem.clone().unwrap_or_default(),
        ]
    });
    table(body, &header, 0..3, rows, |_| "");
}

fn changes(body: &mut String, changes: &[Change]) {
    push(body, "<h2>Changes since the older report</h2>");
    push(
        body,
        "<p>A change counts only when the samples of the two reports do not overlap.</p>",
    );
    let header = ["figure", "case", "old", "new", "change", "verdict"];
    let rows = changes.iter().map(|change| {
        vec![
            change.name.clone(),
            change.case.to_string(),
            compare::words(change.old, &change.unit),
            compare::words(change.new, &change.unit),
            compare::percent(change.change),
            change.verdict.name().to_owned(),
        ]
    });
    table(body, &header, 2..5, rows, |row| {
        match changes[row].verdict {
            Verdict::Better => "good",
            Verdict::Worse => "bad",
            _ => "",
        }
    });
}

/// A table whose columns in `numbers` are aligned to the right; `class` is that of a row's last cell.
fn table(
    body: &mut String,
    header: &[&str],
    numbers: std::ops::Range<usize>,
    rows: impl Iterator<Item = Vec<String>>,
    class: impl Fn(usize) -> &'static str,
) {
    let align = |column: usize| if numbers.contains(&column) { "n" } else { "" };
    push(body, "<div class=\"wide\"><table>");
    let cells: String = header
        .iter()
        .enumerate()
        .map(|(column, name)| format!("<th class=\"{}\">{}</th>", align(column), escape(name)))
        .collect();
    push(body, &format!("<tr>{cells}</tr>"));
    for (number, row) in rows.enumerate() {
        let last = row.len().saturating_sub(1);
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let class = if column == last {
                class(number)
            } else {
                align(column)
            };
            // Writing to a string does not fail.
            let _ = write!(line, "<td class=\"{class}\">{}</td>", escape(cell));
        }
        push(body, &format!("<tr>{line}</tr>"));
    }
    push(body, "</table></div>");
}

fn push(body: &mut String, line: &str) {
    body.push_str(line);
    body.push('\n');
}

/// `text` with nothing in it that HTML would read.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // XML has no place for other control characters.
            control if control.is_control() && !"\n\t".contains(control) => {
                escaped.push('\u{fffd}');
            }
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::maglev::tests as maglev;
    use super::super::measurement::tests::{churn, rfc2544, scale};
    use super::*;
    use roxmltree::{Document, Node, ParsingOptions};

    fn whole() -> String {
        let (mut old, new) = (rfc2544(), rfc2544());
        old.figures[0].value *= 0.5;
        (old.figures[0].min, old.figures[0].max) = (1.0, 2.0);
        page(&Contents {
            reports: &[rfc2544(), scale(), churn()],
            maglev: Some(&maglev::sample()),
            changes: &compare::compare(&old, &new),
        })
        .unwrap()
    }

    fn parse(text: &str) -> Document<'_> {
        let options = ParsingOptions {
            allow_dtd: true,
            ..ParsingOptions::default()
        };
        Document::parse_with_options(text, options).unwrap()
    }

    fn named<'a>(document: &'a Document<'a>, name: &'a str) -> impl Iterator<Item = Node<'a, 'a>> {
        document
            .descendants()
            .filter(move |node| node.tag_name().name() == name)
    }

    #[test]
    fn the_page_is_well_formed_and_every_plot_is_a_drawing_with_a_name() {
        let text = whole();
        let document = parse(&text);
        let drawings: Vec<Node<'_, '_>> = named(&document, "svg").collect();
        let titles: Vec<&str> = named(&document, "figcaption")
            .filter_map(|n| n.text())
            .collect();
        assert_eq!(titles.len(), drawings.len());
        assert_eq!(
            titles,
            [
                "Throughput by frame size",
                "Longest burst without loss by frame size",
                "Latency percentiles, frame size 64",
                "Latency percentiles, frame size 1518",
                "Throughput by number of flows",
                "Throughput by number of backends",
                "Throughput by share of new flows",
                "Packets a second during the run",
                "Connections that changed backend",
                "Evenness over 1000 backends (Maglev paper, figure 11)",
                "Disruption when some of 1000 backends go (Maglev paper, figure 12)",
            ]
        );
        for (drawing, title) in drawings.iter().zip(titles) {
            assert_eq!(drawing.attribute("aria-label"), Some(title));
            assert_eq!(
                drawing.tag_name().namespace(),
                Some("http://www.w3.org/2000/svg")
            );
            let shapes = drawing
                .descendants()
                .filter(|n| matches!(n.tag_name().name(), "polyline" | "circle" | "rect"));
            assert!(shapes.count() > 5, "{title} is empty");
        }
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let text = whole();
        for node in parse(&text).descendants() {
            let name = node.tag_name().name();
            assert!(
                !matches!(
                    name,
                    "script" | "link" | "img" | "iframe" | "object" | "image" | "use"
                ),
                "<{name}>"
            );
            for attribute in node.attributes() {
                assert!(
                    !matches!(attribute.name(), "src" | "href" | "srcset" | "data"),
                    "{attribute:?}"
                );
            }
        }
        assert!(!text.contains("url(") && !text.contains("@import"));
        let addresses = text.matches("http").count();
        let namespaces = text.matches("http://www.w3.org/2000/svg").count();
        assert_eq!(addresses, namespaces, "no other address than SVG's name");
    }

    #[test]
    fn figure_12_says_what_it_counts() {
        assert!(whole().contains("Counts entries of surviving backends that change hands"));
    }

    #[test]
    fn what_others_wrote_cannot_break_the_page() {
        let mut report = churn();
        report.events[0].command = "</td><script>alert(\"1\")</script>&\u{1}".into();
        let text = page(&Contents {
            reports: &[report],
            maglev: None,
            changes: &[],
        })
        .unwrap();
        assert_eq!(named(&parse(&text), "script").count(), 0);
        assert!(text.contains("A &lt;fast&gt; &amp; small one"));
    }

    #[test]
    fn a_report_without_figures_is_a_page_too() {
        let mut report = scale();
        report.figures.clear();
        report.interrupted = true;
        let text = page(&Contents {
            reports: &[report],
            maglev: None,
            changes: &[],
        })
        .unwrap();
        assert_eq!(named(&parse(&text), "svg").count(), 0);
        assert!(text.contains("Interrupted"));
    }
}
