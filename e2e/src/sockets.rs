//! Sockets made inside a namespace and used from the test's own threads.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::namespace::Namespace;
use crate::{Result, sys};

/// How long a single read, write or connect may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A UDP socket bound in the namespace.
pub fn udp(namespace: &Namespace, bind: SocketAddr) -> Result<UdpSocket> {
    let socket = namespace.run(|| UdpSocket::bind(bind))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// A TCP listener in the namespace.
pub fn listen(namespace: &Namespace, bind: SocketAddr) -> Result<TcpListener> {
    Ok(namespace.run(|| TcpListener::bind(bind))??)
}

/// A TCP connection made from the namespace.
pub fn connect(namespace: &Namespace, to: SocketAddr) -> Result<TcpStream> {
    let stream = namespace.run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Makes an IPv4 UDP socket send with checksum zero, "none" (RFC 768).
pub fn without_checksum(socket: &UdpSocket) -> Result {
    Ok(sys::send_without_checksum(socket)?)
}
