//! Where a QUIC datagram has its destination connection ID.
//!
//! Version-independent properties (RFC 8999): the first bit tells long headers from short ones; a
//! long header has a version, then the ID's length and the ID; a short header has the ID at once,
//! and nothing tells its length. Of the versions we know (1, RFC 9000; 2, RFC 9369) we also know
//! which packets carry an ID that the *client* made up: Initial and 0-RTT. A client's ID names no
//! server, whatever it looks like, and following it would let clients pick their backend; those
//! packets are steered by hash. (Once the server has answered, a client's Initials carry the server's
//! ID, but during the handshake a client does not move (RFC 9000, section 9), so its 4-tuple leads
//! them to the same backend.) Of versions we do not know, the ID is read by the invariants alone.
//!
//! Only the first packet of a datagram is looked at: all of them have the same destination (RFC
//! 9000, section 12.2).

/// QUIC version 1 (RFC 9000).
pub const VERSION_1: u32 = 1;
/// QUIC version 2 (RFC 9369).
pub const VERSION_2: u32 = 0x6b33_43cf;

/// The first bit of a long header.
const LONG: u8 = 0x80;
/// Where a long header has the length of the destination connection ID, behind the version.
const LENGTH: usize = 5;

/// Whose connection ID the first packet of a datagram carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination<'a> {
    /// One that a server may have made: exactly the ID of a long header, or all bytes behind a short
    /// header's first, of which the ID is the beginning.
    Server(&'a [u8]),
    /// One that the client may have made up.
    Client,
    /// None: no QUIC, or cut short.
    None,
}

/// Hot: finds the destination connection ID of a datagram.
#[inline]
#[must_use]
pub fn destination(datagram: &[u8]) -> Destination<'_> {
    match datagram {
        [first, rest @ ..] if first & LONG == 0 => Destination::Server(rest),
        [first, ..] => long(*first, datagram),
        [] => Destination::None,
    }
}

#[inline]
fn long(first: u8, datagram: &[u8]) -> Destination<'_> {
    let (Some((head, rest)), Some(&[_, a, b, c, d])) = (
        datagram.split_at_checked(LENGTH + 1),
        datagram.first_chunk::<LENGTH>(),
    ) else {
        return Destination::None;
    };
    if is_from_client(u32::from_be_bytes([a, b, c, d]), first) {
        return Destination::Client;
    }
    let length = head.get(LENGTH).copied().unwrap_or_default();
    rest.get(..usize::from(length))
        .map_or(Destination::None, Destination::Server)
}

/// Whether a long header of this version and first octet is of an Initial or a 0-RTT packet.
#[inline]
const fn is_from_client(version: u32, first: u8) -> bool {
    let kind = first >> 4 & 3;
    match version {
        VERSION_1 => kind == 0 || kind == 1,
        VERSION_2 => kind == 1 || kind == 2,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(first: u8, version: u32, id: &[u8]) -> Vec<u8> {
        let mut packet = vec![first];
        packet.extend(version.to_be_bytes());
        packet.push(id.len() as u8);
        packet.extend(id);
        packet.extend([4, 1, 2, 3, 4, 0, 0]);
        packet
    }

    #[test]
    fn a_short_header_has_its_id_at_once() {
        assert_eq!(destination(&[0x40, 1, 2]), Destination::Server(&[1, 2]));
        // The "fixed bit" is version 1's, and may be greased (RFC 9287).
        assert_eq!(destination(&[0x00, 1, 2]), Destination::Server(&[1, 2]));
        assert_eq!(destination(&[0x40]), Destination::Server(&[]));
        assert_eq!(destination(&[]), Destination::None);
    }

    #[test]
    fn a_long_header_tells_the_length_of_its_id() {
        let id = [9; 20];
        for (first, version) in [
            (0xe0, VERSION_1), // Handshake
            (0xf0, VERSION_1), // Retry, which no client sends
            (0xf0, VERSION_2), // Handshake
            (0xc0, VERSION_2), // Retry
            (0xc0, 0),
            (0x80, 0x0a1a_2a3a),
            (0xd0, 0xff00_001d),
        ] {
            let packet = long(first, version, &id);
            assert_eq!(
                destination(&packet),
                Destination::Server(&id),
                "{first:x} {version:x}"
            );
        }
        // An unknown version may have longer IDs than version 1.
        let packet = long(0xc0, 0x0a1a_2a3a, &[7; 255]);
        assert_eq!(destination(&packet), Destination::Server(&[7; 255]));
        assert_eq!(destination(&long(0xe0, 1, &[])), Destination::Server(&[]));
    }

    #[test]
    fn initials_and_early_data_carry_the_clients_id() {
        for (first, version) in [
            (0xc0, VERSION_1),
            (0xcf, VERSION_1),
            (0xd3, VERSION_1),
            (0x80, VERSION_1),
            (0xd0, VERSION_2),
            (0xe0, VERSION_2),
        ] {
            assert_eq!(
                destination(&long(first, version, &[1; 8])),
                Destination::Client
            );
        }
    }

    #[test]
    fn what_is_cut_short_has_none() {
        let packet = long(0xe0, 1, &[5; 20]);
        for end in 1..26 {
            assert_eq!(destination(&packet[..end]), Destination::None, "{end}");
        }
        assert_eq!(destination(&packet[..26]), Destination::Server(&[5; 20]));
    }
}
