//! The flow hash: which bucket, which Maglev slot, and which fingerprint a packet has.
//!
//! One keyed 128-bit hash a packet. Its *bucket* half picks the conntrack bucket and the Maglev
//! entry, its *fingerprint* half tells flows of one bucket apart; the halves are independent, so
//! that a false match needs a 64-bit coincidence.
//!
//! The function is NH (Black et al., "UMAC: Fast and Secure Message Authentication", 1999) with
//! 64-bit words: the sum of products of key-offset word pairs, modulo 2^128. Whatever two inputs an
//! attacker picks without the key, they collide with probability at most 2^-64. A bijective
//! finaliser then spreads the product's uneven bits over both halves and keeps that bound. NH costs
//! one multiplication for IPv4 and three for IPv6, needs no CPU feature, and is the same on every
//! machine: a whole fleet with one key agrees.
//!
//! The layout below (word order, key expansion, finaliser) is a promise to other machines and
//! later releases; the test vectors hold it in place.

use std::fmt;
use std::hash::Hasher;
use std::str::FromStr;

use siphasher::sip::SipHasher24;

use crate::address::{Addr, Version};
use crate::parse::Packet;

/// The hash of one flow; see the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowHash {
    /// Picks the conntrack bucket and the Maglev entry.
    pub bucket: u64,
    /// Tells flows of one bucket apart. Never zero: zero marks an empty conntrack entry.
    pub fingerprint: u64,
}

impl FlowHash {
    /// The 32 bits that pick a table's entry.
    #[inline(always)]
    #[must_use]
    pub const fn point(self) -> u32 {
        (self.bucket >> 32) as u32
    }
}

/// The fleet's secret: 128 bits, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u8; 16]);

impl HashKey {
    /// What `replay` uses where the configuration names no key: a capture must always give the
    /// same output.
    pub const REPLAY: Self = Self([0; 16]);
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(secret)")
    }
}

/// A text that is not 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found {0} characters; 32 hexadecimal digits are accepted (128 bits)")]
pub struct BadHashKey(usize);

impl FromStr for HashKey {
    type Err = BadHashKey;

    fn from_str(text: &str) -> Result<Self, BadHashKey> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(BadHashKey(text.chars().count()));
        }
        u128::from_str_radix(text, 16)
            .map(|value| Self(value.to_be_bytes()))
            .map_err(|_| BadHashKey(text.len()))
    }
}

/// The expanded key, ready to hash. One cache line.
#[derive(Clone)]
#[repr(align(64))]
pub struct FlowHasher {
    words: [u64; 8],
}

impl fmt::Debug for FlowHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FlowHasher(secret)")
    }
}

impl FlowHasher {
    /// Expands `key`: word `i` is SipHash-2-4 under the key of the one byte `i`.
    #[must_use]
    pub fn new(key: HashKey) -> Self {
        let words = std::array::from_fn(|index| {
            let mut hasher = SipHasher24::new_with_key(&key.0);
            hasher.write(&[index as u8]);
            hasher.finish()
        });
        Self { words }
    }

    /// Hot: hashes a packet's flow.
    #[inline(always)]
    #[must_use]
    pub fn packet(&self, packet: &Packet) -> FlowHash {
        let Packet {
            source,
            destination,
            ports,
            protocol,
            ..
        } = *packet;
        match packet.version {
            Version::V4 => self.ipv4(source, destination, ports, protocol),
            Version::V6 => self.ipv6(source, destination, ports, protocol),
        }
    }

    /// Hot: hashes an IPv4 flow. `ports` are the frame's four bytes, source first, little-endian;
    /// zero for protocols without ports.
    #[inline(always)]
    #[must_use]
    pub fn ipv4(&self, source: Addr, destination: Addr, ports: u32, protocol: u8) -> FlowHash {
        let k = &self.words;
        let addresses = source.0[0] | destination.0[0] << 32;
        self.finish(nh(addresses, k[0], tail(4, ports, protocol), k[1]))
    }

    /// Hot: hashes an IPv6 flow; arguments as for [`FlowHasher::ipv4`].
    #[inline(always)]
    #[must_use]
    pub fn ipv6(&self, source: Addr, destination: Addr, ports: u32, protocol: u8) -> FlowHash {
        let k = &self.words;
        let product = nh(source.0[0], k[0], tail(6, ports, protocol), k[1])
            .wrapping_add(nh(source.0[1], k[2], destination.0[0], k[3]))
            .wrapping_add(nh(destination.0[1], k[4], 0, k[5]));
        self.finish(product)
    }

    /// Hashes what two addresses have to say to each other, whatever the protocol.
    #[must_use]
    pub fn addresses(&self, packet: &Packet) -> FlowHash {
        match packet.version {
            Version::V4 => self.ipv4(packet.source, packet.destination, 0, 0),
            Version::V6 => self.ipv6(packet.source, packet.destination, 0, 0),
        }
    }

    /// Spreads the product's bits, the low ones of which depend on few bits of the flow, over both
    /// halves: each step is a bijection of one half for any value of the other, so no two products
    /// fall together.
    #[inline(always)]
    fn finish(&self, product: u128) -> FlowHash {
        let (low, high) = (product as u64, (product >> 64) as u64);
        let bucket = mix(low ^ high.rotate_left(32) ^ self.words[6]);
        let fingerprint = mix(high ^ bucket.rotate_left(29) ^ self.words[7]);
        FlowHash {
            bucket,
            fingerprint: fingerprint.max(1),
        }
    }
}

/// One NH term: both words offset by their key words, multiplied to 128 bits.
#[inline(always)]
fn nh(left: u64, left_key: u64, right: u64, right_key: u64) -> u128 {
    u128::from(left.wrapping_add(left_key)) * u128::from(right.wrapping_add(right_key))
}

/// The word that carries what is not an address.
#[inline]
const fn tail(version: u8, ports: u32, protocol: u8) -> u64 {
    ports as u64 | (protocol as u64) << 32 | (version as u64) << 40
}

/// A bijection of 64 bits: a multiplication carries each bit upward, a shift brings the upper half
/// down again (the constant is Stafford's, of his thirteenth set).
#[inline(always)]
const fn mix(x: u64) -> u64 {
    let x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 32)
}

/// Maps 32 bits of a hash to `0..size` by multiplication instead of division (Lemire, "Fast random
/// integer generation in an interval", 2019).
#[inline]
#[must_use]
pub const fn scale(hash: u32, size: u32) -> u32 {
    ((hash as u64 * size as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f";

    fn hasher() -> FlowHasher {
        FlowHasher::new(KEY.parse().unwrap())
    }

    fn v4(bytes: [u8; 8]) -> (Addr, Addr) {
        let [a, b, c, d, e, f, g, h] = bytes;
        (Addr::from_v4([a, b, c, d]), Addr::from_v4([e, f, g, h]))
    }

    /// 203.0.113.5:51234 → 198.51.100.10:80.
    const ADDRESSES: [u8; 8] = [203, 0, 113, 5, 198, 51, 100, 10];
    const PORTS: u32 = u32::from_le_bytes([0xc8, 0x22, 0, 80]);

    #[test]
    fn test_vectors_hold_the_hash_in_place() {
        let (source, destination) = v4(ADDRESSES);
        let tcp4 = hasher().ipv4(source, destination, PORTS, 6);
        let udp4 = hasher().ipv4(source, destination, PORTS, 17);
        let source = Addr::from_v6(std::array::from_fn(|i| i as u8));
        let tcp6 = hasher().ipv6(source, Addr::from_v6([0xfe; 16]), PORTS, 6);
        let vectors = [tcp4, udp4, tcp6].map(|hash| (hash.bucket, hash.fingerprint));
        assert_eq!(vectors, VECTORS, "{vectors:#x?}");
    }

    const VECTORS: [(u64, u64); 3] = [
        (0xf5e0_7b1c_edb8_789f, 0x9ce0_04d8_382a_1960),
        (0x9ac7_438b_f5c1_f725, 0x4474_3666_0a01_ebfc),
        (0x743c_0c5e_5d71_5a09, 0xcf11_9abe_4985_ad33),
    ];

    #[test]
    fn a_key_is_32_hexadecimal_digits() {
        assert!(KEY.parse::<HashKey>().is_ok());
        for bad in [
            "",
            "00",
            "g00102030405060708090a0b0c0d0e0f",
            "+00102030405060708090a0b0c0d0e0f",
        ] {
            assert!(bad.parse::<HashKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_secret_is_not_printed() {
        assert!(!format!("{:?}", KEY.parse::<HashKey>().unwrap()).contains("01"));
    }

    #[test]
    fn neighbouring_flows_spread_evenly_over_buckets_and_fingerprints() {
        let hasher = hasher();
        let mut low = [0u32; 64];
        let mut high = [0u32; 64];
        let mut seen = std::collections::HashSet::new();
        for flow in 0..64_000u32 {
            let port = (flow as u16).to_be_bytes();
            let mut addresses = ADDRESSES;
            addresses[3] = (flow >> 16) as u8;
            let (source, destination) = v4(addresses);
            let ports = u32::from_le_bytes([port[0], port[1], 0, 80]);
            let hash = hasher.ipv4(source, destination, ports, 6);
            low[scale(hash.bucket as u32, 64) as usize] += 1;
            high[(hash.fingerprint >> 58) as usize] += 1;
            assert!(seen.insert(hash.fingerprint));
        }
        for count in low.iter().chain(&high) {
            assert!((850..1150).contains(count), "{low:?} {high:?}");
        }
    }

    proptest! {
        #[test]
        fn one_changed_bit_changes_about_half_of_each_half(
            addresses: u64, ports: u32, bit in 0usize..96,
        ) {
            let hasher = hasher();
            let (source, destination) = v4(addresses.to_le_bytes());
            let before = hasher.ipv4(source, destination, ports, 6);
            let (flip, ports) =
                if bit < 64 { (1 << bit, ports) } else { (0, ports ^ 1 << (bit - 64)) };
            let (source, destination) = v4((addresses ^ flip).to_le_bytes());
            let after = hasher.ipv4(source, destination, ports, 6);
            let bucket = (before.bucket ^ after.bucket).count_ones();
            let fingerprint = (before.fingerprint ^ after.fingerprint).count_ones();
            prop_assert!((8..=56).contains(&bucket) && (8..=56).contains(&fingerprint));
        }
    }
}
