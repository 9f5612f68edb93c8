//! Packets as pcapng, for tshark, Wireshark and tcpdump: an interface for each port, nanoseconds,
//! the direction in each packet's flags, and what became of it in its comment.
//!
//! Format: draft-ietf-opsawg-pcapng, sections 4.2 (interfaces) and 4.3 (packets).

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::Duration;

use pcap_file::pcapng::PcapNgBlock;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, Endianness, PcapError};
use weir_shm::capture::{Begun, Direction, Record};

use super::comment::Names;
use super::{Show, all_ports};

/// Time stamps count ten to the minus ninth of a second.
const NANOSECONDS: u8 = 9;
/// Of a packet's flags: received, and sent (section 4.3.1, `epb_flags`).
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// A pcapng file on its way.
pub(super) struct Packets<W: Write> {
    file: PcapNgWriter<W>,
    ports: Vec<String>,
}

fn failed(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

impl<W: Write> Packets<W> {
    /// Writes what comes before the first packet.
    pub(super) fn new(out: W, begun: &Begun, snaplen: u32) -> io::Result<Self> {
        let application = concat!("weirctl ", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            // Readers take either; this is what nearly all of them are.
            endianness: Endianness::Little,
            options: vec![SectionHeaderOption::UserApplication(application.into())],
            ..SectionHeaderBlock::default()
        };
        let mut file = PcapNgWriter::with_section_header(out, section).map_err(failed)?;
        for name in all_ports(begun) {
            let interface = InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen,
                options: vec![
                    InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                    InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
                ],
            };
            file.write_block(&interface.into_block()).map_err(failed)?;
        }
        Ok(Self {
            file,
            ports: begun.ports.clone(),
        })
    }
}

impl<W: Write> Show for Packets<W> {
    fn packet(&mut self, record: &Record, names: &Names<'_>, data: &[u8]) -> io::Result<()> {
        let interface = usize::from(record.port).min(self.ports.len());
        let flags = match record.direction {
            Direction::In => INBOUND,
            Direction::Out => OUTBOUND,
        };
        let comment = format!(
            "{}, worker {}",
            names.comment(record, &self.ports),
            record.worker
        );
        let packet = EnhancedPacketBlock {
            interface_id: interface as u32,
            timestamp: Duration::from_nanos(record.unix_ns),
            original_len: record.length.into(),
            data: Cow::Borrowed(data),
            options: vec![
                EnhancedPacketOption::Comment(comment.into()),
                EnhancedPacketOption::Flags(flags),
            ],
        };
        self.file
            .write_block(&packet.into_block())
            .map_err(failed)?;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.get_mut().flush()
    }
}
