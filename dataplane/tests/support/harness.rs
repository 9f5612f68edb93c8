//! One harness for the fuzzer and for its kept corpus.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

use super::rig::Rig;

const CONFIG: &str = r#"
[engine]
flows_per_worker = 20
[[port]]
name = "wan"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.2/24", "2001:db8::2/64"]
[[port]]
name = "lan"
device = "net_null1"
mac = "02:00:00:00:00:02"
vlan = 7
addresses = ["10.0.0.1/24"]
[[neighbor]]
address = "192.0.2.11"
mac = "02:00:00:00:00:0b"
[[service]]
name = "four"
vip = "192.0.2.10"
port = 80
protocol = "tcp"
forwarding = "nat"
table_size = 13
[[service.backend]]
address = "10.0.0.11"
[[service.backend]]
address = "192.0.2.11"
[[service]]
name = "six"
vip = "2001:db8::10"
port = "any"
protocol = "udp"
forwarding = "dsr-l2"
table_size = 13
[[service.backend]]
address = "2001:db8::11"
"#;

/// Plays an input: frames, each behind two bytes of length (little-endian). The length's top bit
/// picks the port; the next one lets a second pass first.
pub fn play(mut input: &[u8]) {
    let mut rig = Rig::new(CONFIG);
    while let Some((head, rest)) = input.split_first_chunk::<2>() {
        let head = u16::from_le_bytes(*head);
        let length = usize::from(head & 0x3fff).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        input = rest;
        if head & 0x4000 != 0 {
            rig.tick(1_000_000_000);
        }
        rig.play(u16::from(head & 0x8000 != 0), frame);
        rig.assert_all_accounted_for();
    }
}
