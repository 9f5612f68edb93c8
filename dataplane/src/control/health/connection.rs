//! One TCP connection of one check, over a smoltcp stack of its own.
//!
//! A stack for each connection rather than one for all: what arrives is known to belong to this
//! check by its port, so no other socket has to be looked at, and the cost of a check does not grow
//! with the number of checks. It works on IP packets; whoever owns it adds and removes what is
//! around them.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint};

use crate::control::neighbours::Nanos;

/// Bytes that may wait to be read, and to be sent.
const RECEIVE: usize = 16 * 1024;
const SEND: usize = 4 * 1024;
/// The largest IP packet: what every link carries.
const MTU: usize = 1_500;

/// The connection; see the module's text.
pub struct Connection {
    stack: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    wire: Wire,
    established: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

fn instant(now: Nanos) -> Instant {
    Instant::from_micros(i64::try_from(now / 1_000).unwrap_or(i64::MAX))
}

impl Connection {
    /// Begins to connect; `seed` makes the initial sequence number.
    ///
    /// `None` when the addresses cannot be connected.
    #[must_use]
    pub fn open(now: Nanos, from: SocketAddr, to: SocketAddr, seed: u64) -> Option<Self> {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut stack = Interface::new(config, &mut wire, instant(now));
        let bits = if from.is_ipv4() { 32 } else { 128 };
        stack.update_ip_addrs(|own| {
            // It has room for two.
            let _ = own.push(IpCidr::new(from.ip().into(), bits));
        });
        let mut socket = Socket::new(
            SocketBuffer::new(vec![0; RECEIVE]),
            SocketBuffer::new(vec![0; SEND]),
        );
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        let endpoint = |address: SocketAddr| IpEndpoint::new(address.ip().into(), address.port());
        socket
            .connect(stack.context(), endpoint(to), endpoint(from))
            .ok()?;
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let mut connection = Self {
            stack,
            sockets,
            handle,
            wire,
            established: false,
        };
        connection.poll(now);
        Some(connection)
    }

    /// Lets time pass.
    pub fn poll(&mut self, now: Nanos) {
        self.stack
            .poll(instant(now), &mut self.wire, &mut self.sockets);
        self.established |= self.socket().may_send();
    }

    /// An IP packet came in for it.
    pub fn hear(&mut self, now: Nanos, packet: &[u8]) {
        self.wire.coming.push_back(packet.to_vec());
        self.poll(now);
    }

    /// When time must pass next for it to go on.
    #[must_use]
    pub fn next_due(&mut self, now: Nanos) -> Option<Nanos> {
        let at = self.stack.poll_at(instant(now), &self.sockets)?;
        let micros = u64::try_from(at.total_micros()).unwrap_or(0);
        Some(micros.saturating_mul(1_000).max(now))
    }

    /// IP packets to be sent.
    pub fn outgoing(&mut self) -> std::vec::Drain<'_, Vec<u8>> {
        self.wire.leaving.drain(..)
    }

    fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn state(&self) -> State {
        self.socket().state()
    }

    /// Whether the handshake was ever completed.
    #[must_use]
    pub const fn was_established(&self) -> bool {
        self.established
    }

    /// Whether it is over, at least as far as the peer can tell.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state(), State::Closed | State::TimeWait)
    }

    /// Whether the peer will send no more than what can be read now.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        !self.socket().may_recv()
    }

    /// Sends as much of `bytes` as there is room for; gives how much.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        self.socket_mut().send_slice(bytes).unwrap_or(0)
    }

    /// Reads what came in.
    pub fn receive(&mut self) -> Vec<u8> {
        let socket = self.socket_mut();
        let mut bytes = vec![0; socket.recv_queue()];
        let read = socket.recv_slice(&mut bytes).unwrap_or(0);
        bytes.truncate(read);
        bytes
    }

    /// Ends it in order: the peer gets a FIN behind what was sent.
    pub fn close(&mut self, now: Nanos) {
        self.socket_mut().close();
        self.poll(now);
    }

    /// Ends it at once: the peer gets a RST, if there is anything to reset.
    pub fn abort(&mut self, now: Nanos) {
        self.socket_mut().abort();
        self.poll(now);
    }
}

/// The far end of the stack: packets in both directions.
#[derive(Debug, Default)]
struct Wire {
    coming: VecDeque<Vec<u8>>,
    leaving: Vec<Vec<u8>>,
}

impl Device for Wire {
    type RxToken<'a> = Coming;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Coming, Leaving<'_>)> {
        let packet = self.coming.pop_front()?;
        Some((Coming(packet), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
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
        let mut packet = vec![0; length];
        let result = write(&mut packet);
        self.0.push(packet);
        result
    }
}

/// Whether a check can go from one address to the other.
#[must_use]
pub const fn same_family(from: IpAddr, to: IpAddr) -> bool {
    from.is_ipv4() == to.is_ipv4()
}
