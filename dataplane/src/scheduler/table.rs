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
/// `MEMBERS` members. With more members than that, nearly all of them full, room may be
/// overlooked.
#[must_use]
pub fn next(
    table: &[u16],
    point: u32,
    members: usize,
    has_room: impl Fn(u16) -> bool,
) -> Option<u16> {
    let size = table.len();
    let start = scale(point, size as u32) as usize;
    let entries = (0..ENTRIES as usize).filter_map(|step| {
        let at = start + step;
        table
            .get(if at >= size { at % size.max(1) } else { at })
            .copied()
    });
    let from = scale(point, members as u32) as usize;
    let others = (0..members.min(MEMBERS)).map(|step| {
        let at = from + step;
        (if at >= members { at - members } else { at }) as u16
    });
    entries.chain(others).find(|place| has_room(*place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_choice_is_the_next_entry_of_another() {
        let table = [0, 0, 1, 2];
        let none: [u16; 0] = [];
        assert_eq!(entry(&table, 0), Some(0));
        assert_eq!(next(&table, 0, 3, |place| place != 0), Some(1));
        assert_eq!(next(&table, 0, 3, |place| place == 2), Some(2));
        assert_eq!(next(&table, u32::MAX, 3, |place| place != 2), Some(0));
        assert_eq!(next(&table, 0, 3, |_| false), None);
        assert_eq!((entry(&none, 7), next(&none, 7, 0, |_| true)), (None, None));
    }
}
