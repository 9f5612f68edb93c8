//! The few rtnetlink requests that an interface is set up by: a header, a fixed part, attributes,
//! and the kernel's acknowledgement.
//!
//! Read first: rtnetlink(7), netlink(7). Numbers are in the machine's byte order, addresses in the
//! network's.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;

/// Bytes of a message's header, `struct nlmsghdr`.
const HEADER: usize = 16;
/// `IFLA_INET6_ADDR_GEN_MODE`, and the mode that makes none (`linux/if_link.h`).
const ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;
/// `IFLA_AF_SPEC`.
const AF_SPEC: u16 = 26;
/// Scope of link-local addresses (`linux/rtnetlink.h`).
const SCOPE_LINK: u8 = 253;

/// A request, whole but for its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: libc::c_int, fixed: &[u8]) -> Self {
        Self {
            kind,
            flags: (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16,
            body: fixed.to_vec(),
        }
    }

    /// Of the interface with this number, `struct ifinfomsg`: which flags are changed, to what.
    fn link(index: u32, flags: u32) -> Self {
        let mut fixed = [0; 16];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
        fixed[12..16].copy_from_slice(&flags.to_ne_bytes());
        Self::new(libc::RTM_NEWLINK, 0, &fixed)
    }

    /// Sets MAC address and MTU.
    pub fn hardware(index: u32, mac: [u8; 6], mtu: u16) -> Self {
        Self::link(index, 0)
            .with(libc::IFLA_ADDRESS, &mac)
            .with(libc::IFLA_MTU, &u32::from(mtu).to_ne_bytes())
    }

    /// Lets the kernel make no IPv6 address of its own.
    pub fn no_generated_address(index: u32) -> Self {
        let mode = attribute(ADDR_GEN_MODE, &[ADDR_GEN_NONE]);
        let family = attribute(libc::AF_INET6 as u16, &mode);
        Self::link(index, 0).with(AF_SPEC, &family)
    }

    /// Brings the interface up.
    pub fn up(index: u32) -> Self {
        Self::link(index, libc::IFF_UP as u32)
    }

    /// Adds an address, without a search for duplicates: it is the port's already.
    pub fn address(index: u32, address: IpAddr, prefix: u8) -> Self {
        let (family, scope) = match address {
            IpAddr::V4(_) => (libc::AF_INET, 0),
            IpAddr::V6(v6) if v6.is_unicast_link_local() => (libc::AF_INET6, SCOPE_LINK),
            IpAddr::V6(_) => (libc::AF_INET6, 0),
        };
        // `struct ifaddrmsg`.
        let mut fixed = [family as u8, prefix, 0, scope, 0, 0, 0, 0];
        fixed[4..].copy_from_slice(&index.to_ne_bytes());
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let request = Self::new(libc::RTM_NEWADDR, flags, &fixed);
        match address {
            IpAddr::V4(v4) => request
                .with(libc::IFA_LOCAL, &v4.octets())
                .with(libc::IFA_ADDRESS, &v4.octets()),
            IpAddr::V6(v6) => request
                .with(libc::IFA_ADDRESS, &v6.octets())
                .with(libc::IFA_FLAGS, &libc::IFA_F_NODAD.to_ne_bytes()),
        }
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.body.extend(attribute(kind, value));
        self
    }

    /// The message's bytes.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.body.len());
        let length = (HEADER + self.body.len()) as u32;
        bytes.extend(length.to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend(self.flags.to_ne_bytes());
        // Sequence number and port: one question at a time, and the kernel knows who asks.
        bytes.extend([0; 8]);
        bytes.extend(&self.body);
        bytes
    }

    /// Sends the request and waits for the kernel's word, which is there at once.
    pub fn send(&self, socket: &mut File) -> io::Result<()> {
        socket.write_all(&self.bytes())?;
        let mut answer = [0; 4096];
        let length = socket.read(&mut answer)?;
        judge(answer.get(..length).unwrap_or_default())
    }
}

/// An attribute: length, kind, value, and zeros up to a multiple of four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + value.len());
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// What an acknowledgement says: an `NLMSG_ERROR` whose number is zero, or a negative `errno`.
fn judge(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).map(|kind| [kind[0], kind[1]]);
    let number = answer
        .get(HEADER..)
        .and_then(|rest| rest.first_chunk::<4>());
    match (kind.map(u16::from_ne_bytes), number) {
        (Some(kind), Some(number)) if libc::c_int::from(kind) == libc::NLMSG_ERROR => {
            match i32::from_ne_bytes(*number) {
                0 => Ok(()),
                negative => Err(io::Error::from_raw_os_error(negative.saturating_neg())),
            }
        }
        _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attributes of a request behind its fixed part.
    fn attributes(request: &Request, fixed: usize) -> Vec<(u16, Vec<u8>)> {
        let (mut rest, mut found) = (&request.body[fixed..], Vec::new());
        while !rest.is_empty() {
            let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
            found.push((
                u16::from_ne_bytes([rest[2], rest[3]]),
                rest[4..length].to_vec(),
            ));
            rest = &rest[length.next_multiple_of(4)..];
        }
        found
    }

    #[test]
    fn a_request_says_its_length_and_wants_an_answer() {
        let bytes = Request::up(7).bytes();
        assert_eq!(bytes.len(), 32);
        assert_eq!(bytes[..4], 32u32.to_ne_bytes());
        assert_eq!(bytes[4..6], libc::RTM_NEWLINK.to_ne_bytes());
        assert_eq!(bytes[6..8], 5u16.to_ne_bytes());
        assert_eq!(bytes[20..24], 7u32.to_ne_bytes());
        assert_eq!(
            (bytes[24..28].to_vec(), bytes[28..].to_vec()),
            (vec![1, 0, 0, 0], vec![1, 0, 0, 0])
        );
    }

    #[test]
    fn hardware_and_addresses_are_attributes_padded_to_four_bytes() {
        let hardware = Request::hardware(7, [2, 0, 0, 0, 0, 1], 1_500);
        assert_eq!(hardware.body.len() % 4, 0);
        let mtu = 1_500u32.to_ne_bytes().to_vec();
        assert_eq!(
            attributes(&hardware, 16),
            [(1, vec![2, 0, 0, 0, 0, 1]), (4, mtu)]
        );
        let v4 = Request::address(7, "192.0.2.2".parse().unwrap(), 24);
        assert_eq!(v4.body[..4], [2, 24, 0, 0]);
        let octets = vec![192, 0, 2, 2];
        assert_eq!(attributes(&v4, 8), [(2, octets.clone()), (1, octets)]);
        let v6 = Request::address(7, "fe80::1".parse().unwrap(), 64);
        assert_eq!(v6.body[..4], [10, 64, 0, 253]);
        assert_eq!(attributes(&v6, 8)[1], (8, 2u32.to_ne_bytes().to_vec()));
    }

    #[test]
    fn the_kernels_word_is_done_or_an_error() {
        let answer = |kind: u16, number: i32| {
            let mut bytes = vec![0; HEADER];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes.extend(number.to_ne_bytes());
            bytes
        };
        assert!(judge(&answer(2, 0)).is_ok());
        let refused = judge(&answer(2, -libc::EPERM)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        assert!(judge(&answer(3, 0)).is_err());
        assert!(judge(&[0; 7]).is_err());
    }
}
