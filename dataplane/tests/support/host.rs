//! A simulated server on a link: a smoltcp host with a MAC of its own, which behaves as it is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

/// What a host that speaks TLS shows; `ca.pem` has it as its own authority.
const CERTIFICATE: &[u8] = include_bytes!("../../../e2e/data/quic.cert.der");
const KEY: &[u8] = include_bytes!("../../../e2e/data/quic.key.der");

/// How a host behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    /// Answers HTTP with this page.
    Serves(&'static str),
    /// The same within TLS.
    ServesTls(&'static str),
    /// Listens on nothing.
    Refuses,
    /// Accepts connections and says nothing.
    Slow,
    /// Hears nothing.
    Dead,
}

pub struct Host {
    pub mac: [u8; 6],
    pub manner: Manner,
    /// Connections that were made to it.
    pub accepted: usize,
    /// Frames that reached it.
    pub heard: usize,
    port: u16,
    stack: Interface,
    sockets: SocketSet<'static>,
    listeners: Vec<SocketHandle>,
    /// The TLS of each listener's connection.
    sessions: Vec<Option<ServerConnection>>,
    link: Link,
}

impl Host {
    pub fn new(mac: [u8; 6], addresses: &[(IpAddr, u8)], port: u16, manner: Manner) -> Self {
        let mut link = Link::default();
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        let mut stack = Interface::new(config, &mut link, Instant::ZERO);
        stack.update_ip_addrs(|own| {
            for (address, bits) in addresses {
                own.push(IpCidr::new((*address).into(), *bits)).unwrap();
            }
        });
        let weir = smoltcp::wire::Ipv4Address::new(10, 0, 0, 1);
        stack.routes_mut().add_default_ipv4_route(weir).unwrap();
        let mut host = Self {
            mac,
            manner,
            accepted: 0,
            heard: 0,
            port,
            stack,
            sockets: SocketSet::new(Vec::new()),
            listeners: Vec::new(),
            sessions: Vec::new(),
            link,
        };
        for _ in 0..8 {
            let buffer = || SocketBuffer::new(vec![0; 4096]);
            host.listeners
                .push(host.sockets.add(Socket::new(buffer(), buffer())));
            host.sessions.push(None);
        }
        host
    }

    /// Takes a frame if it is for this host.
    pub fn hear(&mut self, frame: &[u8]) {
        let broadcast = frame[0] & 1 == 1;
        if self.manner != Manner::Dead && (broadcast || frame[..6] == self.mac) {
            self.heard += 1;
            self.link.coming.push_back(frame.to_vec());
        }
    }

    /// Lets time pass to `now` (nanoseconds); gives what it sends.
    pub fn run(&mut self, now: u64) -> Vec<Vec<u8>> {
        if self.manner == Manner::Dead {
            return Vec::new();
        }
        let instant = Instant::from_micros((now / 1_000) as i64);
        for handle in &self.listeners {
            let socket = self.sockets.get_mut::<Socket<'_>>(*handle);
            let wanted = self.manner != Manner::Refuses;
            if wanted && !socket.is_open() {
                socket.listen(self.port).unwrap();
            } else if !wanted && socket.is_open() {
                socket.abort();
            }
        }
        self.stack.poll(instant, &mut self.link, &mut self.sockets);
        for (handle, session) in self.listeners.iter().zip(&mut self.sessions) {
            let socket = self.sockets.get_mut::<Socket<'_>>(*handle);
            if let Manner::ServesTls(page) = self.manner {
                self.accepted += usize::from(serve_tls(socket, session, page));
            } else if let Manner::Serves(page) = self.manner
                && socket.can_recv()
            {
                let asked = socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap();
                if asked.ends_with(b"\r\n\r\n") {
                    self.accepted += 1;
                    socket.send_slice(answer(page).as_bytes()).unwrap();
                    socket.close();
                }
            } else if socket.state() == State::CloseWait {
                socket.close();
            }
        }
        self.stack.poll(instant, &mut self.link, &mut self.sockets);
        std::mem::take(&mut self.link.leaving)
    }
}

fn answer(page: &str) -> String {
    let length = page.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{page}")
}

/// Goes on with a connection over TLS; whether its request was answered.
fn serve_tls(socket: &mut Socket<'_>, session: &mut Option<ServerConnection>, page: &str) -> bool {
    if socket.state() == State::Listen {
        *session = None;
    }
    let mut answered = false;
    if socket.can_recv() {
        let session = session.get_or_insert_with(|| {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(KEY));
            let chain = vec![CertificateDer::from(CERTIFICATE)];
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .unwrap();
            ServerConnection::new(Arc::new(config)).unwrap()
        });
        let bytes = socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap();
        let _ = session.read_tls(&mut bytes.as_slice());
        // What the peer broke off is over.
        if session.process_new_packets().is_err() {
            socket.close();
            return false;
        }
        let mut asked = Vec::new();
        let _ = session.reader().read_to_end(&mut asked);
        answered = asked.ends_with(b"\r\n\r\n");
        if answered {
            session.writer().write_all(answer(page).as_bytes()).unwrap();
            session.send_close_notify();
        }
        let mut leaving = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut leaving).unwrap();
        }
        // A peer that has gone hears no more.
        let _ = socket.send_slice(&leaving);
    }
    if answered || socket.state() == State::CloseWait {
        socket.close();
    }
    answered
}

#[derive(Default)]
struct Link {
    coming: VecDeque<Vec<u8>>,
    leaving: Vec<Vec<u8>>,
}

impl Device for Link {
    type RxToken<'a> = Coming;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Coming, Leaving<'_>)> {
        let frame = self.coming.pop_front()?;
        Some((Coming(frame), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

struct Coming(Vec<u8>);

impl RxToken for Coming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Leaving<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = vec![0; length];
        let result = write(&mut frame);
        self.0.push(frame);
        result
    }
}
