//! IPv4 header (RFC 791, section 3.1).

use std::net::Ipv4Addr;

use super::checksum::Delta;

/// Bytes of a header without options.
pub const LEN: usize = 20;

/// A header's first 20 bytes, read.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a>(pub &'a [u8; LEN]);

impl Header<'_> {
    /// Version field, 4 for IPv4.
    #[inline]
    #[must_use]
    pub const fn version(self) -> u8 {
        self.0[0] >> 4
    }

    /// Header length in bytes, options included (20 to 60 when valid).
    #[inline]
    #[must_use]
    pub const fn header_len(self) -> usize {
        ((self.0[0] & 0x0f) as usize) * 4
    }

    /// Total length in bytes, header included.
    #[inline]
    #[must_use]
    pub const fn total_len(self) -> usize {
        u16::from_be_bytes([self.0[2], self.0[3]]) as usize
    }

    /// Whether this is a piece of a larger datagram: more fragments, or an offset.
    #[inline]
    #[must_use]
    pub const fn is_fragment(self) -> bool {
        u16::from_be_bytes([self.0[6], self.0[7]]) & 0x3fff != 0
    }

    /// Time to live.
    #[inline]
    #[must_use]
    pub const fn ttl(self) -> u8 {
        self.0[8]
    }

    /// Protocol of the payload.
    #[inline]
    #[must_use]
    pub const fn protocol(self) -> u8 {
        self.0[9]
    }

    /// Source address.
    #[inline]
    #[must_use]
    pub const fn source(self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[12], self.0[13], self.0[14], self.0[15])
    }

    /// Destination address.
    #[inline]
    #[must_use]
    pub const fn destination(self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[16], self.0[17], self.0[18], self.0[19])
    }
}

/// A header's first 20 bytes, to be changed. Every setter keeps the header checksum right.
#[derive(Debug)]
pub struct HeaderMut<'a>(pub &'a mut [u8; LEN]);

impl HeaderMut<'_> {
    /// Lowers the TTL by one. The caller has checked that it is above one.
    #[inline]
    pub fn decrement_ttl(&mut self) {
        let old = [self.0[8], self.0[9]];
        self.0[8] = self.0[8].wrapping_sub(1);
        let delta = Delta::none().word16(old, [self.0[8], self.0[9]]);
        self.update(delta);
    }

    /// Sets the source address; gives what the change adds to checksums over the pseudo-header.
    #[inline]
    pub fn set_source(&mut self, address: [u8; 4]) -> Delta {
        self.set_address::<12>(address)
    }

    /// Sets the destination address; gives what the change adds to checksums over the
    /// pseudo-header.
    #[inline]
    pub fn set_destination(&mut self, address: [u8; 4]) -> Delta {
        self.set_address::<16>(address)
    }

    #[inline]
    fn set_address<const AT: usize>(&mut self, address: [u8; 4]) -> Delta {
        let old = [self.0[AT], self.0[AT + 1], self.0[AT + 2], self.0[AT + 3]];
        [self.0[AT], self.0[AT + 1], self.0[AT + 2], self.0[AT + 3]] = address;
        let delta = Delta::none().word32(old, address);
        self.update(delta);
        delta
    }

    #[inline]
    fn update(&mut self, delta: Delta) {
        [self.0[10], self.0[11]] = delta.apply([self.0[10], self.0[11]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum;
    use proptest::prelude::*;

    #[test]
    fn fields_are_read_from_their_places() {
        let bytes = [
            0x46, 0, 0x01, 0x02, 0, 0, 0x20, 0x00, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7,
        ];
        let header = Header(&bytes);
        assert_eq!(header.version(), 4);
        assert_eq!(header.header_len(), 24);
        assert_eq!(header.total_len(), 0x102);
        assert!(header.is_fragment());
        assert_eq!(header.ttl(), 64);
        assert_eq!(header.protocol(), 6);
        assert_eq!(header.source(), Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(header.destination(), Ipv4Addr::new(198, 51, 100, 7));
    }

    #[test]
    fn dont_fragment_is_no_fragment() {
        let mut bytes = [0; LEN];
        bytes[6] = 0x40;
        assert!(!Header(&bytes).is_fragment());
        bytes[7] = 1;
        assert!(Header(&bytes).is_fragment());
    }

    proptest! {
        #[test]
        fn setters_keep_the_header_checksum_right(mut bytes: [u8; LEN], source: [u8; 4], destination: [u8; 4]) {
            bytes[0] = 0x45;
            bytes[10..12].fill(0);
            let check = checksum::of(&bytes);
            bytes[10..12].copy_from_slice(&check);
            let mut header = HeaderMut(&mut bytes);
            header.set_source(source);
            header.set_destination(destination);
            header.decrement_ttl();
            prop_assert!(checksum::is_valid(&bytes));
            prop_assert_eq!(Header(&bytes).source().octets(), source);
            prop_assert_eq!(Header(&bytes).destination().octets(), destination);
        }
    }
}
