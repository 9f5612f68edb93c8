//! The backend's end of tunnels in a few lines, for machines whose kernel has none: what comes encapsulated loses its
//! outer headers and comes in again by a TUN device, as it would by a tunnel's own. IP in IP (RFC 2003, RFC 2473), GRE
//! (RFC 2784, RFC 2890), GUE in both variants (UDP 6080) and Geneve (RFC 8926), over IPv4 and IPv6.
//!
//! Outer headers are read here anew, without weir's code.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::Namespace;
use crate::{Result, sys};

const IPV4: i32 = 4;
const IPV6: i32 = 41;
const GRE: i32 = 47;
const UDP: i32 = 17;
const GUE_PORT: u16 = 6080;
const GENEVE_PORT: u16 = 6081;
/// The TUN device that packets come in again by.
const DEVICE: &str = "tunnels";

/// A socket for packets of a protocol.
struct Outer {
    socket: Socket,
    protocol: i32,
    /// Whether packets come with their IP header: those of IPv4 do.
    with_header: bool,
}

/// A running decapsulator; it ends when dropped.
pub struct Decapsulator {
    stop: Arc<AtomicBool>,
    packets: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    // Bound, so that the kernel does not call UDP packets of tunnels unreachable, and checks their sums.
    _bound: Vec<UdpSocket>,
}

impl Decapsulator {
    /// Starts one in a namespace, for packets to any of its addresses whose inner destination is local there.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let (outers, bound, inner) = namespace.run(|| {
            let mut outers = Vec::new();
            for (domain, with_header) in [(Domain::IPV4, true), (Domain::IPV6, false)] {
                for protocol in [IPV4, IPV6, GRE, UDP] {
                    let kind = Some(Protocol::from(protocol));
                    let socket = Socket::new(domain, Type::RAW, kind)?;
                    socket.set_recv_buffer_size(1 << 22)?;
                    socket.set_nonblocking(true)?;
                    outers.push(Outer {
                        socket,
                        protocol,
                        with_header,
                    });
                }
            }
            let mut bound = Vec::new();
            for port in [GUE_PORT, GENEVE_PORT] {
                bound.push(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?);
                let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
                socket.set_only_v6(true)?;
                let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
                socket.bind(&any.into())?;
                bound.push(socket.into());
            }
            Ok::<_, std::io::Error>((outers, bound, sys::open_tun(DEVICE)?))
        })??;
        namespace.sysctl(&format!("net.ipv4.conf.{DEVICE}.rp_filter"), "0")?;
        namespace.ip(&format!("link set {DEVICE} mtu 65000 up"))?;
        let (stop, packets) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&packets));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                let mut idle = true;
                for outer in &outers {
                    while let Some(taken) = take(outer, &inner, &mut buffer) {
                        idle = false;
                        counted.fetch_add(u64::from(taken), Ordering::Relaxed);
                    }
                }
                if idle {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        });
        Ok(Self {
            stop,
            packets,
            thread: Some(thread),
            _bound: bound,
        })
    }

    /// Packets that were taken out of tunnels so far.
    pub fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }
}

/// Takes a packet if there is one; says whether it was a tunnel's.
fn take(outer: &Outer, mut inner: &File, buffer: &mut [u8]) -> Option<bool> {
    let length = (&outer.socket).read(buffer).ok()?;
    let packet = buffer.get(..length)?;
    let header = match packet.first() {
        Some(first) if outer.with_header => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    let carried = packet.get(header..).unwrap_or_default();
    let inside = decapsulated(outer.protocol, carried);
    Some(inside.is_some_and(|packet| inner.write(packet).is_ok()))
}

/// What a tunnel carries behind its outer IP header.
fn decapsulated(protocol: i32, carried: &[u8]) -> Option<&[u8]> {
    match protocol {
        IPV4 | IPV6 => Some(carried),
        GRE => {
            // Checksum, key and sequence number take four bytes each where they are there.
            let flags = *carried.first()?;
            let options = [0x80, 0x20, 0x10].iter().filter(|bit| flags & **bit != 0);
            carried.get(4 + 4 * options.count()..)
        }
        _ => {
            let port = u16::from_be_bytes([*carried.get(2)?, *carried.get(3)?]);
            let shim = carried.get(8..)?;
            let first = *shim.first()?;
            match (port, first >> 6) {
                (GUE_PORT, 0) => shim.get(4 + 4 * usize::from(first & 0x1f)..),
                (GUE_PORT, 1) => Some(shim),
                (GENEVE_PORT, 0) => shim.get(8 + 4 * usize::from(first & 0x3f)..),
                _ => None,
            }
        }
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
