//! A line for each packet: when, where, from whom to whom, and what became of it.

use std::io::{self, Write};
use std::net::IpAddr;

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use serde_json::{Value, json};
use weir_shm::capture::Record;

use super::comment::Names;
use super::{Show, port_name};

/// Lines on their way to somebody who reads them.
pub(super) struct Lines<'a> {
    pub out: &'a mut dyn Write,
    pub ports: &'a [String],
    /// One JSON object a line.
    pub json: bool,
}

impl Show for Lines<'_> {
    fn packet(&mut self, record: &Record, names: &Names<'_>, data: &[u8]) -> io::Result<()> {
        if self.json {
            let mut picture = serde_json::Map::new();
            picture.insert("time".to_owned(), json!(moment(record.unix_ns)));
            picture.insert("unix_ns".to_owned(), json!(record.unix_ns));
            picture.insert("packet".to_owned(), json!(packet(data)));
            picture.extend(names.json(record, self.ports));
            return writeln!(self.out, "{}", Value::Object(picture));
        }
        let time = moment(record.unix_ns);
        let time = time.split_once('T').map_or(&*time, |(_, time)| time);
        writeln!(
            self.out,
            "{}  {} {:<3}  {}  {} bytes  {}",
            time.trim_end_matches('Z'),
            port_name(self.ports, record.port),
            record.direction.name(),
            packet(data),
            record.length,
            names.comment(record, self.ports),
        )
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A moment in UTC, to the microsecond.
fn moment(unix_ns: u64) -> String {
    let text = crate::output::moment(unix_ns);
    let micros = unix_ns / 1000 % 1000;
    text.replace('Z', &format!("{micros:03}Z"))
}

/// Who says what to whom.
fn packet(data: &[u8]) -> String {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(data) else {
        return "no Ethernet frame".to_owned();
    };
    let (source, destination, number) = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let from = IpAddr::from(header.source_addr());
            let to = IpAddr::from(header.destination_addr());
            (from, to, ip.payload().ip_number)
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let from = IpAddr::from(header.source_addr());
            let to = IpAddr::from(header.destination_addr());
            (from, to, ip.payload().ip_number)
        }
        Some(LaxNetSlice::Arp(_)) => return "ARP".to_owned(),
        None => {
            let kind = data.get(12..14).unwrap_or_default();
            return match kind {
                [a, b] => format!("Ethernet type 0x{a:02x}{b:02x}"),
                _ => "no Ethernet frame".to_owned(),
            };
        }
    };
    let between = |from: u16, to: u16| {
        let from = std::net::SocketAddr::new(source, from);
        let to = std::net::SocketAddr::new(destination, to);
        format!("{from} > {to}")
    };
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags = [
                (tcp.syn(), 'S'),
                (tcp.fin(), 'F'),
                (tcp.rst(), 'R'),
                (tcp.psh(), 'P'),
                (tcp.ack(), '.'),
            ];
            let set: String = flags.iter().filter(|(on, _)| *on).map(|(_, c)| c).collect();
            let ends = between(tcp.source_port(), tcp.destination_port());
            format!("TCP {ends} [{set}]")
        }
        Some(TransportSlice::Udp(udp)) => {
            format!("UDP {}", between(udp.source_port(), udp.destination_port()))
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            format!(
                "ICMP {source} > {destination} type {} code {}",
                icmp.type_u8(),
                icmp.code_u8()
            )
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            format!(
                "ICMPv6 {source} > {destination} type {} code {}",
                icmp.type_u8(),
                icmp.code_u8()
            )
        }
        None => format!("IP {source} > {destination} protocol {}", number.0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::comment::tests::{names, record};
    use super::*;
    use etherparse::PacketBuilder;

    fn lines(json: bool) -> String {
        let ports = ["wan".to_owned(), "lan".to_owned()];
        let mut out = Vec::new();
        let builder = || PacketBuilder::ethernet2([2; 6], [4; 6]);
        let v4 = || builder().ipv4([203, 0, 113, 5], [198, 51, 100, 10], 64);
        let v6 = || builder().ipv6([0x20; 16], [0x30; 16], 64);
        let mut frames: [Vec<u8>; 4] = Default::default();
        let [tcp, udp, icmp, cut] = &mut frames;
        v4().tcp(51234, 80, 1, 1000).syn().write(tcp, &[]).unwrap();
        v6().udp(5000, 53).write(udp, b"question").unwrap();
        v4().icmpv4_echo_request(1, 2).write(icmp, b"ping").unwrap();
        v4().tcp(51234, 80, 1, 1000).write(cut, &[]).unwrap();
        cut.truncate(36);
        let mut shown = Lines {
            out: &mut out,
            ports: &ports,
            json,
        };
        for frame in frames.iter().chain([&vec![0; 5], &vec![0; 60]]) {
            shown.packet(&record(), &names(), frame).unwrap();
        }
        shown.flush().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_says_who_speaks_to_whom() {
        insta::assert_snapshot!("capture-lines", lines(false));
        let json = lines(true);
        let first: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
        insta::assert_snapshot!(
            "capture-line-json",
            serde_json::to_string_pretty(&first).unwrap()
        );
    }
}
