//! What the control core costs: `cargo run --release -p weir --example control_core`.
//!
//! - `checks`: 2,000 backends checked by HTTP every 2 s, all of them answering. The time that the
//!   control core works, as a share of one core; the servers' side is not counted.
//! - `apply`: a pool of 1,000 services with 100 backends each, validated and put in force with all
//!   its tables.
//! - `change`: one backend of that pool gets another weight: one table is built.
//! - `health`: one backend of that pool goes down, told by the operator's override.
//!
//! Time is simulated, work is measured.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a measurement that cannot go on ends

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, IpProtocol, IpRepr, Ipv4Packet, TcpControl,
    TcpPacket, TcpRepr, TcpSeqNumber,
};
use weir::config::Config;
use weir::control::{Control, PortFacts};
use weir::flow::{FlowHasher, HashKey};
use weir_engine::buffer::{Buffer, Heap};
use weir_engine::counters::counters;
use weir_engine::wire::ethernet::MacAddr;
use weir_shm::counters as layout;
use weir_shm::model::{Backend, Forwarding, Pool, PortMatch, Protocol, Service};

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

fn config(services: &str) -> Config {
    let text = format!(
        "[[port]]\nname = \"lan\"\ndevice = \"net_null0\"\naddresses = [\"10.0.0.1/8\"]\n\
         mac = \"02:00:00:00:00:01\"\n{services}"
    );
    Config::parse(Path::new("measured.toml"), &text).unwrap_or_else(|error| panic!("{error}"))
}

fn control(config: Config) -> Control<Heap> {
    let facts = vec![PortFacts {
        mac: OWN,
        filter: true,
        mtu: 1500,
    }];
    let (writer, _) = counters(layout::BLOCK).unwrap();
    let hasher = FlowHasher::new(HashKey::REPLAY);
    let (control, _) = Control::new(Arc::new(config), facts, hasher, Heap, writer, 0).unwrap();
    control
}

/// What a server sends back for a frame: to ARP its MAC, to TCP what a web server says.
fn answers(frame: &[u8], out: &mut Vec<Vec<u8>>) {
    let mac = EthernetAddress([4, 0, 0, 0, 0, 9]);
    let ethernet = |kind: [u8; 2], payload: &[u8]| [&OWN.0[..], &mac.0, &kind, payload].concat();
    if frame[12..14] == [8, 6] {
        let asked = ArpRepr::parse(&ArpPacket::new_checked(&frame[14..]).unwrap()).unwrap();
        let ArpRepr::EthernetIpv4 {
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = asked
        else {
            return;
        };
        let answer = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: mac,
            source_protocol_addr: target_protocol_addr,
            target_hardware_addr: source_hardware_addr,
            target_protocol_addr: source_protocol_addr,
        };
        let mut bytes = vec![0; answer.buffer_len()];
        answer.emit(&mut ArpPacket::new_unchecked(&mut bytes));
        out.push(ethernet([8, 6], &bytes));
        return;
    }
    let ip = Ipv4Packet::new_checked(&frame[14..]).unwrap();
    let (from, to) = (IpAddr::from(ip.src_addr()), IpAddr::from(ip.dst_addr()));
    let checksums = ChecksumCapabilities::default();
    let segment = TcpPacket::new_checked(ip.payload()).unwrap();
    let heard = TcpRepr::parse(&segment, &from.into(), &to.into(), &checksums).unwrap();
    let page: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    let mut say = |control, sequence: TcpSeqNumber, payload: &[u8]| {
        let repr = TcpRepr {
            src_port: heard.dst_port,
            dst_port: heard.src_port,
            control,
            seq_number: sequence,
            ack_number: Some(heard.seq_number + heard.segment_len()),
            window_len: 65_000,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload,
        };
        let header = IpRepr::new(
            to.into(),
            from.into(),
            IpProtocol::Tcp,
            repr.buffer_len(),
            64,
        );
        let mut bytes = vec![0; header.buffer_len()];
        header.emit(&mut bytes, &checksums);
        let start = header.header_len();
        let mut packet = TcpPacket::new_unchecked(&mut bytes[start..]);
        repr.emit(&mut packet, &to.into(), &from.into(), &checksums);
        out.push(ethernet([8, 0], &bytes));
    };
    match (heard.control, heard.payload.is_empty()) {
        (TcpControl::Syn, _) => say(TcpControl::Syn, TcpSeqNumber(1000), b""),
        (_, false) => say(TcpControl::Fin, heard.ack_number.unwrap(), page),
        (TcpControl::Fin, true) => say(TcpControl::None, heard.ack_number.unwrap(), b""),
        _ => {}
    }
}

fn checks() {
    const BACKENDS: u32 = 2_000;
    const SECONDS: u64 = 30;
    let mut text = String::from(
        "[[service]]\nname = \"web\"\nvip = \"198.51.100.10\"\nport = 80\nprotocol = \"tcp\"\n\
         forwarding = \"nat\"\n[service.health]\nkind = \"http\"\npath = \"/healthz\"\n\
         interval = \"2s\"\ntimeout = \"1s\"\n",
    );
    for number in 0..BACKENDS {
        let address = Ipv4Addr::from_bits(0x0a01_0000 + number);
        text += &format!("[[service.backend]]\naddress = \"{address}\"\nport = 8080\n");
    }
    let mut control = control(config(&text));
    let mut now = 1_000_000_000;
    control.check_health(now, 1).unwrap();
    let (mut worked, mut busiest, mut burst) = (Duration::ZERO, Duration::ZERO, 0);
    let mut incoming = Vec::new();
    for millisecond in 0..SECONDS * 1_000 {
        now += 1_000_000;
        let started = Instant::now();
        for frame in incoming.drain(..) {
            let frame: Vec<u8> = frame;
            control.punted(now, 0, &frame);
        }
        if control.next_due(now).is_some_and(|due| due <= now) {
            control.tick(now);
        }
        let leaving: Vec<_> = control.take_outgoing().collect();
        control.take_events();
        control.reclaim();
        let took = started.elapsed();
        // The first seconds resolve neighbours and build the table.
        if millisecond >= 5_000 {
            worked += took;
            busiest = busiest.max(took);
            burst = burst.max(leaving.len());
        }
        for frame in leaving {
            answers(frame.frame.data(), &mut incoming);
        }
    }
    let up = control.standings(0).unwrap().healthy;
    let checks = control.checker().details("web", "10.1.0.0:8080").unwrap();
    let share = worked.as_secs_f64() / (SECONDS - 5) as f64 * 100.0;
    println!(
        "checks: {BACKENDS} backends every 2 s by HTTP: {share:.1} % of a core, {:.1} µs a check; \
         at most {burst} frames and {busiest:?} in a millisecond; {}.{} % up, {:?} checks of one",
        worked.as_secs_f64() * 1e6 / (f64::from(BACKENDS) / 2.0 * (SECONDS - 5) as f64),
        up / 10,
        up % 10,
        checks.checks,
    );
}

fn large_pool() -> Pool {
    let mut pool = Pool::default();
    for number in 0..1_000u32 {
        let vip: IpAddr = Ipv4Addr::from_bits(0xc633_6400 + number).into();
        let mut service = Service::new(
            &format!("service-{number}"),
            vip,
            PortMatch::Exact(80),
            Protocol::Tcp,
            Forwarding::Nat,
        );
        service.backends = (0..100)
            .map(|host| {
                let address = Ipv4Addr::from_bits(0x0a00_0100 + number * 128 + host);
                Backend::new(address.into(), 8080)
            })
            .collect();
        pool.services.push(service);
    }
    pool
}

fn pools() {
    let mut control = control(config(""));
    let mut pool = large_pool();
    let mut generation = 1;
    let mut put = |what: &str, pool: &Pool| {
        generation += 1;
        let before = control.book().tables_built();
        let pool = pool.clone();
        let started = Instant::now();
        control.apply(0, generation, pool).unwrap();
        let took = started.elapsed();
        control.reclaim();
        let built = control.book().tables_built() - before;
        println!("{what}: {took:?}, {built} tables built");
    };
    put("apply: 1,000 services with 100 backends each", &pool);
    pool.services[500].backends[7].weight = 2;
    put("change: one weight of it", &pool);
    pool.services[501].backends[7].forced = weir_shm::model::Forced::Down;
    put("health: one backend of it goes down", &pool);
}

fn main() {
    checks();
    pools();
}
