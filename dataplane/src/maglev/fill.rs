//! The paper's `Populate`, with weights, and faster than as written there.
//!
//! A fill of n entries looks at about n·ln n of them, since the last backends look at nearly the
//! whole table before they find an entry that is free. Two things bring that down; the table is
//! the same, entry by entry (the tests hold it against the plain form):
//!
//! - A backend looks at several entries of its order at once: the loads do not wait for each other,
//!   and one branch decides about all. More of them as the table fills up.
//! - When few entries are left, a turn asks of each of *them* where it stands in the backend's order,
//!   and takes the first: an entry e is the ((e − offset) / skip mod n)-th. Half of all looks
//!   belong to the last √n entries.

use std::sync::Arc;

use super::NO_BACKEND;
use super::calendar::Calendar;

/// A backend's preference order: `(offset + j·skip) mod size` for j = 0, 1, …, and its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    /// What comes first of what it has not tried yet.
    pub(super) offset: u32,
    /// From each entry to the next; neither 0 nor more than the table has entries.
    pub(super) skip: u32,
    /// Its share of the turns; not zero.
    pub(super) weight: u32,
    /// What the table holds for it.
    pub(super) slot: u16,
}

/// A table of `size` entries (a prime), each the slot of one of `backends`. It is made where it stays:
/// most of what a pool of many services costs is memory seen for the first time.
pub(super) fn fill(backends: &[Order], size: u32) -> Arc<[u16]> {
    let mut table: Arc<[u16]> = std::iter::repeat_n(NO_BACKEND, size as usize).collect();
    // Nobody else has it yet.
    if let Some(entries) = Arc::get_mut(&mut table)
        && !backends.is_empty()
    {
        fill_in(backends, size, entries);
    }
    table
}

fn fill_in(backends: &[Order], size: u32, table: &mut [u16]) {
    let mut orders = backends.to_vec();
    let mut calendar = Calendar::new(backends.iter().map(|order| order.weight));
    let mut taken = Taken::none_of(size);
    let last = few(size);
    let mut turns = Vec::new();
    let mut left = size;
    while left > last {
        calendar.next_round(&mut turns);
        let until_few = turns.len().min((left - last) as usize);
        for backend in turns.drain(..until_few) {
            let order = &mut orders[usize::from(backend)];
            let entry = if left > size / 4 {
                taken.first_free::<4>(*order, size)
            } else {
                taken.first_free::<8>(*order, size)
            };
            taken.take(entry);
            table[entry as usize] = order.slot;
            order.offset = wrapped(entry + order.skip, size);
            left -= 1;
        }
    }
    let mut free = taken.free(size);
    while !free.is_empty() {
        for backend in turns.drain(..) {
            let order = orders[usize::from(backend)];
            if let Some(at) = earliest(&free, order, size) {
                table[free.swap_remove(at) as usize] = order.slot;
            }
        }
        calendar.next_round(&mut turns);
    }
}

/// How many entries are few: so many that asking each of them costs what looking for one does.
fn few(size: u32) -> u32 {
    (f64::from(size) * 0.3).sqrt() as u32
}

/// `entry` less `size`, unless it is smaller already. Both forms are at hand without a branch.
#[inline]
fn wrapped(entry: u32, size: u32) -> u32 {
    entry.min(entry.wrapping_sub(size))
}

/// Where in `free` the entry lies that comes first in `order`.
fn earliest(free: &[u32], order: Order, size: u32) -> Option<usize> {
    let size = u64::from(size);
    let inverse = u64::from(inverse(order.skip, size as u32));
    let rank = |entry: &u32| (u64::from(*entry) + size - u64::from(order.offset)) * inverse % size;
    let ranks = free.iter().map(rank).enumerate();
    ranks.min_by_key(|(_, rank)| *rank).map(|(at, _)| at)
}

/// The inverse of `value` modulo the prime `modulus`, by the extended algorithm of Euclid.
fn inverse(value: u32, modulus: u32) -> u32 {
    let (mut above, mut below) = (modulus, value);
    let (mut before, mut now) = (0i64, 1i64);
    while below != 0 {
        let quotient = above / below;
        (above, below) = (below, above - quotient * below);
        (before, now) = (now, before - i64::from(quotient) * now);
    }
    before.rem_euclid(i64::from(modulus)) as u32
}

/// A bit for each entry that is taken, so that looking for a free one stays in the first-level cache.
struct Taken(Vec<u64>);

impl Taken {
    fn none_of(size: u32) -> Self {
        Self(vec![0; size as usize / 64 + 1])
    }

    #[inline]
    fn take(&mut self, entry: u32) {
        if let Some(word) = self.0.get_mut(entry as usize / 64) {
            *word |= 1 << (entry % 64);
        }
    }

    /// The first free entry in `order`, of which there is one; `AT_ONCE` (4 or 8) are looked at
    /// together.
    #[inline(always)]
    fn first_free<const AT_ONCE: usize>(&self, order: Order, size: u32) -> u32 {
        let skip = order.skip;
        let two = wrapped(2 * skip, size);
        let four = wrapped(2 * two, size);
        let mut entry = order.offset;
        loop {
            let mut next = [entry; AT_ONCE];
            next[1] = wrapped(entry + skip, size);
            next[2] = wrapped(entry + two, size);
            next[3] = wrapped(next[1] + two, size);
            for at in 4..AT_ONCE {
                next[at] = wrapped(next[at - 4] + four, size);
            }
            let mut free = 0u32;
            for (at, entry) in next.iter().enumerate() {
                let word = self.0.get(*entry as usize / 64).copied().unwrap_or(0);
                free |= ((!word >> (entry % 64)) as u32 & 1) << at;
            }
            if free != 0 {
                return next[free.trailing_zeros() as usize % AT_ONCE];
            }
            entry = wrapped(next[AT_ONCE - 1] + skip, size);
        }
    }

    fn free(&self, size: u32) -> Vec<u32> {
        let is_free = |entry: &u32| self.0[*entry as usize / 64] >> (entry % 64) & 1 == 0;
        (0..size).filter(is_free).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn order(offset: u32, skip: u32, weight: u32) -> Order {
        Order {
            offset,
            skip,
            weight,
            slot: 0,
        }
    }

    /// A table whose entries are the backends' places.
    fn filled(backends: &[Order], size: u32) -> Vec<u16> {
        let places = backends.iter().zip(0..);
        let backends: Vec<Order> = places
            .map(|(order, slot)| Order { slot, ..*order })
            .collect();
        fill(&backends, size).to_vec()
    }

    /// The paper's pseudocode (NSDI 2016, section 3.4), an entry at a time.
    fn plain(backends: &[Order], size: u32) -> Vec<u16> {
        let mut table = vec![NO_BACKEND; size as usize];
        let mut calendar = Calendar::new(backends.iter().map(|order| order.weight));
        let mut tried = vec![0u64; backends.len()];
        let (mut turns, mut filled) = (Vec::new(), 0);
        loop {
            calendar.next_round(&mut turns);
            for backend in &turns {
                let (index, order) = (usize::from(*backend), backends[usize::from(*backend)]);
                let entry = loop {
                    let entry = (u64::from(order.offset) + tried[index] * u64::from(order.skip))
                        % u64::from(size);
                    tried[index] += 1;
                    if table[entry as usize] == NO_BACKEND {
                        break entry;
                    }
                };
                table[entry as usize] = *backend;
                filled += 1;
                if filled == size {
                    return table;
                }
            }
        }
    }

    #[test]
    fn the_papers_example_table_comes_out() {
        let all = [order(3, 4, 1), order(0, 2, 1), order(3, 1, 1)];
        assert_eq!(filled(&all, 7), [1, 0, 1, 0, 2, 2, 0]);
        // After B1 has left, B2 is the second of two.
        assert_eq!(filled(&[all[0], all[2]], 7), [0, 0, 0, 0, 1, 1, 1]);
    }

    #[test]
    fn a_value_times_its_inverse_is_one() {
        for modulus in [2, 3, 7, 251, 65_537, 4_999_999] {
            for value in (1..modulus).step_by(1 + modulus as usize / 500) {
                let product = u64::from(value) * u64::from(inverse(value, modulus));
                assert_eq!(product % u64::from(modulus), 1, "{value} mod {modulus}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_table_is_that_of_the_plain_form(
            size in prop::sample::select(vec![2u32, 3, 5, 7, 13, 31, 251, 4_093, 65_537]),
            seeds in proptest::collection::vec((any::<u32>(), any::<u32>(), 1u32..=20), 1..80),
        ) {
            let backends: Vec<Order> = seeds
                .iter()
                .map(|(offset, skip, weight)| order(offset % size, skip % (size - 1) + 1, *weight))
                .collect();
            prop_assert_eq!(filled(&backends, size), plain(&backends, size));
        }
    }
}
