//! Whatever a datagram holds, finding its backend ends, and all ways of finding it agree.
//!
//! The same harness replays the kept corpus in `dataplane/tests/corpus.rs`.
#![no_main]

#[path = "../../dataplane/tests/support/datagrams.rs"]
mod datagrams;

libfuzzer_sys::fuzz_target!(|input: &[u8]| datagrams::play(input));
