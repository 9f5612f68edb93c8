//! The plots, as SVG with text left as text: what a table shows badly.

use std::path::Path;

use plotters::coord::ranged1d::SegmentedCoord;
use plotters::prelude::*;

use crate::Failure;
use crate::record::{Book, Record};

const SIZE: (u32, u32) = (760, 420);
const FONT: &str = "sans-serif";
/// Colours that are told apart by those who see few, too.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// A row of bars: what they show, and each one's height.
struct Group {
    name: String,
    bars: Vec<(String, f64)>,
}

/// Draws what there are records for; gives the plots' names.
///
/// # Errors
/// When a file cannot be written.
pub fn draw(book: &Book, folder: &Path) -> Result<Vec<String>, Failure> {
    let mut drawn = Vec::new();
    let plots: [(&str, &str, &str, Vec<Group>); 4] = [
        (
            "device",
            "Packets through one core (A)",
            "Mpps",
            beside(book, "A", |_| true),
        ),
        (
            "flows",
            "The pipeline alone, by number of flows (B)",
            "ns a packet",
            by_flows(book),
        ),
        (
            "latency",
            "Latency at a million packets a second (H)",
            "µs",
            beside(book, "H", |_| true),
        ),
        (
            "requests",
            "Requests and connections a second (J)",
            "a second",
            beside(book, "J", |it| it.unit == "/s"),
        ),
    ];
    for (name, title, unit, groups) in plots {
        let path = folder.join(format!("{name}.svg"));
        if groups.is_empty() {
            continue;
        }
        bars(&path, title, unit, &groups)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        drawn.push(name.to_owned());
    }
    Ok(drawn)
}

/// weir beside its yardstick, a group a case.
fn beside(book: &Book, figure: &str, wanted: fn(&Record) -> bool) -> Vec<Group> {
    let records = book
        .records
        .iter()
        .filter(|it| it.figure == figure && wanted(it));
    records
        .filter_map(|record| {
            let (yardstick, value) = (record.yardstick.clone()?, record.yardstick_value?);
            let name = record.case.split(", beside ").next().unwrap_or_default();
            Some(Group {
                name: name.to_owned(),
                bars: vec![("weir".to_owned(), record.value), (yardstick, value)],
            })
        })
        .collect()
}

/// Nanoseconds by mode, a group for each number of flows.
fn by_flows(book: &Book) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for record in book.records.iter().filter(|it| it.figure == "B") {
        let Some((mode, flows)) = record.case.rsplit_once(", ") else {
            continue;
        };
        let bar = (mode.to_owned(), record.value);
        match groups.iter_mut().find(|it| it.name == flows) {
            Some(group) => group.bars.push(bar),
            None => groups.push(Group {
                name: flows.to_owned(),
                bars: vec![bar],
            }),
        }
    }
    groups
}

fn bars(
    path: &Path,
    title: &str,
    unit: &str,
    groups: &[Group],
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut series: Vec<&str> = Vec::new();
    for (name, _) in groups.iter().flat_map(|it| &it.bars) {
        if !series.contains(&name.as_str()) {
            series.push(name);
        }
    }
    let highest = groups
        .iter()
        .flat_map(|it| &it.bars)
        .map(|(_, value)| *value)
        .fold(0.0, f64::max);
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let count = groups.len();
    let mut chart = ChartBuilder::on(&root)
        .caption(title, (FONT, 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((0..count - 1).into_segmented(), 0.0..highest * 1.15)?;
    let label = |position: &SegmentValue<usize>| match position {
        SegmentValue::CenterOf(index) => groups.get(*index).map_or("", |it| &it.name).to_owned(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(count)
        .x_label_formatter(&label)
        .y_desc(unit)
        .label_style((FONT, 12))
        .draw()?;
    for (number, name) in series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let drawn: Vec<_> = groups
            .iter()
            .enumerate()
            .filter_map(|(index, group)| {
                let (_, value) = group.bars.iter().find(|(it, _)| it == name)?;
                Some(bar(
                    chart.plotting_area(),
                    index,
                    count,
                    (number, series.len()),
                    *value,
                    colour,
                ))
            })
            .collect();
        chart
            .plotting_area()
            .draw(&EmptyElement::at((SegmentValue::CenterOf(0), 0.0)))?;
        for rectangle in drawn {
            root.draw(&rectangle)?;
        }
        chart
            .draw_series(std::iter::empty::<Rectangle<(SegmentValue<usize>, f64)>>())?
            .label(*name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 12))
        .draw()?;
    root.present()?;
    Ok(())
}

type Area<'a, 'b> = &'a DrawingArea<
    SVGBackend<'b>,
    Cartesian2d<
        SegmentedCoord<plotters::coord::types::RangedCoordusize>,
        plotters::coord::types::RangedCoordf64,
    >,
>;

/// A bar in pixels: the axis of groups knows no place beside a group's middle.
fn bar(
    area: Area<'_, '_>,
    group: usize,
    groups: usize,
    (number, of): (usize, usize),
    value: f64,
    colour: RGBColor,
) -> Rectangle<(i32, i32)> {
    let (range, _) = area.get_pixel_range();
    let width = f64::from(range.end - range.start) / groups as f64;
    let each = width * 0.8 / of as f64;
    let left = f64::from(range.start) + width * (group as f64 + 0.1) + each * number as f64;
    let (_, top) = area.map_coordinate(&(SegmentValue::CenterOf(group), value));
    let (_, bottom) = area.map_coordinate(&(SegmentValue::CenterOf(group), 0.0));
    Rectangle::new(
        [(left as i32, top), ((left + each * 0.92) as i32, bottom)],
        colour.filled(),
    )
}
