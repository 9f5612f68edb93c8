//! B. The pipeline alone, over frames in ordinary memory: nanoseconds a packet by number of flows,
//! mode, direction and family.

use super::{Settings, on_worker_core};
use crate::record::Record;
use crate::rig::path::Bed;
use crate::rig::traffic::{Kind, Traffic};
use crate::{Failure, Random, median};

const KATRAN: &str = "Katran without I/O (earlier, elsewhere)";
/// Flows: their name, their number, what Katran's program takes for a flow that it knows.
const FLOWS: [(&str, u32, Option<f64>); 4] = [
    ("1K flows", 1_000, Some(66.0)),
    ("1M flows", 1_000_000, Some(265.0)),
    ("4M flows", 4_000_000, Some(350.0)),
    ("16M flows", 16_000_000, None),
];

/// Measures all cases.
///
/// # Errors
/// When memory is short, or a packet went where it should not.
pub fn measure(settings: &Settings) -> Result<Vec<Record>, Failure> {
    let settings = settings.clone();
    on_worker_core(move || all(&settings))
}

fn all(settings: &Settings) -> Result<Vec<Record>, Failure> {
    let mut records = Vec::new();
    for (name, flows, katran) in FLOWS {
        let packets = packets(settings, 25.0);
        let mut dsr = Bed::new("dsr-l2", u64::from(flows), 1)?;
        let mut dsr6 = Bed::new("dsr-l2", u64::from(flows), 1)?;
        let mut nat = Bed::new("nat", u64::from(flows), 1)?;
        let (udp4, udp6, back) = (
            Traffic::new(Kind::Udp4),
            Traffic::new(Kind::Udp6),
            Traffic::new(Kind::Return4),
        );
        let mut samples: [Vec<f64>; 4] = Default::default();
        dsr.path()?.load(&udp4);
        dsr.path()?.visit(&udp4, flows);
        dsr6.path()?.load(&udp6);
        dsr6.path()?.visit(&udp6, flows);
        nat.path()?.load(&udp4);
        nat.path()?.visit(&udp4, flows);
        let mut random = Random::new(42);
        for _ in 0..settings.repetitions {
            // In turns, each with its own table.
            samples[0].push(dsr.path()?.nanoseconds(&udp4, flows, packets, &mut random));
            samples[1].push(dsr6.path()?.nanoseconds(&udp6, flows, packets, &mut random));
            samples[2].push(nat.path()?.nanoseconds(&udp4, flows, packets, &mut random));
            samples[3].push(nat.path()?.nanoseconds(&back, flows, packets, &mut random));
        }
        for bed in [&mut dsr, &mut dsr6, &mut nat] {
            bed.path()?.all_forwarded()?;
        }
        let unit = "ns/packet";
        let [ipv4, ipv6, forward, back] = &samples;
        let case = |mode: &str| format!("{mode}, {name}");
        let mut first = Record::new('B', &case("dsr-l2"), unit, ipv4);
        if let Some(katran) = katran {
            first = first.against(KATRAN, katran);
        }
        records.push(first);
        records.push(
            Record::new('B', &case("dsr-l2 over IPv6"), unit, ipv6)
                .against("IPv4", median(ipv4.clone())),
        );
        records.push(
            Record::new('B', &case("nat forward"), unit, forward)
                .against("dsr-l2", median(ipv4.clone())),
        );
        records.push(
            Record::new('B', &case("nat return"), unit, back)
                .against("nat forward", median(forward.clone())),
        );
    }
    Ok(records)
}

/// Packets that take a third of the window at about this many nanoseconds each.
pub fn packets(settings: &Settings, nanoseconds: f64) -> u32 {
    (settings.window.as_secs_f64() * 1e9 / 3.0 / nanoseconds) as u32
}
