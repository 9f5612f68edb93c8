//! M. What each forwarding mode costs beside `dsr-l2`: the pipeline alone over 60,000 flows, both ways
//! where packets come back, all modes in turns in one run.
//!
//! Frames are the shortest there are and lie ready in memory, one for each flow, in an order that is
//! random: copying them in reads on, as a NIC's frames are at hand when they are looked at, and is
//! timed in turns, too, and taken off. Each mode is measured in slices, in turns with the yardstick, since
//! what else the machine does changes within a run.

use std::fmt::Write as _;
use std::time::Instant;

use weir::pipeline::BURST;
use weir_engine::buffer::{Buffer, HeapBuffer};

use super::{Settings, buffers, on_worker_core};
use crate::record::Record;
use crate::rig::path::{BACKENDS, Bed, Path};
use crate::rig::traffic::{Kind, Traffic};
use crate::{Failure, Random, median};

/// Flows: few enough for the ports of one address, too many for the cache.
const FLOWS: u32 = 60_000;
/// Slices of a repetition.
const SLICES: u32 = 8;
/// Rounds that go into a millisecond, about: time goes on as it does under this load, so that what is
/// done again every so often is done.
const ROUNDS_A_MS: u32 = 1_000;
/// Bytes of the longest frame.
const LONGEST: usize = 96;

/// A frame of a flow. Aligned, so that no mode's frames lie across more cache lines than another's.
#[derive(Clone, Copy)]
#[repr(align(128))]
struct Shot {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Shot {
    fn of(bytes: &[u8]) -> Result<Self, Failure> {
        let mut shot = Self {
            bytes: [0; LONGEST],
            len: bytes.len(),
        };
        let place = shot.bytes.get_mut(..bytes.len());
        place.ok_or("a frame is too long")?.copy_from_slice(bytes);
        Ok(shot)
    }

    /// Hot: puts the frame in the place of whatever `frame` holds.
    #[inline]
    fn write(&self, frame: &mut HeapBuffer) {
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        // Never too long: buffers have room for more than the longest frame.
        let _ = frame.refill(bytes);
    }
}

/// A mode that is measured.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// The service's keys.
    keys: &'static str,
    /// Whether clients and backends speak IPv6.
    v6: [bool; 2],
    /// Whether answers come back through it.
    comes_back: bool,
}

const fn case(name: &'static str, keys: &'static str) -> Case {
    Case {
        name,
        keys,
        v6: [false, false],
        comes_back: false,
    }
}

/// The keys of a `full-nat` service.
pub const FULL_NAT: &str =
    "forwarding = \"full-nat\"\nsnat_pool = [\"10.0.2.1\", \"2001:db8:2::2:1\"]";

/// The yardsticks, by the family of the client: IPv4, IPv6.
const YARDSTICKS: [Case; 2] = [
    case("dsr-l2", "forwarding = \"dsr-l2\""),
    Case {
        v6: [true, true],
        ..case("dsr-l2 over IPv6", "forwarding = \"dsr-l2\"")
    },
];

/// All other modes.
const CASES: [Case; 11] = [
    Case {
        comes_back: true,
        ..case("nat", "forwarding = \"nat\"")
    },
    case("dsr-ipip", "forwarding = \"dsr-ipip\""),
    Case {
        v6: [false, true],
        ..case("dsr-ipip, 4 in 6", "forwarding = \"dsr-ipip\"")
    },
    case(
        "dsr-gue, variant 0",
        "forwarding = \"dsr-gue\"\ngue_variant = 0",
    ),
    case("dsr-gue, variant 1", "forwarding = \"dsr-gue\""),
    case("dsr-gre", "forwarding = \"dsr-gre\"\ngre_key = 7"),
    case("dsr-geneve", "forwarding = \"dsr-geneve\""),
    case("dsr-dscp", "forwarding = \"dsr-dscp\"\ndscp = 7"),
    Case {
        comes_back: true,
        ..case("full-nat", FULL_NAT)
    },
    Case {
        v6: [false, true],
        comes_back: true,
        ..case("full-nat, 4 to 6", FULL_NAT)
    },
    Case {
        v6: [true, false],
        comes_back: true,
        ..case("full-nat, 6 to 4", FULL_NAT)
    },
];

/// A case that is ready to be measured.
struct Ready {
    bed: Bed,
    /// The place of its yardstick.
    yardstick: usize,
    ways: Vec<Way>,
    clock: Rounds,
}

/// The time that a case has been measured for, in rounds.
struct Rounds(u32);

impl Rounds {
    /// The next round's time, in milliseconds.
    #[inline]
    const fn next(&mut self) -> u32 {
        self.0 += 1;
        2 + self.0 / ROUNDS_A_MS
    }
}

/// One direction of it: its name, its frames, and what was measured of it.
type Way = (String, Vec<Shot>, Vec<f64>);

impl Ready {
    /// Measures nanoseconds a packet of each of its ways; gives those.
    fn slice(&mut self, packets: u32, random: &mut Random) -> Result<Vec<f64>, Failure> {
        let path = self.bed.path()?;
        let clock = &mut self.clock;
        let of = |(_, shots, samples): &mut Way| {
            let without = time(path, shots, packets, false, clock, random);
            let each = time(path, shots, packets, true, clock, random) - without;
            samples.push(each);
            each
        };
        Ok(self.ways.iter_mut().map(of).collect())
    }
}

/// Measures all modes.
///
/// # Errors
/// When memory is short, or a packet went where it should not.
pub fn measure(settings: &Settings) -> Result<Vec<Record>, Failure> {
    let packets = buffers::packets(settings, 60.0);
    let repetitions = settings.repetitions;
    on_worker_core(move || all(packets, repetitions))
}

fn all(packets: u32, repetitions: usize) -> Result<Vec<Record>, Failure> {
    let ready = |cases: &[Case]| cases.iter().map(get_ready).collect::<Result<Vec<_>, _>>();
    let (mut yardsticks, mut others) = (ready(&YARDSTICKS)?, ready(&CASES)?);
    // What was measured in turns with each of the others.
    let mut beside = vec![Vec::new(); others.len()];
    let mut random = Random::new(5);
    for _ in 0..repetitions.max(1) {
        for (other, beside) in others.iter_mut().zip(&mut beside) {
            let yardstick = yardsticks.get_mut(other.yardstick).ok_or("no yardstick")?;
            for _ in 0..SLICES {
                let of_yardstick = yardstick.slice(packets / SLICES, &mut random)?;
                beside.extend(of_yardstick);
                other.slice(packets / SLICES, &mut random)?;
            }
        }
    }
    let record = |(name, _, samples): &Way| Record::new('M', name, "ns/packet", samples);
    let mut records: Vec<Record> = Vec::new();
    for yardstick in &mut yardsticks {
        yardstick.bed.path()?.all_forwarded()?;
        records.extend(yardstick.ways.iter().map(record));
    }
    for (other, beside) in others.iter_mut().zip(beside) {
        other.bed.path()?.all_forwarded()?;
        let name = YARDSTICKS.get(other.yardstick).map_or("", |it| it.name);
        let yardstick = median(beside);
        let against = |way| record(way).against(name, yardstick);
        records.extend(other.ways.iter().map(against));
    }
    Ok(records)
}

/// A configuration with one service of these keys, whose clients and backends are of these families
/// (true is IPv6).
#[must_use]
pub fn config(keys: &str, [client_v6, backend_v6]: [bool; 2]) -> String {
    // As many sessions as connection tracking is made for flows.
    let mut text = format!("[engine]\nflows_per_worker = {FLOWS}\n");
    text += "[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\n\
         addresses = [\"10.0.0.1/16\", \"2001:db8:2::1/64\"]\n\
         [[route]]\nto = \"0.0.0.0/0\"\nvia = \"10.0.0.2\"\n\
         [[route]]\nto = \"::/0\"\nvia = \"2001:db8:2::fe\"\n\
         [[neighbor]]\naddress = \"10.0.0.2\"\nmac = \"02:00:00:00:00:fe\"\n\
         [[neighbor]]\naddress = \"2001:db8:2::fe\"\nmac = \"02:00:00:00:00:fe\"\n";
    let vip = if client_v6 {
        "2001:db8:ff::10"
    } else {
        "198.51.100.10"
    };
    let _ = write!(
        text,
        "[[service]]\nname = \"web\"\nvip = \"{vip}\"\nport = 80\nprotocol = \"udp\"\n{keys}\n"
    );
    for backend in 1..=BACKENDS {
        let address = if backend_v6 {
            format!("2001:db8:2::1:{backend:x}")
        } else {
            format!("10.0.1.{backend}")
        };
        let _ = write!(
            text,
            "[[service.backend]]\naddress = \"{address}\"\n\
             [[neighbor]]\naddress = \"{address}\"\nmac = \"02:00:00:00:01:{backend:02x}\"\n"
        );
    }
    text
}

fn get_ready(case: &Case) -> Result<Ready, Failure> {
    let mut bed = Bed::of(&config(case.keys, case.v6), u64::from(FLOWS), 1)?;
    let path = bed.path()?;
    let kind = if case.v6[0] { Kind::Udp6 } else { Kind::Udp4 };
    let traffic = Traffic::new(kind);
    path.load(&traffic);
    let mut forth = Vec::new();
    let mut frame = HeapBuffer::new(traffic.template());
    for flow in 0..FLOWS {
        traffic.write(&mut frame, flow);
        forth.push(Shot::of(frame.data())?);
    }
    let mut back = Vec::new();
    // Every flow twice, so that all are known, and known to go on.
    for _ in 0..2 {
        back.clear();
        for shots in forth.chunks(BURST) {
            path.load_short(&traffic, shots.len());
            for (frame, shot) in path.frames().iter_mut().zip(shots) {
                shot.write(frame);
            }
            path.process(1);
            for frame in path.frames() {
                back.push(answer(frame.data())?);
            }
        }
    }
    path.load(&traffic);
    let mut random = Random::new(7);
    shuffle(&mut forth, &mut random);
    shuffle(&mut back, &mut random);
    let mut ways = Vec::new();
    if case.comes_back {
        ways.push((format!("{} forward", case.name), forth, Vec::new()));
        ways.push((format!("{} return", case.name), back, Vec::new()));
    } else {
        ways.push((case.name.to_owned(), forth, Vec::new()));
    }
    Ok(Ready {
        bed,
        yardstick: usize::from(case.v6[0]),
        ways,
        clock: Rounds(0),
    })
}

/// What answers a frame that weir sent: its ends exchanged, so that checksums stay right.
fn answer(sent: &[u8]) -> Result<Shot, Failure> {
    let mut shot = Shot::of(sent.get(..sent.len().min(LONGEST)).unwrap_or(sent))?;
    let bytes = &mut shot.bytes;
    bytes[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0x0b]);
    let (addresses, half) = if bytes[12] == 0x08 { (26, 4) } else { (22, 16) };
    let ports = addresses + 2 * half;
    bytes[addresses..ports].rotate_left(half);
    bytes[ports..ports + 4].rotate_left(2);
    Ok(shot)
}

/// Puts frames into an order that is random.
fn shuffle(shots: &mut [Shot], random: &mut Random) {
    for last in (1..shots.len()).rev() {
        shots.swap(last, random.below(last as u32 + 1) as usize);
    }
}

/// Nanoseconds a packet, from any flow on, copying the frames in included.
fn time(
    path: &mut Path,
    shots: &[Shot],
    packets: u32,
    run: bool,
    clock: &mut Rounds,
    random: &mut Random,
) -> f64 {
    let first = random.below(shots.len() as u32);
    let mut shots = shots.iter().cycle().skip(first as usize);
    let rounds = packets.div_ceil(BURST as u32).max(1);
    let start = Instant::now();
    for _ in 0..rounds {
        for (frame, shot) in path.frames().iter_mut().zip(&mut shots) {
            shot.write(frame);
        }
        let now = clock.next();
        if run {
            path.process(now);
        }
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(rounds * BURST as u32)
}
