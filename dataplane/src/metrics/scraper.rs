//! What a scrape takes together: the control core's facts, the workers' counters, and how full
//! their flow tables are.

use std::sync::Arc;
use std::time::Duration;

use weir_engine::clock::{Clock, Nanos};
use weir_engine::counters::CounterReader;

use super::exposition::{self, Seen};
use super::{Exchange, Facts};
use crate::conntrack::{ConntrackReader, Pass, Tick};

/// How long a scrape waits for the control core before it shows what it had.
const PATIENCE: Duration = Duration::from_millis(250);
/// For how long one page serves everybody who asks.
const FRESH: Duration = Duration::from_millis(100);
/// Lines of flow tables looked at for each second since the last scrape. A line that a worker
/// writes to has to come back to its core afterwards, some tens of nanoseconds: this bounds it to
/// a few thousandths of a core.
const LINES_A_SECOND: f64 = 50_000.0;

/// Makes pages for Prometheus; see the module's text.
pub struct Scraper {
    exchange: Arc<Exchange>,
    blocks: Vec<CounterReader>,
    pass: Pass,
    room: Vec<u64>,
    clock: Clock,
    scrapes: u64,
    last: Option<(Nanos, Arc<[u8]>)>,
}

impl Scraper {
    /// Over counters (of each worker in order, then the control core's own), the workers' flow
    /// tables, and the control core's facts.
    #[must_use]
    pub fn new(
        exchange: Arc<Exchange>,
        blocks: Vec<CounterReader>,
        tables: Vec<ConntrackReader>,
    ) -> Self {
        Self {
            exchange,
            blocks,
            room: tables.iter().map(ConntrackReader::capacity).collect(),
            pass: Pass::new(tables),
            clock: Clock::new(),
            scrapes: 0,
            last: None,
        }
    }

    /// The page; `None` before the control core has said anything.
    pub fn page(&mut self) -> Option<Arc<[u8]>> {
        let now = self.clock.now();
        self.scrapes += 1;
        if let Some((at, page)) = &self.last
            && now.since(*at) < FRESH
        {
            return Some(Arc::clone(page));
        }
        let facts = self.exchange.ask(PATIENCE)?;
        let page: Arc<[u8]> = self.look(&facts)?.into();
        self.last = Some((self.clock.now(), Arc::clone(&page)));
        Some(page)
    }

    fn look(&mut self, facts: &Facts) -> Option<Vec<u8>> {
        let now = self.clock.now();
        if let Some(profiles) = &facts.profiles {
            let lines = self.last.as_ref().map(|(at, _)| {
                let lines = now.since(*at).as_secs_f64() * LINES_A_SECOND;
                lines as usize
            });
            let tick = Tick::from_nanos(now.0);
            self.pass.go_on(tick, profiles, lines);
        }
        let seen = Seen {
            facts,
            age: now.since(Nanos(facts.at_ns)).as_secs_f64(),
            blocks: &self.blocks,
            flows: self.pass.counts(),
            room: &self.room,
            scrapes: self.scrapes,
        };
        exposition::text(&seen).ok()
    }
}
