//! Whatever frames come, in whatever order: nothing crashes and every frame is accounted for.
//!
//! The input is a sequence of frames, each behind two bytes of length (little-endian); the same
//! harness replays the kept corpus in `dataplane/tests/corpus.rs`.
#![no_main]

#[allow(dead_code)]
#[path = "../../dataplane/tests/support/rig.rs"]
mod rig;
#[path = "../../dataplane/tests/support/harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::play(input));
