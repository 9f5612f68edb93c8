//! The ports' interfaces toward the kernel: TAP devices that live as long as the daemon.

use weir_engine::buffer::Buffer;
use weir_engine::tap::{Tap, TapConfig};

use super::operator::Running;
use super::{DaemonError, log};
use crate::config::Config;
use crate::control::{MAX_FRAME, PortFacts, interface_addresses};

/// Frames taken from each interface before other duties come round again.
const RECEIVED: usize = 32;
/// Frames given to the kernel before other duties come round again.
const GIVEN: usize = 128;

/// The interfaces, by the port's number.
pub struct Taps {
    taps: Vec<Option<Tap>>,
    /// A frame from the kernel.
    buffer: Box<[u8]>,
}

impl Taps {
    /// Makes the interfaces that the configuration wants, each with the MAC, the MTU and the
    /// addresses of its port.
    ///
    /// # Errors
    /// Which one the kernel does not give, and why.
    pub fn open(config: &Config, facts: &[PortFacts]) -> Result<Self, DaemonError> {
        let mut taps = Vec::new();
        for (port, facts) in config.ports.iter().zip(facts) {
            let Some(kernel) = &port.kernel else {
                taps.push(None);
                continue;
            };
            let wanted = TapConfig {
                name: kernel.interface.clone(),
                mac: facts.mac.0,
                mtu: facts.mtu,
                addresses: interface_addresses(port, facts.mac),
            };
            let tap = Tap::open(&wanted).map_err(|source| DaemonError::Tap {
                port: port.name.clone(),
                source,
            })?;
            log::say(format_args!(
                "port {}: the kernel shares it by {}, {} frames/s at most",
                port.name,
                tap.name(),
                kernel.rate
            ));
            taps.push(Some(tap));
        }
        Ok(Self {
            taps,
            buffer: vec![0; MAX_FRAME].into_boxed_slice(),
        })
    }

    fn send(&mut self, port: u16, frame: &[u8]) -> bool {
        let tap = self.taps.get_mut(usize::from(port));
        tap.and_then(Option::as_mut)
            .is_some_and(|tap| tap.send(frame))
    }
}

/// Gives the kernel what waits for it, and takes what it sent; whether anything did. Bounded.
pub fn exchange(running: &mut Running, now: u64) -> bool {
    let Running {
        control,
        taps,
        for_kernel,
        ..
    } = running;
    let mut busy = false;
    for (port, expected, frame) in for_kernel.drain(GIVEN) {
        busy = true;
        control.for_kernel(now, port, expected, frame.data());
    }
    for frame in control.take_for_kernel() {
        let taken = taps.send(frame.port, &frame.frame);
        control.kernel_has(&frame, taken);
    }
    for (port, tap) in (0u16..).zip(&mut taps.taps) {
        let Some(tap) = tap else { continue };
        for _ in 0..RECEIVED {
            let Some(length) = tap.receive(&mut taps.buffer) else {
                break;
            };
            busy = true;
            let frame = taps.buffer.get(..length).unwrap_or_default();
            control.from_kernel(now, port, frame);
        }
    }
    busy
}
