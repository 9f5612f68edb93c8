//! The QUIC of a check: a packet of a version that nobody speaks, which a server answers with the
//! versions that it speaks.
//!
//! Read first: RFC 8999, sections 5.1 and 6 (what holds for all versions); RFC 9000, section 6.1
//! (a server answers only datagrams large enough for an Initial packet) and section 15 (versions
//! of the pattern 0x?a?a?a?a are there to be refused).

/// The size that makes a server answer (RFC 9000, section 14.1).
const DATAGRAM: usize = 1_200;
/// Bytes of each connection ID that is sent.
const ID: usize = 8;

/// What tells this check's answer from any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    version: u32,
    destination: [u8; ID],
    source: [u8; ID],
}

impl Probe {
    /// A probe out of randomness.
    #[must_use]
    pub const fn new(a: u64, b: u64, c: u64) -> Self {
        Self {
            version: (a as u32 & 0xf0f0_f0f0) | 0x0a0a_0a0a,
            destination: b.to_be_bytes(),
            source: c.to_be_bytes(),
        }
    }

    /// The datagram that asks.
    #[must_use]
    pub fn datagram(&self) -> Vec<u8> {
        // Long header, fixed bit set: some servers look at it before they look at the version.
        let mut bytes = vec![0xc0];
        bytes.extend_from_slice(&self.version.to_be_bytes());
        for id in [self.destination, self.source] {
            bytes.push(ID as u8);
            bytes.extend_from_slice(&id);
        }
        bytes.resize(DATAGRAM, 0);
        bytes
    }

    /// Whether a datagram is the answer: Version Negotiation with our connection IDs turned round
    /// and at least one version, none of which is ours (RFC 8999, section 6).
    #[must_use]
    pub fn is_answer(&self, datagram: &[u8]) -> bool {
        self.versions(datagram).is_some_and(|versions| {
            let ours = self.version.to_be_bytes();
            !versions.is_empty()
                && versions.len().is_multiple_of(4)
                && !versions.chunks(4).any(|version| version == ours)
        })
    }

    /// The versions that an answer lists.
    fn versions<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]> {
        let (first, rest) = datagram.split_first()?;
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let rest = expect_id(rest, &self.source)?;
        let rest = expect_id(rest, &self.destination)?;
        (first & 0x80 != 0 && *version == [0; 4]).then_some(rest)
    }
}

fn expect_id<'a>(bytes: &'a [u8], id: &[u8; ID]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first()?;
    let (found, rest) = rest.split_at_checked(usize::from(*length))?;
    (found == id).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(probe: &Probe, versions: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0xff, 0, 0, 0, 0, ID as u8];
        bytes.extend_from_slice(&probe.source);
        bytes.push(ID as u8);
        bytes.extend_from_slice(&probe.destination);
        for version in versions {
            bytes.extend_from_slice(&version.to_be_bytes());
        }
        bytes
    }

    #[test]
    fn a_probe_is_large_and_of_a_version_that_is_there_to_be_refused() {
        let probe = Probe::new(u64::MAX, 1, 2);
        let datagram = probe.datagram();
        assert_eq!(datagram.len(), 1200);
        assert_eq!(datagram[1..5], [0xfa, 0xfa, 0xfa, 0xfa]);
    }

    #[test]
    fn only_version_negotiation_for_this_probe_is_an_answer() {
        let probe = Probe::new(5, 6, 7);
        assert!(probe.is_answer(&answer(&probe, &[1, 0x6b33_43cf])));
        assert!(!probe.is_answer(&answer(&probe, &[])));
        assert!(!probe.is_answer(&answer(&Probe::new(5, 6, 8), &[1])));
        let mut other = answer(&probe, &[1]);
        other[4] = 1;
        assert!(!probe.is_answer(&other), "another version's packet");
        // A server that only sends back what it gets speaks no QUIC.
        assert!(!probe.is_answer(&probe.datagram()));
    }

    proptest! {
        #[test]
        fn nothing_that_comes_in_makes_it_panic(bytes: Vec<u8>) {
            let _ = Probe::new(1, 2, 3).is_answer(&bytes);
        }
    }
}
