//! Fragmentation of IPv4 packets that are too large for the way ahead and may be fragmented.
//!
//! Read first: RFC 791 (sections 2.3 and 3.2, "an example fragmentation procedure"), RFC 1812
//! (section 5.2.6).
//!
//! Rare: path-MTU discovery keeps packets from growing so large. The pieces are new frames; each
//! has the Ethernet header of the packet.

use weir_engine::buffer::Buffer;
use weir_engine::wire::{checksum, ethernet, ipv4};
use weir_shm::counters::DropReason;

/// More pieces follow.
const MORE: u16 = 0x2000;
/// The offset's bits, in units of eight bytes.
const OFFSET: u16 = 0x1fff;
/// A packet with this bit must not be fragmented.
const DONT: u16 = 0x4000;

/// Whether an IPv4 header begins a datagram: with the first piece of it, or all.
#[must_use]
pub fn is_first(header: &[u8; ipv4::LEN]) -> bool {
    u16::from_be_bytes([header[6], header[7]]) & OFFSET == 0
}

/// Whether an IPv4 header forbids fragmentation.
#[must_use]
pub fn is_forbidden(header: &[u8; ipv4::LEN]) -> bool {
    u16::from_be_bytes([header[6], header[7]]) & DONT != 0
}

/// Who takes the pieces of a packet.
pub trait Pieces<B> {
    /// A frame that holds a copy of `bytes`; `None` without a free buffer.
    fn copy(&mut self, bytes: &[u8]) -> Option<B>;
    /// The next piece, in order.
    fn take(&mut self, piece: B);
}

/// Splits the IPv4 packet at `network` into pieces of at most `mtu` bytes with their IP headers, and
/// gives them to `pieces`.
///
/// # Errors
/// [`DropReason::TooLarge`] where `mtu` leaves no room for eight bytes of payload or the packet
/// forbids it, [`DropReason::NoBuffer`] without a buffer, [`DropReason::IpLength`] where the packet
/// is not whole. Pieces that were given before stay given.
#[cold]
pub fn split<B: Buffer>(
    frame: &[u8],
    network: usize,
    mtu: usize,
    pieces: &mut impl Pieces<B>,
) -> Result<(), DropReason> {
    let packet = frame.get(network..).ok_or(DropReason::IpLength)?;
    let fixed = packet.first_chunk().ok_or(DropReason::IpLength)?;
    let header = ipv4::Header(fixed);
    let (header_len, total) = (header.header_len(), header.total_len());
    if network < ethernet::LEN || header_len < ipv4::LEN || total < header_len {
        return Err(DropReason::IpLength);
    }
    let payload = packet.get(header_len..total).ok_or(DropReason::IpLength)?;
    let room = mtu.saturating_sub(header_len) & !7;
    if room == 0 || is_forbidden(fixed) {
        return Err(DropReason::TooLarge);
    }
    let flags = u16::from_be_bytes([fixed[6], fixed[7]]);
    let count = payload.len().div_ceil(room);
    for (number, piece) in payload.chunks(room).enumerate() {
        // A frame of the right length with all headers; the piece goes over its payload.
        let copied = network + header_len + piece.len();
        let mut fragment = frame
            .get(..copied)
            .and_then(|bytes| pieces.copy(bytes))
            .ok_or(DropReason::NoBuffer)?;
        let data = fragment.data_mut();
        if let Some(place) = data.get_mut(network + header_len..copied) {
            place.copy_from_slice(piece);
        }
        let is_last = number + 1 == count && flags & MORE == 0;
        // A packet has at most 65,535 bytes, so the sum stays below 13 bits, or wraps for a piece
        // that claimed to begin beyond them.
        let offset = (flags & OFFSET).wrapping_add((number * room / 8) as u16) & OFFSET;
        if let Some(header) = data.get_mut(network..network + header_len) {
            let later = number > 0;
            write_header(header, piece.len(), offset, !is_last, later);
        }
        pieces.take(fragment);
    }
    Ok(())
}

fn write_header(header: &mut [u8], payload: usize, offset: u16, more: bool, later: bool) {
    let total = ((header.len() + payload) as u16).to_be_bytes();
    let flags = (offset | if more { MORE } else { 0 }).to_be_bytes();
    if later {
        forget_options(header);
    }
    for (at, value) in [(2, total), (6, flags), (10, [0, 0])] {
        if let Some(place) = header.get_mut(at..at + 2) {
            place.copy_from_slice(&value);
        }
    }
    let sum = checksum::of(header);
    if let Some(place) = header.get_mut(10..12) {
        place.copy_from_slice(&sum);
    }
}

/// Options without the "copied" bit belong to the first piece only (RFC 791, section 3.1): they
/// become "no operation", so that the header keeps its length.
fn forget_options(header: &mut [u8]) {
    let mut at = ipv4::LEN;
    while let Some(kind) = header.get(at).copied() {
        let len = match kind {
            0 => return,
            1 => 1,
            _ => header.get(at + 1).map_or(0, |len| usize::from(*len)),
        };
        if len == 0 || at + len > header.len() {
            return;
        }
        if kind & 0x80 == 0
            && let Some(option) = header.get_mut(at..at + len)
        {
            option.fill(1);
        }
        at += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weir_engine::buffer::HeapBuffer;

    /// A frame with an IPv4 packet of these options and payload.
    fn frame(options: &[u8], payload: &[u8], flags: u16) -> Vec<u8> {
        let header_len = ipv4::LEN + options.len();
        let mut frame = vec![0u8; ethernet::LEN];
        frame[12] = 0x08;
        let total = (header_len + payload.len()) as u16;
        let mut header = vec![0x40 | (header_len / 4) as u8, 0];
        header.extend_from_slice(&total.to_be_bytes());
        header.extend_from_slice(&[0x12, 0x34]);
        header.extend_from_slice(&flags.to_be_bytes());
        header.extend_from_slice(&[64, 17, 0, 0, 203, 0, 113, 7, 198, 51, 100, 10]);
        header.extend_from_slice(options);
        let sum = checksum::of(&header);
        header[10..12].copy_from_slice(&sum);
        frame.extend_from_slice(&header);
        frame.extend_from_slice(payload);
        frame
    }

    fn pieces(frame: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>, DropReason> {
        let mut taken = Taken::default();
        split(frame, 14, mtu, &mut taken)?;
        Ok(taken.0)
    }

    #[derive(Default)]
    struct Taken(Vec<Vec<u8>>);

    impl Pieces<HeapBuffer> for Taken {
        fn copy(&mut self, bytes: &[u8]) -> Option<HeapBuffer> {
            Some(HeapBuffer::new(bytes))
        }
        fn take(&mut self, piece: HeapBuffer) {
            self.0.push(piece.data().to_vec());
        }
    }

    #[test]
    fn options_that_are_not_copied_stay_with_the_first_piece() {
        // Record route (7, not copied), then router alert (148, copied).
        let options = [7, 3, 4, 1, 148, 4, 0, 0];
        let pieces = pieces(&frame(&options, &[1; 100], 0), 76).unwrap();
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[0][34..42], options);
        assert_eq!(pieces[1][34..42], [1, 1, 1, 1, 148, 4, 0, 0]);
    }

    #[test]
    fn what_must_not_be_split_is_refused() {
        assert_eq!(
            pieces(&frame(&[], &[1; 100], DONT), 60),
            Err(DropReason::TooLarge)
        );
        assert_eq!(
            pieces(&frame(&[], &[1; 100], 0), 27),
            Err(DropReason::TooLarge)
        );
        assert_eq!(pieces(&[0; 20], 60), Err(DropReason::IpLength));
    }

    proptest! {
        #[test]
        fn pieces_put_together_are_the_packet(
            payload in proptest::collection::vec(any::<u8>(), 1..5000),
            mtu in 28usize..1500,
            before in 0u16..100,
            more: bool,
        ) {
            let flags = before | if more { MORE } else { 0 };
            let whole = frame(&[], &payload, flags);
            let pieces = pieces(&whole, mtu).unwrap();
            let mut rebuilt = Vec::new();
            for (number, piece) in pieces.iter().enumerate() {
                let header: &[u8; 20] = piece[14..34].try_into().unwrap();
                prop_assert!(checksum::is_valid(header));
                prop_assert!(piece.len() - 14 <= mtu);
                let view = ipv4::Header(header);
                prop_assert_eq!(view.total_len(), piece.len() - 14);
                let word = u16::from_be_bytes([header[6], header[7]]);
                prop_assert_eq!(usize::from(word & OFFSET) * 8, usize::from(before) * 8 + rebuilt.len());
                let last = number + 1 == pieces.len();
                prop_assert_eq!(word & MORE != 0, !last || more);
                prop_assert_eq!(&header[4..6], &[0x12, 0x34]);
                rebuilt.extend_from_slice(&piece[34..]);
            }
            prop_assert_eq!(rebuilt, payload);
        }

        #[test]
        fn no_frame_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), mtu in 0usize..300) {
            let _ = pieces(&bytes, mtu);
        }
    }
}
