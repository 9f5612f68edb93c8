//! Which plots a measurement has.

use super::axis::Axis;
use super::chart::{Chart, Point, Series, Shape};
use crate::report::figure::{Case, Figure, count, nanos};
use crate::report::maglev::Maglev;
use crate::report::measurement::{Measurement, Moment};
use crate::report::tables::latency_rows;

/// Ticks of a vertical axis.
const TICKS: u32 = 5;
/// The longest command written beside its moment.
const LABEL: usize = 44;

/// The plots of a measurement, in the order of reading.
#[must_use]
pub fn of(report: &Measurement) -> Vec<Chart> {
    let mut charts = Vec::new();
    let sweeps: [(&str, &str, &str, ByCase); 3] = [
        ("flows", "Throughput by number of flows", "flows", |c| {
            c.flows.map(f64::from)
        }),
        (
            "backends",
            "Throughput by number of backends",
            "backends",
            |c| c.backends.map(f64::from),
        ),
        (
            "new-flows",
            "Throughput by share of new flows",
            "packets that open a new flow, %",
            |c| c.new_flows.map(|share| share * 100.0),
        ),
    ];
    for (sweep, title, axis, value) in sweeps {
        charts.extend(swept(report, sweep, title, axis, value));
    }
    for (name, title, unit) in [
        ("throughput", "Throughput by frame size", "packets/s"),
        (
            "throughput-bits",
            "Throughput on the wire by frame size",
            "Gbit/s",
        ),
        (
            "back-to-back",
            "Longest burst without loss by frame size",
            "frames",
        ),
    ] {
        charts.extend(by_size(report, name, title, unit));
    }
    charts.extend(latencies(report));
    charts.extend(course(report));
    charts
}

type ByCase = fn(&Case) -> Option<f64>;

fn point(x: f64, figure: &Figure) -> Point {
    Point {
        x,
        y: figure.value,
        low: figure.min,
        high: figure.max,
    }
}

fn highest(points: &[Point]) -> f64 {
    points.iter().map(|point| point.high).fold(0.0, f64::max)
}

/// A line over the cases of one sweep.
fn swept(
    report: &Measurement,
    sweep: &str,
    title: &str,
    axis: &str,
    value: ByCase,
) -> Option<Chart> {
    let figures = report.named("throughput");
    let mut points: Vec<Point> = figures
        .filter(|figure| figure.case.sweep.as_deref() == Some(sweep))
        .filter_map(|figure| Some(point(value(&figure.case)?, figure)))
        .collect();
    if points.is_empty() {
        return None;
    }
    points.sort_by(|a, b| a.x.total_cmp(&b.x));
    let (first, last) = (points.first()?.x, points.last()?.x);
    let x = if sweep == "new-flows" {
        Axis::linear(0.0, last, TICKS, count)
    } else {
        Axis::log(first, last, count).with_room()
    };
    Some(Chart {
        title: title.into(),
        note: "Medians; the whiskers reach from the smallest to the largest sample.".into(),
        x: (x, axis.into()),
        y: (
            Axis::linear(0.0, highest(&points), TICKS, count),
            "packets/s".into(),
        ),
        series: vec![Series {
            name: report.command.clone(),
            shape: Shape::Line,
            points,
        }],
        markers: Vec::new(),
    })
}

/// A bar for each frame size.
fn by_size(report: &Measurement, name: &str, title: &str, unit: &str) -> Option<Chart> {
    let figures: Vec<&Figure> = report
        .named(name)
        .filter(|figure| figure.case.sweep.is_none() && figure.case.size.is_some())
        .collect();
    if figures.is_empty() {
        return None;
    }
    let names: Vec<String> = figures.iter().filter_map(|f| f.case.size.clone()).collect();
    let numbered = figures.iter().enumerate();
    let points: Vec<Point> = numbered.map(|(place, f)| point(place as f64, f)).collect();
    Some(Chart {
        title: title.into(),
        note: match name {
            "back-to-back" => {
                "Means, as RFC 2544, section 26.4, wants it; the whiskers are the extremes.".into()
            }
            "throughput-bits" => "Preamble and gap (20 bytes a frame) included.".into(),
            _ => "Medians of the highest rates without loss; the whiskers are the extremes.".into(),
        },
        x: (Axis::names(&names), "frame size, bytes with FCS".into()),
        y: (
            Axis::linear(0.0, highest(&points), TICKS, count),
            unit.into(),
        ),
        series: vec![Series {
            name: name.into(),
            shape: Shape::Bars,
            points,
        }],
        markers: Vec::new(),
    })
}

/// Percentiles of latency: a plot for each frame size, a line for each load.
fn latencies(report: &Measurement) -> Vec<Chart> {
    let rows = latency_rows(&report.figures);
    let mut sizes: Vec<Option<String>> = rows.iter().map(|(case, _)| case.size.clone()).collect();
    sizes.dedup();
    // The same scale for all, so that they can be compared.
    let all = || rows.iter().flat_map(|(_, row)| row.iter());
    let low = all().map(|f| f.min).fold(f64::INFINITY, f64::min);
    let high = all().map(|f| f.max).fold(0.0, f64::max);
    let mut charts = Vec::new();
    for size in sizes {
        let its: Vec<_> = rows.iter().filter(|(case, _)| case.size == size).collect();
        let Some((_, first)) = its.first() else {
            continue;
        };
        let names: Vec<String> = first
            .iter()
            .filter_map(|f| f.case.percentile.clone())
            .collect();
        let series = its.iter().map(|(case, row)| Series {
            name: case.load.map_or_else(
                || "all packets".into(),
                |load| format!("at {} % of throughput", count(load * 100.0)),
            ),
            shape: Shape::Line,
            points: row
                .iter()
                .enumerate()
                .map(|(place, f)| point(place as f64, f))
                .collect(),
        });
        let title = match &size {
            Some(size) => format!("Latency percentiles, frame size {size}"),
            None => "Latency percentiles".into(),
        };
        charts.push(Chart {
            title,
            note: "From sending to the answer's arrival, every packet measured; the vertical axis is logarithmic.".into(),
            x: (Axis::names(&names), "percentile".into()),
            y: (Axis::log(low, high, nanos), "latency".into()),
            series: series.collect(),
            markers: Vec::new(),
        });
    }
    charts
}

/// The course of a run: packets a second, and connections moved.
fn course(report: &Measurement) -> Vec<Chart> {
    let timeline = &report.timeline;
    let (Some(first), Some(last)) = (timeline.first(), timeline.last()) else {
        return Vec::new();
    };
    let x = || {
        let axis = Axis::linear(first.at_s.floor(), last.at_s, 8, count);
        (axis, "seconds".to_owned())
    };
    let markers: Vec<(f64, String)> = report
        .events
        .iter()
        .take(24)
        .map(|event| (event.at_s, shortened(&event.command)))
        .collect();
    let rate = |value: fn(&Moment) -> u64| -> Vec<Point> {
        let pairs = timeline
            .windows(2)
            .filter(|pair| pair[1].at_s > pair[0].at_s);
        pairs
            .map(|pair| {
                let packets = value(&pair[1]).saturating_sub(value(&pair[0]));
                Point::exact(pair[1].at_s, packets as f64 / (pair[1].at_s - pair[0].at_s))
            })
            .collect()
    };
    let line = |name: &str, points: Vec<Point>| Series {
        name: name.into(),
        shape: Shape::Course,
        points,
    };
    let (sent, answered) = (rate(|m| m.sent), rate(|m| m.answers));
    let most = highest(&sent).max(highest(&answered));
    let moved: Vec<Point> = timeline
        .iter()
        .map(|moment| Point::exact(moment.at_s, moment.moved as f64))
        .collect();
    vec![
        Chart {
            title: "Packets a second during the run".into(),
            note: "Vertical lines are the commands that were run meanwhile.".into(),
            x: x(),
            y: (Axis::linear(0.0, most * 1.25, TICKS, count), "packets/s".into()),
            series: vec![line("sent", sent), line("answered", answered)],
            markers: markers.clone(),
        },
        Chart {
            title: "Connections that changed backend".into(),
            note: "Summed up since the start. Connections of a backend that was removed have to move; no others may.".into(),
            x: x(),
            y: (Axis::linear(0.0, highest(&moved) * 1.25, TICKS, count), "connections".into()),
            series: vec![line("moved", moved)],
            markers,
        },
    ]
}

/// A command as a label: not too long, and nothing in it that a drawing cannot hold.
fn shortened(command: &str) -> String {
    let plain = command
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c });
    if command.chars().count() <= LABEL {
        return plain.collect();
    }
    plain.take(LABEL - 1).chain(['…']).collect()
}

/// The Maglev paper's figures 11 and 12.
#[must_use]
pub fn of_maglev(maglev: &Maglev) -> Vec<Chart> {
    let mut charts = Vec::new();
    charts.extend(evenness(maglev));
    charts.extend(disruption(maglev));
    charts
}

fn evenness(maglev: &Maglev) -> Option<Chart> {
    let rows = &maglev.evenness;
    let backends = rows.first()?.backends;
    let names: Vec<String> = rows
        .iter()
        .map(|row| format!("{}, {}", row.method, row.size))
        .collect();
    // Shares in percent of the even share, which is a backend's part of 100 %.
    let numbered = rows.iter().enumerate();
    let points: Vec<Point> = numbered
        .map(|(place, row)| Point {
            x: place as f64,
            y: 100.0,
            low: row.smallest_percent * f64::from(row.backends),
            high: row.largest_percent * f64::from(row.backends),
        })
        .collect();
    let far = points
        .iter()
        .map(|point| (100.0 - point.low).max(point.high - 100.0))
        .fold(0.5, f64::max);
    Some(Chart {
        title: format!("Evenness over {backends} backends (Maglev paper, figure 11)"),
        note: "The smallest and the largest share of a backend, in percent of the even share."
            .into(),
        x: (Axis::names(&names), "method, entries of the table".into()),
        y: (
            Axis::linear(100.0 - far * 1.3, 100.0 + far * 1.3, TICKS, count),
            "share of a backend, % of even".into(),
        ),
        series: vec![Series {
            name: "smallest to largest".into(),
            shape: Shape::Ranges,
            points,
        }],
        markers: Vec::new(),
    })
}

fn disruption(maglev: &Maglev) -> Option<Chart> {
    let rows = &maglev.disruption;
    let backends = rows.first()?.backends;
    let mut names: Vec<String> = Vec::new();
    for row in rows {
        let name = format!("{}, {} entries", row.method, row.size);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let series: Vec<Series> = names
        .iter()
        .map(|name| {
            let its = rows
                .iter()
                .filter(|row| *name == format!("{}, {} entries", row.method, row.size));
            let mut points: Vec<Point> = its
                .map(|row| Point::exact(f64::from(row.failed), row.changed_percent))
                .collect();
            points.sort_by(|a, b| a.x.total_cmp(&b.x));
            Series {
                name: name.clone(),
                shape: Shape::Line,
                points,
            }
        })
        .collect();
    let most = series
        .iter()
        .map(|one| highest(&one.points))
        .fold(0.0, f64::max);
    let failed = rows
        .iter()
        .map(|row| f64::from(row.failed))
        .fold(0.0, f64::max);
    Some(Chart {
        title: format!("Disruption when some of {backends} backends go (Maglev paper, figure 12)"),
        note: "Counts entries of surviving backends that change hands; entries of the backends that went must change and are left out.".into(),
        x: (Axis::linear(0.0, failed, 6, count), "backends gone".into()),
        y: (Axis::linear(0.0, most * 1.1, TICKS, count), "entries changed, % of the table".into()),
        series,
        markers: Vec::new(),
    })
}
