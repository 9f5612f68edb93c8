//! G. Two workers beside one: pipelines over frames in ordinary memory, each on a core of its own, over
//! the same published tables. (With two cores there is none left for the control core of a whole
//! daemon with two workers.)

use std::sync::{Arc, Barrier};

use weir_e2e::cores;
use weir_engine::worker::Worker;

use super::{Settings, buffers};
use crate::record::Record;
use crate::rig::path::{Bed, Path};
use crate::rig::traffic::{Kind, Traffic};
use crate::{Failure, Random};

const FLOWS: u32 = 1_000_000;

/// Measures it.
///
/// # Errors
/// When memory is short, or a packet went where it should not.
pub fn measure(settings: &Settings) -> Result<Vec<Record>, Failure> {
    let mut bed = Bed::new("dsr-l2", u64::from(FLOWS), 2)?;
    let udp = Traffic::new(Kind::Udp4);
    let mut paths = std::mem::take(&mut bed.paths);
    for path in &mut paths {
        path.load(&udp);
        path.visit(&udp, FLOWS);
    }
    let packets = buffers::packets(settings, 25.0) * 3;
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..settings.repetitions {
        let second = paths.split_off(1);
        let (rate, back) = together(paths, packets)?;
        one.push(rate);
        paths = back;
        paths.extend(second);
        let (rate, back) = together(paths, packets)?;
        two.push(rate);
        paths = back;
    }
    for path in &paths {
        path.all_forwarded()?;
    }
    Ok(vec![
        Record::new('G', "two workers, dsr-l2, 1M flows each", "Mpps", &two)
            .beside("one worker", &one),
    ])
}

/// Each path on a core of its own, counted from the last, all at once; gives the sum of their rates.
fn together(paths: Vec<Path>, packets: u32) -> Result<(f64, Vec<Path>), Failure> {
    let start = Arc::new(Barrier::new(paths.len()));
    let mut workers = Vec::new();
    for (number, mut path) in paths.into_iter().enumerate() {
        let core = cores::count()
            .checked_sub(1 + number)
            .ok_or("too few cores")?;
        let start = Arc::clone(&start);
        workers.push(Worker::spawn("bench", core, move |_| {
            let udp = Traffic::new(Kind::Udp4);
            let mut random = Random::new(42 + number as u64);
            start.wait();
            let any = || random.below(FLOWS);
            let nanoseconds = path.time(&udp, packets, true, any);
            (1e3 / nanoseconds, path)
        })?);
    }
    let (mut sum, mut back) = (0.0, Vec::new());
    for worker in workers {
        let (rate, path) = worker.join()?;
        sum += rate;
        back.push(path);
    }
    Ok((sum, back))
}
