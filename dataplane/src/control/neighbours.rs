//! Who the neighbours are: static entries, ARP and NDP resolution, and packets that wait for it.
//!
//! A packet to a neighbour that is not resolved yet is kept, and a request goes out; the answer
//! releases it. Queues are bounded, per neighbour and in all; what does not fit, or is not answered
//! after [`ATTEMPTS`] requests, is dropped with a reason.
//!
//! A neighbour that something was sent to is checked every [`REFRESH`]; if it does not answer, its
//! last known MAC stays in force and the checks go on: whether a backend lives is for health checks
//! to say. One that only spoke to us is forgotten after [`FORGET`].

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use weir_engine::wire::ethernet::MacAddr;
use weir_shm::counters::DropReason;

use crate::adjacency::{Hops, Neighbour};

/// Requests sent before waiting packets are given up (RFC 4861's MAX_MULTICAST_SOLICIT).
pub const ATTEMPTS: u32 = 3;
/// Time between two requests (RFC 4861's RetransTimer).
pub const RETRY: Duration = Duration::from_secs(1);
/// Time after which a neighbour in use is checked again (RFC 4861's ReachableTime).
pub const REFRESH: Duration = Duration::from_secs(30);
/// Time after which a neighbour that nothing was sent to is forgotten.
pub const FORGET: Duration = Duration::from_secs(60);
/// Packets that wait for one neighbour.
pub const HELD_EACH: usize = 256;
/// Packets that wait in all.
pub const HELD_IN_ALL: usize = 4_096;
/// Neighbours known at once.
pub const MAX_NEIGHBOURS: usize = 16_384;

/// Nanoseconds on the control core's clock.
pub type Nanos = u64;

const fn nanos(duration: Duration) -> Nanos {
    duration.as_nanos() as Nanos
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// From the configuration: never asked for, never changed.
    Static,
    /// Asked for, not answered.
    Resolving { attempts: u32 },
    /// Known, and in use.
    Reachable,
    /// Known, in use, and being checked.
    Checking { attempts: u32 },
    /// Known, but nothing was sent to it.
    Overheard,
}

#[derive(Debug)]
struct Entry<B> {
    state: State,
    /// When something is due; `None` for static entries.
    due: Option<Nanos>,
    waiting: VecDeque<B>,
}

/// What is to be done after a change.
#[derive(Debug)]
pub enum Action<B> {
    /// Ask for this neighbour's MAC; at the known one, if any, to check it.
    Ask(Neighbour, Option<MacAddr>),
    /// Send this packet, which waited, to the neighbour's MAC.
    Release(Neighbour, MacAddr, B),
    /// Drop this packet.
    Drop(DropReason, B),
}

/// All neighbours; see the module's text.
#[derive(Debug)]
pub struct Neighbours<B> {
    hops: Hops,
    entries: BTreeMap<Neighbour, Entry<B>>,
    held: usize,
    next_due: Option<Nanos>,
    changed: bool,
}

impl<B> Default for Neighbours<B> {
    fn default() -> Self {
        Self {
            hops: Hops::default(),
            entries: BTreeMap::new(),
            held: 0,
            next_due: None,
            changed: false,
        }
    }
}

impl<B> Neighbours<B> {
    /// The hops' numbers and MACs.
    #[must_use]
    pub const fn hops(&self) -> &Hops {
        &self.hops
    }

    /// The number of a neighbour's hop; a new one if it has none.
    pub fn number(&mut self, neighbour: Neighbour) -> u32 {
        self.hops.number(neighbour)
    }

    /// Whether hops changed since this was last asked.
    pub const fn take_changed(&mut self) -> bool {
        std::mem::replace(&mut self.changed, false)
    }

    /// Packets that wait.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held
    }

    /// When something is due next.
    #[must_use]
    pub const fn next_due(&self) -> Option<Nanos> {
        self.next_due
    }

    /// Sets a neighbour from the configuration.
    pub fn set_static(&mut self, neighbour: Neighbour, mac: MacAddr) {
        self.changed |= self.hops.set(neighbour, Some(mac));
        let entry = Entry {
            state: State::Static,
            due: None,
            waiting: VecDeque::new(),
        };
        self.entries.insert(neighbour, entry);
    }

    /// Keeps a packet until its neighbour is resolved, and asks for it if nobody has yet.
    pub fn hold(&mut self, now: Nanos, neighbour: Neighbour, packet: B, act: &mut Vec<Action<B>>) {
        if let Some(mac) = self.hops.mac(&neighbour) {
            // It was resolved while the packet was on its way here.
            self.use_entry(now, neighbour);
            act.push(Action::Release(neighbour, mac, packet));
            return;
        }
        if self.held >= HELD_IN_ALL
            || (!self.entries.contains_key(&neighbour) && self.entries.len() >= MAX_NEIGHBOURS)
        {
            act.push(Action::Drop(DropReason::HoldQueueFull, packet));
            return;
        }
        let entry = self.entries.entry(neighbour).or_insert_with(|| {
            act.push(Action::Ask(neighbour, None));
            let due = Some(now + nanos(RETRY));
            Entry {
                state: State::Resolving { attempts: 1 },
                due,
                waiting: VecDeque::new(),
            }
        });
        if entry.waiting.len() >= HELD_EACH {
            act.push(Action::Drop(DropReason::HoldQueueFull, packet));
            return;
        }
        entry.waiting.push_back(packet);
        self.held += 1;
        self.find_next_due();
    }

    /// The MAC of a neighbour that something is about to be sent to.
    pub fn mac_in_use(&mut self, now: Nanos, neighbour: Neighbour) -> Option<MacAddr> {
        let mac = self.hops.mac(&neighbour)?;
        self.use_entry(now, neighbour);
        Some(mac)
    }

    /// A neighbour that nothing was sent to is in use from now on.
    fn use_entry(&mut self, now: Nanos, neighbour: Neighbour) {
        if let Some(entry) = self.entries.get_mut(&neighbour)
            && entry.state == State::Overheard
        {
            entry.state = State::Reachable;
            entry.due = Some(now + nanos(REFRESH));
            self.find_next_due();
        }
    }

    /// A neighbour told its MAC. News that was not for us alone only changes what is known.
    /// Returns whether it was of use.
    pub fn learn(
        &mut self,
        now: Nanos,
        neighbour: Neighbour,
        mac: MacAddr,
        directed: bool,
        act: &mut Vec<Action<B>>,
    ) -> bool {
        let room = self.entries.len() < MAX_NEIGHBOURS;
        let Some(entry) = self.entries.get_mut(&neighbour) else {
            if directed && room {
                let due = Some(now + nanos(FORGET));
                let entry = Entry {
                    state: State::Overheard,
                    due,
                    waiting: VecDeque::new(),
                };
                self.entries.insert(neighbour, entry);
                self.changed |= self.hops.set(neighbour, Some(mac));
                self.find_next_due();
            }
            return directed && room;
        };
        let (state, wait) = match entry.state {
            State::Static => return false,
            State::Overheard => (State::Overheard, FORGET),
            State::Resolving { .. } | State::Reachable | State::Checking { .. } => {
                (State::Reachable, REFRESH)
            }
        };
        entry.state = state;
        entry.due = Some(now + nanos(wait));
        self.held -= entry.waiting.len();
        act.extend(
            entry
                .waiting
                .drain(..)
                .map(|packet| Action::Release(neighbour, mac, packet)),
        );
        self.changed |= self.hops.set(neighbour, Some(mac));
        self.find_next_due();
        true
    }

    /// Does what is due: asks again, gives up, checks, forgets.
    pub fn tick(&mut self, now: Nanos, act: &mut Vec<Action<B>>) {
        if self.next_due.is_none_or(|due| now < due) {
            return;
        }
        let mut gone = Vec::new();
        for (neighbour, entry) in &mut self.entries {
            if entry.due.is_none_or(|due| now < due) {
                continue;
            }
            match entry.state {
                State::Static => {}
                State::Resolving { attempts } if attempts < ATTEMPTS => {
                    entry.state = State::Resolving {
                        attempts: attempts + 1,
                    };
                    entry.due = Some(now + nanos(RETRY));
                    act.push(Action::Ask(*neighbour, None));
                }
                State::Resolving { .. } => {
                    self.held -= entry.waiting.len();
                    act.extend(
                        entry
                            .waiting
                            .drain(..)
                            .map(|packet| Action::Drop(DropReason::NeighbourUnresolved, packet)),
                    );
                    gone.push(*neighbour);
                }
                State::Reachable => {
                    entry.state = State::Checking { attempts: 1 };
                    entry.due = Some(now + nanos(RETRY));
                    act.push(Action::Ask(*neighbour, self.hops.mac(neighbour)));
                }
                State::Checking { attempts } if attempts < ATTEMPTS => {
                    entry.state = State::Checking {
                        attempts: attempts + 1,
                    };
                    entry.due = Some(now + nanos(RETRY));
                    // The last check asks everybody: the neighbour may have a new MAC.
                    let known = self.hops.mac(neighbour).filter(|_| attempts + 1 < ATTEMPTS);
                    act.push(Action::Ask(*neighbour, known));
                }
                State::Checking { .. } => {
                    entry.state = State::Reachable;
                    entry.due = Some(now + nanos(REFRESH));
                }
                State::Overheard => {
                    self.changed |= self.hops.set(*neighbour, None);
                    gone.push(*neighbour);
                }
            }
        }
        for neighbour in gone {
            self.entries.remove(&neighbour);
        }
        self.find_next_due();
    }

    /// Gives all waiting packets up, at the end of a run.
    pub fn give_up(&mut self, act: &mut Vec<Action<B>>) {
        for entry in self.entries.values_mut() {
            self.held -= entry.waiting.len();
            act.extend(
                entry
                    .waiting
                    .drain(..)
                    .map(|packet| Action::Drop(DropReason::NeighbourUnresolved, packet)),
            );
        }
    }

    fn find_next_due(&mut self) {
        self.next_due = self.entries.values().filter_map(|entry| entry.due).min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;
    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn backend() -> Neighbour {
        Neighbour {
            port: 0,
            address: "10.0.0.11".parse().unwrap(),
        }
    }

    fn asks(actions: &[Action<u32>]) -> usize {
        actions
            .iter()
            .filter(|action| matches!(action, Action::Ask(..)))
            .count()
    }

    fn released(actions: &[Action<u32>]) -> Vec<u32> {
        actions
            .iter()
            .filter_map(|action| match action {
                Action::Release(_, mac, packet) if *mac == MAC => Some(*packet),
                _ => None,
            })
            .collect()
    }

    fn dropped(actions: &[Action<u32>]) -> usize {
        actions
            .iter()
            .filter(|action| matches!(action, Action::Drop(..)))
            .count()
    }

    #[test]
    fn packets_wait_in_order_and_one_request_is_sent() {
        let mut neighbours = Neighbours::default();
        let mut act = Vec::new();
        for packet in 0..3u32 {
            neighbours.hold(0, backend(), packet, &mut act);
        }
        assert_eq!((asks(&act), neighbours.held()), (1, 3));
        act.clear();
        assert!(neighbours.learn(SECOND / 2, backend(), MAC, true, &mut act));
        assert_eq!(released(&act), [0, 1, 2]);
        assert!(neighbours.take_changed() && !neighbours.take_changed());
        assert_eq!(neighbours.held(), 0);
    }

    #[test]
    fn an_unanswered_neighbour_is_asked_three_times_then_its_packets_are_given_up() {
        let mut neighbours = Neighbours::default();
        let mut act = Vec::new();
        neighbours.hold(0, backend(), 7, &mut act);
        for second in 1..=3 {
            assert_eq!(neighbours.next_due(), Some(second * SECOND));
            neighbours.tick(second * SECOND, &mut act);
        }
        assert_eq!((asks(&act), dropped(&act), neighbours.held()), (3, 1, 0));
        assert_eq!(neighbours.next_due(), None);
        neighbours.hold(9 * SECOND, backend(), 8, &mut act);
        assert_eq!(asks(&act), 4, "the next packet asks anew");
    }

    #[test]
    fn queues_are_bounded_each_and_in_all() {
        let mut neighbours = Neighbours::default();
        let mut act = Vec::new();
        for packet in 0..=HELD_EACH as u32 {
            neighbours.hold(0, backend(), packet, &mut act);
        }
        assert_eq!((dropped(&act), neighbours.held()), (1, HELD_EACH));
        for host in 0..200u32 {
            let address = std::net::Ipv4Addr::from_bits(0x0a01_0000 + host).into();
            for packet in 0..HELD_EACH as u32 {
                neighbours.hold(0, Neighbour { port: 0, address }, packet, &mut act);
            }
        }
        assert_eq!(neighbours.held(), HELD_IN_ALL);
        act.clear();
        neighbours.give_up(&mut act);
        assert_eq!((dropped(&act), neighbours.held()), (HELD_IN_ALL, 0));
    }

    #[test]
    fn a_neighbour_that_stops_answering_checks_keeps_its_mac() {
        let mut neighbours = Neighbours::default();
        let mut act = Vec::new();
        neighbours.hold(0, backend(), 1, &mut act);
        neighbours.learn(0, backend(), MAC, true, &mut act);
        act.clear();
        for second in 1..=60 {
            neighbours.tick(second * SECOND, &mut act);
        }
        assert_eq!(asks(&act), ATTEMPTS as usize);
        assert_eq!(neighbours.hops().mac(&backend()), Some(MAC));
    }

    #[test]
    fn one_that_only_spoke_to_us_is_forgotten() {
        let mut neighbours = Neighbours::<u32>::default();
        let mut act = Vec::new();
        assert!(
            !neighbours.learn(0, backend(), MAC, false, &mut act),
            "gossip teaches nothing new"
        );
        assert!(neighbours.learn(0, backend(), MAC, true, &mut act));
        neighbours.tick(60 * SECOND, &mut act);
        assert_eq!((act.len(), neighbours.hops().mac(&backend())), (0, None));
    }

    #[test]
    fn a_gratuitous_announcement_moves_a_known_neighbour_but_no_static_one() {
        let mut neighbours = Neighbours::<u32>::default();
        let mut act = Vec::new();
        neighbours.learn(0, backend(), MacAddr([1; 6]), true, &mut act);
        assert!(neighbours.learn(1, backend(), MAC, false, &mut act));
        assert_eq!(neighbours.hops().mac(&backend()), Some(MAC));
        neighbours.set_static(backend(), MacAddr([4; 6]));
        assert!(!neighbours.learn(2, backend(), MAC, true, &mut act));
        assert_eq!(neighbours.hops().mac(&backend()), Some(MacAddr([4; 6])));
    }
}
