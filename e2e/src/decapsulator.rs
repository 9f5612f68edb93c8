//! The backend's end of an IPIP tunnel in a few lines, for machines whose kernel has no tunnels: what comes encapsulated
//! loses its outer header and is handed to the namespace's own stack.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::Result;
use crate::namespace::Namespace;

/// IPv4 in IPv4 (RFC 2003).
const IPIP: i32 = 4;
/// "Raw", the protocol of packets that come with their header.
const RAW: i32 = 255;
/// An IPv4 header without options.
const HEADER: usize = 20;

/// A running decapsulator; it ends when dropped.
pub struct Decapsulator {
    stop: Arc<AtomicBool>,
    packets: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Decapsulator {
    /// Starts one in a namespace, for packets to any of its addresses whose inner destination is local there.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let (mut outer, inner) = namespace.run(|| {
            let outer = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPIP)))?;
            outer.set_recv_buffer_size(1 << 22)?;
            outer.set_read_timeout(Some(Duration::from_millis(100)))?;
            let inner = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))?;
            inner.set_header_included_v4(true)?;
            Ok::<_, std::io::Error>((outer, inner))
        })??;
        let (stop, packets) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&packets));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                // A time-out: look whether it is over.
                let Ok(length) = outer.read(&mut buffer) else {
                    continue;
                };
                let Some(packet) = buffer.get(HEADER..length) else {
                    continue;
                };
                let Some(&[a, b, c, d]) = packet.get(16..HEADER) else {
                    continue;
                };
                let to = SocketAddr::from((Ipv4Addr::new(a, b, c, d), 0));
                if inner.send_to(packet, &to.into()).is_ok() {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Self {
            stop,
            packets,
            thread: Some(thread),
        })
    }

    /// Packets that were taken out of the tunnel so far.
    pub fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }
}

impl Drop for Decapsulator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
