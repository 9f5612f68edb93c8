//! Writing and reading records of fixed size: little-endian numbers, padded texts.
//!
//! Reading is strict: bytes that mean nothing must be zero, so that every record has one form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::model::NO_DEADLINE;

/// Bytes that are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

impl Malformed {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Builds records.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.raw(&[value]);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    /// A text in `room` bytes behind its length; what does not fit is cut off.
    pub(crate) fn text(&mut self, text: &str, room: u16) {
        let mut end = text.len().min(usize::from(room));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.u16(end as u16);
        let start = self.bytes.len();
        self.raw(text.get(..end).unwrap_or_default().as_bytes());
        self.pad_to(start + usize::from(room));
    }

    /// Bytes in `room` bytes behind their length; what does not fit is cut off.
    pub(crate) fn bytes(&mut self, bytes: &[u8], room: u16) {
        let kept = bytes.get(..usize::from(room)).unwrap_or(bytes);
        self.u16(kept.len() as u16);
        let start = self.bytes.len();
        self.raw(kept);
        self.pad_to(start + usize::from(room));
    }

    pub(crate) fn address(&mut self, address: IpAddr) {
        let mut bytes = [0; 16];
        match address {
            IpAddr::V4(address) => {
                self.u8(4);
                bytes[..4].copy_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                self.u8(6);
                bytes = address.octets();
            }
        }
        self.raw(&bytes);
    }

    pub(crate) fn duration(&mut self, duration: Duration) {
        self.u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Zeroes up to this length.
    pub(crate) fn pad_to(&mut self, len: usize) {
        debug_assert!(self.bytes.len() <= len);
        self.bytes.resize(len.max(self.bytes.len()), 0);
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.bytes
    }
}

/// Takes records apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn raw(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(len)
            .ok_or_else(|| Malformed::new("it is cut short"))?;
        self.bytes = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.raw(N)?
            .try_into()
            .map_err(|_| Malformed::new("it is cut short"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn flag(&mut self, what: &str) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Malformed::new(format!(
                "{what} is {other}, neither 0 nor 1"
            ))),
        }
    }

    pub(crate) fn text(&mut self, room: u16, what: &str) -> Result<String, Malformed> {
        let text = std::str::from_utf8(self.bytes(room, what)?)
            .map_err(|_| Malformed::new(format!("{what} is not UTF-8")))?;
        Ok(text.to_owned())
    }

    pub(crate) fn bytes(&mut self, room: u16, what: &str) -> Result<&'a [u8], Malformed> {
        let len = self.u16()?;
        if len > room {
            return Err(Malformed::new(format!(
                "{what} claims {len} bytes of {room}"
            )));
        }
        let (bytes, rest) = self.raw(usize::from(room))?.split_at(usize::from(len));
        zero(rest, what)?;
        Ok(bytes)
    }

    pub(crate) fn address(&mut self, what: &str) -> Result<IpAddr, Malformed> {
        let family = self.u8()?;
        let bytes: [u8; 16] = self.array()?;
        match family {
            4 => {
                let [a, b, c, d, rest @ ..] = bytes;
                zero(&rest, what)?;
                Ok(Ipv4Addr::new(a, b, c, d).into())
            }
            6 => Ok(Ipv6Addr::from(bytes).into()),
            other => Err(Malformed::new(format!(
                "{what} is of family {other}, neither 4 nor 6"
            ))),
        }
    }

    pub(crate) fn duration(&mut self) -> Result<Duration, Malformed> {
        let millis = self.u64()?;
        Ok(if millis == u64::MAX {
            NO_DEADLINE
        } else {
            Duration::from_millis(millis)
        })
    }

    /// The rest must be zero.
    pub(crate) fn padding(self, what: &str) -> Result<(), Malformed> {
        zero(self.bytes, what)
    }
}

fn zero(bytes: &[u8], what: &str) -> Result<(), Malformed> {
    if bytes.iter().all(|byte| *byte == 0) {
        Ok(())
    } else {
        Err(Malformed::new(format!(
            "{what} has bytes that mean nothing and are not zero"
        )))
    }
}
