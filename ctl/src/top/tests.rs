//! Frames at both ends of the sizes there are, and what keys do to them.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::Sight;
use super::draw::draw;
use super::grid::{Tab, cut, figure};
use super::picture::{
    BackendRow, DropRow, EventRow, Picture, PortRow, ServiceRow, Total, WorkerRow,
};
use super::state::{State, Then};

fn backend(name: &str, service: &str, state: &'static str, pps: f64) -> BackendRow {
    BackendRow {
        backend: name.to_owned(),
        service: service.to_owned(),
        state,
        takes_new_flows: matches!(state, "up" | "slow-start"),
        health: Some(
            if state == "down" {
                "connection refused"
            } else {
                "ok"
            }
            .to_owned(),
        ),
        weight: 1,
        pps: Some(pps),
        bps: Some(pps * 8_000.0),
        new_flows_ps: Some(pps / 100.0),
        flows: Some((pps * 3.0) as u64),
        share: Some(0.25),
    }
}

fn picture() -> Picture {
    let service = |name: &str, vip: &str, up, pps: f64| ServiceRow {
        service: name.to_owned(),
        vip: vip.to_owned(),
        forwarding: "nat",
        backends_up: up,
        backends: 2,
        pps: Some(pps),
        bps: Some(pps * 8_000.0),
        new_flows_ps: Some(pps / 100.0),
        flows: Some((pps * 3.0) as u64),
        return_pps: Some(0.0),
        return_bps: Some(0.0),
        share: Some(0.5),
    };
    let worker = |worker, busy, entries| WorkerRow {
        worker,
        busy: Some(busy),
        received_pps: Some(1_234_567.0),
        received_bps: Some(9.876e9),
        forwarded_pps: Some(1_234_000.0),
        forwarded_bps: Some(9.87e9),
        dropped_pps: Some(567.0),
        conntrack_hits: Some(0.998),
        conntrack_entries: Some(entries),
        conntrack_capacity: Some(1_000_000),
        evicted_ps: Some(0.0),
        generation: 7,
    };
    Picture {
        instance: "lb1".to_owned(),
        pid: 4711,
        version: "0.1.0".to_owned(),
        uptime_s: 273_600,
        generation: 7,
        over_s: Some(1.0),
        total: Total {
            received_pps: Some(2_469_134.0),
            received_bps: Some(1.975e10),
            forwarded_pps: Some(2_468_000.0),
            forwarded_bps: Some(1.974e10),
            answered_pps: Some(3.0),
            dropped_pps: Some(1_134.0),
            new_flows_ps: Some(8_200.0),
            flows: Some(1_070_000),
            backends_up: 3,
            backends: 4,
        },
        workers: vec![worker(0, 0.62, 120_000), worker(1, 0.97, 950_000)],
        services: vec![
            service("web", "198.51.100.10:80/tcp", 1, 20_000.0),
            service("dns", "[2001:db8::53]:any/udp", 2, 30_000.0),
        ],
        backends: vec![
            backend("10.0.0.11:8080", "web", "up", 20_000.0),
            backend("10.0.0.12:8080", "web", "down", 0.0),
            backend("2001:db8:1:2:3:4:5:6666", "dns", "up", 10_000.0),
            backend("2001:db8::1:2", "dns", "slow-start", 20_000.0),
        ],
        drops: vec![
            DropRow {
                reason: "no_service",
                dropped_pps: Some(0.0),
                total: 1_500,
                share: 0.0012,
                why: "For a VIP's address, but for no service's port.",
            },
            DropRow {
                reason: "neighbour_unresolved",
                dropped_pps: Some(1_134.0),
                total: 99,
                share: 0.0001,
                why: "For a neighbour whose MAC address could not be found in time, however often it was asked.",
            },
        ],
        ports: vec![PortRow {
            port: "wan".to_owned(),
            link_up: true,
            speed_mbps: 25_000,
            received_pps: Some(2_469_134.0),
            received_bps: Some(1.975e10),
            sent_pps: Some(2_468_000.0),
            sent_bps: Some(1.974e10),
            lost_pps: Some(0.0),
            lost: 12,
        }],
        events: vec![
            EventRow {
                number: 2,
                time: "2026-11-20T21:15:09.000Z".to_owned(),
                kind: "health",
                text: "backend 10.0.0.12:8080 of web is down: connection refused".to_owned(),
            },
            EventRow {
                number: 1,
                time: "2026-11-20T21:15:04.123Z".to_owned(),
                kind: "started",
                text: "started: 2 services, 4 backends, 2 workers".to_owned(),
            },
        ],
    }
}

struct View {
    terminal: Terminal<TestBackend>,
    state: State,
    sight: Sight,
}

impl View {
    fn new(width: u16, height: u16) -> Self {
        let sight = Sight {
            picture: Some(picture()),
            away: None,
        };
        let mut view = Self {
            terminal: Terminal::new(TestBackend::new(width, height)).unwrap(),
            state: State::new(Duration::from_secs(1)),
            sight,
        };
        view.frame();
        view
    }

    fn press(&mut self, keys: &str) -> Then {
        let mut then = Then::Go;
        for key in keys.chars() {
            let code = match key {
                '\n' => KeyCode::Enter,
                '\u{1b}' => KeyCode::Esc,
                key => KeyCode::Char(key),
            };
            then = self.state.key(KeyEvent::new(code, KeyModifiers::NONE));
            self.frame();
        }
        then
    }

    fn frame(&mut self) -> String {
        self.terminal
            .draw(|frame| draw(frame, &mut self.state, &self.sight))
            .unwrap();
        let text = self.terminal.backend().to_string();
        let lines = text.lines().map(|line| line.trim_matches('"').trim_end());
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The first words of the rows shown.
    fn first_words(&mut self) -> Vec<String> {
        let frame = self.frame();
        // Between the table's head and the line of keys.
        let body = frame.lines().count().saturating_sub(6);
        let rows = frame.lines().skip(5).take(body);
        let rows = rows.take_while(|line| !line.is_empty());
        rows.map(|line| {
            line.split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
    }
}

#[test]
fn every_table_is_readable_at_80_by_24() {
    for (number, tab) in (1..).zip(Tab::ALL) {
        let mut view = View::new(80, 24);
        view.press(&number.to_string());
        insta::assert_snapshot!(format!("small-{}", tab.name()), view.frame());
    }
}

#[test]
fn one_frame_for_scripts_has_all_tables_and_for_programs_everything() {
    let mut text = Vec::new();
    super::once::write(&mut text, &picture()).unwrap();
    insta::assert_snapshot!("once", String::from_utf8(text).unwrap());
    let json = serde_json::to_string_pretty(&picture()).unwrap();
    insta::assert_snapshot!("once-json", json);
}

#[test]
fn what_a_row_is_about_is_whole_at_80_columns() {
    let mut view = View::new(80, 24);
    view.press("3");
    let frame = view.frame();
    for row in &picture().backends {
        for text in [row.backend.as_str(), row.service.as_str(), row.state] {
            assert!(frame.contains(text), "{text} in\n{frame}");
        }
    }
    view.press("1");
    let frame = view.frame();
    for head in [
        "BUSY", "RX PPS", "TX PPS", "RX BPS", "TX BPS", "DROP/S", "ENTRIES", "FULL",
    ] {
        assert!(frame.contains(head), "{head} in\n{frame}");
    }
}

#[test]
fn a_large_terminal_shows_the_other_tables_beside() {
    let mut view = View::new(200, 60);
    insta::assert_snapshot!("large-Services", view.frame());
    view.press("3");
    let frame = view.frame();
    for text in [
        "LAST CHECK",
        "connection refused",
        "Workers",
        "Drops",
        "Events",
    ] {
        assert!(frame.contains(text), "{text} in\n{frame}");
    }
}

#[test]
fn a_tiny_terminal_is_no_reason_to_panic() {
    for (width, height) in [(1, 1), (10, 3), (20, 5), (150, 5), (10, 60)] {
        for tab in "123456".chars() {
            let mut view = View::new(width, height);
            view.press(&tab.to_string());
            view.frame();
        }
    }
}

#[test]
fn rows_are_sorted_by_any_column_both_ways() {
    let mut view = View::new(80, 24);
    assert_eq!(view.first_words(), ["dns", "web"]);
    view.press("r");
    assert_eq!(view.first_words(), ["web", "dns"]);
    view.press("ss"); // by packets, the largest first
    assert!(view.frame().contains("PPS▼"));
    assert_eq!(view.first_words(), ["dns", "web"]);
    view.press("r");
    assert!(view.frame().contains("PPS▲"));
    assert_eq!(view.first_words(), ["web", "dns"]);
    view.press("SS");
    assert!(view.frame().contains("SERVICE▲"));
    view.press("S");
    assert!(
        view.frame().contains("dns"),
        "the column before the first is the last"
    );
}

#[test]
fn the_column_sorted_by_is_always_one_that_is_shown() {
    for (width, height) in [(40, 24), (60, 24), (80, 24), (81, 24), (100, 24), (200, 60)] {
        for tab in "123456".chars() {
            for (keys, back) in [('s', 'S'), ('S', 's')] {
                let mut view = View::new(width, height);
                view.press(&tab.to_string());
                let mut seen = Vec::new();
                for _ in 0..20 {
                    let column = view.state.order(view.state.tab).0;
                    let frame = view.frame();
                    let head = frame.lines().nth(4).unwrap();
                    assert!(
                        head.contains(['▲', '▼']),
                        "{width} columns, table {tab}, column {column}:\n{frame}"
                    );
                    seen.push(column);
                    view.press(&keys.to_string());
                }
                let first = seen.first().copied();
                let round = seen
                    .iter()
                    .skip(1)
                    .position(|column| Some(*column) == first);
                assert!(round.is_some(), "it goes round: {seen:?}");
                view.press(&back.to_string());
                assert_eq!(Some(&view.state.order(view.state.tab).0), seen.last());
            }
        }
    }
}

#[test]
fn a_filter_keeps_what_holds_the_text_and_escape_shows_all() {
    let mut view = View::new(80, 24);
    view.press("3/DOWN");
    assert!(view.frame().contains("filter: DOWN"));
    assert_eq!(view.first_words(), ["10.0.0.12:8080"]);
    view.press("\n");
    assert!(view.frame().contains("/DOWN"));
    assert_eq!(view.press("q"), Then::Quit, "keys are commands again");
    view.press("\u{1b}");
    assert_eq!(view.first_words().len(), 4);
    view.press("/nothing\n");
    assert!(view.frame().contains("nothing has \"nothing\" in it"));
    view.press("/q\u{1b}");
    assert_eq!(view.first_words().len(), 4);
}

#[test]
fn control_c_quits_even_while_a_filter_is_typed() {
    let mut view = View::new(80, 24);
    view.press("/x");
    let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(view.state.key(key), Then::Quit);
}

#[test]
fn the_pace_changes_within_bounds() {
    let mut view = View::new(80, 24);
    assert_eq!(view.press("+"), Then::Repace);
    assert_eq!(view.state.interval, Duration::from_millis(500));
    view.press("++++++");
    assert_eq!(view.state.interval, Duration::from_millis(100));
    assert_eq!(view.press("+"), Then::Go);
    view.press("------------");
    assert_eq!(view.state.interval, Duration::from_secs(30));
}

#[test]
fn an_absent_daemon_is_told_above_its_last_picture() {
    let mut view = View::new(80, 24);
    view.sight.away = Some("instance \"lb1\" is not running".to_owned());
    let frame = view.frame();
    assert!(frame.contains("AWAY: instance \"lb1\" is not running; looking again"));
    assert!(frame.contains("198") || frame.contains("web"), "{frame}");
    view.sight.picture = None;
    assert!(view.frame().starts_with("weir is away"));
}

#[test]
fn a_long_table_scrolls_to_its_end_and_no_further() {
    let mut view = View::new(80, 24);
    let rows = (0..100).map(|n| backend(&format!("10.0.0.{n}:80"), "web", "up", f64::from(n)));
    let mut seen = picture();
    seen.backends = rows.collect();
    view.sight.picture = Some(seen);
    view.press("3");
    view.frame();
    for _ in 0..20 {
        view.state
            .key(KeyEvent::new(KeyCode::PageDown, KeyModifiers::NONE));
    }
    let words = view.first_words();
    assert_eq!(words.last().map(String::as_str), Some("10.0.0.99:80"));
    view.state
        .key(KeyEvent::new(KeyCode::Home, KeyModifiers::NONE));
    assert_eq!(view.first_words()[0], "10.0.0.0:80");
}

#[test]
fn figures_take_five_characters() {
    for (value, text) in [
        (0.0, "0"),
        (0.4, "0.4"),
        (12.3, "12"),
        (999.4, "999"),
        (999.6, "1.00k"),
        (12_345.0, "12.3k"),
        (1_234_567.0, "1.23M"),
        (9.876e9, "9.88G"),
        (1e30, "inf"),
    ] {
        assert_eq!(figure(value), text);
    }
}

#[test]
fn names_are_cut_in_the_middle_and_sentences_at_their_end() {
    assert_eq!(cut("2001:db8::1:8080", 9, false), "2001…8080");
    assert_eq!(cut("connection refused", 9, true), "connecti…");
    assert_eq!(cut("short", 9, false), "short");
}
