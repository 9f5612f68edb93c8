//! One harness for the fuzzers of pieces and quotes, of tunnels, and of translation, and for their kept
//! corpora.
//!
//! As `harness.rs`, but checksums are mended before a frame is played, since no fuzzer finds right
//! ones, and all frames are of one VIP's, so that they get far.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

use weir_engine::wire::checksum;

use super::rig::Rig;

/// Plays an input of pieces and quotes.
pub fn play(input: &[u8]) {
    play_in(include_str!("../captures/weir.toml"), input);
}

/// Plays an input of tunnels, with what routers say of their outer packets.
pub fn play_tunnels(input: &[u8]) {
    play_in(include_str!("../tunnel_captures/weir.toml"), input);
}

/// Plays an input of translation within and between families.
pub fn play_translation(input: &[u8]) {
    play_in(include_str!("../full_nat_captures/weir.toml"), input);
}

/// Plays an input: frames, each behind two bytes of length (little-endian). The length's top bit
/// picks the port; the next one lets 400 ms pass first.
fn play_in(config: &str, mut input: &[u8]) {
    let mut rig = Rig::new(config);
    while let Some((head, rest)) = input.split_first_chunk::<2>() {
        let head = u16::from_le_bytes(*head);
        let length = usize::from(head & 0x3fff).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        input = rest;
        if head & 0x4000 != 0 {
            rig.tick(400_000_000);
        }
        let mut frame = frame.to_vec();
        mend(&mut frame);
        rig.play(u16::from(head & 0x8000 != 0), &frame);
        rig.assert_all_accounted_for();
    }
}

/// Gives an untagged frame the ICMP and IPv4 header checksums that it needs to be looked at.
fn mend(frame: &mut [u8]) {
    let Some(version) = frame.get(14).map(|first| first >> 4) else {
        return;
    };
    let protocol = frame.get(if version == 4 { 23 } else { 20 }).copied();
    match (version, protocol) {
        (4, Some(protocol)) => {
            let total = frame.get(16..18).map_or(0, |bytes| {
                usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))
            });
            let header = usize::from(frame[14] & 0x0f) * 4;
            if let Some(header) = frame.get_mut(14..14 + header).filter(|h| h.len() >= 20) {
                header[10..12].fill(0);
                let sum = checksum::of(header);
                header[10..12].copy_from_slice(&sum);
            }
            if protocol == 1
                && let Some(icmp) = frame.get_mut(14 + header..14 + total)
                && icmp.len() >= 4
            {
                icmp[2..4].fill(0);
                let sum = checksum::of(icmp);
                icmp[2..4].copy_from_slice(&sum);
            }
        }
        (6, Some(58)) => {
            let payload = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
            let Some(addresses) = frame.get(22..54).map(checksum::sum) else {
                return;
            };
            if let Some(icmp) = frame.get_mut(54..54 + payload).filter(|i| i.len() >= 4) {
                icmp[2..4].fill(0);
                let pseudo = checksum::sum(&(payload as u32).to_be_bytes())
                    + checksum::sum(&[0, 0, 0, 58])
                    + addresses;
                let sum = !checksum::fold(checksum::sum(icmp) + pseudo);
                icmp[2..4].copy_from_slice(&sum.to_ne_bytes());
            }
        }
        _ => {}
    }
}
