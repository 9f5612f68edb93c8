//! TCP options in place: found one after the other, changed without moving, checksum kept right.

use weir_engine::wire::checksum::Delta;
use weir_engine::wire::tcp;
use weir_shm::counters::DropReason;

use crate::parse::Packet;

/// End of the list, no operation, maximum segment size (RFC 9293), SACK (RFC 2018), Fast Open
/// (RFC 7413).
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const SACK: u8 = 5;
const FAST_OPEN: u8 = 34;
/// Bytes of all options at most.
const LONGEST: usize = 40;

/// Lets `change` work on a segment's options and brings the checksum after it.
///
/// # Errors
/// When the segment is none.
pub fn edit(
    frame: &mut [u8],
    packet: &Packet,
    change: impl FnOnce(&mut [u8]),
) -> Result<(), DropReason> {
    let transport = usize::from(packet.transport);
    let rest = frame.get_mut(transport..).ok_or(DropReason::TcpMalformed)?;
    let header: &[u8; tcp::LEN] = rest.first_chunk().ok_or(DropReason::TcpMalformed)?;
    let end = tcp::Header(header).header_len();
    let options = rest
        .get_mut(tcp::LEN..end)
        .ok_or(DropReason::TcpMalformed)?;
    let mut before = [0; LONGEST];
    let Some(kept) = before.get_mut(..options.len()) else {
        return Err(DropReason::TcpMalformed);
    };
    kept.copy_from_slice(options);
    change(options);
    let mut delta = Delta::none();
    let words = before
        .as_chunks::<4>()
        .0
        .iter()
        .zip(options.as_chunks::<4>().0);
    for (old, new) in words.filter(|(old, new)| old != new) {
        delta = delta.word32(*old, *new);
    }
    apply(frame, packet, delta)
}

/// Brings a segment's checksum after a change.
///
/// # Errors
/// When the segment is none.
pub fn apply(frame: &mut [u8], packet: &Packet, delta: Delta) -> Result<(), DropReason> {
    let at = usize::from(packet.transport) + tcp::CHECKSUM;
    let field = frame
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut::<2>());
    let field = field.ok_or(DropReason::TcpMalformed)?;
    *field = delta.apply(*field);
    Ok(())
}

/// Says that the header is longer by `bytes` of options, a multiple of four.
///
/// # Errors
/// When the segment is none.
pub fn lengthen(frame: &mut [u8], packet: &Packet, bytes: usize) -> Result<(), DropReason> {
    let at = usize::from(packet.transport) + 12;
    let field = frame
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut::<2>());
    let field = field.ok_or(DropReason::TcpMalformed)?;
    let old = *field;
    field[0] = field[0].wrapping_add((bytes as u8 / 4) << 4);
    let delta = Delta::none().word16(old, *field);
    apply(frame, packet, delta)
}

/// Calls `each` with the kind and the bytes of every well-formed option, kind and length included.
fn each_option(mut options: &mut [u8], mut each: impl FnMut(u8, &mut [u8])) {
    while let Some(kind) = options.first().copied() {
        let length = match kind {
            END => return,
            NOP => 1,
            _ => usize::from(options.get(1).copied().unwrap_or(0)),
        };
        if length == 0 || length > options.len() || (kind != NOP && length < 2) {
            return;
        }
        let (option, rest) = options.split_at_mut(length);
        if kind != NOP {
            each(kind, option);
        }
        options = rest;
    }
}

/// Lowers a maximum segment size by `bytes`.
pub fn lower_mss(options: &mut [u8], bytes: u16) {
    each_option(options, |kind, option| {
        if let (MSS, [_, _, high, low]) = (kind, option) {
            let lower = u16::from_be_bytes([*high, *low]).saturating_sub(bytes);
            [*high, *low] = lower.max(1).to_be_bytes();
        }
    });
}

/// Puts no operations in the place of Fast Open's cookie.
pub fn blank_fast_open(options: &mut [u8]) {
    each_option(options, |kind, option| {
        if kind == FAST_OPEN {
            option.fill(NOP);
        }
    });
}

/// Maps every edge of every SACK block; blocks that become empty go.
pub fn map_sack(options: &mut [u8], map: impl Fn(u32) -> u32) {
    each_option(options, |kind, option| {
        if kind != SACK {
            return;
        }
        let all = option.len();
        let Some((head, edges)) = option.split_at_mut_checked(2) else {
            return;
        };
        let (blocks, []) = edges.as_chunks_mut::<8>() else {
            return;
        };
        if blocks.is_empty() {
            return;
        }
        let mut kept = 0;
        for at in 0..blocks.len() {
            let [a, b, c, d, e, f, g, h] = blocks[at];
            let left = map(u32::from_be_bytes([a, b, c, d])).to_be_bytes();
            let right = map(u32::from_be_bytes([e, f, g, h])).to_be_bytes();
            if left != right {
                let [a, b, c, d] = left;
                let [e, f, g, h] = right;
                blocks[kept] = [a, b, c, d, e, f, g, h];
                kept += 1;
            }
        }
        if kept == 0 {
            option.fill(NOP);
        } else if let [_, length] = head {
            *length = (2 + kept * 8) as u8;
            if let Some(rest) = option.get_mut(2 + kept * 8..all) {
                rest.fill(NOP);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mss_is_lowered_wherever_it_stands_and_nothing_else_is() {
        let mut options = [NOP, NOP, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, MSS, 4, 0x05, 0xb4];
        let before = options;
        lower_mss(&mut options, 28);
        assert_eq!(options[..14], before[..14]);
        assert_eq!(options[14..], 1432u16.to_be_bytes());
    }

    #[test]
    fn malformed_options_are_left_alone() {
        for bad in [
            &[MSS, 0, 1, 2][..],
            &[MSS, 200, 1, 2],
            &[8],
            &[SACK, 3, 1, 1],
            &[END, MSS, 4, 9],
        ] {
            let mut options = bad.to_vec();
            lower_mss(&mut options, 1);
            map_sack(&mut options, |edge| edge - 1);
            blank_fast_open(&mut options);
            assert_eq!(options, bad);
        }
    }

    #[test]
    fn sack_blocks_are_mapped_and_empty_ones_go() {
        let block = |left: u32, right: u32| [left.to_be_bytes(), right.to_be_bytes()].concat();
        let mut options = [vec![NOP, NOP, SACK, 18], block(100, 128), block(200, 300)].concat();
        map_sack(
            &mut options,
            |edge| if edge <= 128 { 100 } else { edge - 28 },
        );
        let expected = [vec![NOP, NOP, SACK, 10], block(172, 272), vec![NOP; 8]].concat();
        assert_eq!(options, expected);
        let mut all_gone = [vec![NOP, NOP, SACK, 10], block(100, 128)].concat();
        map_sack(&mut all_gone, |_| 100);
        assert_eq!(all_gone, vec![NOP; 12]);
    }
}
