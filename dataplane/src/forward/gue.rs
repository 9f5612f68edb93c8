//! `dsr-gue`: the packet in Generic UDP Encapsulation (draft-ietf-intarea-gue).
//!
//! Variant 0 has a header of four bytes behind UDP: variant (2 bits), control bit (1), header length
//! in words beyond these four bytes (5), protocol of the payload (8), flags (16). Variant 1 has none:
//! the inner IP packet follows UDP directly, and its version, 4 or 6, begins with the bits 01.

use weir_shm::model::OuterChecksum;

use super::ipip;
use super::tunnel::{Ends, Outer, Shim};
use crate::address::Version;

/// Outer headers for inner packets of version `inner`, to UDP port `port`.
#[must_use]
pub fn outer(ends: Ends, inner: Version, variant: u8, port: u16, checksum: OuterChecksum) -> Outer {
    let header = [0, ipip::number(inner), 0, 0];
    let header: &[u8] = if variant == 0 { &header } else { &[] };
    Outer::new(ends, Shim::Udp(port, checksum, header))
}
