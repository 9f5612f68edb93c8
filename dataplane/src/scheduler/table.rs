//! Lookup tables: the entry of a point, and the entries after it.

use crate::flow::scale;

/// Entries looked at for a backend with room before members are looked at instead.
const ENTRIES: u32 = 64;
/// Members looked at then: bounded work a packet, however large the pool.
const MEMBERS: usize = 1_024;

/// Hot: what the table holds at `point`.
#[inline]
#[must_use]
pub fn entry(table: &[u16], point: u32) -> Option<u16> {
    table
        .get(scale(point, table.len() as u32) as usize)
        .copied()
}

/// The first entry from `point` on that `has_room`; after `ENTRIES` of them the first of
/// `MEMBERS` members. With more members than that half of those looked at begin with the flow's own,
/// so that machines agree where they can, and half where the last look ended or found room, which
/// `cursor` keeps: a flow may overlook room while nearly all are full, but the next ones find it.
#[must_use]
pub fn next(
    table: &[u16],
    point: u32,
    cursor: &mut u32,
    members: usize,
    mut has_room: impl FnMut(u16) -> bool,
) -> Option<u16> {
    let size = table.len();
    let start = scale(point, size as u32) as usize;
    let mut entries = (0..ENTRIES as usize).filter_map(|step| {
        let at = start + step;
        table
            .get(if at >= size { at % size.max(1) } else { at })
            .copied()
    });
    let from = |start: usize, count: usize| {
        (0..count).map(move |step| {
            let at = start + step;
            (if at >= members { at - members } else { at }) as u16
        })
    };
    let (own, further) = if members <= MEMBERS {
        (members, 0)
    } else {
        (MEMBERS / 2, MEMBERS / 2)
    };
    let own = from(scale(point, members as u32) as usize, own);
    let found = entries
        .find(|place| has_room(*place))
        .or_else(|| own.into_iter().find(|place| has_room(*place)));
    if further == 0 {
        return found;
    }
    let begin = *cursor as usize % members;
    let found = found.or_else(|| from(begin, further).find(|place| has_room(*place)));
    *cursor = found.map_or(((begin + further) % members) as u32, u32::from);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_only_room_in_a_large_pool_is_found_after_a_few_flows(
            members in 1usize..20_000, roomy: prop::sample::Index, seed: u32,
        ) {
            let roomy = roomy.index(members) as u16;
            let table: Vec<u16> = (0..members as u16).collect();
            let mut cursor = seed % members as u32;
            let mut flow = |number: u32| {
                let point = (seed ^ number).wrapping_mul(0x9e37_79b9);
                let mut looked = 0;
                let found = next(&table, point, &mut cursor, members, |place| {
                    looked += 1;
                    place == roomy
                });
                assert!(looked <= ENTRIES as usize + MEMBERS, "bounded");
                found
            };
            let misses = (0..).take_while(|number| flow(*number).is_none()).count();
            prop_assert!(misses <= members / (MEMBERS / 2));
            // Who comes later finds it at once.
            for number in 0..100 {
                prop_assert_eq!(flow(1_000 + number), Some(roomy));
            }
        }
    }

    #[test]
    fn the_next_choice_is_the_next_entry_of_another() {
        let table = [0, 0, 1, 2];
        let none: [u16; 0] = [];
        assert_eq!(entry(&table, 0), Some(0));
        assert_eq!(next(&table, 0, &mut 0, 3, |place| place != 0), Some(1));
        assert_eq!(next(&table, 0, &mut 0, 3, |place| place == 2), Some(2));
        assert_eq!(
            next(&table, u32::MAX, &mut 0, 3, |place| place != 2),
            Some(0)
        );
        assert_eq!(next(&table, 0, &mut 0, 3, |_| false), None);
        assert_eq!(
            (entry(&none, 7), next(&none, 7, &mut 0, 0, |_| true)),
            (None, None)
        );
    }
}
