//! Data through weir that must arrive as it was sent: TCP both ways at once and UDP echoes of every awkward length.
//! The kernels at both ends check every checksum; what they refuse shows in [`crate::lab::Lab::checksum_errors`].

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Failure, Result, ensure};

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

    /// Sends every byte of every connection back.
    pub fn tcp(&mut self, listener: TcpListener) -> Result {
        listener.set_nonblocking(true)?;
        let (stop, served) = (Arc::clone(&self.stop), Arc::clone(&self.served));
        self.threads.push(std::thread::spawn(move || {
            let mut connections = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                if let Ok((stream, _)) = listener.accept() {
                    served.fetch_add(1, Ordering::Relaxed);
                    connections.push(std::thread::spawn(move || echo_stream(stream)));
                } else {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            for connection in connections {
                let _ = connection.join();
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

fn echo_stream(mut stream: TcpStream) {
    let mut buffer = vec![0; 65_536];
    if stream.set_nonblocking(false).is_err()
        || stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .is_err()
    {
        return;
    }
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || stream.write_all(&buffer[..length]).is_err() {
            break;
        }
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
