//! `least-connections`: the backend that would hold the fewest flows for its weight.
//!
//! Flows are live conntrack entries of all workers. Each worker counts its own and writes to nobody
//! else's lines; whoever chooses adds them up. A choice looks at every member, so its cost grows
//! with the pool (`make bench` prints it); nothing is sorted or shared, and nothing can be stale.
//!
//! Of backends that are equal the first from a point on is taken that depends on the flow, so that
//! several machines, each with few flows, do not all begin with the same backend.

use crate::flow::scale;

/// What a member has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its flows.
    pub flows: u64,
    /// Whether it may have one more.
    pub has_room: bool,
}

/// The members with the fewest flows, one more included, for their weights: of all, and of those that
/// have room. Of equals one that has room comes first. `held` gives what a member has, if there is one.
#[inline]
#[must_use]
pub fn fewest(
    weights: &[u32],
    point: u32,
    held: impl Fn(usize) -> Option<Held>,
) -> (Option<u16>, Option<u16>) {
    type Best = Option<(u64, u64, usize)>;
    let from = scale(point, weights.len() as u32) as usize;
    let is_less = |(load, weight, _): (u64, u64, usize), best: Best| {
        best.is_none_or(|(least, of, _)| load * of < least * weight)
    };
    let (mut with_room, mut full): (Best, Best) = (None, None);
    let places = (from..weights.len()).chain(0..from);
    for place in places {
        let weight = u64::from(weights.get(place).copied().unwrap_or(0));
        let Some(held) = held(place).filter(|_| weight > 0) else {
            continue;
        };
        // The worker's own count and others' are read at different moments, and may be off by a
        // few below zero together.
        let load = held.flows.min(u64::from(u32::MAX)) + 1;
        let best = if held.has_room {
            &mut with_room
        } else {
            &mut full
        };
        let own = (load, weight, place);
        if is_less(own, *best) {
            *best = Some(own);
        }
    }
    let all = full.filter(|full| is_less(*full, with_room)).or(with_room);
    let place = |best: Best| best.map(|(_, _, place)| place as u16);
    (place(all), place(with_room))
}

/// The member that a flow gets of which nothing is remembered: by its hash, whatever the weights.
#[must_use]
pub fn fixed(weights: &[u32], point: u32) -> Option<u16> {
    (!weights.is_empty()).then(|| scale(point, weights.len() as u32) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn roomy(flows: u64) -> Option<Held> {
        let has_room = true;
        Some(Held { flows, has_room })
    }

    #[test]
    fn nobody_with_room_means_nobody() {
        let full = |flows| {
            let has_room = false;
            Some(Held { flows, has_room })
        };
        assert_eq!(fewest(&[], 0, |_| roomy(0)), (None, None));
        assert_eq!(fewest(&[1, 1], 0, |_| full(3)), (Some(0), None));
        let one = |place| if place == 1 { roomy(9) } else { full(3) };
        assert_eq!(fewest(&[1, 1], 0, one), (Some(0), Some(1)));
        assert_eq!(fewest(&[0, 1], 0, one), (Some(1), Some(1)));
        assert_eq!(fewest(&[1, 4], 0, one), (Some(1), Some(1)), "by weight");
    }

    proptest! {
        #[test]
        fn equal_backends_never_differ_by_more_than_one(
            count in 1usize..30, points in proptest::collection::vec(any::<u32>(), 0..300),
        ) {
            let weights = vec![1; count];
            let mut held = vec![0u64; count];
            for point in points {
                let place = fewest(&weights, point, |place| roomy(held[place])).1.unwrap();
                held[usize::from(place)] += 1;
                let (least, most) = (held.iter().min().unwrap(), held.iter().max().unwrap());
                prop_assert!(most - least <= 1);
            }
        }

        #[test]
        fn loads_follow_weights_within_one_flow_for_each(
            weights in proptest::collection::vec(1u32..20, 1..12),
            points in proptest::collection::vec(any::<u32>(), 1..400),
        ) {
            let mut held = vec![0u64; weights.len()];
            for point in &points {
                let place = fewest(&weights, *point, |place| roomy(held[place])).1.unwrap();
                held[usize::from(place)] += 1;
            }
            // Nobody could give a flow away to another and leave that one better off than itself.
            for (own, weight) in held.iter().zip(&weights) {
                for (other, others) in held.iter().zip(&weights) {
                    prop_assert!(own * u64::from(*others) <= (other + 1) * u64::from(*weight));
                }
            }
        }

        #[test]
        fn the_emptiest_is_found_after_any_history(
            held in proptest::collection::vec(0u64..50, 1..40), point: u32,
        ) {
            let weights = vec![3; held.len()];
            let place = fewest(&weights, point, |place| roomy(held[place])).1.unwrap();
            prop_assert_eq!(held[usize::from(place)], *held.iter().min().unwrap());
        }
    }
}
