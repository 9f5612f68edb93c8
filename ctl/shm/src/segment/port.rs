//! Device statistics of ports.

use std::fs::File;

use super::bytes::{Malformed, Reader, Writer};
use super::layout::{MAX_PORTS, PORT_LEN, PORTS};
use super::slot::read_exact;

/// A port as its device sees it. Counters only grow while the daemon lives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortStatus {
    /// Its name in the configuration; up to 64 bytes are kept.
    pub name: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Whether its link is up.
    pub link_up: bool,
    /// Its speed in Mbit/s; zero when it is not known.
    pub speed_mbps: u32,
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames that the device dropped since its queue was full.
    pub rx_missed: u64,
    /// Frames that the device found broken.
    pub rx_errors: u64,
    /// Frames that found no buffer.
    pub rx_no_buffer: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
}

impl PortStatus {
    /// A used entry's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u8(1);
        writer.text(&self.name, 64);
        writer.raw(&self.mac);
        writer.u8(u8::from(self.link_up));
        writer.u32(self.speed_mbps);
        for value in [
            self.rx_packets,
            self.rx_bytes,
            self.rx_missed,
            self.rx_errors,
            self.rx_no_buffer,
            self.tx_packets,
            self.tx_bytes,
            self.tx_errors,
        ] {
            writer.u64(value);
        }
        writer.pad_to(PORT_LEN as usize);
        writer.done()
    }

    fn decode(mut reader: Reader<'_>) -> Result<Option<Self>, Malformed> {
        if !reader.flag("a port")? {
            return Ok(None);
        }
        Ok(Some(Self {
            name: reader.text(64, "a port's name")?,
            mac: reader.array()?,
            link_up: reader.flag("a port's link")?,
            speed_mbps: reader.u32()?,
            rx_packets: reader.u64()?,
            rx_bytes: reader.u64()?,
            rx_missed: reader.u64()?,
            rx_errors: reader.u64()?,
            rx_no_buffer: reader.u64()?,
            tx_packets: reader.u64()?,
            tx_bytes: reader.u64()?,
            tx_errors: reader.u64()?,
        }))
    }

    /// All ports.
    pub(crate) fn read_all(file: &File) -> Result<Vec<Self>, Malformed> {
        let mut bytes = vec![0; MAX_PORTS * PORT_LEN as usize];
        read_exact(file, &mut bytes, PORTS)?;
        let mut ports = Vec::new();
        for entry in bytes.chunks_exact(PORT_LEN as usize) {
            let Some(port) = Self::decode(Reader::new(entry))? else {
                break;
            };
            ports.push(port);
        }
        Ok(ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn ports_are_read_back() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(PORTS + MAX_PORTS as u64 * PORT_LEN).unwrap();
        let port = PortStatus {
            name: "wan".to_owned(),
            rx_packets: 5,
            ..PortStatus::default()
        };
        file.write_all_at(&port.encode(), PORTS).unwrap();
        assert_eq!(PortStatus::read_all(&file), Ok(vec![port]));
    }
}
