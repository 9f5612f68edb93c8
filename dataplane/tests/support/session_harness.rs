//! One harness for the fuzzer of `full-nat` and for its kept corpus: PROXY headers and TOA put into
//! streams, and translation between families.
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
[[neighbor]]
address = "192.0.2.9"
mac = "02:00:00:00:00:fe"
[[neighbor]]
address = "2001:db8::9"
mac = "02:00:00:00:00:fe"
[[neighbor]]
address = "192.0.2.11"
mac = "02:00:00:00:00:0b"
[[neighbor]]
address = "2001:db8::11"
mac = "02:00:00:00:00:0b"
"#;

fn config() -> String {
    let mut text = CONFIG.to_owned();
    let services = [
        ("44", "192.0.2.10", 80, "tcp", "192.0.2.11", "proxy-v2"),
        ("46", "192.0.2.10", 81, "tcp", "2001:db8::11", "proxy-v2"),
        ("64", "2001:db8::10", 80, "tcp", "192.0.2.11", "toa"),
        ("66", "2001:db8::10", 81, "tcp", "2001:db8::11", "proxy-v2"),
        ("u4", "192.0.2.10", 53, "udp", "2001:db8::11", "proxy-v2"),
        ("u6", "2001:db8::10", 53, "udp", "192.0.2.11", "none"),
    ];
    for (name, vip, port, protocol, backend, how) in services {
        text += &format!(
            "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = {port}\nprotocol = \"{protocol}\"\n\
             forwarding = \"full-nat\"\ntable_size = 13\nsnat_pool = [\"192.0.2.5\", \"2001:db8::5\"]\n\
             client_address = \"{how}\"\n[[service.backend]]\naddress = \"{backend}\"\n"
        );
    }
    text
}

/// Plays an input: frames, each behind two bytes of length (little-endian), whose top bit lets a
/// second pass first.
pub fn play(mut input: &[u8]) {
    let mut rig = Rig::new(&config());
    while let Some((head, rest)) = input.split_first_chunk::<2>() {
        let head = u16::from_le_bytes(*head);
        let length = usize::from(head & 0x7fff).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        input = rest;
        if head & 0x8000 != 0 {
            rig.tick(1_000_000_000);
        }
        rig.play(0, frame);
        rig.assert_all_accounted_for();
    }
}
