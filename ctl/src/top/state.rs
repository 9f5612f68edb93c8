//! What the viewer chose: the tab, its order, the filter, the pace. Keys change it; nothing here
//! draws or reads.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::grid::{Grid, Tab};
use super::picture::Picture;

/// The paces that `+` and `-` go through.
const PACES: [Duration; 8] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// What a key leads to beyond a new frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Go,
    /// The pace is another.
    Repace,
    Quit,
}

/// The view's state.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) tab: Tab,
    /// For each tab in order: the column sorted by, and whether the largest comes first.
    orders: [(usize, bool); Tab::ALL.len()],
    pub(super) filter: String,
    /// Whether what is typed goes into the filter.
    pub(super) typing: bool,
    pub(super) paused: bool,
    pub(super) interval: Duration,
    /// The first row shown.
    pub(super) top: usize,
    /// Rows that the last frame had room for.
    pub(super) room: usize,
    /// Rows that there were.
    pub(super) rows: usize,
    /// Columns that the last frame had room for, each as if it were the one sorted by.
    pub(super) shown: Vec<usize>,
}

impl State {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            tab: Tab::Services,
            orders: Tab::ALL.map(Tab::order),
            filter: String::new(),
            typing: false,
            paused: false,
            interval,
            top: 0,
            room: 1,
            rows: 0,
            shown: Vec::new(),
        }
    }

    /// The order of a tab.
    pub(super) fn order(&self, tab: Tab) -> (usize, bool) {
        self.orders.get(tab as usize).copied().unwrap_or_default()
    }

    /// A tab's rows as they are to be shown; the filter is for the chosen tab.
    pub(super) fn grid(&self, tab: Tab, picture: &Picture) -> Grid {
        let mut grid = Grid::new(tab, picture);
        if tab == self.tab && !self.filter.is_empty() {
            grid.filter(&self.filter);
        }
        let (column, descending) = self.order(tab);
        grid.sort(column, descending);
        grid
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Then {
        if key.kind == KeyEventKind::Release {
            return Then::Go;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Then::Quit;
        }
        if self.typing {
            self.type_key(key.code);
            return Then::Go;
        }
        match key.code {
            KeyCode::Char('q') => return Then::Quit,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('+' | '=') => return self.pace(true),
            KeyCode::Char('-') => return self.pace(false),
            KeyCode::Char('s' | '>') => self.sort_by(true),
            KeyCode::Char('S' | '<') => self.sort_by(false),
            KeyCode::Char('r') => {
                if let Some((_, descending)) = self.orders.get_mut(self.tab as usize) {
                    *descending = !*descending;
                }
            }
            KeyCode::Char(digit @ '1'..='6') => {
                let place = digit as usize - '1' as usize;
                self.go_to(place);
            }
            KeyCode::Tab | KeyCode::Right => self.go_to((self.tab as usize + 1) % Tab::ALL.len()),
            KeyCode::BackTab | KeyCode::Left => {
                self.go_to((self.tab as usize + Tab::ALL.len() - 1) % Tab::ALL.len());
            }
            KeyCode::Down | KeyCode::Char('j') => self.scroll(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(-1),
            KeyCode::PageDown => self.scroll(self.room.cast_signed()),
            KeyCode::PageUp => self.scroll(-self.room.cast_signed()),
            KeyCode::Home => self.top = 0,
            KeyCode::End => self.scroll(self.rows.cast_signed()),
            _ => {}
        }
        Then::Go
    }

    fn type_key(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
        self.top = 0;
    }

    fn go_to(&mut self, place: usize) {
        if let Some(tab) = Tab::ALL.get(place) {
            self.tab = *tab;
            self.top = 0;
            // Another frame comes before another key.
            self.shown.clear();
        }
    }

    /// The next column that is shown of the chosen tab, or the one before; the first follows the last.
    fn sort_by(&mut self, forwards: bool) {
        let Some((column, _)) = self.orders.get_mut(self.tab as usize) else {
            return;
        };
        let (now, mut shown) = (*column, self.shown.iter());
        let next = if forwards {
            shown.find(|place| **place > now).or(self.shown.first())
        } else {
            shown.rfind(|place| **place < now).or(self.shown.last())
        };
        if let Some(next) = next {
            *column = *next;
        }
    }

    fn pace(&mut self, faster: bool) -> Then {
        let next = if faster {
            PACES.iter().rev().find(|pace| **pace < self.interval)
        } else {
            PACES.iter().find(|pace| **pace > self.interval)
        };
        match next {
            Some(pace) => {
                self.interval = *pace;
                Then::Repace
            }
            None => Then::Go,
        }
    }

    fn scroll(&mut self, rows: isize) {
        let last = self.rows.saturating_sub(self.room);
        self.top = self.top.saturating_add_signed(rows).min(last);
    }
}
