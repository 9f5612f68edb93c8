//! A plot as SVG: lines with their spread, bars, or ranges; drawn by `plotters`, in text that stands
//! alone.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::Axis;

/// Width and height of a plot.
const SIZE: (u32, u32) = (640, 340);
/// Height of the line that names the series.
const LEGEND: u32 = 30;

const COLOURS: [RGBColor; 6] = [
    RGBColor(0x0b, 0x6e, 0x99),
    RGBColor(0xd1, 0x49, 0x5b),
    RGBColor(0x2e, 0x8b, 0x57),
    RGBColor(0xb8, 0x86, 0x0b),
    RGBColor(0x6a, 0x4c, 0x93),
    RGBColor(0x55, 0x55, 0x55),
];
const INK: RGBColor = RGBColor(0x33, 0x3d, 0x47);
const GRID: RGBColor = RGBColor(0xe3, 0xe7, 0xeb);
const FONT: &str = "sans-serif";

/// A value with its spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Where.
    pub x: f64,
    /// The value.
    pub y: f64,
    /// The smallest sample.
    pub low: f64,
    /// The largest sample.
    pub high: f64,
}

impl Point {
    /// A value without a spread.
    #[must_use]
    pub const fn exact(x: f64, y: f64) -> Self {
        Self {
            x,
            y,
            low: y,
            high: y,
        }
    }
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A line through its points, each with a dot and its spread.
    Line,
    /// A line only, for many points.
    Course,
    /// A bar from the axis for each point.
    Bars,
    /// A bar from the lowest to the highest.
    Ranges,
}

/// Points that belong together.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// How it is drawn.
    pub shape: Shape,
    /// Its points.
    pub points: Vec<Point>,
}

/// A plot.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// What the reader should know of it.
    pub note: String,
    /// The horizontal axis, and what it is.
    pub x: (Axis, String),
    /// The vertical axis, and what it is.
    pub y: (Axis, String),
    /// What is drawn.
    pub series: Vec<Series>,
    /// Moments that matter: where on the horizontal axis, and what.
    pub markers: Vec<(f64, String)>,
}

/// A plot could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw \"{title}\": {reason}")]
pub struct PlotError {
    title: String,
    reason: String,
}

impl Chart {
    /// The plot as one `<svg>` element.
    ///
    /// # Errors
    /// [`PlotError`].
    pub fn svg(&self) -> Result<String, PlotError> {
        let mut text = String::new();
        self.draw(&mut text).map_err(|error| PlotError {
            title: self.title.clone(),
            reason: error.to_string(),
        })?;
        // The drawing is part of a page that scales it, and has a name there.
        let name = super::escape(&self.title);
        let text = text.replacen(
            "<svg ",
            &format!("<svg role=\"img\" aria-label=\"{name}\" "),
            1,
        );
        Ok(text.trim_end().to_owned())
    }

    fn draw(&self, text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        // Names of all series above the plot, where they hide nothing.
        let named = self.series.len() > 1;
        let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let top = if named { LEGEND } else { 6 };
        let (legend, plot) = root.split_vertically(top);
        if named {
            self.legend(&legend)?;
        }
        let mut chart = ChartBuilder::on(&plot)
            .margin_right(18)
            .margin_top(8)
            .margin_bottom(4)
            .x_label_area_size(46)
            .y_label_area_size(74)
            .build_cartesian_2d(self.x.0.clone(), self.y.0.clone())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style((FONT, 13).into_font().color(&INK))
            .axis_desc_style((FONT, 14).into_font().color(&INK))
            .x_desc(&self.x.1)
            .y_desc(&self.y.1)
            .draw()?;
        self.draw_markers(&mut chart)?;
        let bars = self
            .series
            .iter()
            .filter(|s| s.shape == Shape::Bars)
            .count()
            .max(1);
        for (number, series) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            match series.shape {
                Shape::Line | Shape::Course => self.line(&mut chart, series, colour)?,
                Shape::Bars => self.bars(&mut chart, series, colour, (number, bars))?,
                Shape::Ranges => self.ranges(&mut chart, series, colour)?,
            }
        }
        drop(chart);
        root.present()?;
        Ok(())
    }

    fn legend(&self, area: &Area<'_>) -> Result<(), Box<dyn std::error::Error>> {
        let mut x = 78;
        for (number, series) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            area.draw(&Rectangle::new([(x, 12), (x + 16, 18)], colour.filled()))?;
            let style = (FONT, 13).into_font().color(&INK);
            let style = style.pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(series.name.clone(), (x + 21, 15), style))?;
            // About the width of the name in this font, and a gap.
            x += 21 + 7 * series.name.chars().count() as i32 + 20;
        }
        Ok(())
    }

    fn draw_markers(&self, chart: &mut Plot<'_>) -> Result<(), Box<dyn std::error::Error>> {
        let (low, high) = (self.y.0.from(), self.y.0.to());
        for (number, (x, label)) in self.markers.iter().enumerate() {
            let x = self.x.0.place(*x);
            let line = vec![(x, low), (x, high)];
            chart.draw_series([PathElement::new(line, INK.mix(0.35).stroke_width(1))])?;
            // Labels of neighbours stand below each other.
            let height = high - (high - low) * 0.06 * (number % 6) as f64;
            let right = x > (self.x.0.from() + self.x.0.to()) / 2.0;
            let side = if right { HPos::Right } else { HPos::Left };
            let style = (FONT, 11).into_font().color(&INK.mix(0.75));
            let style = style.pos(Pos::new(side, VPos::Top));
            let shift = if right { -4 } else { 4 };
            chart.draw_series([
                EmptyElement::at((x, height)) + Text::new(label.clone(), (shift, 2), style)
            ])?;
        }
        Ok(())
    }

    fn line(
        &self,
        chart: &mut Plot<'_>,
        series: &Series,
        colour: RGBColor,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let at = |x: f64, y: f64| (self.x.0.place(x), self.y.0.place(y));
        let path: Vec<(f64, f64)> = series.points.iter().map(|p| at(p.x, p.y)).collect();
        chart.draw_series([PathElement::new(path.clone(), colour.stroke_width(2))])?;
        if series.shape == Shape::Course {
            return Ok(());
        }
        self.whiskers(chart, &series.points, colour)?;
        chart.draw_series(
            path.into_iter()
                .map(|place| Circle::new(place, 4, colour.filled())),
        )?;
        Ok(())
    }

    /// The spreads of points, from the smallest sample to the largest.
    fn whiskers(
        &self,
        chart: &mut Plot<'_>,
        points: &[Point],
        colour: RGBColor,
    ) -> Result<(), Box<dyn std::error::Error>> {
        for point in points.iter().filter(|point| point.high > point.low) {
            let x = self.x.0.place(point.x);
            let (low, high) = (self.y.0.place(point.low), self.y.0.place(point.high));
            let thin = colour.mix(0.8).stroke_width(1);
            chart.draw_series([PathElement::new(vec![(x, low), (x, high)], thin)])?;
            for end in [low, high] {
                let cap = PathElement::new(vec![(-4, 0), (4, 0)], thin);
                chart.draw_series([EmptyElement::at((x, end)) + cap])?;
            }
        }
        Ok(())
    }

    fn bars(
        &self,
        chart: &mut Plot<'_>,
        series: &Series,
        colour: RGBColor,
        (number, of): (usize, usize),
    ) -> Result<(), Box<dyn std::error::Error>> {
        let width = 0.7 / of as f64;
        let base = self.y.0.from();
        for point in &series.points {
            let left = self.x.0.place(point.x) - 0.35 + width * number as f64;
            let corners = [(left, base), (left + width * 0.94, self.y.0.place(point.y))];
            chart.draw_series([Rectangle::new(corners, colour.mix(0.75).filled())])?;
            let middle = Point {
                x: left + width * 0.47,
                ..*point
            };
            self.whiskers(chart, &[middle], INK)?;
        }
        Ok(())
    }

    fn ranges(
        &self,
        chart: &mut Plot<'_>,
        series: &Series,
        colour: RGBColor,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let (from, to) = (self.x.0.from(), self.x.0.to());
        for point in &series.points {
            let x = self.x.0.place(point.x);
            let corners = [point.low, point.high].map(|y| self.y.0.place(y));
            let corners = [(x - 0.2, corners[0]), (x + 0.2, corners[1])];
            chart.draw_series([Rectangle::new(corners, colour.mix(0.75).filled())])?;
            for (value, side, shift) in [(point.low, VPos::Top, 4), (point.high, VPos::Bottom, -4)]
            {
                let style = (FONT, 12).into_font().color(&INK);
                let style = style.pos(Pos::new(HPos::Center, side));
                let place = (x, self.y.0.place(value));
                let text = Text::new(format!("{value:.2} %"), (0, shift), style);
                chart.draw_series([EmptyElement::at(place) + text])?;
            }
        }
        // The value that all of them should have.
        let even = series
            .points
            .first()
            .map_or(0.0, |point| self.y.0.place(point.y));
        let line = PathElement::new(vec![(from, even), (to, even)], INK.stroke_width(1));
        chart.draw_series([line])?;
        Ok(())
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Plot<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Axis, Axis>>;
