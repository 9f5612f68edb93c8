//! What becomes of packets when no backend is up, and of pings, where the VIP is a prefix, a range of ports,
//! any port or any protocol, through `weir replay`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

#[path = "support/play.rs"]
mod play;
mod support;

use etherparse::{IpNumber, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use play::{Play, Played};
use support::bases::{BACKEND_MAC, ONE_PORT};
use support::icmp::ping;
use support::{CLIENT_MAC, Transport, WEIR_MAC, frame};

/// A form of VIP that packets to 198.51.100.10:8080, or 2001:db8:f::10, match.
#[derive(Debug, Clone, Copy)]
struct Form {
    v6: bool,
    is_prefix: bool,
    port: &'static str,
    protocol: &'static str,
}

fn forms() -> Vec<Form> {
    let mut all = Vec::new();
    for v6 in [false, true] {
        for is_prefix in [false, true] {
            for (port, protocol) in [
                ("8080", "tcp"),
                ("8000-8100", "tcp"),
                ("8000-8100", "udp"),
                ("any", "tcp"),
                ("any", "udp"),
                ("any", "any"),
            ] {
                all.push(Form {
                    v6,
                    is_prefix,
                    port,
                    protocol,
                });
            }
        }
    }
    all
}

impl Form {
    /// The address that is asked for.
    const fn asked(self) -> &'static str {
        if self.v6 {
            "2001:db8:f::10"
        } else {
            "198.51.100.10"
        }
    }

    fn config(self, mode: &str, keys: &str) -> String {
        let vip = match (self.v6, self.is_prefix) {
            (false, false) => "198.51.100.10",
            (false, true) => "198.51.100.0/28",
            (true, false) => "2001:db8:f::10",
            (true, true) => "2001:db8:f::/64",
        };
        let backend = if self.v6 {
            "2001:db8:1::11"
        } else {
            "10.0.0.11"
        };
        let pool = if mode == "full-nat" {
            "snat_pool = [\"10.0.0.5\", \"2001:db8:1::5\"]\n"
        } else {
            ""
        };
        let (port, protocol) = (self.port, self.protocol);
        format!(
            "{ONE_PORT}[[service]]\nname = \"web\"\ntable_size = 13\nvip = \"{vip}\"\nport = \"{port}\"\n\
             protocol = \"{protocol}\"\nforwarding = \"{mode}\"\n{pool}{keys}\n\
             [[service.backend]]\naddress = \"{backend}\"\n"
        )
    }

    /// The backend, as commands name it.
    fn backend(self) -> &'static str {
        match (self.v6, self.port) {
            (false, "8080") => "10.0.0.11:8080",
            (false, _) => "10.0.0.11",
            (true, "8080") => "[2001:db8:1::11]:8080",
            (true, _) => "2001:db8:1::11",
        }
    }

    /// Modes that go with this form.
    fn modes(self) -> impl Iterator<Item = &'static str> {
        let modes = ["dsr-l2", "dsr-gue", "nat", "full-nat"];
        modes.into_iter().filter(move |mode| match *mode {
            "nat" => !self.is_prefix,
            "full-nat" => self.protocol != "any",
            _ => true,
        })
    }

    fn packets(self) -> Vec<(&'static str, Vec<u8>)> {
        let asked = self.asked();
        let (client, vip) = if self.v6 {
            ("[2001:db8:c::5]:1000", format!("[{asked}]:8080"))
        } else {
            ("203.0.113.5:1000", format!("{asked}:8080"))
        };
        let mut packets = Vec::new();
        if self.protocol != "udp" {
            packets.push(("tcp", frame(client, &vip, Transport::Syn).build()));
        }
        if self.protocol != "tcp" {
            packets.push(("udp", frame(client, &vip, Transport::Udp).build()));
        }
        if self.protocol == "any" {
            packets.push((
                "gre",
                self.alone(IpNumber::GRE, b"\0\0\x08\0an inner packet"),
            ));
        }
        packets
    }

    fn alone(self, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        let link = PacketBuilder::ethernet2(CLIENT_MAC, WEIR_MAC);
        let mut bytes = Vec::new();
        if self.v6 {
            let [client, vip] = ["2001:db8:c::5", self.asked()]
                .map(|text| text.parse::<std::net::Ipv6Addr>().unwrap().octets());
            let ip = link.ipv6(client, vip, 64);
            ip.write(&mut bytes, protocol, payload).unwrap();
        } else {
            let ip = link.ipv4([203, 0, 113, 5], [198, 51, 100, 10], 64);
            ip.write(&mut bytes, protocol, payload).unwrap();
        }
        bytes
    }

    fn ping(self) -> Vec<u8> {
        ping(self.v6, self.asked())
    }
}

/// Plays a command, and a packet behind it.
fn after(config: &str, line: &str, packet: Vec<u8>) -> Played {
    let mut play = Play::new(config);
    let nobodys = frame("192.0.2.9:9", "192.0.2.255:9", Transport::Udp);
    play.frame(0, nobodys.build())
        .command(5.0, line)
        .frame(10, packet);
    play.run()
}

/// That what came back is from the address that was asked: a reset, or "unreachable".
fn assert_refused(played: &Played, form: Form, protocol: &str, case: &str) {
    let [answer] = &played.frames[..] else {
        panic!("{case}: {} frames, {}", played.frames.len(), played.report)
    };
    assert_eq!(answer[..6], CLIENT_MAC, "{case}");
    let packet = SlicedPacket::from_ethernet(answer).unwrap();
    let source = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => ip.header().source_addr().to_string(),
        NetSlice::Ipv6(ip) => ip.header().source_addr().to_string(),
        other => panic!("{case}: {other:?}"),
    };
    assert_eq!(source, form.asked(), "{case}");
    let found = match packet.transport.as_ref().unwrap() {
        TransportSlice::Tcp(tcp) => {
            assert!(
                tcp.rst() && tcp.ack() && tcp.source_port() == 8080,
                "{case}"
            );
            ("tcp", 0, 0)
        }
        TransportSlice::Icmpv4(icmp) => ("icmp", icmp.type_u8(), icmp.code_u8()),
        TransportSlice::Icmpv6(icmp) => ("icmp", icmp.type_u8(), icmp.code_u8()),
        TransportSlice::Udp(_) => panic!("{case}: a datagram"),
    };
    let expected = match (protocol, form.v6) {
        ("tcp", _) => ("tcp", 0, 0),
        // Nobody listens at the port; or, where there are no ports, nobody is there.
        ("udp", false) => ("icmp", 3, 3),
        ("udp", true) => ("icmp", 1, 4),
        (_, false) => ("icmp", 3, 1),
        (_, true) => ("icmp", 1, 3),
    };
    assert_eq!(found, expected, "{case}");
}

#[test]
fn with_all_backends_down_every_form_forwards_drops_or_refuses() {
    for form in forms() {
        for mode in form.modes() {
            for policy in ["forward", "drop", "reset"] {
                let config = form.config(mode, &format!("all_down = \"{policy}\""));
                let down = format!("backend force web {} down", form.backend());
                for (protocol, packet) in form.packets() {
                    let case = format!("{form:?} {mode} {protocol} {policy}");
                    let played = after(&config, &down, packet);
                    match policy {
                        "forward" => {
                            let [sent] = &played.frames[..] else {
                                panic!("{case}: {}", played.report)
                            };
                            assert_eq!(sent[..6], BACKEND_MAC, "{case}");
                        }
                        "drop" => {
                            assert!(played.frames.is_empty(), "{case}");
                            assert_eq!(played.dropped("all_down"), 1, "{case}");
                        }
                        _ => assert_refused(&played, form, protocol, &case),
                    }
                }
            }
        }
    }
}

#[test]
fn backends_taken_out_by_hand_are_no_fall_back_for_any_form() {
    for form in forms() {
        let config = form.config("dsr-l2", "all_down = \"forward\"");
        let line = format!("backend disable web {}", form.backend());
        for (protocol, packet) in form.packets() {
            let played = after(&config, &line, packet);
            assert!(played.frames.is_empty(), "{form:?} {protocol}");
            assert_eq!(played.dropped("no_backend"), 1, "{form:?} {protocol}");
        }
    }
}

#[test]
fn a_ping_to_any_address_of_a_vip_is_answered_forwarded_or_dropped_whatever_its_form() {
    for form in forms() {
        for mode in form.modes() {
            for policy in ["answer", "forward", "drop"] {
                if policy == "forward" && !mode.starts_with("dsr-") {
                    continue; // Refused by the configuration.
                }
                let case = format!("{form:?} {mode} {policy}");
                let config = form.config(mode, &format!("ping = \"{policy}\""));
                // Whatever the pool's health.
                let down = format!("backend force web {} down", form.backend());
                let played = after(&config, &down, form.ping());
                match (policy, &played.frames[..]) {
                    ("answer", [answer]) => {
                        assert_eq!(answer[..6], CLIENT_MAC, "{case}");
                        let asked = form.ping();
                        let (source, destination) = if form.v6 {
                            (22..38, 38..54)
                        } else {
                            (26..30, 30..34)
                        };
                        assert_eq!(answer[source], asked[destination], "{case}");
                        let kind = if form.v6 { (54, 129) } else { (34, 0) };
                        assert_eq!(answer[kind.0], kind.1, "{case}");
                    }
                    ("forward", [sent]) => {
                        assert_eq!(sent[..6], BACKEND_MAC, "{case}");
                        let ping = form.ping();
                        let inner = &ping[if form.v6 { 58 } else { 38 }..];
                        assert!(sent.ends_with(inner), "{case}");
                    }
                    // And the frame that is nobody's.
                    ("drop", []) => assert_eq!(played.report["packets"]["dropped"], 2, "{case}"),
                    (_, frames) => panic!("{case}: {} frames, {}", frames.len(), played.report),
                }
            }
        }
    }
}
