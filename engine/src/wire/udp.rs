//! UDP header (RFC 768).

/// Bytes of the header.
pub const LEN: usize = 8;
/// Where the checksum lies.
pub const CHECKSUM: usize = 6;

/// The header, read.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a>(pub &'a [u8; LEN]);

impl Header<'_> {
    /// Source port.
    #[inline]
    #[must_use]
    pub const fn source_port(self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }

    /// Destination port.
    #[inline]
    #[must_use]
    pub const fn destination_port(self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }

    /// Length of header and payload in bytes.
    #[inline]
    #[must_use]
    pub const fn length(self) -> usize {
        u16::from_be_bytes([self.0[4], self.0[5]]) as usize
    }

    /// Whether the sender computed no checksum (allowed over IPv4).
    #[inline]
    #[must_use]
    pub const fn is_unchecked(self) -> bool {
        self.0[6] == 0 && self.0[7] == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_from_their_places() {
        let header = Header(&[0xc0, 0x01, 0x00, 0x35, 0x00, 0x10, 0, 0]);
        assert_eq!(
            (header.source_port(), header.destination_port()),
            (0xc001, 53)
        );
        assert_eq!(header.length(), 16);
        assert!(header.is_unchecked());
        assert!(!Header(&[0, 0, 0, 0, 0, 8, 0, 1]).is_unchecked());
    }
}
