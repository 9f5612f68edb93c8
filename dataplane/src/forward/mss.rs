//! The clamp on TCP's maximum segment size: a SYN that announces more is lowered (RFC 9293, section
//! 3.7.1).
//!
//! Both ends then send segments that fit a path which is narrower than either can know, such as a
//! tunnel. An option that is there is lowered; none is added, since a SYN without one means 536
//! (RFC 9293, section 3.7.1) or 1,220 bytes (RFC 8200, section 8.3).

use weir_engine::wire::checksum::Delta;
use weir_engine::wire::tcp;

/// Option kinds (RFC 9293, section 3.1).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
/// Bytes of the option.
const OPTION_LEN: usize = 4;

/// Lowers the MSS option of a SYN to `limit` bytes and keeps the checksum right; whether anything
/// changed. `segment` begins with the TCP header. Looks at 40 bytes of options, no more, and leaves
/// malformed ones as they are.
#[cold]
pub fn clamp(segment: &mut [u8], limit: u16) -> bool {
    let Some(fixed) = segment.first_chunk::<{ tcp::LEN }>() else {
        return false;
    };
    let header_len = tcp::Header(fixed).header_len();
    let Some(header) = segment.get_mut(..header_len) else {
        return false;
    };
    let mut at = tcp::LEN;
    while let Some(kind) = header.get(at) {
        match *kind {
            END => return false,
            NO_OPERATION => at += 1,
            kind => {
                let Some(len) = header.get(at + 1).map(|len| usize::from(*len)) else {
                    return false;
                };
                if kind == MAXIMUM_SEGMENT_SIZE && len == OPTION_LEN {
                    return lower(header, at + 2, limit);
                }
                if len < 2 {
                    return false;
                }
                at += len;
            }
        }
    }
    false
}

/// Lowers the number at `at`, which may lie across two of the checksum's words.
fn lower(header: &mut [u8], at: usize, limit: u16) -> bool {
    let words = at & !1;
    let Some([high, low]) = header.get(at..at + 2) else {
        return false;
    };
    if u16::from_be_bytes([*high, *low]) <= limit {
        return false;
    }
    let read = |header: &[u8]| -> [u8; 4] {
        let mut pair = [0; 4];
        for (byte, from) in pair.iter_mut().zip(header.iter().skip(words)) {
            *byte = *from;
        }
        pair
    };
    let old = read(header);
    if let Some(place) = header.get_mut(at..at + 2) {
        place.copy_from_slice(&limit.to_be_bytes());
    }
    let delta = Delta::none().word32(old, read(header));
    let place = header.get_mut(tcp::CHECKSUM..tcp::CHECKSUM + 2);
    if let Some([first, second]) = place {
        [*first, *second] = delta.apply([*first, *second]);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weir_engine::wire::checksum;

    /// A SYN with these options, its checksum (without pseudo-header) right.
    fn syn(options: &[u8]) -> Vec<u8> {
        let mut segment = vec![0; tcp::LEN];
        segment[..4].copy_from_slice(&[0xc0, 0x01, 0x00, 0x50]);
        segment.extend_from_slice(options);
        while !segment.len().is_multiple_of(4) {
            segment.push(END);
        }
        segment[12] = ((segment.len() / 4) << 4) as u8;
        segment[13] = tcp::flags::SYN;
        let sum = checksum::of(&segment);
        segment[16..18].copy_from_slice(&sum);
        segment
    }

    #[test]
    fn a_larger_mss_is_lowered_wherever_it_lies() {
        for before in [
            &[][..],
            &[1],
            &[1, 1],
            &[3, 3, 7],
            &[4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
        ] {
            let options = [before, &[2, 4, 0x05, 0xb4]].concat();
            let mut segment = syn(&options);
            assert!(clamp(&mut segment, 1400));
            let at = tcp::LEN + before.len();
            assert_eq!(segment[at..at + 4], [2, 4, 0x05, 0x78]);
            assert!(checksum::is_valid(&segment), "{before:?}");
        }
    }

    #[test]
    fn a_smaller_mss_or_none_stays() {
        for options in [
            &[2, 4, 0x05, 0x78][..],
            &[],
            &[1, 1, 1],
            &[0, 2, 4, 0x05, 0xb4],
            &[2, 3, 5],
            &[2, 4],
            &[8, 0, 2, 4, 0x05, 0xb4],
            &[8, 200, 2, 4, 0x05, 0xb4],
        ] {
            let segment = syn(options);
            let mut after = segment.clone();
            assert!(!clamp(&mut after, 1400));
            assert_eq!(after, segment, "{options:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_options_the_checksum_stays_right(
            options in proptest::collection::vec(prop_oneof![Just(1u8), Just(2), Just(4), any::<u8>()], 0..40),
            limit: u16,
        ) {
            let mut segment = syn(&options);
            let before = segment.clone();
            if clamp(&mut segment, limit) {
                prop_assert!(checksum::is_valid(&segment));
                let changed: Vec<usize> = (0..segment.len())
                    .filter(|at| segment[*at] != before[*at] && !(16..18).contains(at))
                    .collect();
                prop_assert!(changed.len() <= 2);
            } else {
                prop_assert_eq!(segment, before);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), limit: u16) {
            clamp(&mut bytes, limit);
        }
    }
}
