//! `dsr-ipip`: the packet inside another IP packet, nothing between (RFC 2003, RFC 2473, RFC 4213).

use weir_engine::wire::protocol;

use super::tunnel::{Ends, Outer, Shim};
use crate::address::Version;

/// Outer headers for inner packets of version `inner`.
#[must_use]
pub fn outer(ends: Ends, inner: Version) -> Outer {
    Outer::new(ends, Shim::Direct(number(inner), &[]))
}

/// The IP protocol number of a packet inside another.
pub(super) const fn number(inner: Version) -> u8 {
    match inner {
        Version::V4 => protocol::IPV4,
        Version::V6 => protocol::IPV6,
    }
}
