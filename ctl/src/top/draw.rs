//! A frame: a head with sums, tabs, the chosen table, and keys. Where a terminal is large, the other
//! tables stand beside.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::Sight;
use super::grid::{Cell, Column, GAP, Grid, Tab, Tone, cut, figure};
use super::picture::Picture;
use super::state::State;
use crate::output::{count, span};

/// From this size on, more than one table is shown.
const ROOMY: (u16, u16) = (150, 40);
/// Columns of the tables beside.
const BESIDE: u16 = 80;

const HEAD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().fg(Color::DarkGray);
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws everything; tells `state` how many rows there are and fit.
pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State, sight: &Sight) {
    let [head, tabs, body, foot] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(heading(state, sight)), head);
    frame.render_widget(Paragraph::new(tab_line(state)), tabs);
    frame.render_widget(Paragraph::new(foot_line(state, foot.width)), foot);
    let Some(picture) = &sight.picture else {
        return;
    };
    let area = frame.area();
    if area.width < ROOMY.0 || area.height < ROOMY.1 {
        main_table(frame, body, state, picture);
        return;
    }
    let [left, _, right] = Layout::horizontal([
        Constraint::Min(1),
        Constraint::Length(2),
        Constraint::Length(BESIDE),
    ])
    .areas(body);
    main_table(frame, left, state, picture);
    let others = [
        Tab::Workers,
        Tab::Services,
        Tab::Ports,
        Tab::Drops,
        Tab::Events,
    ];
    let others: Vec<Tab> = others.into_iter().filter(|tab| *tab != state.tab).collect();
    let heights = others.iter().map(|tab| {
        let rows = Grid::new(*tab, picture).rows.len();
        // A title, a head, the rows, and a blank.
        let wanted = u16::try_from(rows + 3).unwrap_or(u16::MAX);
        if *tab == Tab::Events {
            Constraint::Min(4)
        } else {
            Constraint::Length(wanted.min(right.height / 4))
        }
    });
    let areas = Layout::vertical(heights).split(right);
    for (tab, area) in others.iter().zip(areas.iter()) {
        let title = Line::styled(tab.name(), HEAD);
        let [first, rest] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(*area);
        frame.render_widget(Paragraph::new(title), first);
        let grid = state.grid(*tab, picture);
        let lines = lines(&grid, state.order(*tab), 0, rest);
        frame.render_widget(Paragraph::new(lines), rest);
    }
}

fn main_table(frame: &mut Frame<'_>, area: Rect, state: &mut State, picture: &Picture) {
    let grid = state.grid(state.tab, picture);
    state.room = usize::from(area.height.saturating_sub(1)).max(1);
    state.rows = grid.rows.len();
    let is_shown = |place: &usize| grid.shows(*place, usize::from(area.width));
    state.shown = (0..grid.columns.len()).filter(is_shown).collect();
    state.top = state.top.min(state.rows.saturating_sub(state.room));
    let mut lines = lines(&grid, state.order(state.tab), state.top, area);
    if grid.rows.is_empty() {
        let text = if state.filter.is_empty() {
            "nothing yet".to_owned()
        } else {
            format!("nothing has {:?} in it; Esc shows all", state.filter)
        };
        lines.push(Line::styled(text, DIM));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// A table's head and the rows that fit below it.
fn lines(grid: &Grid, order: (usize, bool), top: usize, area: Rect) -> Vec<Line<'static>> {
    let fitted = grid.fit(usize::from(area.width), order.0);
    let mut head = Vec::new();
    for (place, width) in &fitted {
        let Some(column) = grid.columns.get(*place) else {
            continue;
        };
        let sign = match (*place == order.0, order.1) {
            (false, _) => "",
            (true, true) => "▼",
            (true, false) => "▲",
        };
        let text = format!("{}{sign}", column.head);
        head.push(Span::styled(padded(&text, *width, *column), HEAD));
        head.push(Span::raw(" ".repeat(GAP)));
    }
    let mut lines = vec![Line::from(head)];
    let room = usize::from(area.height.saturating_sub(1));
    for row in grid.rows.iter().skip(top).take(room) {
        let mut spans = Vec::new();
        for (place, width) in &fitted {
            let (Some(cell), Some(column)) = (row.get(*place), grid.columns.get(*place)) else {
                continue;
            };
            spans.push(styled(cell, *width, *column));
            spans.push(Span::raw(" ".repeat(GAP)));
        }
        lines.push(Line::from(spans));
    }
    lines
}

fn styled(cell: &Cell, width: usize, column: Column) -> Span<'static> {
    let style = match cell.tone {
        Tone::Plain => Style::new(),
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Odd => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red),
    };
    Span::styled(padded(&cell.text, width, column), style)
}

fn padded(text: &str, width: usize, column: Column) -> String {
    let text = cut(text, width, column.prose);
    if column.right {
        format!("{text:>width$}")
    } else {
        format!("{text:<width$}")
    }
}

fn heading(state: &State, sight: &Sight) -> Vec<Line<'static>> {
    let Some(picture) = &sight.picture else {
        return match &sight.away {
            Some(away) => vec![Line::styled(format!("weir is away: {away}"), alarm())],
            None => vec![Line::styled("reading", DIM)],
        };
    };
    let mut first = vec![
        Span::styled(format!("weir {}", picture.instance), HEAD),
        Span::raw(format!(
            "  up {}  generation {}  process {}  every {:?}",
            span(std::time::Duration::from_secs(picture.uptime_s)),
            picture.generation,
            picture.pid,
            state.interval,
        )),
    ];
    if state.paused {
        first.push(Span::styled("  PAUSED", alarm()));
    }
    let (second, third) = match &sight.away {
        Some(away) => (
            Line::styled(format!("AWAY: {away}; looking again"), alarm()),
            Line::default(),
        ),
        None => (Line::from(traffic(picture)), Line::from(sums(picture))),
    };
    vec![Line::from(first), second, third]
}

fn alarm() -> Style {
    Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
}

fn traffic(picture: &Picture) -> String {
    let total = &picture.total;
    let rate = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), figure);
    format!(
        "in {} pps {} bps  out {} pps {} bps",
        rate(total.received_pps),
        rate(total.received_bps),
        rate(total.forwarded_pps),
        rate(total.forwarded_bps),
    )
}

fn sums(picture: &Picture) -> Vec<Span<'static>> {
    let total = &picture.total;
    let rate = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), figure);
    let new = rate(total.new_flows_ps);
    let mut spans = vec![Span::raw(format!("new {new}/s  "))];
    let drops = Span::raw(format!("drop {}/s", rate(total.dropped_pps)));
    let any = total.dropped_pps.is_some_and(|drops| drops > 0.0);
    spans.push(if any {
        drops.style(Style::new().fg(Color::Red))
    } else {
        drops
    });
    let up = Span::raw(format!("  up {}/{}", total.backends_up, total.backends));
    spans.push(if total.backends_up < total.backends {
        up.style(Style::new().fg(Color::Yellow))
    } else {
        up
    });
    if let Some(flows) = total.flows {
        spans.push(Span::raw(format!("  flows {}", count(flows))));
    }
    spans
}

fn tab_line(state: &State) -> Line<'static> {
    let mut spans = Vec::new();
    for (number, tab) in (1..).zip(Tab::ALL) {
        let text = format!(" {number} {} ", tab.name());
        let style = if tab == state.tab {
            CHOSEN
        } else {
            Style::new()
        };
        spans.push(Span::styled(text, style));
        spans.push(Span::raw(" "));
    }
    Line::from(spans)
}

fn foot_line(state: &State, width: u16) -> Line<'static> {
    if state.typing {
        return Line::from(format!(
            "filter: {}█  Enter keeps it, Esc clears it",
            state.filter
        ));
    }
    let keys = if width >= 100 {
        "q quit  1-6 Tab table  s S sort by  r reverse  / filter  Esc all  p pause  + - pace  ↑↓ PgUp PgDn"
    } else {
        "q quit  1-6 Tab table  s S sort  r reverse  / filter  p pause  + - pace  ↑↓"
    };
    let mut spans = vec![Span::styled(keys, DIM)];
    if !state.filter.is_empty() {
        spans.insert(0, Span::styled(format!("/{}  ", state.filter), alarm()));
    }
    Line::from(spans)
}
