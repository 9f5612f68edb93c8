//! The Maglev lookup table (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4), weighted.
//!
//! Built on the control core, read by workers. Each backend's preference order over the entries
//! comes from its *name*, and backends take turns in the order of their names, so two machines with
//! one pool build one table, whatever the order of the file or the history of changes.
//!
//! `calendar` says whose turn it is, by weight; `fill` gives each turn its entry.

mod calendar;
mod fill;

use fill::{Order, fill};
use siphasher::sip128::{Hash128, Hasher128, SipHasher24};
use std::hash::Hasher;
use std::sync::Arc;

/// The default number of entries: the smaller size of the paper's evaluation.
pub const DEFAULT_SIZE: u32 = 65_537;
/// The largest accepted number of entries.
pub const MAX_SIZE: u32 = 5_000_000;
/// An entry of a table without backends.
pub const NO_BACKEND: u16 = u16::MAX;

/// One backend as the table sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The backend's name (`address:port`), which alone decides where its entries lie.
    pub name: String,
    /// Its share relative to the others; zero takes no entries.
    pub weight: u32,
    /// What the table holds for it.
    pub slot: u16,
}

/// The order in which a backend wants the entries of a table, from its name by the two halves of an
/// unkeyed SipHash-2-4-128: a table needs no secret, since an attacker who knows it still cannot aim
/// without the flow hash's key.
fn order(member: &Member, size: u32) -> Order {
    let mut hasher = SipHasher24::new();
    hasher.write(member.name.as_bytes());
    let Hash128 { h1, h2 } = hasher.finish128();
    Order {
        offset: (h1 % u64::from(size)) as u32,
        skip: (h2 % u64::from(size - 1)) as u32 + 1,
        weight: member.weight,
        slot: member.slot,
    }
}

/// Builds a table of `size` entries (a prime), each the slot of one of `members`, or
/// [`NO_BACKEND`] throughout when none has weight.
#[must_use]
pub fn build(members: &[Member], size: u32) -> Arc<[u16]> {
    let mut members: Vec<&Member> = members.iter().filter(|member| member.weight > 0).collect();
    members.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let orders: Vec<Order> = members.iter().map(|member| order(member, size)).collect();
    fill(&orders, size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn equal(count: usize) -> Vec<Member> {
        (0..count)
            .map(|index| Member {
                name: format!("10.0.{}.{}:80", index / 250, index % 250 + 1),
                weight: 1,
                slot: index as u16,
            })
            .collect()
    }

    fn shares(table: &[u16], slots: usize) -> Vec<usize> {
        let mut counts = vec![0; slots];
        for slot in table {
            counts[usize::from(*slot)] += 1;
        }
        counts
    }

    #[test]
    fn a_pool_without_weight_gives_a_table_without_backends() {
        assert!(build(&[], 7).iter().all(|slot| *slot == NO_BACKEND));
        let mut members = equal(2);
        members.iter_mut().for_each(|member| member.weight = 0);
        assert!(build(&members, 7).iter().all(|slot| *slot == NO_BACKEND));
    }

    #[test]
    fn a_hundred_equal_backends_have_shares_within_one_percent() {
        let table = build(&equal(100), DEFAULT_SIZE);
        let ideal = f64::from(DEFAULT_SIZE) / 100.0;
        for share in shares(&table, 100) {
            assert!(
                (share as f64 / ideal - 1.0).abs() < 0.01,
                "{share} of {ideal}"
            );
        }
    }

    #[test]
    fn equal_backends_differ_by_one_entry_at_most() {
        for count in [1, 2, 3, 7, 999, 1000] {
            let shares = shares(&build(&equal(count), DEFAULT_SIZE), count);
            let (min, max) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(max - min <= 1, "{count} backends: {min} to {max}");
        }
    }

    #[test]
    fn removing_one_of_a_thousand_moves_under_one_percent_of_the_survivors_entries() {
        let members = equal(1000);
        let before = build(&members, DEFAULT_SIZE);
        for removed in [0, 17, 500, 999] {
            let mut rest = members.clone();
            rest.remove(removed);
            let after = build(&rest, DEFAULT_SIZE);
            let moved = before
                .iter()
                .zip(after.iter())
                .filter(|(old, new)| usize::from(**old) != removed && old != new)
                .count();
            assert!(
                moved as f64 / f64::from(DEFAULT_SIZE) < 0.01,
                "{moved} entries moved"
            );
        }
    }

    #[test]
    fn very_uneven_weights_are_honoured() {
        let mut members = equal(3);
        members[0].weight = 65_535;
        members[1].weight = 1_000;
        let shares = shares(&build(&members, DEFAULT_SIZE), 3);
        let total: u32 = members.iter().map(|member| member.weight).sum();
        for (share, member) in shares.iter().zip(&members) {
            let ideal = f64::from(DEFAULT_SIZE) * f64::from(member.weight) / f64::from(total);
            assert!(
                (*share as f64 - ideal).abs() < (ideal * 0.02).max(1.5),
                "{share}, {ideal}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn weights_are_honoured_within_two_percent(weights in proptest::collection::vec(1u32..=100, 2..60)) {
            let mut members = equal(weights.len());
            for (member, weight) in members.iter_mut().zip(&weights) {
                member.weight = *weight;
            }
            let total: u32 = weights.iter().sum();
            let shares = shares(&build(&members, DEFAULT_SIZE), weights.len());
            for (share, weight) in shares.iter().zip(&weights) {
                let ideal = f64::from(DEFAULT_SIZE) * f64::from(*weight) / f64::from(total);
                // An entry is indivisible: one more or less is not a broken promise.
                prop_assert!((*share as f64 - ideal).abs() <= (0.02 * ideal).max(1.0));
            }
        }

        #[test]
        fn the_table_does_not_depend_on_the_order_of_backends(
            count in 1usize..40, seed: u64, size in prop::sample::select(vec![251u32, 4_093, 65_537]),
        ) {
            let members = equal(count);
            let mut shuffled = members.clone();
            let mut state = seed;
            for index in (1..count).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                shuffled.swap(index, (state >> 33) as usize % (index + 1));
            }
            prop_assert_eq!(build(&members, size), build(&shuffled, size));
        }

        #[test]
        fn every_backend_with_weight_has_entries_and_no_entry_is_left_empty(count in 1usize..200) {
            let table = build(&equal(count), 4_093);
            prop_assert!(shares(&table, count).iter().all(|share| *share > 0));
        }
    }
}
