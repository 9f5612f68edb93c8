//! Packets, pieces and ICMP errors translated within and between families, PROXY headers and TOA included, with checksums mended so
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

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::play_translation(input));
