//! `ring`: consistent hashing with virtual nodes (Karger et al., "Consistent Hashing and Random
//! Trees", STOC 1997), as many for a backend as `ring_vnodes` times its weight.
//!
//! A backend's nodes depend on its own name and weight alone. So when another one comes, goes or
//! changes its weight, no flow moves between those that stay: stricter than Maglev, which moves a
//! few more, and paid for with shares that are uneven by about one in the root of the nodes.
//!
//! The ring is cut into as many equal arcs as the table has entries, and each entry holds the
//! backend of the first node from its arc's start on. A choice then costs what Maglev's costs, and
//! the promise holds for the entries as it does for the ring.

use siphasher::sip::SipHasher24;
use std::hash::Hasher;

use crate::maglev::{Member, NO_BACKEND};

/// Builds a table of `size` entries, each the slot of one of `members`, or [`NO_BACKEND`] throughout
/// when none has weight. A member's weight is the number of its nodes.
#[must_use]
pub fn build(members: &[Member], size: u32) -> Box<[u16]> {
    let mut nodes: Vec<(u64, &str, u16)> = Vec::new();
    for member in members {
        let count = u64::from(member.weight);
        nodes
            .extend((0..count).map(|node| (point(&member.name, node), &*member.name, member.slot)));
    }
    // Two nodes at one point are in the order of their backends' names: the same everywhere.
    nodes.sort_unstable();
    let mut table = vec![NO_BACKEND; size as usize].into_boxed_slice();
    let Some((_, _, first)) = nodes.first().copied() else {
        return table;
    };
    let mut next = 0;
    for (arc, entry) in (0u128..).zip(&mut table) {
        let start = ((arc << 64) / u128::from(size)) as u64;
        while nodes.get(next).is_some_and(|(at, _, _)| *at < start) {
            next += 1;
        }
        *entry = nodes.get(next).map_or(first, |(_, _, slot)| *slot);
    }
    table
}

/// Where a backend's node lies: SipHash-2-4, unkeyed as for Maglev, of its name and the node's
/// number.
fn point(name: &str, node: u64) -> u64 {
    let mut hasher = SipHasher24::new();
    hasher.write(name.as_bytes());
    hasher.write(&node.to_le_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u32 = 65_537;

    /// Members of `vnodes` nodes for each unit of weight.
    fn members(weights: &[u32], vnodes: u32) -> Vec<Member> {
        (0u16..)
            .zip(weights)
            .map(|(slot, weight)| Member {
                name: format!("10.0.0.{slot}:80"),
                weight: *weight * vnodes,
                slot,
            })
            .collect()
    }

    #[test]
    fn a_pool_without_weight_gives_a_table_without_backends() {
        assert!(build(&[], 7).iter().all(|slot| *slot == NO_BACKEND));
        assert!(
            build(&members(&[0], 160), 7)
                .iter()
                .all(|slot| *slot == NO_BACKEND)
        );
    }

    #[test]
    fn shares_follow_weights_about_as_the_root_of_the_nodes_says() {
        let weights = [1, 2, 4, 8];
        let table = build(&members(&weights, 160), SIZE);
        for (slot, weight) in (0u16..).zip(weights) {
            let share = table.iter().filter(|entry| **entry == slot).count() as f64;
            let ideal = f64::from(SIZE) * f64::from(weight) / 15.0;
            let spread = 4.0 / f64::from(160 * weight).sqrt();
            assert!((share / ideal - 1.0).abs() < spread, "{share} of {ideal}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_backend_that_goes_moves_no_flow_of_another(
            weights in proptest::collection::vec(1u32..5, 2..20), gone: prop::sample::Index,
        ) {
            let all = members(&weights, 40);
            let gone = gone.index(all.len());
            let rest: Vec<Member> = all
                .iter()
                .filter(|member| usize::from(member.slot) != gone)
                .cloned()
                .collect();
            let (before, after) = (build(&all, 4_093), build(&rest, 4_093));
            for (old, new) in before.iter().zip(&after) {
                prop_assert!(old == new || usize::from(*old) == gone);
            }
        }

        #[test]
        fn a_weight_that_grows_takes_flows_and_moves_none_between_others(
            weights in proptest::collection::vec(1u32..5, 2..20), grown: prop::sample::Index,
        ) {
            let all = members(&weights, 40);
            let grown = grown.index(all.len());
            let mut more = all.clone();
            more[grown].weight += 40;
            let (before, after) = (build(&all, 4_093), build(&more, 4_093));
            for (old, new) in before.iter().zip(&after) {
                prop_assert!(old == new || usize::from(*new) == grown);
            }
        }

        #[test]
        fn the_order_of_the_file_changes_nothing(
            weights in proptest::collection::vec(1u32..5, 2..20), by in 0usize..20,
        ) {
            let all = members(&weights, 40);
            let mut turned = all.clone();
            turned.rotate_left(by % all.len());
            prop_assert_eq!(build(&all, 4_093), build(&turned, 4_093));
        }
    }
}
