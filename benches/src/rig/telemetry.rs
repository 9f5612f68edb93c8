//! DPDK's telemetry socket: the statistics of another DPDK process, read while it works.
//!
//! Version 2 of the protocol: a socket of sequenced packets, a greeting, then one JSON answer to each
//! command (DPDK programmer's guide, "Telemetry Library").

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recvmsg, send, setsockopt,
    socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::TimeVal;
use serde_json::Value;

use crate::Failure;

/// A conversation with a DPDK process.
pub struct Telemetry {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Telemetry {
    /// Greets the process behind the socket.
    ///
    /// # Errors
    /// When nobody listens there, or says nothing within two seconds.
    pub fn connect(path: &Path) -> Result<Self, Failure> {
        let kind = SockType::SeqPacket;
        let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(2, 0))?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        let mut telemetry = Self {
            socket,
            buffer: vec![0; 1 << 16],
        };
        telemetry.receive()?;
        Ok(telemetry)
    }

    fn receive(&mut self) -> Result<Value, Failure> {
        let mut into = [IoSliceMut::new(&mut self.buffer)];
        let received =
            recvmsg::<UnixAddr>(self.socket.as_raw_fd(), &mut into, None, MsgFlags::empty())?;
        let length = received.bytes;
        Ok(serde_json::from_slice(&self.buffer[..length])?)
    }

    /// Packets that a port has sent so far.
    ///
    /// # Errors
    /// When the process does not answer, or has no such port.
    pub fn sent(&mut self, port: u16) -> Result<u64, Failure> {
        let command = format!("/ethdev/stats,{port}");
        send(
            self.socket.as_raw_fd(),
            command.as_bytes(),
            MsgFlags::empty(),
        )?;
        let answer = self.receive()?;
        let sent = answer["/ethdev/stats"]["opackets"].as_u64();
        sent.ok_or_else(|| format!("no statistics of port {port}: {answer}").into())
    }
}
