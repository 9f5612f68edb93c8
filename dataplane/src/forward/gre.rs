//! `dsr-gre`: the packet in GRE over IPv4 or IPv6 (RFC 2784, RFC 7676), with a key if the service
//! has one (RFC 2890).

use weir_engine::wire::ethernet::ethertype;
use weir_engine::wire::protocol;

use super::tunnel::{Ends, Outer, Shim};
use crate::address::Version;

/// The bit that says a key is there, in the first byte.
const KEY_PRESENT: u8 = 0x20;

/// Outer headers for inner packets of version `inner`.
#[must_use]
pub fn outer(ends: Ends, inner: Version, key: Option<u32>) -> Outer {
    let [high, low] = protocol_type(inner).to_be_bytes();
    match key {
        None => Outer::new(ends, Shim::Direct(protocol::GRE, &[0, 0, high, low])),
        Some(key) => {
            let [a, b, c, d] = key.to_be_bytes();
            let header = [KEY_PRESENT, 0, high, low, a, b, c, d];
            Outer::new(ends, Shim::Direct(protocol::GRE, &header))
        }
    }
}

/// The EtherType of the inner packet.
pub(super) const fn protocol_type(inner: Version) -> u16 {
    match inner {
        Version::V4 => ethertype::IPV4,
        Version::V6 => ethertype::IPV6,
    }
}
