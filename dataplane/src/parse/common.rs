//! The common shape of a frame, recognised in one go.
//!
//! Nearly every packet of a balancer is an untagged frame to the port's own MAC with an IPv4 header
//! without options, or an IPv6 header without extensions, and TCP or UDP behind it: every field then
//! has a fixed offset, and one length check covers all reads. These functions say yes to exactly
//! such frames, and only where nothing is wrong with them. Whatever they refuse, for whatever
//! reason, goes through the general parser, which names reasons; a property test holds both to the
//! same answers.

use weir_engine::wire::{checksum, protocol, tcp, udp};

use super::{Filter, Packet};
use crate::address::{Addr, Version};

/// Frames are read at these offsets, from their first byte.
const NETWORK: usize = 14;
const V4_TRANSPORT: usize = 34;
const V6_TRANSPORT: usize = 54;
/// Ethernet, the fixed IP header, and the ports, length and checksum of UDP.
const V4_LEAST: usize = V4_TRANSPORT + udp::LEN;
const V6_LEAST: usize = V6_TRANSPORT + udp::LEN;

/// Hot: the IP version of a frame to a port's own MAC that may have the common shape: [`ipv4`] and
/// [`ipv6`] tell. They are three, so that what follows them can be compiled for each version.
#[inline(always)]
pub fn version(frame: &[u8], filter: &Filter) -> Option<Version> {
    let head = frame.first_chunk::<V4_LEAST>()?;
    if u64_at(head, 0) & 0xffff_ffff_ffff != filter.mac {
        return None;
    }
    // EtherType, then IP version and header length.
    match u32_at(head, 12) & 0x00ff_ffff {
        IPV4 => Some(Version::V4),
        word if word & 0x00f0_ffff == IPV6 => Some(Version::V6),
        _ => None,
    }
}

/// 0x0800 0x45, little-endian.
const IPV4: u32 = 0x45_00_08;
/// 0x86dd 0x6?, little-endian.
const IPV6: u32 = 0x60_dd_86;

/// Hot: whether a frame that [`version`] takes for IPv4 has the common shape; fills in `packet` if so.
#[inline(always)]
pub fn ipv4(frame: &[u8], packet: &mut Packet) -> bool {
    let Some(head) = frame.first_chunk::<V4_LEAST>() else {
        return false;
    };
    let total = usize::from(u16::from_be_bytes([head[16], head[17]]));
    let protocol = head[23];
    let first = head[26];
    // "This network", loopback, multicast and above are no sources; see the general parser.
    let martian = first.wrapping_sub(1) >= 223 || first == 127;
    let fragment = u16_at(head, 20) & 0xff3f != 0;
    let header = (u64_at(head, 14), u64_at(head, 22), u32_at(head, 30));
    if total + NETWORK > frame.len() || fragment || martian || !intact(header) {
        return false;
    }
    // What the IP header says fits the frame, so a transport header that fits that fits, too.
    let (tcp_flags, length, least) = if protocol == protocol::UDP {
        (0, udp_length(head[38], head[39]), udp::LEN)
    } else if protocol == protocol::TCP
        && let Some(head) = frame.first_chunk::<{ V4_TRANSPORT + tcp::LEN }>()
    {
        (head[47], tcp_length(head[46]), tcp::LEN)
    } else {
        return false;
    };
    if length < least || length + (V4_TRANSPORT - NETWORK) > total {
        return false;
    }
    // One load: the source is the lower half.
    let addresses = u64_at(head, 26);
    *packet = Packet {
        source: Addr([addresses & 0xffff_ffff, 0]),
        destination: Addr([addresses >> 32, 0]),
        ports: u32_at(head, V4_TRANSPORT),
        ip_len: total as u16,
        transport: V4_TRANSPORT as u16,
        network: NETWORK as u8,
        version: Version::V4,
        protocol,
        tcp_flags,
        ttl: head[22],
        tag: None,
    };
    true
}

/// The length that a UDP header gives.
#[inline(always)]
fn udp_length(high: u8, low: u8) -> usize {
    u16::from_be_bytes([high, low]).into()
}

/// The length of a TCP header.
#[inline(always)]
fn tcp_length(offset: u8) -> usize {
    usize::from(offset >> 4) * 4
}

/// Whether 20 header bytes, given as words, sum to all ones (RFC 1071). They are not all zero.
#[inline(always)]
fn intact((first, second, third): (u64, u64, u32)) -> bool {
    let (sum, carry) = first.overflowing_add(second);
    let (sum, carry) = sum.overflowing_add(u64::from(third) + u64::from(carry));
    checksum::is_all_ones(sum, carry)
}

/// Hot: as [`ipv4`], for IPv6.
#[inline(always)]
pub fn ipv6(frame: &[u8], packet: &mut Packet) -> bool {
    let Some(head) = frame.first_chunk::<V6_LEAST>() else {
        return false;
    };
    let payload = usize::from(u16::from_be_bytes([head[18], head[19]]));
    let protocol = head[20];
    let source = Addr([u64_at(head, 22), u64_at(head, 30)]);
    // Multicast, unspecified and loopback are no sources; see the general parser.
    let martian = head[22] == 0xff || (source.0[0] == 0 && source.0[1] & !(1 << 56) == 0);
    if payload + V6_TRANSPORT > frame.len() || martian {
        return false;
    }
    let (tcp_flags, length, least) = if protocol == protocol::UDP {
        (0, udp_length(head[58], head[59]), udp::LEN)
    } else if protocol == protocol::TCP
        && let Some(head) = frame.first_chunk::<{ V6_TRANSPORT + tcp::LEN }>()
    {
        (head[67], tcp_length(head[66]), tcp::LEN)
    } else {
        return false;
    };
    if length < least || length > payload {
        return false;
    }
    *packet = Packet {
        source,
        destination: Addr([u64_at(head, 38), u64_at(head, 46)]),
        ports: u32_at(head, V6_TRANSPORT),
        ip_len: (payload + V6_TRANSPORT - NETWORK).min(usize::from(u16::MAX)) as u16,
        transport: V6_TRANSPORT as u16,
        network: NETWORK as u8,
        version: Version::V6,
        protocol,
        tcp_flags,
        ttl: head[21],
        tag: None,
    };
    true
}

#[inline(always)]
fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[inline(always)]
fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline(always)]
fn u16_at<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::super::{Accepts, Parsed, general};
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn frame(version: u8, tcp: bool, payload: usize) -> Vec<u8> {
        use etherparse::PacketBuilder;
        let builder = PacketBuilder::ethernet2([2; 6], MAC);
        let builder = match version {
            4 => builder.ipv4([203, 0, 113, 5], [198, 51, 100, 10], 64),
            _ => builder.ipv6([0x20; 16], [0x30; 16], 64),
        };
        let (mut bytes, payload) = (Vec::new(), vec![7; payload]);
        if tcp {
            builder
                .tcp(1000, 80, 1, 2)
                .write(&mut bytes, &payload)
                .unwrap();
        } else {
            builder.udp(1000, 80).write(&mut bytes, &payload).unwrap();
        }
        bytes
    }

    fn agree(frame: &[u8]) -> Result<bool, TestCaseError> {
        let accepts = Accepts {
            mac: Some(weir_engine::wire::ethernet::MacAddr(MAC)),
            vlan: None,
            groups: false,
        };
        let mut packet = Packet::default();
        let common = match version(frame, &Filter::from(accepts)) {
            Some(Version::V4) => ipv4(frame, &mut packet),
            Some(Version::V6) => ipv6(frame, &mut packet),
            None => false,
        };
        if common {
            prop_assert_eq!(general(frame, accepts), Ok(Parsed::Transport(packet)));
        }
        Ok(common)
    }

    #[test]
    fn ordinary_frames_have_the_common_shape() {
        for version in [4, 6] {
            for tcp in [false, true] {
                assert!(agree(&frame(version, tcp, 6)).unwrap(), "{version} {tcp}");
            }
        }
    }

    proptest! {
        #[test]
        fn damaged_frames_are_judged_as_the_general_parser_does(
            version in prop::sample::select(vec![4u8, 6]),
            tcp: bool,
            payload in 0usize..40,
            damage in prop::collection::vec((0usize..80, any::<u8>()), 0..3),
            mend: bool,
            cut in 0usize..100,
        ) {
            let mut bytes = frame(version, tcp, payload);
            for (at, value) in damage {
                let length = bytes.len();
                bytes[at % length] = value;
            }
            if mend && version == 4 {
                bytes[24..26].fill(0);
                let sum = checksum::of(&bytes[14..34]);
                bytes[24..26].copy_from_slice(&sum);
            }
            bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(60)));
            agree(&bytes)?;
        }
    }
}
