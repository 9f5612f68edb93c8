//! Frames of many flows, written fast: the shortest there are, all alike but for the client's address
//! and port and the checksums over them.

use weir_engine::buffer::{Buffer, HeapBuffer};
use weir_engine::wire::checksum;

use super::path::BACKENDS;

/// Bytes of an IPv4 frame: 64 with FCS.
pub const FRAME: usize = 60;
/// Bytes of an IPv6 frame: the headers alone are longer than the shortest frame.
const FRAME6: usize = 62;

/// What a flow's packets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UDP over IPv4 from a client to the VIP.
    Udp4,
    /// UDP over IPv6 from a client to the VIP.
    Udp6,
    /// UDP over IPv4 from a backend to a client.
    Return4,
    /// A TCP SYN over IPv4 from a client to the VIP.
    Syn4,
}

/// A kind of packet, with its template.
#[derive(Debug, Clone)]
pub struct Traffic {
    kind: Kind,
    template: Vec<u8>,
    /// The sum over the IPv4 header without what a flow changes.
    constant: u32,
}

impl Traffic {
    /// Frames of a kind.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        let mut template = match kind {
            Kind::Udp6 => udp6(),
            _ => udp4().to_vec(),
        };
        match kind {
            Kind::Udp4 | Kind::Udp6 => {}
            Kind::Return4 => {
                template[26..30].copy_from_slice(&[10, 0, 1, 0]);
                template[34..36].copy_from_slice(&80u16.to_be_bytes());
            }
            Kind::Syn4 => {
                template[23] = 6;
                // Header of 20 bytes, SYN, window.
                template[38..46].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]);
                template[46..50].copy_from_slice(&[0x50, 0x02, 0xff, 0xff]);
            }
        }
        let mut header: Vec<u8> = template[14..34].to_vec();
        header[12..20].fill(0);
        let constant = header
            .chunks_exact(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        Self {
            kind,
            template,
            constant,
        }
    }

    /// A frame of no flow in particular.
    #[must_use]
    pub fn template(&self) -> &[u8] {
        &self.template
    }

    /// Hot: writes a flow's frame over whatever `frame` holds.
    #[inline]
    pub fn write(&self, frame: &mut HeapBuffer, flow: u32) {
        match self.kind {
            Kind::Udp6 => self.write6(frame, flow),
            _ => self.write4(frame, flow),
        }
    }

    #[inline]
    fn write4(&self, frame: &mut HeapBuffer, flow: u32) {
        let (Some(bytes), Some(template)) = (
            frame.data_mut().first_chunk_mut::<FRAME>(),
            self.template.first_chunk::<FRAME>(),
        ) else {
            return;
        };
        *bytes = *template;
        let [a, b, c, d] = flow.to_be_bytes();
        let client = [11 + a, b, c, d];
        let (address, port) = if self.kind == Kind::Return4 {
            bytes[29] = 1 + (flow % u32::from(BACKENDS)) as u8;
            (30, 36)
        } else {
            (26, 34)
        };
        bytes[address..address + 4].copy_from_slice(&client);
        bytes[port..port + 2].copy_from_slice(&[0x40 | (d & 0x3f), c]);
        let words =
            [26, 28, 30, 32].map(|at| u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]])));
        let sum = words.iter().sum::<u32>() + self.constant;
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    }

    #[inline]
    fn write6(&self, frame: &mut HeapBuffer, flow: u32) {
        let (Some(bytes), Some(template)) = (
            frame.data_mut().first_chunk_mut::<FRAME6>(),
            self.template.first_chunk::<FRAME6>(),
        ) else {
            return;
        };
        *bytes = *template;
        let flow = flow.to_be_bytes();
        bytes[34..38].copy_from_slice(&flow);
        bytes[54..56].copy_from_slice(&[0x40 | (flow[3] & 0x3f), flow[2]]);
    }
}

/// Any UDP checksum but none: weir changes it and leaves the checking to who receives it.
const CHECKSUM: [u8; 2] = [0x12, 0x34];

/// A UDP frame over IPv4 to the VIP, port 80, without a source.
#[must_use]
pub fn udp4() -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 0xfe, 8, 0]);
    frame[14..34].copy_from_slice(&[
        0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 198, 51, 100, 10,
    ]);
    frame[36..38].copy_from_slice(&80u16.to_be_bytes());
    frame[38..42].copy_from_slice(&[0, 26, CHECKSUM[0], CHECKSUM[1]]);
    frame
}

/// A UDP frame over IPv6 from 2001:db8:1::/64 to the VIP, port 80.
fn udp6() -> Vec<u8> {
    let mut frame = vec![0; FRAME6];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 0xfe, 0x86, 0xdd]);
    frame[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 8, 17, 64]);
    frame[22..30].copy_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0]);
    frame[38..42].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
    frame[42..54].copy_from_slice(&[0, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]);
    frame[56..58].copy_from_slice(&80u16.to_be_bytes());
    frame[58..62].copy_from_slice(&[0, 8, CHECKSUM[0], CHECKSUM[1]]);
    frame
}

/// Writes a flow's frame from a template of [`udp4`], in a buffer of any kind.
#[inline]
pub fn write_udp4(frame: &mut [u8; FRAME], template: &[u8; FRAME], flow: u32) {
    *frame = *template;
    let [a, b, c, d] = flow.to_be_bytes();
    frame[26..30].copy_from_slice(&[11 + a, b, c, d]);
    frame[34..36].copy_from_slice(&[0x40 | (d & 0x3f), c]);
    let sum = checksum::of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ipv4_checksum_of_every_kind_is_right() {
        for kind in [Kind::Udp4, Kind::Return4, Kind::Syn4] {
            let traffic = Traffic::new(kind);
            let mut frame = HeapBuffer::new(traffic.template());
            for flow in [0, 1, 255, 65_537, 99_999_999] {
                traffic.write(&mut frame, flow);
                assert!(checksum::is_valid(&frame.data()[14..34]), "{kind:?} {flow}");
            }
        }
    }

    #[test]
    fn flows_differ_by_their_client() {
        let traffic = Traffic::new(Kind::Udp4);
        let (mut one, mut other) = (
            HeapBuffer::new(traffic.template()),
            HeapBuffer::new(traffic.template()),
        );
        traffic.write(&mut one, 1);
        traffic.write(&mut other, 1 << 24);
        assert_ne!(one.data()[26..36], other.data()[26..36]);
        assert_eq!(one.data()[30..34], [198, 51, 100, 10]);
    }
}
