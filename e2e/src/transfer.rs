//! Data through weir that must arrive as it was sent: TCP both ways at once and UDP echoes of every awkward length.
//! The kernels at both ends check every checksum; what they refuse shows in [`crate::lab::Lab::checksum_errors`].

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::namespace::Namespace;
use crate::{Failure, Result, ensure, sockets};

/// Bytes without a short period (xorshift64*), so that a swapped or repeated segment cannot look right.
pub fn pattern(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()[7]
    })
}

/// Servers on threads, ended when dropped.
pub struct Echo {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// No server yet.
    pub fn new() -> Self {
        Self {
            stop: Arc::default(),
            served: Arc::default(),
            threads: Vec::new(),
        }
    }

    /// Datagrams and connections served so far, by all servers of this echo.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Sends every datagram back to where it came from.
    pub fn udp(&mut self, socket: UdpSocket) -> Result {
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (stop, served) = (Arc::clone(&self.stop), Arc::clone(&self.served));
        self.threads.push(std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    served.fetch_add(1, Ordering::Relaxed);
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        }));
        Ok(())
    }

    /// Sends every byte of every connection back, after a greeting.
    pub fn tcp(&mut self, listener: TcpListener, greeting: &'static str) -> Result {
        listener.set_nonblocking(true)?;
        let (stop, served) = (Arc::clone(&self.stop), Arc::clone(&self.served));
        self.threads.push(std::thread::spawn(move || {
            let mut connections: Vec<(TcpStream, JoinHandle<()>)> = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                if let Ok((stream, _)) = listener.accept() {
                    served.fetch_add(1, Ordering::Relaxed);
                    let Ok(handle) = stream.try_clone() else {
                        continue;
                    };
                    let thread = std::thread::spawn(move || echo_stream(stream, greeting));
                    connections.push((handle, thread));
                } else {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            for (stream, thread) in connections {
                let _ = stream.shutdown(Shutdown::Both);
                let _ = thread.join();
            }
        }));
        Ok(())
    }
}

impl Default for Echo {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn echo_stream(mut stream: TcpStream, greeting: &str) {
    let mut buffer = vec![0; 65_536];
    if stream.set_nonblocking(false).is_err()
        || stream.set_nodelay(true).is_err()
        || stream.write_all(greeting.as_bytes()).is_err()
    {
        return;
    }
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || stream.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// A TCP connection to an echo server that is kept open, and the name of the backend that greeted.
pub struct Held {
    stream: TcpStream,
    /// The greeting without its line end.
    pub backend: String,
}

impl Held {
    /// Connects and reads the greeting, a line.
    pub fn open(client: &Namespace, to: SocketAddr) -> Result<Self> {
        let mut stream = sockets::connect(client, to)?;
        let (mut backend, mut byte) = (String::new(), [0]);
        while backend.len() < 64 {
            stream.read_exact(&mut byte)?;
            if byte == *b"\n" {
                return Ok(Self { stream, backend });
            }
            backend.push(char::from(byte[0]));
        }
        Err(Failure::new(format!("no greeting but {backend:?}")))
    }

    /// Whether a line sent over it comes back within `limit`.
    pub fn echoes(&mut self, limit: Duration) -> bool {
        let mut back = [0; 5];
        self.stream.set_read_timeout(Some(limit)).is_ok()
            && self.stream.write_all(b"hello").is_ok()
            && self.stream.read_exact(&mut back).is_ok()
            && back == *b"hello"
    }
}

/// Sends `length` bytes through a connection to an echo server while reading them back; they must be the same.
pub fn tcp_round_trip(stream: &TcpStream, length: usize, seed: u64) -> Result {
    let sent: Vec<u8> = pattern(seed).take(length).collect();
    let mut back = Vec::with_capacity(length);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> std::io::Result<()> {
            let mut half = stream;
            half.write_all(&sent)?;
            stream.shutdown(Shutdown::Write)
        });
        let mut half = stream;
        let read = half.read_to_end(&mut back);
        writer
            .join()
            .map_err(|_| Failure::new("the writing thread panicked"))??;
        read.map(drop).map_err(Failure::from)
    })?;
    ensure!(
        back.len() == length,
        "sent {length} bytes, {} came back",
        back.len()
    );
    ensure!(
        back == sent,
        "the {length} bytes that came back are not those that were sent"
    );
    Ok(())
}

/// Sends datagrams of the given payload lengths to an echo server one at a time; each must come back as it was, from
/// the address it was sent to.
pub fn udp_round_trips(
    socket: &UdpSocket,
    to: SocketAddr,
    lengths: impl IntoIterator<Item = usize>,
) -> Result {
    let mut buffer = vec![0; 65_536];
    for length in lengths {
        let sent: Vec<u8> = pattern(length as u64).take(length).collect();
        socket.send_to(&sent, to)?;
        let (got, from) = socket.recv_from(&mut buffer).map_err(|error| {
            Failure::new(format!(
                "no answer to a datagram of {length} bytes: {error}"
            ))
        })?;
        ensure!(from == to, "the answer to {to} came from {from}");
        ensure!(
            buffer[..got] == sent[..],
            "a datagram of {length} bytes came back with {got}, or changed"
        );
    }
    Ok(())
}
