//! What becomes of each backend: the operator's wish, its health and its drain taken together.
//!
//! One place decides which flows a backend takes and with which share, so that the packet path, the
//! tables and what `weirctl` shows cannot disagree.

use weir_shm::model::{Admin, AllDown, Backend, Forced, OnDown, Service, WHOLE_SHARE};
use weir_shm::segment::directory::BackendState;

use super::health::View;
use super::health::ramp::STEPS;
use crate::service::Takes;

/// What is known of a backend beside the operator's wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// What its checks say.
    pub view: View,
    /// Whether its drain has run out.
    pub drained: bool,
    /// Its share of its weight, of [`STEPS`].
    pub share: u8,
}

/// What becomes of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Which flows it takes.
    pub takes: Takes,
    /// The same in an operator's words.
    pub state: BackendState,
    /// Its share of its weight, of [`STEPS`].
    pub share: u8,
}

/// What becomes of a service's backends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standings {
    /// One for each backend, in order.
    pub backends: Vec<Standing>,
    /// Whether backends that are down take flows all the same.
    pub fails_open: bool,
    /// Whether there are backends that could take new flows, and none of them is up.
    pub all_down: bool,
    /// The share of weight that is up, in thousandths.
    pub healthy: u16,
}

impl Standings {
    /// Of a service, from what is known of each of its backends.
    #[must_use]
    pub fn of(service: &Service, facts: &[Facts]) -> Self {
        let pairs = || service.backends.iter().zip(facts);
        // Backends disabled or drained by hand never count.
        let candidates = || pairs().filter(|(backend, _)| takes_new_flows(backend));
        let weight = |pairs: &mut dyn Iterator<Item = (&Backend, &Facts)>| -> u64 {
            pairs.map(|(backend, _)| u64::from(backend.weight)).sum()
        };
        let whole = weight(&mut candidates());
        let up = weight(&mut candidates().filter(|(backend, facts)| is_up(backend, facts)));
        let share = u64::from(WHOLE_SHARE);
        let all_down = whole > 0 && up == 0;
        let fails_open = if all_down {
            service.steering.all_down == AllDown::Forward
        } else {
            up * share < whole * u64::from(service.min_healthy)
        };
        let backends = pairs()
            .map(|(backend, facts)| standing(service, backend, facts, fails_open))
            .collect();
        Self {
            backends,
            fails_open,
            all_down,
            healthy: (up * share).checked_div(whole).unwrap_or(share) as u16,
        }
    }

    /// What becomes of the backend at this place.
    #[must_use]
    pub fn backend(&self, place: usize) -> Standing {
        self.backends.get(place).copied().unwrap_or(Standing {
            takes: Takes::Nothing,
            state: BackendState::Down,
            share: STEPS,
        })
    }

    /// Whether any backend has less than its whole share.
    #[must_use]
    pub fn is_ramping(&self) -> bool {
        self.backends
            .iter()
            .any(|standing| standing.share < STEPS && standing.takes == Takes::All)
    }

    /// The weight that a table gives the backend at this place: in steps while any grows.
    #[must_use]
    pub fn weight(&self, place: usize, backend: &Backend) -> u32 {
        if self.is_ramping() {
            backend.weight * u32::from(self.backend(place).share)
        } else {
            backend.weight
        }
    }
}

/// Whether the operator lets a backend take new flows.
#[must_use]
pub fn takes_new_flows(backend: &Backend) -> bool {
    backend.admin == Admin::Enabled && backend.weight > 0
}

fn is_up(backend: &Backend, facts: &Facts) -> bool {
    match backend.forced {
        Forced::Up => true,
        Forced::Down => false,
        Forced::Auto => facts.view.is_up(),
    }
}

fn standing(service: &Service, backend: &Backend, facts: &Facts, fails_open: bool) -> Standing {
    let up = is_up(backend, facts);
    let down_state = match (backend.forced, facts.view) {
        (Forced::Auto, View::Checking) => BackendState::Checking,
        (Forced::Auto, View::Held) => BackendState::Held,
        _ => BackendState::Down,
    };
    // One that was never up has no flows to hold or reset.
    let on_down = match service.on_down {
        OnDown::ReSteer => Takes::Nothing,
        OnDown::Keep => Takes::Known,
        OnDown::Reset => Takes::Reset,
    };
    let drained = match service.on_down {
        OnDown::Reset => Takes::Reset,
        OnDown::ReSteer | OnDown::Keep => Takes::Nothing,
    };
    let (takes, state) = match backend.admin {
        Admin::Disabled => (Takes::Nothing, BackendState::Disabled),
        Admin::Drain { .. } if facts.drained => (drained, BackendState::Drained),
        Admin::Drain { .. } if up => (Takes::Known, BackendState::Draining),
        Admin::Enabled if backend.weight == 0 && up => (Takes::Known, BackendState::Idle),
        Admin::Enabled if backend.weight > 0 && up && facts.share < STEPS => {
            (Takes::All, BackendState::SlowStart)
        }
        Admin::Enabled if backend.weight > 0 && up => (Takes::All, BackendState::Up),
        Admin::Enabled if backend.weight > 0 && fails_open => (Takes::All, BackendState::FailOpen),
        Admin::Drain { .. } | Admin::Enabled => (on_down, down_state),
    };
    let share = if up { facts.share } else { STEPS };
    Standing {
        takes,
        state,
        share,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use weir_shm::model::{Forwarding, PortMatch, Protocol};

    fn service(weights: &[u32]) -> Service {
        let vip: std::net::IpAddr = "198.51.100.10".parse().unwrap();
        let mut service = Service::new(
            "web",
            vip,
            PortMatch::Exact(80),
            Protocol::Tcp,
            Forwarding::Nat,
        );
        service.backends = (1..)
            .zip(weights)
            .map(|(host, weight)| Backend {
                weight: *weight,
                ..Backend::new(std::net::Ipv4Addr::new(10, 0, 0, host).into(), 80)
            })
            .collect();
        service
    }

    fn facts(views: &[View]) -> Vec<Facts> {
        let fact = |view: &View| Facts {
            view: *view,
            drained: false,
            share: STEPS,
        };
        views.iter().map(fact).collect()
    }

    fn takes(service: &Service, views: &[View]) -> Vec<Takes> {
        let standings = Standings::of(service, &facts(views));
        standings.backends.iter().map(|one| one.takes).collect()
    }

    #[test]
    fn what_is_down_takes_nothing_unless_all_are() {
        let service = service(&[1, 1]);
        assert_eq!(
            takes(&service, &[View::Up, View::Down]),
            [Takes::All, Takes::Nothing]
        );
        assert_eq!(
            takes(&service, &[View::Held, View::Down]),
            [Takes::All, Takes::All],
            "it fails open"
        );
    }

    #[test]
    fn below_min_healthy_the_pool_fails_open_by_weight() {
        let mut service = service(&[3, 1, 1, 1]);
        service.min_healthy = 500;
        let up_and_down = [View::Up, View::Down, View::Down, View::Down];
        let standings = Standings::of(&service, &facts(&up_and_down));
        assert!(!standings.fails_open, "half of the weight is up");
        assert_eq!(standings.healthy, 500);
        service.min_healthy = 501;
        let standings = Standings::of(&service, &facts(&up_and_down));
        assert!(standings.fails_open);
        assert_eq!(standings.backends[0].state, BackendState::Up);
        assert_eq!(standings.backends[1].state, BackendState::FailOpen);
        assert!(standings.backends.iter().all(|one| one.takes == Takes::All));
    }

    #[test]
    fn backends_taken_out_by_hand_are_no_fall_back() {
        let mut service = service(&[1, 1, 0]);
        service.backends[0].admin = Admin::Disabled;
        assert_eq!(
            takes(&service, &[View::Up, View::Down, View::Up]),
            [Takes::Nothing, Takes::All, Takes::Known]
        );
    }

    #[test]
    fn on_down_decides_what_becomes_of_flows() {
        let mut service = service(&[1, 1]);
        let views = [View::Up, View::Down];
        for (on_down, expected) in [
            (OnDown::ReSteer, Takes::Nothing),
            (OnDown::Keep, Takes::Known),
            (OnDown::Reset, Takes::Reset),
        ] {
            service.on_down = on_down;
            assert_eq!(takes(&service, &views)[1], expected);
        }
        // A drain that has run out never keeps what is left.
        service.on_down = OnDown::Keep;
        service.backends[1].admin = Admin::Drain {
            timeout: Duration::from_secs(1),
        };
        let mut facts = facts(&views);
        facts[1].drained = true;
        assert_eq!(
            Standings::of(&service, &facts).backends[1].takes,
            Takes::Nothing
        );
    }

    #[test]
    fn the_operator_overrides_health() {
        let mut service = service(&[1, 1]);
        service.backends[0].forced = Forced::Down;
        service.backends[1].forced = Forced::Up;
        assert_eq!(
            takes(&service, &[View::Up, View::Down]),
            [Takes::Nothing, Takes::All]
        );
    }

    #[test]
    fn a_growing_share_counts_in_steps_of_the_weight() {
        let service = service(&[2, 3]);
        let mut facts = facts(&[View::Up, View::Up]);
        let whole = Standings::of(&service, &facts);
        assert_eq!(whole.weight(0, &service.backends[0]), 2);
        facts[0].share = 1;
        let growing = Standings::of(&service, &facts);
        assert_eq!(growing.backends[0].state, BackendState::SlowStart);
        assert_eq!(growing.weight(0, &service.backends[0]), 2);
        assert_eq!(growing.weight(1, &service.backends[1]), 30);
    }
}
