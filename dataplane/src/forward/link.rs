//! The Ethernet header of a frame that leaves: addresses and VLAN tag.

use weir_engine::buffer::Buffer;
use weir_engine::wire::ethernet::{self, MacAddr, TAG_LEN, ethertype};
use weir_shm::counters::DropReason;

use crate::adjacency::Egress;
use crate::parse::Packet;

/// Hot: addresses a frame from `egress` to `destination` and gives it the tag that it must leave
/// with. A tag that came in on the same port stays, priority bits included; on any other port the
/// port's own tag, or none, takes its place.
///
/// # Errors
/// [`DropReason::TooLarge`] where the IP packet is larger than the port's MTU, and
/// [`DropReason::NoBuffer`] where a tag finds no headroom.
#[inline]
pub fn address<B: Buffer>(
    frame: &mut B,
    packet: &Packet,
    same_port: bool,
    egress: &Egress,
    destination: MacAddr,
) -> Result<(), DropReason> {
    if packet.ip_len > egress.mtu {
        return Err(DropReason::TooLarge);
    }
    match (packet.tag, egress.vlan) {
        (None, None) => {}
        (Some(_), None) if same_port => {}
        (Some(tag), Some(vlan)) if tag.vlan() == vlan => {}
        (tag, vlan) => retag(frame, tag.is_some(), vlan)?,
    }
    if let Some(addresses) = frame.data_mut().first_chunk_mut::<12>() {
        *addresses = ethernet::addresses(destination, egress.mac);
    }
    Ok(())
}

/// Takes a tag off, puts one on, or replaces it. The 12 bytes of addresses are written afterwards.
fn retag<B: Buffer>(frame: &mut B, tagged: bool, vlan: Option<u16>) -> Result<(), DropReason> {
    match (tagged, vlan) {
        (true, None) => frame.trim_front(TAG_LEN).map_err(|_| DropReason::Runt)?,
        (false, Some(_)) => frame.prepend(TAG_LEN).map_err(|_| DropReason::NoBuffer)?,
        (true, Some(_)) | (false, None) => {}
    }
    if let (Some(vlan), Some(header)) = (vlan, frame.data_mut().first_chunk_mut::<16>()) {
        let [first, second] = ethertype::VLAN.to_be_bytes();
        let [third, fourth] = vlan.to_be_bytes();
        [header[12], header[13], header[14], header[15]] = [first, second, third, fourth];
    }
    Ok(())
}
