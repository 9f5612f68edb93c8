//! A TCP host of its own (smoltcp's), with one connection: somebody else's idea of what a segment
//! means.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test
#![allow(dead_code)]

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};

/// IP packets in and out.
#[derive(Default)]
pub struct Wire {
    pub arrived: VecDeque<Vec<u8>>,
    pub leaving: VecDeque<Vec<u8>>,
}

pub struct Arrived(Vec<u8>);
pub struct Leaving<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        let packet = self.arrived.pop_front()?;
        Some((Arrived(packet), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

pub struct Stack {
    pub wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    to_send: Vec<u8>,
    sent: usize,
    pub received: Vec<u8>,
    /// Closes when all is sent and this much has come.
    closes_after: usize,
}

fn endpoint(address: SocketAddr) -> IpEndpoint {
    IpEndpoint::new(IpAddress::from(address.ip()), address.port())
}

impl Stack {
    fn new(own: SocketAddr, gateway: IpAddr, to_send: Vec<u8>, closes_after: usize) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = u64::from(own.port());
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(IpAddress::from(own.ip()), 24))
                .unwrap();
        });
        let routes = interface.routes_mut();
        match gateway {
            IpAddr::V4(gateway) => drop(routes.add_default_ipv4_route(gateway)),
            IpAddr::V6(gateway) => drop(routes.add_default_ipv6_route(gateway)),
        }
        // More than any transfer over a disordered path: smoltcp believes a closed window of a late answer,
        // and does not probe it where all that is left is its FIN.
        let buffer = || tcp::SocketBuffer::new(vec![0; 65_535]);
        let mut sockets = SocketSet::new(Vec::new());
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_ack_delay(None);
        let handle = sockets.add(socket);
        Self {
            wire,
            interface,
            sockets,
            handle,
            to_send,
            sent: 0,
            received: Vec::new(),
            closes_after,
        }
    }

    pub fn client(
        own: SocketAddr,
        gateway: IpAddr,
        server: SocketAddr,
        to_send: Vec<u8>,
        closes_after: usize,
    ) -> Self {
        let mut stack = Self::new(own, gateway, to_send, closes_after);
        let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(stack.handle);
        let context = stack.interface.context();
        socket
            .connect(context, endpoint(server), endpoint(own))
            .unwrap();
        stack
    }

    pub fn server(own: SocketAddr, gateway: IpAddr, to_send: Vec<u8>, closes_after: usize) -> Self {
        let mut stack = Self::new(own, gateway, to_send, closes_after);
        let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(stack.handle);
        socket.listen(own.port()).unwrap();
        stack
    }

    pub fn poll(&mut self, millis: u64) {
        let now = Instant::from_millis(millis.cast_signed());
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        while socket.can_recv() {
            let received = &mut self.received;
            socket
                .recv(|bytes| {
                    received.extend_from_slice(bytes);
                    (bytes.len(), ())
                })
                .unwrap();
        }
        if socket.can_send() && self.sent < self.to_send.len() {
            self.sent += socket.send_slice(&self.to_send[self.sent..]).unwrap();
        }
        // Closing before the handshake is over would be no connection at all.
        let said = self.sent == self.to_send.len() && self.received.len() >= self.closes_after;
        if said && socket.may_send() {
            socket.close();
        }
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }

    pub fn is_done(&mut self) -> bool {
        let state = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle).state();
        matches!(state, tcp::State::Closed | tcp::State::TimeWait)
    }
}
