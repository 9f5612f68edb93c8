//! The figures, one module each. Each is measured in a process of its own, so that one that fails
//! takes no other with it.

pub mod buffers;
pub mod change;
pub mod connection_ids;
pub mod device;
pub mod latency;
pub mod memory;
pub mod modes;
pub mod new_flows;
pub mod overhead;
pub mod requests;
pub mod schedulers;
pub mod tables;
pub mod veth;
pub mod workers;

use std::time::Duration;

use clap::Args;
use weir_e2e::cores;
use weir_engine::worker::Worker;

use crate::Failure;
use crate::record::Record;

/// How long and how often.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Repetitions of each case, in turns with its yardstick.
    #[arg(long, default_value_t = 5)]
    pub repetitions: usize,
    /// How long a rate is measured.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub window: Duration,
}

impl Settings {
    /// How long what is measured runs before the clock does: every flow of a file has come by.
    #[must_use]
    pub fn settle(&self) -> Duration {
        self.window.min(Duration::from_millis(300))
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    weir_shm::duration::parse(text).map_err(|error| error.to_string())
}

/// Every figure: its letter, what it tells, how it is measured.
pub const ALL: &[(char, &str, Measure)] = &[
    (
        'A',
        "The whole daemon on one core, beside testpmd on the same device and file",
        device::measure,
    ),
    ('B', "The pipeline alone over buffers", buffers::measure),
    ('C', "Every packet a new flow", new_flows::measure),
    ('D', "Connection tracking", memory::measure),
    ('E', "Building Maglev tables", tables::measure),
    ('F', "A pool change at full load", change::measure),
    ('G', "Two workers beside one", workers::measure),
    (
        'H',
        "Latency through a memif, beside testpmd in weir's place",
        latency::measure,
    ),
    (
        'I',
        "Over veth, beside nftables in the same namespaces",
        veth::measure,
    ),
    (
        'J',
        "HTTP requests, beside HAProxy and nftables in the same namespaces",
        requests::measure,
    ),
    (
        'M',
        "Each forwarding mode beside dsr-l2, over buffers",
        modes::measure,
    ),
    (
        'O',
        "What being watched costs: metrics scraped, packets captured",
        overhead::measure,
    ),
    ('Q', "Decoding QUIC connection IDs", connection_ids::measure),
    ('S', "New flows, by scheduler", schedulers::measure),
];

/// Measures one figure.
pub type Measure = fn(&Settings) -> Result<Vec<Record>, Failure>;

/// The figure with this letter.
///
/// # Errors
/// When there is none.
pub fn by_letter(letter: &str) -> Result<(char, &'static str, Measure), Failure> {
    let found = ALL.iter().find(|(it, ..)| it.to_string() == letter);
    found.copied().ok_or_else(|| {
        let letters: Vec<String> = ALL.iter().map(|(it, ..)| it.to_string()).collect();
        format!("no figure {letter:?}; there are {}", letters.join(" ")).into()
    })
}

/// Measures on the core that is a worker's otherwise, away from whatever else this machine does.
fn on_worker_core(
    measure: impl FnOnce() -> Result<Vec<Record>, Failure> + Send + 'static,
) -> Result<Vec<Record>, Failure> {
    Worker::spawn("bench", cores::worker(), move |_| measure())?.join()?
}
