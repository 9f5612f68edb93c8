//! A picture's rows as columns that can be sorted, filtered, and fitted to a terminal's width.
//!
//! Each column has a rank: where not all fit, those of the highest rank go first, and those of rank
//! zero stay. What a row is about is never cut as long as anything else can give way.

use std::cmp::Ordering;

use super::picture::Picture;
use crate::output::count;

/// What the screen shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Workers,
    Services,
    Backends,
    Drops,
    Ports,
    Events,
}

impl Tab {
    pub(super) const ALL: [Self; 6] = [
        Self::Workers,
        Self::Services,
        Self::Backends,
        Self::Drops,
        Self::Ports,
        Self::Events,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Workers => "Workers",
            Self::Services => "Services",
            Self::Backends => "Backends",
            Self::Drops => "Drops",
            Self::Ports => "Ports",
            Self::Events => "Events",
        }
    }

    /// The column sorted by at first, and whether the largest comes first.
    pub(super) const fn order(self) -> (usize, bool) {
        match self {
            Self::Workers | Self::Services | Self::Ports => (0, false),
            Self::Backends => (1, false),
            Self::Drops => (1, true),
            Self::Events => (0, true),
        }
    }
}

/// What a cell is sorted by.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Key {
    /// What is not known is less than all.
    Number(f64),
    Text(String),
}

impl Key {
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(one), Self::Number(other)) => one.total_cmp(other),
            (Self::Text(one), Self::Text(other)) => one.cmp(other),
            (Self::Number(_), Self::Text(_)) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Greater,
        }
    }
}

/// How a cell is to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Odd,
    Bad,
}

/// A cell.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) key: Key,
    pub(super) tone: Tone,
}

impl Cell {
    fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            key: Key::Text(text.to_lowercase()),
            text,
            tone: Tone::Plain,
        }
    }

    fn number(value: Option<f64>, show: impl Fn(f64) -> String) -> Self {
        Self {
            text: value.map_or_else(|| "-".to_owned(), show),
            key: Key::Number(value.unwrap_or(-1.0)),
            tone: Tone::Plain,
        }
    }

    fn rate(value: Option<f64>) -> Self {
        Self::number(value, figure)
    }

    fn percent(value: Option<f64>) -> Self {
        Self::number(value, |part| format!("{:.0}%", part * 100.0))
    }

    fn count(value: Option<u64>) -> Self {
        Self::number(value.map(|value| value as f64), |_| {
            value.map_or_else(String::new, count)
        })
    }

    fn toned(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }

    /// Bad when it is more than nothing.
    fn bad_if_any(self) -> Self {
        let any = matches!(self.key, Key::Number(value) if value > 0.0);
        if any { self.toned(Tone::Bad) } else { self }
    }
}

/// A rate in up to five characters.
pub(super) fn figure(value: f64) -> String {
    if value < 999.5 {
        return if value > 0.0 && value < 9.95 {
            format!("{value:.1}")
        } else {
            format!("{value:.0}")
        };
    }
    let mut value = value;
    for unit in ["k", "M", "G", "T"] {
        value /= 1000.0;
        if value < 999.5 {
            let digits = if value < 9.995 {
                2
            } else {
                usize::from(value < 99.95)
            };
            return format!("{value:.digits$}{unit}");
        }
    }
    "inf".to_owned()
}

/// A column's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) head: &'static str,
    /// Numbers go to the right.
    pub(super) right: bool,
    /// What gives way first has the highest.
    pub(super) rank: u8,
    /// A sentence, cut at its end; others are cut in the middle.
    pub(super) prose: bool,
}

const fn text(head: &'static str, rank: u8) -> Column {
    Column {
        head,
        right: false,
        rank,
        prose: false,
    }
}

const fn prose(head: &'static str, rank: u8) -> Column {
    Column {
        head,
        right: false,
        rank,
        prose: true,
    }
}

const fn number(head: &'static str, rank: u8) -> Column {
    Column {
        head,
        right: true,
        rank,
        prose: false,
    }
}

/// A table of one kind of rows.
#[derive(Debug, Clone)]
pub(super) struct Grid {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Vec<Cell>>,
}

impl Grid {
    pub(super) fn new(tab: Tab, picture: &Picture) -> Self {
        match tab {
            Tab::Workers => workers(picture),
            Tab::Services => services(picture),
            Tab::Backends => backends(picture),
            Tab::Drops => drops(picture),
            Tab::Ports => ports(picture),
            Tab::Events => events(picture),
        }
    }

    /// Keeps rows of which some cell holds `filter`, whatever its case.
    pub(super) fn filter(&mut self, filter: &str) {
        let wanted = filter.to_lowercase();
        self.rows.retain(|row| {
            row.iter()
                .any(|cell| cell.text.to_lowercase().contains(&wanted))
        });
    }

    /// Sorts by a column; rows that are equal there keep their order.
    pub(super) fn sort(&mut self, column: usize, descending: bool) {
        self.rows.sort_by(|one, other| {
            let (Some(one), Some(other)) = (one.get(column), other.get(column)) else {
                return Ordering::Equal;
            };
            let order = one.key.compare(&other.key);
            if descending { order.reverse() } else { order }
        });
    }

    /// The columns that fit into `width`, with theirs; `marked` has a sign behind its head.
    pub(super) fn fit(&self, width: usize, marked: usize) -> Vec<(usize, usize)> {
        let mut columns: Vec<(usize, usize)> = (0..self.columns.len())
            .map(|place| (place, self.natural(place, marked)))
            .collect();
        let used = |columns: &[(usize, usize)]| -> usize {
            columns.iter().map(|(_, width)| width + GAP).sum::<usize>() - GAP.min(columns.len())
        };
        while used(&columns) > width {
            let rank = |(place, _): &(usize, usize)| self.columns.get(*place).map_or(0, |c| c.rank);
            let Some(rank) = columns.iter().map(rank).max().filter(|rank| *rank > 0) else {
                break;
            };
            columns.retain(|column| self.columns.get(column.0).map_or(0, |c| c.rank) < rank);
        }
        // Only what cannot give way is left, and the widest is cut; that is a text.
        let over = used(&columns).saturating_sub(width);
        if over > 0
            && let Some((_, widest)) = columns.iter_mut().max_by_key(|(_, width)| *width)
        {
            *widest = widest.saturating_sub(over).max(4);
        }
        columns
    }

    /// Whether a column is seen whole in `width` when it is the marked one: what cannot give way may
    /// still be more than a narrow terminal has room for.
    pub(super) fn shows(&self, place: usize, width: usize) -> bool {
        let mut used = 0;
        self.fit(width, place).into_iter().any(|(shown, own)| {
            used += own + GAP;
            shown == place && used - GAP <= width
        })
    }

    fn natural(&self, place: usize, marked: usize) -> usize {
        let head = self
            .columns
            .get(place)
            .map_or(0, |column| column.head.len());
        let head = head + usize::from(place == marked);
        let cells = self.rows.iter().filter_map(|row| row.get(place));
        let cells = cells.map(|cell| cell.text.chars().count());
        head.max(cells.max().unwrap_or(0))
    }
}

/// Blanks between two columns.
pub(super) const GAP: usize = 1;

/// A text cut to a width: a sentence at its end, anything else in its middle, where addresses and
/// names say least.
pub(super) fn cut(text: &str, width: usize, prose: bool) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(1);
    let front = if prose { kept } else { kept / 2 };
    let back = kept - front;
    let front: String = text.chars().take(front).collect();
    let back: String = text.chars().skip(length - back).collect();
    format!("{front}…{back}")
}

fn workers(picture: &Picture) -> Grid {
    let rows = picture.workers.iter().map(|row| {
        let full = row.conntrack_entries.zip(row.conntrack_capacity);
        let full = full.map(|(entries, all)| entries as f64 / all as f64);
        let tone = |value: Option<f64>, odd: f64| match value {
            Some(value) if value >= odd => Tone::Odd,
            _ => Tone::Plain,
        };
        vec![
            Cell::count(Some(row.worker as u64)),
            Cell::percent(row.busy).toned(tone(row.busy, 0.9)),
            Cell::rate(row.received_pps),
            Cell::rate(row.forwarded_pps),
            Cell::rate(row.received_bps),
            Cell::rate(row.forwarded_bps),
            Cell::rate(row.dropped_pps).bad_if_any(),
            Cell::count(row.conntrack_entries),
            Cell::percent(full).toned(tone(full, 0.9)),
            Cell::percent(row.conntrack_hits),
            Cell::rate(row.evicted_ps).bad_if_any(),
            Cell::count(Some(row.generation)),
        ]
    });
    Grid {
        rows: rows.collect(),
        columns: vec![
            number("WORKER", 0),
            number("BUSY", 0),
            number("RX PPS", 0),
            number("TX PPS", 0),
            number("RX BPS", 0),
            number("TX BPS", 0),
            number("DROP/S", 0),
            number("ENTRIES", 0),
            number("FULL", 0),
            number("HITS", 1),
            number("EVICT/S", 2),
            number("GENERATION", 3),
        ],
    }
}

fn services(picture: &Picture) -> Grid {
    let rows = picture.services.iter().map(|row| {
        let tone = match row.backends_up {
            0 => Tone::Bad,
            up if up < row.backends => Tone::Odd,
            _ => Tone::Good,
        };
        let mut up = Cell::text(format!("{}/{}", row.backends_up, row.backends)).toned(tone);
        up.key = Key::Number(row.backends_up as f64);
        vec![
            Cell::text(&row.service),
            up,
            Cell::rate(row.pps),
            Cell::rate(row.bps),
            Cell::rate(row.new_flows_ps),
            Cell::count(row.flows),
            Cell::percent(row.share),
            Cell::rate(row.return_pps),
            Cell::rate(row.return_bps),
            Cell::text(row.forwarding),
            Cell::text(&row.vip),
        ]
    });
    Grid {
        rows: rows.collect(),
        columns: vec![
            text("SERVICE", 0),
            number("UP", 0),
            number("PPS", 0),
            number("BPS", 0),
            number("NEW/S", 0),
            number("FLOWS", 0),
            number("SHARE", 1),
            number("BACK PPS", 3),
            number("BACK BPS", 4),
            text("MODE", 3),
            text("VIP", 2),
        ],
    }
}

fn backends(picture: &Picture) -> Grid {
    let rows = picture.backends.iter().map(|row| {
        let tone = match (row.takes_new_flows, row.state) {
            (true, "up") => Tone::Good,
            (true, _) => Tone::Odd,
            (false, "down" | "held-down") => Tone::Bad,
            (false, _) => Tone::Odd,
        };
        let health = row.health.as_deref().unwrap_or("-");
        let unwell = if matches!(health, "ok" | "-") {
            Tone::Plain
        } else {
            Tone::Bad
        };
        vec![
            Cell::text(&row.backend),
            Cell::text(&row.service),
            Cell::text(row.state).toned(tone),
            Cell::count(Some(u64::from(row.weight))),
            Cell::rate(row.pps),
            Cell::rate(row.new_flows_ps),
            Cell::count(row.flows),
            Cell::percent(row.share),
            Cell::rate(row.bps),
            Cell::text(health).toned(unwell),
        ]
    });
    Grid {
        rows: rows.collect(),
        columns: vec![
            text("BACKEND", 0),
            text("SERVICE", 0),
            text("STATE", 0),
            number("WEIGHT", 1),
            number("PPS", 0),
            number("NEW/S", 2),
            number("FLOWS", 1),
            number("SHARE", 0),
            number("BPS", 3),
            prose("LAST CHECK", 4),
        ],
    }
}

fn drops(picture: &Picture) -> Grid {
    let rows = picture.drops.iter().map(|row| {
        vec![
            Cell::text(row.reason),
            Cell::rate(row.dropped_pps).bad_if_any(),
            Cell::count(Some(row.total)),
            Cell::number(Some(row.share), |part| format!("{:.2}%", part * 100.0)),
            Cell::text(row.why),
        ]
    });
    Grid {
        rows: rows.collect(),
        columns: vec![
            text("REASON", 0),
            number("DROP/S", 0),
            number("TOTAL", 0),
            number("OF ALL", 0),
            prose("WHY", 0),
        ],
    }
}

fn ports(picture: &Picture) -> Grid {
    let rows = picture.ports.iter().map(|row| {
        let link = if row.link_up {
            Cell::text("up").toned(Tone::Good)
        } else {
            Cell::text("down").toned(Tone::Bad)
        };
        let speed = (row.speed_mbps > 0).then(|| f64::from(row.speed_mbps) * 1e6);
        vec![
            Cell::text(&row.port),
            link,
            Cell::rate(row.received_pps),
            Cell::rate(row.received_bps),
            Cell::rate(row.sent_pps),
            Cell::rate(row.sent_bps),
            Cell::rate(row.lost_pps).bad_if_any(),
            Cell::count(Some(row.lost)),
            Cell::rate(speed),
        ]
    });
    Grid {
        rows: rows.collect(),
        columns: vec![
            text("PORT", 0),
            text("LINK", 0),
            number("RX PPS", 0),
            number("RX BPS", 0),
            number("TX PPS", 0),
            number("TX BPS", 0),
            number("LOST/S", 0),
            number("LOST", 0),
            number("SPEED", 1),
        ],
    }
}

fn events(picture: &Picture) -> Grid {
    let rows = picture.events.iter().map(|row| {
        let tone = match row.kind {
            "refused" | "damage" => Tone::Bad,
            "warning" => Tone::Odd,
            _ => Tone::Plain,
        };
        let clock = row.time.get(11..19).unwrap_or_default();
        let mut time = Cell::text(clock);
        time.key = Key::Number(row.number as f64);
        vec![
            time,
            Cell::text(row.kind).toned(tone),
            Cell::text(&row.text),
            Cell::text(row.time.get(..10).unwrap_or_default()),
        ]
    });
    Grid {
        rows: rows.collect(),
        columns: vec![
            text("UTC", 0),
            text("KIND", 0),
            prose("WHAT", 0),
            text("DAY", 1),
        ],
    }
}
