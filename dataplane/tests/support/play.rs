//! A capture and a script through `weir replay` itself: what leaves, and the report.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test
#![allow(dead_code)] // each test asks for a part of it

use std::process::Command;

use serde_json::Value;
use weir::replay::capture::{CaptureReader, CaptureWriter};

const START: u64 = 1_700_000_000_000_000_000;
const MILLI: u64 = 1_000_000;

/// What a test plays: frames at milliseconds, and commands.
#[derive(Debug, Clone, Default)]
pub struct Play {
    config: String,
    frames: Vec<(u64, Vec<u8>)>,
    script: String,
}

/// What came of it.
#[derive(Debug)]
pub struct Played {
    /// What left, in order.
    pub frames: Vec<Vec<u8>>,
    /// When each of those left, in milliseconds.
    pub millis: Vec<u64>,
    /// `--json`.
    pub report: Value,
    /// The capture of what left and standard output, byte by byte.
    pub bytes: [Vec<u8>; 2],
}

impl Play {
    /// With a configuration whose only port is `wan`.
    pub fn new(config: &str) -> Self {
        Self {
            config: config.to_owned(),
            ..Self::default()
        }
    }

    /// A frame at this millisecond, none before the last one's.
    pub fn frame(&mut self, millis: u64, bytes: Vec<u8>) -> &mut Self {
        self.frames.push((millis, bytes));
        self
    }

    /// A command at this moment, in milliseconds from the first frame.
    pub fn command(&mut self, millis: f64, line: &str) -> &mut Self {
        self.script += &format!("@{:.4} {line}\n", millis / 1000.0);
        self
    }

    pub fn run(&self) -> Played {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("weir.toml"), &self.config).unwrap();
        std::fs::write(path("script"), &self.script).unwrap();
        let mut writer = CaptureWriter::create(&path("in.pcap"), false).unwrap();
        for (millis, bytes) in &self.frames {
            writer.write(START + millis * MILLI, bytes).unwrap();
        }
        writer.finish().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_weir"))
            .current_dir(folder.path())
            .args(["replay", "--config", "weir.toml", "--in", "wan=in.pcap"])
            .args(["--out", "out.pcap", "--script", "script", "--json"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}\n{}", self.config);
        let (mut frames, mut millis) = (Vec::new(), Vec::new());
        let mut reader = CaptureReader::open(&path("out.pcap")).unwrap();
        while let Some(frame) = reader.take() {
            frames.push(frame.bytes.clone());
            millis.push((frame.time - START) / MILLI);
        }
        let report =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        Played {
            frames,
            millis,
            report,
            bytes: [std::fs::read(path("out.pcap")).unwrap(), output.stdout],
        }
    }
}

impl Played {
    /// How many were dropped for a reason.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.report["drops"][reason].as_u64().unwrap_or(0)
    }
}
