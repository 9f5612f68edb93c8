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

#[test]
fn every_kept_input_of_tunnels_and_translation_is_accounted_for() {
    for input in corpus("tunnels") {
        path_harness::play_tunnels(&input);
    }
    for input in corpus("translation") {
        path_harness::play_translation(&input);
    }
}

/// Some kept input of this name with some of its bytes replaced.
fn spoilt(name: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let damage = (any::<prop::sample::Index>(), any::<u8>());
    let damage = proptest::collection::vec(damage, 1..12);
    (any::<prop::sample::Index>(), damage).prop_map(move |(which, damage)| {
        let mut inputs = corpus(name);
        let mut input = inputs.swap_remove(which.index(inputs.len()));
        for (place, value) in damage {
            let place = place.index(input.len());
            input[place] = value;
        }
        input
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// As below, of tunnels.
    #[test]
    fn spoilt_tunnels_are_accounted_for(input in spoilt("tunnels")) {
        path_harness::play_tunnels(&input);
    }

    /// As below, of translation.
    #[test]
    fn spoilt_translation_is_accounted_for(input in spoilt("translation")) {
        path_harness::play_translation(&input);
    }

    /// As below, of sessions.
    #[test]
    fn spoilt_sessions_are_accounted_for(input in spoilt("sessions")) {
        session_harness::play(&input);
    }

    /// A fuzzer in small, for every run of the tests.
    #[test]
    fn spoilt_pieces_and_quotes_are_accounted_for(input in spoilt("path_errors")) {
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
