//! TCP header (RFC 9293, section 3.1).

/// Bytes of a header without options.
pub const LEN: usize = 20;
/// Where the checksum lies.
pub const CHECKSUM: usize = 16;
/// Where the sequence number lies.
pub const SEQUENCE: usize = 4;
/// Where the acknowledgement number lies.
pub const ACKNOWLEDGEMENT: usize = 8;

/// Control bits, as they lie in byte 13.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement field is significant.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is meant.
    pub const URG: u8 = 0x20;
}

/// A header's first 20 bytes, read.
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

    /// Header length in bytes, options included (20 to 60 when valid).
    #[inline]
    #[must_use]
    pub const fn header_len(self) -> usize {
        ((self.0[12] >> 4) as usize) * 4
    }

    /// Control bits; see [`flags`].
    #[inline]
    #[must_use]
    pub const fn flags(self) -> u8 {
        self.0[13]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_from_their_places() {
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(&[0xc0, 0x01, 0x00, 0x50]);
        bytes[12] = 0x80;
        bytes[13] = flags::SYN | flags::ACK;
        let header = Header(&bytes);
        assert_eq!(
            (header.source_port(), header.destination_port()),
            (0xc001, 80)
        );
        assert_eq!((header.header_len(), header.flags()), (32, 0x12));
    }
}
