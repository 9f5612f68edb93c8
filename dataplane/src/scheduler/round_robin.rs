//! `round-robin`: strict turns, as many for each backend as it has weight.
//!
//! The control core writes the turns of a whole cycle down; a worker walks along it, each on its own
//! place, so that no two write to one cache line. A worker's flows are dealt out in strict turn;
//! over all of `w` workers a backend is at most `w` turns away from its share.
//!
//! The k-th turn of a backend of weight w lies at (2k + 1) / 2w of the cycle, turns at one place in
//! the order of the file: evenly spread, and in plain order where weights are equal.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Turns of the longest cycle. Weights whose cycle would be longer are scaled down to it, which
/// changes shares by less than a thousandth of the mean share.
const LONGEST: u64 = 1 << 20;

/// The turns of one cycle: places in `weights`, in the order of the file. Weights of zero have none.
#[must_use]
pub fn turns(weights: &[u32]) -> Vec<u16> {
    let weights = shortened(weights);
    // A turn is due at `odd / (2 * weight)` of the cycle; compared exactly by cross-multiplying.
    #[derive(PartialEq, Eq)]
    struct Due {
        odd: u64,
        weight: u64,
        place: u16,
    }
    impl Ord for Due {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            let (own, others) = (self.odd * other.weight, other.odd * self.weight);
            own.cmp(&others).then(self.place.cmp(&other.place))
        }
    }
    impl PartialOrd for Due {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }
    let cycle: u64 = weights.iter().sum();
    let mut due: BinaryHeap<Reverse<Due>> = (0u16..)
        .zip(&weights)
        .filter(|(_, weight)| **weight > 0)
        .map(|(place, weight)| {
            Reverse(Due {
                odd: 1,
                weight: *weight,
                place,
            })
        })
        .collect();
    let mut turns = Vec::with_capacity(cycle as usize);
    while let Some(Reverse(Due { odd, weight, place })) = due.pop() {
        turns.push(place);
        if odd + 2 < 2 * weight {
            due.push(Reverse(Due {
                odd: odd + 2,
                weight,
                place,
            }));
        }
    }
    turns
}

/// The smallest weights of the same proportions, or of nearly the same where their cycle would be
/// longer than [`LONGEST`].
fn shortened(weights: &[u32]) -> Vec<u64> {
    const fn gcd(a: u64, b: u64) -> u64 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    let common = weights
        .iter()
        .fold(0, |common, weight| gcd(common, u64::from(*weight)))
        .max(1);
    let mut weights: Vec<u64> = weights
        .iter()
        .map(|weight| u64::from(*weight) / common)
        .collect();
    let cycle: u64 = weights.iter().sum();
    if cycle > LONGEST {
        for weight in weights.iter_mut().filter(|weight| **weight > 0) {
            *weight = (*weight * LONGEST / cycle).max(1);
        }
    }
    weights
}

/// Where worker `worker` of `workers` begins: apart from the others, so that they do not all give
/// their first flow to one backend.
#[must_use]
pub const fn start(worker: u32, workers: u32, cycle: u32) -> u32 {
    if workers == 0 || cycle == 0 {
        return 0;
    }
    (worker as u64 * cycle as u64 / workers as u64) as u32
}

/// Whose turn it is.
#[inline]
#[must_use]
pub fn peek(turns: &[u16], turn: u32) -> Option<u16> {
    let at = turn as usize;
    turns.get(if at < turns.len() { at } else { 0 }).copied()
}

/// Takes the next turn of a member that `has_room`, passing over at most a thousand turns, and then looks
/// at as many members. Where there are more, a flow may overlook room while nearly all are full; the
/// next ones, which begin where this one ended, find it.
#[inline]
#[must_use]
pub fn take(
    turns: &[u16],
    turn: &mut u32,
    members: usize,
    has_room: impl Fn(u16) -> bool,
) -> Option<u16> {
    for _ in 0..turns.len().min(1_024) {
        let place = peek(turns, *turn)?;
        let next = *turn as usize + 1;
        *turn = if next < turns.len() { next as u32 } else { 0 };
        if has_room(place) {
            return Some(place);
        }
    }
    // A heavy backend that is full hides light ones for long.
    let from = *turn as usize % members.max(1);
    (0..members.min(1_024))
        .map(|step| ((from + step) % members.max(1)) as u16)
        .find(|place| has_room(*place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_backends_take_turns_in_the_order_of_the_file() {
        assert_eq!(turns(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(turns(&[7, 7, 7]), [0, 1, 2]);
        assert_eq!(turns(&[1, 0, 1]), [0, 2]);
        assert!(turns(&[]).is_empty() && turns(&[0]).is_empty());
    }

    #[test]
    fn weights_are_spread_through_the_cycle() {
        assert_eq!(turns(&[2, 1]), [0, 1, 0]);
        assert_eq!(turns(&[5, 1, 1]), [0, 0, 0, 1, 2, 0, 0]);
    }

    #[test]
    fn a_cycle_of_awkward_weights_is_bounded_and_nobody_is_left_out() {
        let weights: Vec<u32> = (0..1_000).map(|index| 65_535 - index).chain([1]).collect();
        let turns = turns(&weights);
        assert!(turns.len() as u64 <= LONGEST + 1_001);
        assert!(turns.contains(&1_000));
    }

    #[test]
    fn workers_begin_apart() {
        let starts: Vec<u32> = (0..4).map(|worker| start(worker, 4, 8)).collect();
        assert_eq!(starts, [0, 2, 4, 6]);
        assert_eq!((start(1, 2, 0), start(1, 2, 1)), (0, 0));
    }

    proptest! {
        #[test]
        fn in_each_cycle_every_backend_has_as_many_turns_as_weight(
            weights in proptest::collection::vec(0u32..30, 1..20),
        ) {
            let turns = turns(&weights);
            let total: u32 = weights.iter().sum();
            for (place, weight) in (0u16..).zip(&weights) {
                let own = turns.iter().filter(|turn| **turn == place).count() as u64;
                prop_assert_eq!(own * u64::from(total), u64::from(*weight) * turns.len() as u64);
            }
        }

        #[test]
        fn at_any_moment_everybody_has_had_its_share_within_one_turn(
            weights in proptest::collection::vec(1u32..30, 1..12), flows in 1usize..200,
        ) {
            let turns = turns(&weights);
            let total: u32 = weights.iter().sum();
            let mut turn = 0;
            let mut had = vec![0u32; weights.len()];
            for _ in 0..flows {
                let place = take(&turns, &mut turn, weights.len(), |_| true).unwrap();
                had[usize::from(place)] += 1;
            }
            for (had, weight) in had.iter().zip(&weights) {
                let share = flows as f64 * f64::from(*weight) / f64::from(total);
                prop_assert!((f64::from(*had) - share).abs() <= 1.0 + weights.len() as f64 / 2.0);
            }
        }

        #[test]
        fn the_only_room_in_a_large_pool_is_found_after_a_few_flows(
            members in 1usize..5_000, heavy in 1u32..40, roomy: prop::sample::Index, begin: u32,
        ) {
            // The first one's many turns come between those of the others.
            let mut weights = vec![1; members];
            weights[0] = heavy * 1_000;
            let turns = turns(&weights);
            let roomy = roomy.index(members) as u16;
            let mut turn = begin % turns.len() as u32;
            let mut flow = || take(&turns, &mut turn, members, |place| place == roomy);
            let misses = (0..10).take_while(|_| flow().is_none()).count();
            prop_assert!(misses < 10, "{misses}");
        }

        #[test]
        fn a_place_behind_the_end_of_a_shorter_cycle_begins_anew(turn: u32) {
            let turns = turns(&[1, 1]);
            let mut at = turn;
            prop_assert!(take(&turns, &mut at, 2, |_| true).is_some());
            prop_assert!(at < 2);
        }
    }
}
