//! What one entry says of a flow: backend, state, time-outs, when it was last seen.

/// The number of no backend: the largest that an entry can hold.
pub const NO_BACKEND: u32 = (1 << 21) - 1;
/// Milliseconds on the worker's clock, wrapping after 49 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tick(pub u32);

impl Tick {
    /// From nanoseconds on the same clock.
    #[inline]
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self((nanos / 1_000_000) as u32)
    }

    /// Milliseconds since `earlier`.
    #[inline]
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Milliseconds since `earlier`, or `None` where that is later by less than a minute: another
    /// clock's time, or one that stepped back. All other differences are time that passed, so that
    /// silence is forgotten only once in 49 days, for a minute.
    #[inline]
    #[must_use]
    pub const fn passed_since(self, earlier: Self) -> Option<u32> {
        const STEP_BACK: u32 = 60_000;
        match self.since(earlier) {
            passed if passed <= u32::MAX - STEP_BACK => Some(passed),
            _ => None,
        }
    }

    /// Milliseconds since another thread saw something. Each reads the clock now and then, and may have
    /// read it later than this one: what it saw then is new.
    #[inline]
    #[must_use]
    pub const fn age_of(self, seen: Self) -> u32 {
        match self.passed_since(seen) {
            Some(passed) => passed,
            None => 0,
        }
    }
}

/// What is known of a flow. The numbers are part of the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// A SYN was seen, nothing after it.
    Syn = 1,
    /// TCP, past its SYN.
    Established = 2,
    /// TCP, FIN or RST seen.
    Closing = 3,
    /// UDP, at least two packets seen.
    Udp = 4,
    /// UDP, one packet seen.
    UdpNew = 5,
    /// TCP, first seen in mid-stream by one packet.
    Loose = 6,
    /// No flow but a client: which backend it has, by affinity, since a flow began.
    PinNew = 0,
    /// The same, since one of its flows has proven itself.
    Pin = 7,
}

impl State {
    #[inline]
    const fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::Syn,
            2 => Self::Established,
            3 => Self::Closing,
            4 => Self::Udp,
            6 => Self::Loose,
            0 => Self::PinNew,
            7 => Self::Pin,
            _ => Self::UdpNew,
        }
    }

    /// In which order entries give way: embryonic first.
    #[inline]
    pub(super) const fn rank(self) -> u32 {
        match self {
            Self::Syn => 0,
            Self::UdpNew | Self::Loose | Self::PinNew => 1,
            Self::Closing => 2,
            Self::Established | Self::Udp | Self::Pin => 3,
        }
    }

    /// Whether it is that of a client, not of a flow.
    #[inline]
    #[must_use]
    pub const fn is_pin(self) -> bool {
        matches!(self, Self::PinNew | Self::Pin)
    }
}

/// One service's time-outs by state, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile([u32; 8]);

impl Profile {
    /// From the four configured time-outs, in milliseconds.
    #[must_use]
    pub const fn new(syn: u32, established: u32, closing: u32, udp: u32) -> Self {
        // Indexed by `State`.
        Self([0, syn, established, closing, udp, udp, established, 0])
    }

    /// The same, and how long a client is remembered, in milliseconds.
    #[must_use]
    pub const fn with_affinity(self, timeout: u32) -> Self {
        let [_, syn, established, closing, udp, udp_new, loose, _] = self.0;
        Self([
            timeout,
            syn,
            established,
            closing,
            udp,
            udp_new,
            loose,
            timeout,
        ])
    }
}

/// All time-out profiles in use; entries name theirs by its place. At most 256.
#[derive(Debug, Clone)]
pub struct Profiles(Box<[u32; STATES * 256]>);

/// Numbers of states, unused ones included.
const STATES: usize = 8;

impl Profiles {
    /// Profiles in the order of their numbers; those beyond 256 are left out.
    #[must_use]
    pub fn new(profiles: &[Profile]) -> Self {
        let mut all = Box::new([0; STATES * 256]);
        for (place, profile) in all.chunks_exact_mut(STATES).zip(profiles) {
            place.copy_from_slice(&profile.0);
        }
        Self(all)
    }

    /// Hot: how long the entry lives after its last packet, in milliseconds. State and profile lie
    /// side by side in an entry, and together are the place in this table.
    #[inline(always)]
    #[must_use]
    pub const fn of(&self, details: Details) -> u32 {
        self.0[(details.0 >> STATE_AT) as usize % (STATES * 256)]
    }

    /// Hot: whether the entry has not timed out.
    #[inline(always)]
    #[must_use]
    pub const fn is_alive(&self, details: Details, now: Tick) -> bool {
        now.since(details.seen()) < self.of(details)
    }

    /// The same, of an entry that another thread writes.
    #[inline]
    #[must_use]
    pub const fn is_alive_elsewhere(&self, details: Details, now: Tick) -> bool {
        now.age_of(details.seen()) < self.of(details)
    }
}

/// Where the state lies in an entry's second word, and behind it the profile and the time.
const STATE_AT: u32 = 21;
const PROFILE_AT: u32 = 24;
const SEEN_AT: u32 = 32;

/// An entry's second word; see the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Details(pub(super) u64);

impl Details {
    /// Backend, state and profile, without when the flow was last seen.
    #[inline]
    #[must_use]
    pub const fn half(self) -> u32 {
        self.0 as u32
    }

    /// Of what [`Details::half`] gave.
    #[inline]
    #[must_use]
    pub const fn from_half(half: u32) -> Self {
        Self(half as u64)
    }

    /// Packs an entry's second word.
    #[inline]
    #[must_use]
    pub const fn new(backend: u32, state: State, profile: u8, seen: Tick) -> Self {
        let backend = (backend & NO_BACKEND) as u64;
        Self(
            backend
                | (state as u64) << STATE_AT
                | (profile as u64) << PROFILE_AT
                | (seen.0 as u64) << SEEN_AT,
        )
    }

    /// The backend's number.
    #[inline]
    #[must_use]
    pub const fn backend(self) -> u32 {
        self.0 as u32 & NO_BACKEND
    }

    /// What is known of the flow.
    #[inline]
    #[must_use]
    pub const fn state(self) -> State {
        State::from_bits((self.0 >> STATE_AT) as u8 & 7)
    }

    /// Which time-outs hold.
    #[inline]
    #[must_use]
    pub const fn profile(self) -> u8 {
        (self.0 >> PROFILE_AT) as u8
    }

    /// Whether the flow has proven itself; see the module's text.
    #[inline(always)]
    #[must_use]
    pub const fn is_confirmed(self) -> bool {
        const CONFIRMED: u32 = 1 << State::Established as u32 | 1 << State::Udp as u32;
        CONFIRMED >> (self.0 >> STATE_AT & 7) & 1 != 0
    }

    /// Hot: the same flow, seen at `now`, with the time-outs of `profile`.
    #[inline(always)]
    #[must_use]
    pub const fn seen_again(self, profile: u8, now: Tick) -> Self {
        let kept = self.0 & ((1 << PROFILE_AT) - 1);
        Self(kept | (profile as u64) << PROFILE_AT | (now.0 as u64) << SEEN_AT)
    }

    /// When the flow's last packet came.
    #[inline]
    #[must_use]
    pub const fn seen(self) -> Tick {
        Tick((self.0 >> SEEN_AT) as u32)
    }
}
