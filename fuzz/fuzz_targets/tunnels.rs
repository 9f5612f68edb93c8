//! Packets into every tunnel, and errors about their outer headers, with checksums mended so
//! that they get far: nothing crashes and every frame is accounted for.
//!
//! The same harness replays the kept corpus in `dataplane/tests/corpus.rs`.
#![no_main]

#[allow(dead_code)]
#[path = "../../dataplane/tests/support/path_harness.rs"]
mod harness;
#[allow(dead_code)]
#[path = "../../dataplane/tests/support/rig.rs"]
mod rig;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::play_tunnels(input));
