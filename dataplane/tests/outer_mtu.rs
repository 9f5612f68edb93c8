//! Routers between weir and a tunnel's backend say how large an outer packet may be: from then on, what
//! would not fit is cut or refused before it is put into one, until the path is tried again.
//!
//! Frames and errors are built by etherparse and judged by smoltcp and etherparse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::net::{IpAddr, SocketAddr};

use etherparse::{LaxPacketHeaders, NetHeaders};
use smoltcp::wire::Ipv4Packet;
use support::icmp::{error_about, size, told, too_large};
use support::rig::Rig;
use support::{CLIENT_MAC, Frame, Transport, frame};

const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
const SECOND: u64 = 1_000_000_000;
const TUNNELS: [(&str, &str); 6] = [
    ("dsr-ipip", ""),
    ("dsr-gue", "gue_variant = 0"),
    ("dsr-gue", "gue_variant = 1"),
    ("dsr-gre", ""),
    ("dsr-gre", "gre_key = 7"),
    ("dsr-geneve", ""),
];

/// A tunnel between families.
#[derive(Debug, Clone, Copy)]
struct Tunnel {
    mode: &'static str,
    keys: &'static str,
    inner_v6: bool,
    outer_v6: bool,
}

fn all() -> impl Iterator<Item = Tunnel> {
    let families = [(false, false), (false, true), (true, false), (true, true)];
    TUNNELS.into_iter().flat_map(move |(mode, keys)| {
        families
            .into_iter()
            .map(move |(inner_v6, outer_v6)| Tunnel {
                mode,
                keys,
                inner_v6,
                outer_v6,
            })
    })
}

impl Tunnel {
    fn rig(self, more: &str) -> Rig {
        let (vip, backend) = (self.vip().ip(), self.backend());
        Rig::new(&format!(
            r#"
[[port]]
name = "wan"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.2/24", "10.0.0.1/24", "2001:db8::2/64", "2001:db8:a::1/64"]
[[route]]
to = "0.0.0.0/0"
via = "192.0.2.1"
[[route]]
to = "::/0"
via = "2001:db8::1"
[[neighbor]]
address = "{backend}"
mac = "02:00:00:00:00:0b"
[[service]]
name = "web"
vip = "{vip}"
port = 80
protocol = "udp"
forwarding = "{}"
table_size = 13
{}
{more}
[[service.backend]]
address = "{backend}"
"#,
            self.mode, self.keys
        ))
    }

    fn vip(self) -> SocketAddr {
        let text = if self.inner_v6 {
            "[2001:db8:f::10]:80"
        } else {
            "198.51.100.10:80"
        };
        text.parse().unwrap()
    }

    fn backend(self) -> IpAddr {
        let text = if self.outer_v6 {
            "2001:db8:a::11"
        } else {
            "10.0.0.11"
        };
        text.parse().unwrap()
    }

    /// A router on the way to the backend.
    fn router(self) -> IpAddr {
        let text = if self.outer_v6 {
            "2001:db8:a::99"
        } else {
            "10.0.0.99"
        };
        text.parse().unwrap()
    }

    /// A client's packet of so many bytes with its IP header.
    fn packet(self, length: usize) -> Frame {
        let client = if self.inner_v6 {
            "[2001:db8:c::7]:4000"
        } else {
            "203.0.113.7:4000"
        };
        let header = if self.inner_v6 { 48 } else { 28 };
        let packet = Frame {
            source: client.parse().unwrap(),
            destination: self.vip(),
            ..frame("1.1.1.1:1", "1.1.1.1:1", Transport::Udp)
        };
        packet.payload(&vec![7; length - header])
    }

    /// What its headers take.
    fn overhead(self, rig: &mut Rig) -> usize {
        rig.play(0, &self.packet(200).build())[0].1.len() - 14 - 200
    }

    /// The error of a router about an outer packet.
    fn error(self, outer: &[u8], mtu: u16) -> Vec<u8> {
        let said = too_large(self.outer_v6, mtu);
        error_about(outer, self.router(), BACKEND_MAC, 8, said)
    }
}

#[test]
fn what_a_router_says_of_outer_packets_is_told_to_clients_until_it_is_old() {
    for tunnel in all() {
        let mut rig = tunnel.rig("");
        let overhead = tunnel.overhead(&mut rig);
        let largest = tunnel.packet(1500 - overhead).build();
        let outer = rig.play(0, &largest).remove(0).1;
        assert_eq!(outer.len(), 1514);
        assert!(rig.play(0, &tunnel.error(&outer, 1400)).is_empty());

        let sent = rig.play(0, &largest);
        assert_eq!(
            (sent.len(), &sent[0].1[..6]),
            (1, &CLIENT_MAC[..]),
            "{tunnel:?}"
        );
        let (kind, code, rest) = too_large(tunnel.inner_v6, 1400 - overhead as u16);
        let told = told(&sent[0].1);
        assert_eq!((told.kind, told.rest), ((kind, code), size(rest)));
        assert_eq!(told.from, tunnel.vip().ip());

        let fits = tunnel.packet(1400 - overhead).build();
        assert_eq!(rig.play(0, &fits)[0].1.len(), 1414);
        if !tunnel.inner_v6 {
            let mut may_be_cut = largest.clone();
            may_be_cut[20..22].fill(0);
            Ipv4Packet::new_unchecked(&mut may_be_cut[14..]).fill_checksum();
            let sent = rig.play(0, &may_be_cut);
            assert_eq!(sent.len(), 2);
            assert!(sent.iter().all(|(_, piece)| piece.len() <= 1414));
        }
        rig.tick(599 * SECOND);
        assert_eq!(rig.play(0, &largest)[0].1[..6], CLIENT_MAC);
        rig.tick(2 * SECOND);
        assert_eq!(
            rig.play(0, &largest)[0].1.len(),
            1514,
            "the path is tried again"
        );
        rig.assert_all_accounted_for();
    }
}

#[test]
fn errors_that_do_not_quote_what_weir_writes_are_not_believed() {
    for tunnel in all() {
        let mut rig = tunnel.rig("");
        let overhead = tunnel.overhead(&mut rig);
        let largest = tunnel.packet(1500 - overhead).build();
        let outer = rig.play(0, &largest).remove(0).1;
        let header = if tunnel.outer_v6 { 40 } else { 20 };
        let protocol = if tunnel.outer_v6 { 20 } else { 23 };
        let mut forged = vec![14 + header - 1, protocol];
        if tunnel.mode == "dsr-gue" || tunnel.mode == "dsr-geneve" {
            // The UDP port.
            forged.push(14 + header + 3);
        }
        for at in forged {
            let mut other = outer.clone();
            other[at] ^= 1;
            rig.play(0, &tunnel.error(&other, 1400));
        }
        let mut damaged = tunnel.error(&outer, 1400);
        *damaged.last_mut().unwrap() ^= 1;
        rig.play(0, &damaged);
        // What only says that nobody listens says nothing of sizes.
        let (kind, code) = if tunnel.outer_v6 { (1, 4) } else { (3, 3) };
        let other = (kind, code, [0, 0, 5, 0]);
        rig.play(
            0,
            &error_about(&outer, tunnel.router(), BACKEND_MAC, 8, other),
        );
        assert_eq!(rig.play(0, &largest)[0].1.len(), 1514, "{tunnel:?}");
        rig.assert_all_accounted_for();
    }
}

#[test]
fn the_least_packets_of_a_family_pass_whatever_routers_say() {
    for tunnel in all() {
        let mut rig = tunnel.rig("");
        let overhead = tunnel.overhead(&mut rig);
        let outer = rig.play(0, &tunnel.packet(1400).build()).remove(0).1;
        rig.play(0, &tunnel.error(&outer, 100));
        let least = if tunnel.inner_v6 { 1280 } else { 576 };
        let sent = rig.play(0, &tunnel.packet(least).build());
        assert_eq!(sent[0].1.len(), 14 + least + overhead);
        let sent = rig.play(0, &tunnel.packet(least + 1).build());
        assert_eq!(told(&sent[0].1).rest, least as u32, "{tunnel:?}");
    }
}

#[test]
fn an_error_to_an_address_that_only_carries_entropy_is_heard() {
    for (outer_v6, source) in [(false, "10.64.0.0/16"), (true, "2001:db8:64::/64")] {
        let tunnel = Tunnel {
            mode: "dsr-ipip",
            keys: "",
            inner_v6: false,
            outer_v6,
        };
        let mut rig = tunnel.rig(&format!("tunnel_source = \"{source}\""));
        let overhead = tunnel.overhead(&mut rig);
        let largest = tunnel.packet(1500 - overhead).build();
        let outer = rig.play(0, &largest).remove(0).1;
        rig.play(0, &tunnel.error(&outer, 1400));
        assert_eq!(rig.play(0, &largest)[0].1[..6], CLIENT_MAC);
        // Not from an address that the prefix does not have.
        let mut rig = tunnel.rig(&format!("tunnel_source = \"{source}\""));
        let mut other = outer.clone();
        other[if outer_v6 { 29 } else { 27 }] ^= 1;
        rig.play(0, &tunnel.error(&other, 1400));
        assert_eq!(rig.play(0, &largest)[0].1.len(), 1514);
        rig.assert_all_accounted_for();
    }
}

#[test]
fn a_path_is_a_backends_own() {
    let tunnel = all().next().unwrap();
    let mut rig = tunnel.rig("");
    let outer = rig.play(0, &tunnel.packet(1480).build()).remove(0).1;
    rig.play(0, &tunnel.error(&outer, 1400));
    rig.command("backend add web 10.0.0.12:80");
    let mut to = std::collections::BTreeMap::new();
    for port in 1..100u16 {
        let mut packet = tunnel.packet(1480);
        packet.source.set_port(port);
        let sent = rig.play(0, &packet.build());
        // The second backend's MAC is not known: it is asked for, and the packet waits.
        let went = match LaxPacketHeaders::from_ethernet(
            &sent.first().map_or(vec![0; 60], |it| it.1.clone()),
        ) {
            Ok(headers) => match headers.net {
                Some(NetHeaders::Ipv4(header, _)) => header.protocol.0,
                _ => 255,
            },
            Err(_) => 255,
        };
        *to.entry(went).or_insert(0) += 1;
    }
    // Refused with an error, or on the way to the new backend; nobody got too large a packet.
    assert_eq!(to.keys().copied().collect::<Vec<_>>(), [1, 255]);
}
