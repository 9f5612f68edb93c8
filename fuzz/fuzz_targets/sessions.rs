//! Whatever is said to and by the sessions of `full-nat`: nothing crashes, every frame is accounted
//! for.
//!
//! The input is a sequence of frames, each behind two bytes of length (little-endian); the same
//! harness replays the kept corpus in `dataplane/tests/corpus.rs`.
#![no_main]

#[allow(dead_code)]
#[path = "../../dataplane/tests/support/rig.rs"]
mod rig;
#[path = "../../dataplane/tests/support/session_harness.rs"]
mod session_harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| session_harness::play(input));
