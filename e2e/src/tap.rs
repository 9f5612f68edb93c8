//! A cable made of two TAP devices and a thread that copies frames from one to the other, and may change them on the
//! way: add and remove a VLAN tag as a switch's trunk port would, or spoil a byte. It needs no VLAN support in the kernel.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::namespace::Namespace;
use crate::{Result, sys};

/// What happens to a frame on its way; `None` loses it.
pub type Change = fn(Vec<u8>) -> Option<Vec<u8>>;

/// Frames pass as they are.
pub fn unchanged(frame: Vec<u8>) -> Option<Vec<u8>> {
    Some(frame)
}

/// The tag that [`tag`] adds and [`untag`] takes: VLAN 100, priority 0.
pub const TAG: [u8; 4] = [0x81, 0x00, 0x00, 100];

/// Adds the tag.
pub fn tag(mut frame: Vec<u8>) -> Option<Vec<u8>> {
    (frame.len() >= 14).then(|| {
        frame.splice(12..12, TAG);
        frame
    })
}

/// Takes the tag away; loses frames that do not carry it.
pub fn untag(mut frame: Vec<u8>) -> Option<Vec<u8>> {
    (frame.len() >= 18 && frame[12..16] == TAG).then(|| {
        frame.drain(12..16);
        frame
    })
}

/// Flips a bit in the last byte of every UDP datagram over IPv4 and leaves its checksum as it was.
pub fn spoil_udp(mut frame: Vec<u8>) -> Option<Vec<u8>> {
    let udp = frame.len() > 42 && frame[12..14] == [0x08, 0x00] && frame[23] == 17;
    if let (true, Some(last)) = (udp, frame.last_mut()) {
        *last ^= 1;
    }
    Some(frame)
}

/// The cable. Dropping it unplugs both ends.
pub struct Cable {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Cable {
    /// Joins `interface` in namespace `a` with the same in `b`; `forth` changes frames from a to b, `back` the others.
    pub fn join(
        a: &Namespace,
        b: &Namespace,
        interface: &str,
        forth: Change,
        back: Change,
    ) -> Result<Self> {
        let end_a = a.run(|| sys::open_tap(interface))??;
        let end_b = b.run(|| sys::open_tap(interface))??;
        for namespace in [a, b] {
            namespace.ip(&format!("link set {interface} up"))?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (read_a, read_b) = (end_a.try_clone()?, end_b.try_clone()?);
        let copy = |from: File, to: File, change: Change| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || copy_frames(&from, &to, change, &stop))
        };
        let threads = vec![copy(read_a, end_b, forth), copy(read_b, end_a, back)];
        Ok(Self { stop, threads })
    }
}

fn copy_frames(mut from: &File, mut to: &File, change: Change, stop: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        match from.read(&mut buffer) {
            Ok(length) => {
                if let Some(frame) = change(buffer[..length].to_vec()) {
                    // A full or downed end loses the frame, as a cable would.
                    let _ = to.write(&frame);
                }
            }
            // Nothing to read for now (the ends do not block), or the end is not up yet.
            Err(_) => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
