//! IPv6 header (RFC 8200, section 3). It has no checksum of its own.

use super::checksum::Delta;

/// Bytes of the fixed header.
pub const LEN: usize = 40;

/// The fixed header, read.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a>(pub &'a [u8; LEN]);

impl<'a> Header<'a> {
    /// Version field, 6 for IPv6.
    #[inline]
    #[must_use]
    pub const fn version(self) -> u8 {
        self.0[0] >> 4
    }

    /// Bytes after the fixed header, extension headers included.
    #[inline]
    #[must_use]
    pub const fn payload_len(self) -> usize {
        u16::from_be_bytes([self.0[4], self.0[5]]) as usize
    }

    /// What follows the fixed header.
    #[inline]
    #[must_use]
    pub const fn next_header(self) -> u8 {
        self.0[6]
    }

    /// Hop limit.
    #[inline]
    #[must_use]
    pub const fn hop_limit(self) -> u8 {
        self.0[7]
    }

    /// Source address.
    #[inline]
    #[must_use]
    pub fn source(self) -> &'a [u8; 16] {
        let [_, _, _, _, _, _, _, _, rest @ ..] = self.0;
        let (source, _) = halves(rest);
        source
    }

    /// Destination address.
    #[inline]
    #[must_use]
    pub fn destination(self) -> &'a [u8; 16] {
        let [_, _, _, _, _, _, _, _, rest @ ..] = self.0;
        let (_, destination) = halves(rest);
        destination
    }
}

#[inline]
fn halves(addresses: &[u8; 32]) -> (&[u8; 16], &[u8; 16]) {
    // 32 is twice 16, so the split is exact and costs nothing.
    match addresses.as_chunks::<16>().0 {
        [source, destination] => (source, destination),
        _ => unreachable!("32 bytes are two addresses"),
    }
}

/// The fixed header, to be changed.
#[derive(Debug)]
pub struct HeaderMut<'a>(pub &'a mut [u8; LEN]);

impl HeaderMut<'_> {
    /// Lowers the hop limit by one. The caller has checked that it is above one.
    #[inline]
    pub fn decrement_hop_limit(&mut self) {
        self.0[7] = self.0[7].wrapping_sub(1);
    }

    /// Sets the source address; gives what the change adds to checksums over the pseudo-header.
    #[inline]
    pub fn set_source(&mut self, address: &[u8; 16]) -> Delta {
        self.set_address::<8>(address)
    }

    /// Sets the destination address; gives what the change adds to checksums over the
    /// pseudo-header.
    #[inline]
    pub fn set_destination(&mut self, address: &[u8; 16]) -> Delta {
        self.set_address::<24>(address)
    }

    #[inline]
    fn set_address<const AT: usize>(&mut self, address: &[u8; 16]) -> Delta {
        let mut old = [0; 16];
        old.copy_from_slice(&self.0[AT..AT + 16]);
        self.0[AT..AT + 16].copy_from_slice(address);
        Delta::none().word128(&old, address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_from_and_written_to_their_places() {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(&[0x60, 0, 0, 0, 0x01, 0x00, 17, 64]);
        bytes[8..24].fill(0xaa);
        bytes[24..40].fill(0xbb);
        let header = Header(&bytes);
        assert_eq!((header.version(), header.payload_len()), (6, 256));
        assert_eq!((header.next_header(), header.hop_limit()), (17, 64));
        assert_eq!(
            (header.source(), header.destination()),
            (&[0xaa; 16], &[0xbb; 16])
        );

        let mut header = HeaderMut(&mut bytes);
        header.decrement_hop_limit();
        header.set_source(&[1; 16]);
        header.set_destination(&[2; 16]);
        let header = Header(&bytes);
        assert_eq!(header.hop_limit(), 63);
        assert_eq!(
            (header.source(), header.destination()),
            (&[1; 16], &[2; 16])
        );
    }
}
