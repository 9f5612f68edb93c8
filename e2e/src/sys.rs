//! Two system calls that no safe wrapper offers: opening a TAP or TUN device and turning off UDP checksums.
// Raw `ioctl` and `setsockopt` are `unsafe`; both calls are confined to this file and pass only owned, sized data.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// Opens a TAP device named `name` in the calling thread's network namespace; reads and writes are whole frames, and
/// do not block.
pub(crate) fn open_tap(name: &str) -> io::Result<File> {
    open(name, libc::IFF_TAP)
}

/// The same of a TUN device, whose reads and writes are whole IP packets.
pub(crate) fn open_tun(name: &str) -> io::Result<File> {
    open(name, libc::IFF_TUN)
}

fn open(name: &str, kind: libc::c_int) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let bytes = name.as_bytes();
    if bytes.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "interface name too long",
        ));
    }
    // SAFETY: an all-zero `ifreq` is a valid value of that plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(kind | libc::IFF_NO_PI).map_err(io::Error::other)?;
    // SAFETY: TUNSETIFF reads one `ifreq`, which lives on this stack frame for the whole call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(file)
    }
}

/// Makes an IPv4 UDP socket send its datagrams with a zero checksum, which means "none" (RFC 768).
pub(crate) fn send_without_checksum(socket: &UdpSocket) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the option value is one `c_int` on this stack frame, and its size is passed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const on).cast(),
            length,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
