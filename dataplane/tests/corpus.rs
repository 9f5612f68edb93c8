//! The fuzzer's kept corpus, replayed: what once was interesting stays harmless.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

#[path = "support/harness.rs"]
mod harness;
#[allow(dead_code)]
#[path = "support/rig.rs"]
mod rig;

#[test]
fn every_kept_input_is_accounted_for() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/frames");
    let mut played = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        harness::play(&std::fs::read(entry.unwrap().path()).unwrap());
        played += 1;
    }
    assert!(played >= 20, "{played} inputs found in {folder}");
}
