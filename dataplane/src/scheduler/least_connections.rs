//! `least-connections`: the backend that would hold the fewest flows for its weight.
//!
//! Flows are live conntrack entries of all workers. Each worker counts its own and writes to nobody
//! else's lines; whoever chooses adds them up. A choice looks at every member, so its cost grows
//! with the pool (`make bench` prints it); nothing is sorted or shared, and nothing can be stale.
//!
//! Of backends that are equal the first from a point on is taken that depends on the flow, so that
//! several machines, each with few flows, do not all begin with the same backend.

use crate::flow::scale;

/// The member with the fewest flows, one more included, for its weight. `flows` gives those of a
/// member, or `None` where it has no room.
#[inline]
#[must_use]
pub fn fewest(weights: &[u32], point: u32, flows: impl Fn(usize) -> Option<u64>) -> Option<u16> {
    let from = scale(point, weights.len() as u32) as usize;
    let mut best: Option<(u64, u64, usize)> = None;
    let places = (from..weights.len()).chain(0..from);
    for place in places {
        let weight = u64::from(weights.get(place).copied().unwrap_or(0));
        let Some(flows) = flows(place).filter(|_| weight > 0) else {
            continue;
        };
        // The worker's own count and others' are read at different moments, and may be off by a
        // few below zero together.
        let load = flows.min(u64::from(u32::MAX)) + 1;
        if best.is_none_or(|(least, of, _)| load * of < least * weight) {
            best = Some((load, weight, place));
        }
    }
    best.map(|(_, _, place)| place as u16)
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

    #[test]
    fn nobody_with_room_means_nobody() {
        assert_eq!(fewest(&[], 0, |_| Some(0)), None);
        assert_eq!(fewest(&[1, 1], 0, |_| None), None);
        assert_eq!(
            fewest(&[1, 1], 0, |place| (place == 1).then_some(9)),
            Some(1)
        );
    }

    proptest! {
        #[test]
        fn equal_backends_never_differ_by_more_than_one(
            count in 1usize..30, points in proptest::collection::vec(any::<u32>(), 0..300),
        ) {
            let weights = vec![1; count];
            let mut held = vec![0u64; count];
            for point in points {
                let place = fewest(&weights, point, |place| Some(held[place])).unwrap();
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
                let place = fewest(&weights, *point, |place| Some(held[place])).unwrap();
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
            let place = fewest(&weights, point, |place| Some(held[place])).unwrap();
            prop_assert_eq!(held[usize::from(place)], *held.iter().min().unwrap());
        }
    }
}
