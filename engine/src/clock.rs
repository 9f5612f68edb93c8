//! The time, cheap enough to be read once a burst.
//!
//! On x86-64 with an invariant TSC, [`Clock::now`] is one `rdtsc` and one multiplication; it was
//! calibrated against `CLOCK_MONOTONIC` when the process first made a clock. Elsewhere it asks the
//! kernel (through the vDSO, where there is one). All clocks of a process agree, and start near
//! `CLOCK_MONOTONIC`; the two drift apart by a few parts in a million, which time-outs do not mind.

// rdtsc, cpuid and clock_gettime have no safe interface in std.
#![allow(unsafe_code)]

use std::ops::Add;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A point in time: nanoseconds since some moment before the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Time passed since `earlier`; zero if that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Whole seconds.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0 / 1_000_000_000
    }
}

impl Add<Duration> for Nanos {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

/// Something that knows the time: the machine's [`Clock`], or a [`ManualClock`].
pub trait TimeSource {
    /// The time; never less than it was.
    fn now(&self) -> Nanos;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    calibration: Calibration,
}

/// How TSC ticks become nanoseconds: `start + ((tsc - tsc_start) * multiplier >> 32)`.
#[derive(Debug, Clone, Copy)]
struct Calibration {
    start: u64,
    tsc_start: u64,
    /// Nanoseconds a tick times 2^32; 0: no usable TSC, ask the kernel.
    multiplier: u64,
}

static CALIBRATION: OnceLock<Calibration> = OnceLock::new();

/// How long the first clock of a process watches the TSC. Each end is read to within about 50 ns,
/// so that this gives the rate to a few parts in a million.
const CALIBRATION_TIME: Duration = Duration::from_millis(20);

impl Clock {
    /// The process's clock. The first call takes about 20 ms (it sleeps); later ones nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            calibration: *CALIBRATION.get_or_init(Calibration::measure),
        }
    }

    /// The time. Never goes backwards on one core; between cores it may differ by as much as their
    /// TSCs do, which is nothing measurable on machines with an invariant TSC.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Nanos {
        let Calibration {
            start,
            tsc_start,
            multiplier,
        } = self.calibration;
        if multiplier == 0 {
            return Nanos(monotonic());
        }
        let ticks = tsc().saturating_sub(tsc_start);
        let nanos = (u128::from(ticks) * u128::from(multiplier)) >> 32;
        Nanos(start.wrapping_add(nanos as u64))
    }

    /// TSC ticks a second, or `None` if the TSC is not used.
    #[must_use]
    pub fn ticks_per_second(&self) -> Option<u64> {
        let multiplier = self.calibration.multiplier;
        (multiplier != 0).then(|| ((1_000_000_000_u128 << 32) / u128::from(multiplier)) as u64)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl TimeSource for Clock {
    #[inline]
    fn now(&self) -> Nanos {
        Clock::now(self)
    }
}

impl Calibration {
    fn measure() -> Self {
        if !tsc_is_invariant() {
            return Self {
                start: monotonic(),
                tsc_start: 0,
                multiplier: 0,
            };
        }
        let (tsc_start, start) = paired();
        std::thread::sleep(CALIBRATION_TIME);
        let (tsc_end, end) = paired();
        let ticks = tsc_end.saturating_sub(tsc_start);
        let nanos = end.saturating_sub(start);
        let multiplier = if ticks == 0 {
            0
        } else {
            u64::try_from((u128::from(nanos) << 32) / u128::from(ticks)).unwrap_or(0)
        };
        Self {
            start,
            tsc_start,
            multiplier,
        }
    }
}

/// A TSC reading and the kernel's time at the same moment: of a few tries, the one in which the
/// kernel's answer took the least.
fn paired() -> (u64, u64) {
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..8 {
        let before = tsc();
        let time = monotonic();
        let after = tsc();
        let took = after.saturating_sub(before);
        if took < best.0 {
            best = (took, before + took / 2, time);
        }
    }
    (best.1, best.2)
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn tsc() -> u64 {
    // SAFETY: rdtsc exists on every x86-64 CPU and only writes registers.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn tsc() -> u64 {
    0
}

/// Whether the TSC ticks at one rate in all power states (CPUID 8000_0007H, EDX bit 8).
#[cfg(target_arch = "x86_64")]
fn tsc_is_invariant() -> bool {
    use std::arch::x86_64::__cpuid;
    __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0
}

#[cfg(not(target_arch = "x86_64"))]
fn tsc_is_invariant() -> bool {
    false
}

/// `CLOCK_MONOTONIC` in nanoseconds.
fn monotonic() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec to write to; the call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A clock that stands still until it is moved: a capture's time stamps in replay, and tests.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `start`.
    #[must_use]
    pub const fn new(start: Nanos) -> Self {
        Self {
            now: AtomicU64::new(start.0),
        }
    }

    /// Moves the clock to `time`; a time in the past is ignored, as clocks never go backwards.
    pub fn set(&self, time: Nanos) {
        self.now.fetch_max(time.0, Ordering::AcqRel);
    }

    /// Moves the clock on by `duration`.
    pub fn advance(&self, duration: Duration) {
        self.set(self.now() + duration);
    }
}

impl TimeSource for ManualClock {
    fn now(&self) -> Nanos {
        Nanos(self.now.load(Ordering::Acquire))
    }
}

impl<S: TimeSource + ?Sized> TimeSource for &S {
    #[inline]
    fn now(&self) -> Nanos {
        (**self).now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    #[test]
    fn the_clock_never_goes_backwards() {
        let clock = Clock::new();
        let mut last = clock.now();
        for _ in 0..100_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn the_clock_runs_at_the_kernels_rate() {
        let clock = Clock::new();
        let (ours, kernels) = (clock.now(), monotonic());
        assert!(
            ours.0.abs_diff(kernels) < 10_000_000,
            "{ours:?} but the kernel has {kernels}"
        );
        sleep(Duration::from_millis(200));
        let ours = clock.now().since(ours).as_nanos() as f64;
        let kernels = (monotonic() - kernels) as f64;
        // One part in a thousand, and a millisecond for being put off the core between two reads.
        assert!(
            (ours - kernels).abs() < kernels / 1e3 + 1e6,
            "{ours} ns, the kernel: {kernels}"
        );
    }

    #[test]
    fn all_clocks_of_a_process_agree() {
        let (a, b) = (Clock::new(), Clock::new());
        let before = a.now();
        let between = b.now();
        assert!(before <= between && between <= a.now());
    }

    #[test]
    fn a_manual_clock_moves_only_forwards() {
        let clock = ManualClock::new(Nanos(5));
        clock.advance(Duration::from_secs(2));
        clock.set(Nanos(7));
        assert_eq!(clock.now(), Nanos(2_000_000_005));
        assert_eq!(clock.now().seconds(), 2);
        assert_eq!(Nanos(1).since(Nanos(2)), Duration::ZERO);
        assert_eq!(Nanos(u64::MAX) + Duration::from_secs(1), Nanos(u64::MAX));
    }
}
