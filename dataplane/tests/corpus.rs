//! The fuzzer's kept corpus, replayed: what once was interesting stays harmless.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

#[path = "support/datagrams.rs"]
mod datagrams;
#[path = "support/harness.rs"]
mod harness;
#[path = "support/path_harness.rs"]
mod path_harness;
#[allow(dead_code)]
#[path = "support/rig.rs"]
mod rig;

#[path = "support/session_harness.rs"]
mod session_harness;

use proptest::prelude::*;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = format!("{}/../fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let inputs: Vec<Vec<u8>> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(
        inputs.len() >= 20,
        "{} inputs found in {folder}",
        inputs.len()
    );
    inputs
}

#[test]
fn every_kept_input_is_accounted_for() {
    for input in corpus("frames") {
        harness::play(&input);
    }
}

#[test]
fn every_kept_input_of_pieces_and_quotes_is_accounted_for() {
    for input in corpus("path_errors") {
        path_harness::play(&input);
    }
}

#[test]
fn every_kept_input_of_sessions_is_accounted_for() {
    for input in corpus("sessions") {
        session_harness::play(&input);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// As below, of sessions.
    #[test]
    fn spoilt_sessions_are_accounted_for(
        which in any::<prop::sample::Index>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let inputs = corpus("sessions");
        let mut input = inputs[which.index(inputs.len())].clone();
        for (place, value) in damage {
            let place = place.index(input.len());
            input[place] = value;
        }
        session_harness::play(&input);
    }

    /// A fuzzer in small, for every run of the tests.
    #[test]
    fn spoilt_pieces_and_quotes_are_accounted_for(
        which in any::<prop::sample::Index>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let inputs = corpus("path_errors");
        let mut input = inputs[which.index(inputs.len())].clone();
        for (place, value) in damage {
            let place = place.index(input.len());
            input[place] = value;
        }
        path_harness::play(&input);
    }
}

#[test]
fn every_kept_datagram_has_one_backend_or_none() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/quic");
    let mut played = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let datagram = std::fs::read(entry.unwrap().path()).unwrap();
        // Cut short anywhere, as well.
        for end in 0..=datagram.len() {
            datagrams::play(&datagram[..end]);
        }
        played += 1;
    }
    assert!(played >= 20, "{played} inputs found in {folder}");
}
