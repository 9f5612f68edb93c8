//! ICMP errors about what backends behind tunnels answered, in both families of VIPs and backends: each
//! reaches the backend that answered, as it came, whichever worker receives it and whatever has become
//! of the pool.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::net::SocketAddr;

use support::crew::Crew;
use support::icmp::{error_about, told, too_large};
use support::{CLIENT_MAC, Transport, frame};
use weir_shm::counters::DropReason;

const BACKENDS: u8 = 10;
const TUNNELS: [&str; 5] = ["dsr-ipip", "dsr-gue", "dsr-gre", "dsr-geneve", "dsr-gue-0"];

fn address(v6: bool, host: u8) -> String {
    if v6 {
        format!("2001:db8:1::1{host:02}")
    } else {
        format!("10.0.0.1{host:02}")
    }
}

fn vip(v6: bool) -> &'static str {
    if v6 {
        "2001:db8:f::10"
    } else {
        "198.51.100.10"
    }
}

fn config(mode: &str, vip_v6: bool, backend_v6: bool) -> String {
    let mut text = String::from(
        "[engine]\nflows_per_worker = 20000\n\
         [[port]]\nname = \"wan\"\ndevice = \"net_null0\"\nmac = \"02:00:00:00:00:01\"\n\
         addresses = [\"192.0.2.2/24\", \"10.0.0.1/24\", \"2001:db8::2/64\", \"2001:db8:1::1/64\"]\n",
    );
    for (to, via) in [("0.0.0.0/0", "192.0.2.1"), ("::/0", "2001:db8::1")] {
        text += &format!(
            "[[route]]\nto = \"{to}\"\nvia = \"{via}\"\n\
             [[neighbor]]\naddress = \"{via}\"\nmac = \"02:00:00:00:00:fe\"\n"
        );
    }
    let (forwarding, more) = match mode {
        "dsr-gue-0" => ("dsr-gue", "gue_variant = 0\n"),
        mode => (mode, ""),
    };
    let mut backends = String::new();
    for host in 1..=BACKENDS {
        let address = address(backend_v6, host);
        text += &format!(
            "[[neighbor]]\naddress = \"{address}\"\nmac = \"02:00:00:00:01:{host:02x}\"\n"
        );
        backends += &format!("[[service.backend]]\naddress = \"{address}\"\n");
    }
    text + &format!(
        "[[service]]\nname = \"web\"\nvip = \"{}\"\nport = 80\nprotocol = \"tcp\"\n\
         forwarding = \"{forwarding}\"\n{more}{backends}",
        vip(vip_v6)
    )
}

fn errors_reach_their_backend(mode: &str, vip_v6: bool, backend_v6: bool) {
    let case = format!("{mode}, VIP {vip_v6}, backends {backend_v6}");
    let mut crew = Crew::new(&config(mode, vip_v6, backend_v6), 3);
    let to = SocketAddr::new(vip(vip_v6).parse().unwrap(), 80).to_string();
    for flow in 0..40u16 {
        let from = if vip_v6 {
            format!("[2001:db8:c::{flow}]:4000")
        } else {
            format!("203.0.113.{flow}:4000")
        };
        let mut packet = frame(&from, &to, Transport::Syn);
        crew.play(flow % 3, &packet.build());
        packet.transport = Transport::Ack;
        let backend = crew.play(flow % 3, &packet.build()).remove(0)[5];
        if flow < u16::from(BACKENDS) - 2 {
            // The scheduler alone would lead somewhere else from now on.
            let name = match backend_v6 {
                true => format!("[{}]:80", address(true, backend)),
                false => format!("{}:80", address(false, backend)),
            };
            crew.command(&format!("backend drain web {name}"));
        }
        // What the backend answered, directly, and a router on the way has to say of it.
        let answer = frame(&to, &from, Transport::Ack).payload(&[7; 1_300]);
        let router = match vip_v6 {
            true => "2001:db8:77::1".parse().unwrap(),
            false => "192.0.2.177".parse().unwrap(),
        };
        let kind = too_large(vip_v6, 1_290);
        let error = error_about(&answer.build(), router, CLIENT_MAC, 64, kind);
        told(&error);
        for worker in 0..3 {
            let sent = crew.play(worker, &error);
            assert_eq!(sent.len(), 1, "{case}: flow {flow}");
            assert_eq!(sent[0][5], backend, "{case}: flow {flow}, worker {worker}");
            assert!(sent[0].ends_with(&error[14..]), "{case}: as it came");
            let outer = if backend_v6 {
                [0x86, 0xdd]
            } else {
                [0x08, 0x00]
            };
            assert_eq!(sent[0][12..14], outer, "{case}");
        }
    }
    for reason in DropReason::ALL {
        assert_eq!(crew.dropped(*reason), 0, "{case}: {reason:?}");
    }
}

#[test]
fn through_tunnels_of_the_vips_family() {
    for mode in TUNNELS {
        errors_reach_their_backend(mode, false, false);
        errors_reach_their_backend(mode, true, true);
    }
}

#[test]
fn through_tunnels_of_the_other_family() {
    for mode in TUNNELS {
        errors_reach_their_backend(mode, false, true);
        errors_reach_their_backend(mode, true, false);
    }
}
