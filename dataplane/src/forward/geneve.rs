//! `dsr-geneve`: the packet in Geneve without options (RFC 8926): the protocol type says that an IP
//! packet follows, and no Ethernet header.

use weir_shm::model::OuterChecksum;

use super::gre::protocol_type;
use super::tunnel::{Ends, Outer, Shim};
use crate::address::Version;

/// Geneve's UDP port (RFC 8926, section 3.3).
pub const PORT: u16 = 6081;

/// Outer headers for inner packets of version `inner`, in the virtual network `vni`.
#[must_use]
pub fn outer(ends: Ends, inner: Version, vni: u32, checksum: OuterChecksum) -> Outer {
    let [high, low] = protocol_type(inner).to_be_bytes();
    let [_, a, b, c] = vni.to_be_bytes();
    // Version 0, no options, neither control nor critical.
    Outer::new(
        ends,
        Shim::Udp(PORT, checksum, &[0, 0, high, low, a, b, c, 0]),
    )
}
