//! Forwards every frame from one port to the other, both ways: `l2fwd DEVICE DEVICE [FRAMES]`.
//! Ends at SIGTERM, SIGINT or after FRAMES frames; says how many, and whether every buffer is home.

use std::error::Error;

use signal_hook::consts::{SIGINT, SIGTERM};
use weir_engine::ArrayVec;
use weir_engine::eal::{Eal, EalConfig};
use weir_engine::idle::{Idle, Mode};
use weir_engine::mbuf::free_bulk;
use weir_engine::mempool::{Mempool, MempoolConfig};
use weir_engine::port::{Port, PortConfig};
use weir_engine::queue::{Queue, RxQueue, TxQueue};
use weir_engine::worker::{Stop, Worker};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [a, b, frames @ ..] = &arguments[..] else {
        return Err("usage: l2fwd DEVICE DEVICE [FRAMES]".into());
    };
    let enough = frames.first().map_or(Ok(u64::MAX), |text| text.parse())?;

    let eal = Eal::start(&EalConfig::for_devices([a.as_str(), b]))?;
    let pool = Mempool::new(&eal, &MempoolConfig::default())?;
    let open = |device: &str| -> Result<Queue, Box<dyn Error>> {
        let queues = Port::open(&eal, &PortConfig::new(device), &pool)?.take_queues();
        Ok(queues.and_then(|mut all| all.pop()).ok_or("no queue")?)
    };
    let (a, b) = (open(a)?, open(b)?);

    let stop = Stop::new();
    signal_hook::flag::register(SIGTERM, stop.flag())?;
    signal_hook::flag::register(SIGINT, stop.flag())?;
    let forward = move |_| forward(a, b, enough, &stop);
    let worker = Worker::spawn_registered(&eal, "l2fwd", 0, forward)?;
    println!("sent {} frames", worker.join()?);
    println!("{} of {} buffers home", pool.available(), pool.capacity());
    Ok(())
}

fn forward(mut a: Queue, mut b: Queue, enough: u64, stop: &Stop) -> u64 {
    let (mut sent, mut idle) = (0, Idle::new(Mode::Adaptive));
    while sent < enough && !stop.is_raised() {
        let moved = pass(&mut a.rx, &mut b.tx) + pass(&mut b.rx, &mut a.tx);
        sent += moved as u64;
        idle.wait(moved);
    }
    sent
}

fn pass(from: &mut RxQueue, to: &mut TxQueue) -> usize {
    let mut burst = ArrayVec::<_, 32>::new();
    from.receive(&mut burst);
    let sent = to.send(&mut burst);
    free_bulk(&mut burst);
    sent
}
