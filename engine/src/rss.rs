//! Receive-side scaling in software: the Toeplitz hash that NICs compute, the key that makes it
//! symmetric, and the table that turns a hash into a queue.
//!
//! Used to spread traffic over queues as a NIC would, and to know beforehand which queue (and so
//! which core) the answer to a packet will arrive on. Reference: Microsoft, "RSS hashing types" and
//! "Verifying the RSS hash calculation"; the latter's vectors are the tests.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A key with which both directions of a flow have one hash, because it repeats every 16 bits
/// (Woo and Park, "Scalable TCP Session Monitoring with Symmetric Receive-side Scaling", 2012).
/// This is what a port is given unless another key is asked for.
pub const SYMMETRIC_KEY: [u8; 40] = {
    let mut key = [0x6d; 40];
    let mut i = 1;
    while i < key.len() {
        key[i] = 0x5a;
        i += 2;
    }
    key
};

/// Entries of the redirection table that [`queue_for`] stands for; the commonest size in NICs.
pub const TABLE_SIZE: usize = 128;

/// The Toeplitz hash of `input` under `key`: for each set bit of the input, from the first byte's
/// highest bit on, the 32 key bits from that position on are added (exclusive or). Key bits beyond
/// the key's end count as 0; NIC keys are 40 or 52 bytes, enough for any tuple.
#[must_use]
pub fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let byte = |index: usize| u64::from(key.get(index).copied().unwrap_or(0));
    // The 32 key bits in force at the current byte, and 8 more that follow.
    let mut window = (0..5).fold(0, |w, i| w << 8 | byte(i));
    let mut hash = 0;
    for (index, &value) in input.iter().enumerate() {
        for bit in 0..8 {
            if value & (0x80 >> bit) != 0 {
                hash ^= (window >> (8 - bit)) as u32;
            }
        }
        window = (window << 8 | byte(index + 5)) & 0xff_ffff_ffff;
    }
    hash
}

/// The hash of an IPv4 packet's addresses and ports, as a NIC has it for TCP and UDP.
#[must_use]
pub fn ipv4_ports(
    key: &[u8],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    source_port: u16,
    destination_port: u16,
) -> u32 {
    let mut input = [0; 12];
    input[..4].copy_from_slice(&source.octets());
    input[4..8].copy_from_slice(&destination.octets());
    input[8..10].copy_from_slice(&source_port.to_be_bytes());
    input[10..].copy_from_slice(&destination_port.to_be_bytes());
    toeplitz(key, &input)
}

/// The hash of an IPv4 packet's addresses, as a NIC has it for fragments and other protocols.
#[must_use]
pub fn ipv4(key: &[u8], source: Ipv4Addr, destination: Ipv4Addr) -> u32 {
    let mut input = [0; 8];
    input[..4].copy_from_slice(&source.octets());
    input[4..].copy_from_slice(&destination.octets());
    toeplitz(key, &input)
}

/// The hash of an IPv6 packet's addresses and ports, as a NIC has it for TCP and UDP.
#[must_use]
pub fn ipv6_ports(
    key: &[u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    source_port: u16,
    destination_port: u16,
) -> u32 {
    let mut input = [0; 36];
    input[..16].copy_from_slice(&source.octets());
    input[16..32].copy_from_slice(&destination.octets());
    input[32..34].copy_from_slice(&source_port.to_be_bytes());
    input[34..].copy_from_slice(&destination_port.to_be_bytes());
    toeplitz(key, &input)
}

/// The hash of an IPv6 packet's addresses.
#[must_use]
pub fn ipv6(key: &[u8], source: Ipv6Addr, destination: Ipv6Addr) -> u32 {
    let mut input = [0; 32];
    input[..16].copy_from_slice(&source.octets());
    input[16..].copy_from_slice(&destination.octets());
    toeplitz(key, &input)
}

/// The queue that a redirection table of `table_size` entries has for `hash`, filled as a port
/// fills it: entry `i` leads to queue `i` modulo `queues`. 0 when there are no queues.
#[must_use]
pub fn queue_in_table(hash: u32, table_size: usize, queues: u16) -> u16 {
    if queues == 0 {
        return 0;
    }
    let entry = hash as usize % table_size.max(1);
    (entry % usize::from(queues)) as u16
}

/// [`queue_in_table`] with a table of [`TABLE_SIZE`] entries.
#[must_use]
pub fn queue_for(hash: u32, queues: u16) -> u16 {
    queue_in_table(hash, TABLE_SIZE, queues)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The key of Microsoft's verification suite.
    const MICROSOFT_KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
        0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    #[test]
    fn the_ipv4_verification_vectors_hold() {
        // Destination and port, source and port, hash of addresses, hash with ports.
        let vectors = [
            (
                "161.142.100.80",
                1766,
                "66.9.149.187",
                2794,
                0x323e_8fc2,
                0x51cc_c178,
            ),
            (
                "65.69.140.83",
                4739,
                "199.92.111.2",
                14230,
                0xd718_262a,
                0xc626_b0ea,
            ),
            (
                "12.22.207.184",
                38024,
                "24.19.198.95",
                12898,
                0xd2d0_a5de,
                0x5c2b_394a,
            ),
            (
                "209.142.163.6",
                2217,
                "38.27.205.30",
                48228,
                0x8298_9176,
                0xafc7_327f,
            ),
            (
                "202.188.127.2",
                1303,
                "153.39.163.191",
                44251,
                0x5d18_09c5,
                0x10e8_28a2,
            ),
        ];
        for (to, to_port, from, from_port, addresses, ports) in vectors {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            assert_eq!(ipv4(&MICROSOFT_KEY, from, to), addresses, "{from} -> {to}");
            assert_eq!(
                ipv4_ports(&MICROSOFT_KEY, from, to, from_port, to_port),
                ports
            );
        }
    }

    #[test]
    fn the_ipv6_verification_vectors_hold() {
        let vectors = [
            (
                ("3ffe:2501:200:3::1", 1766),
                ("3ffe:2501:200:1fff::7", 2794),
                0x2cc1_8cd5,
                0x4020_7d3d,
            ),
            (
                ("ff02::1", 4739),
                ("3ffe:501:8::260:97ff:fe40:efab", 14230),
                0x0f0c_461c,
                0xdde5_1bbf,
            ),
            (
                ("fe80::200:f8ff:fe21:67cf", 38024),
                ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251),
                0x4b61_e985,
                0x02d1_feef,
            ),
        ];
        for ((to, to_port), (from, from_port), addresses, ports) in vectors {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            assert_eq!(ipv6(&MICROSOFT_KEY, from, to), addresses, "{from} -> {to}");
            assert_eq!(
                ipv6_ports(&MICROSOFT_KEY, from, to, from_port, to_port),
                ports
            );
        }
    }

    #[test]
    fn the_table_deals_its_entries_out_in_turn() {
        assert_eq!(
            (0..6).map(|h| queue_for(h, 4)).collect::<Vec<_>>(),
            [0, 1, 2, 3, 0, 1]
        );
        assert_eq!(queue_for(128 + 3, 4), 3);
        assert_eq!(queue_in_table(513, 512, 3), 1);
        assert_eq!((queue_for(7, 0), queue_in_table(7, 0, 2)), (0, 0));
    }

    proptest! {
        #[test]
        fn both_directions_of_a_flow_have_one_hash(a: u32, b: u32, pa: u16, pb: u16) {
            let (a, b) = (Ipv4Addr::from(a), Ipv4Addr::from(b));
            prop_assert_eq!(
                ipv4_ports(&SYMMETRIC_KEY, a, b, pa, pb),
                ipv4_ports(&SYMMETRIC_KEY, b, a, pb, pa)
            );
        }

        #[test]
        fn both_directions_of_an_ipv6_flow_have_one_hash(a: u128, b: u128, pa: u16, pb: u16) {
            let (a, b) = (Ipv6Addr::from(a), Ipv6Addr::from(b));
            prop_assert_eq!(
                ipv6_ports(&SYMMETRIC_KEY, a, b, pa, pb),
                ipv6_ports(&SYMMETRIC_KEY, b, a, pb, pa)
            );
        }

        #[test]
        fn the_hash_is_linear(x: [u8; 36], y: [u8; 36]) {
            let both: Vec<u8> = x.iter().zip(y).map(|(x, y)| x ^ y).collect();
            prop_assert_eq!(
                toeplitz(&MICROSOFT_KEY, &both),
                toeplitz(&MICROSOFT_KEY, &x) ^ toeplitz(&MICROSOFT_KEY, &y)
            );
        }
    }
}
