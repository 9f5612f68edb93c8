//! A TAP interface: whole Ethernet frames between this process and the kernel's network stack.
//!
//! Made for the process and gone with it: closing the file takes the interface away. Reads and
//! writes never block. The kernel gets plain frames (no offloads are announced), so that what it
//! sends can leave by any NIC as it is.
//!
//! Read first: the kernel's `Documentation/networking/tuntap.rst`, rtnetlink(7).
// `ioctl`, `socket` and `if_nametoindex` have no safe wrapper in the standard library.
#![allow(unsafe_code)]

mod netlink;

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use netlink::Request;

/// Where TAP interfaces are made.
const DEVICE: &str = "/dev/net/tun";

/// What an interface is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapConfig {
    /// Its name, 15 bytes at most.
    pub name: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU in bytes.
    pub mtu: u16,
    /// Its addresses, each with its network's prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// Why an interface cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel gives no TAP interface at all.
    #[error("{DEVICE}: {0}; the kernel's TUN driver and CAP_NET_ADMIN are needed")]
    Device(io::Error),
    /// The name cannot be had.
    #[error("TAP interface {name}: {source}; is there an interface of this name already?")]
    Name {
        /// The name.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// The interface cannot be set up.
    #[error("TAP interface {name}: {what}: {source}")]
    Setting {
        /// The interface.
        name: String,
        /// What could not be set.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

/// A TAP interface. Dropping it takes the interface away.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Makes an interface that was not there, sets it up and brings it up.
    ///
    /// # Errors
    /// What the kernel refuses, and why.
    pub fn open(config: &TapConfig) -> Result<Self, TapError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .map_err(TapError::Device)?;
        attach(&file, &config.name).map_err(|source| TapError::Name {
            name: config.name.clone(),
            source,
        })?;
        let tap = Self {
            file,
            name: config.name.clone(),
        };
        tap.set_up(config)?;
        Ok(tap)
    }

    fn set_up(&self, config: &TapConfig) -> Result<(), TapError> {
        let failed = |what: String, source| TapError::Setting {
            name: self.name.clone(),
            what,
            source,
        };
        let index = index_of(&self.name).map_err(|error| failed("its number".into(), error))?;
        let mut socket = route_socket().map_err(|error| failed("rtnetlink".into(), error))?;
        let mut ask = |request: Request, what: &str| {
            request
                .send(&mut socket)
                .map_err(|source| failed(what.to_owned(), source))
        };
        ask(
            Request::hardware(index, config.mac, config.mtu),
            "MAC and MTU",
        )?;
        if config
            .addresses
            .iter()
            .any(|(address, _)| address.is_ipv6())
        {
            // Asked for by address, whatever the default for new interfaces is.
            let path = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", self.name);
            let _ = std::fs::write(path, "0");
        }
        // The link-local address is among those given. A kernel without IPv6 makes none anyway.
        let _ = ask(Request::no_generated_address(index), "address generation");
        ask(Request::up(index), "up")?;
        for (address, prefix) in &config.addresses {
            let what = format!("address {address}/{prefix}");
            ask(Request::address(index, *address, *prefix), &what)?;
        }
        Ok(())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes a frame that the kernel sent into `buffer` and gives its length; `None` when there is
    /// none. Never blocks.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        // An interface that was set down or taken away gives nothing.
        self.file.read(buffer).ok().filter(|length| *length > 0)
    }

    /// Hands a frame to the kernel; whether it took it. Never blocks.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        self.file.write(frame).is_ok()
    }
}

/// Makes `file` the end of a new interface.
fn attach(file: &File, name: &str) -> io::Result<()> {
    /// Refuses an interface that is there already; `libc` does not have it.
    const IFF_TUN_EXCL: libc::c_int = 0x8000;
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: an all-zero `ifreq` is a valid value of that plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // The field is a signed short whose bits are the flags.
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | IFF_TUN_EXCL) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives on this stack frame for the whole
    // call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn index_of(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: the pointer is to a string with its terminating zero, which outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// A socket to the kernel's routing tables. It reads and writes like a file, a message at a time.
fn route_socket() -> io::Result<File> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: takes no pointer.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and nobody else has it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(socket) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_interface_can_have_is_refused_before_the_kernel_is_asked() {
        let file = File::open("/dev/null").unwrap();
        for name in ["", "a234567890123456"] {
            assert_eq!(
                attach(&file, name).unwrap_err().kind(),
                io::ErrorKind::InvalidInput
            );
        }
    }
}
