//! The Maglev paper's figures 11 and 12 (NSDI 2016, section 5.3), measured elsewhere: how evenly a
//! table serves its backends, and how much of it changes hands when backends go.
//!
//! weir-pktgen knows nothing of balancing, so it reads them from a file; docs/pktgen.md has its form.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::measurement::{Unreadable, read_json};

/// How evenly a table serves its backends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evenness {
    /// How the table was built.
    #[serde(default = "maglev")]
    pub method: String,
    /// Entries.
    pub size: u32,
    /// Backends.
    pub backends: u32,
    /// The smallest share of a backend, in percent of the table.
    pub smallest_percent: f64,
    /// The largest share of a backend, in percent of the table.
    pub largest_percent: f64,
}

/// How much of a table changes hands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disruption {
    /// How the table was built.
    #[serde(default = "maglev")]
    pub method: String,
    /// Entries.
    pub size: u32,
    /// Backends that went.
    pub failed: u32,
    /// Backends before they went.
    #[serde(default = "thousand")]
    pub backends: u32,
    /// Entries of surviving backends that changed hands, in percent of the table.
    pub changed_percent: f64,
}

/// The file: further keys, such as those of `weir-benches --json`, are ignored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Maglev {
    /// Figure 11.
    #[serde(default)]
    pub evenness: Vec<Evenness>,
    /// Figure 12.
    #[serde(default)]
    pub disruption: Vec<Disruption>,
}

fn maglev() -> String {
    "Maglev".into()
}

/// The number of backends in the paper.
const fn thousand() -> u32 {
    1_000
}

impl Maglev {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn load(path: &Path) -> Result<Self, Unreadable> {
        read_json(path, "file of Maglev figures (docs/pktgen.md has its form)")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// As `weir-benches --json` writes it.
    const WRITTEN: &str = r#"{"pipeline": [{"mode": "nat"}],
        "evenness": [{"size": 65537, "backends": 1000, "smallest_percent": 0.0992, "largest_percent": 0.1007, "build_ms": 1.1},
                     {"size": 655373, "backends": 1000, "smallest_percent": 0.0999, "largest_percent": 0.1001, "build_ms": 12.0}],
        "disruption": [{"size": 65537, "failed": 1, "changed_percent": 0.4}, {"size": 65537, "failed": 29, "changed_percent": 3.1},
                       {"size": 655373, "failed": 1, "changed_percent": 0.1}, {"size": 655373, "failed": 29, "changed_percent": 0.9}]}"#;

    pub(crate) fn sample() -> Maglev {
        serde_json::from_str(WRITTEN).unwrap()
    }

    #[test]
    fn what_the_benches_write_is_read() {
        let maglev = sample();
        assert_eq!((maglev.evenness.len(), maglev.disruption.len()), (2, 4));
        assert_eq!(maglev.evenness[0].method, "Maglev");
        assert_eq!(maglev.disruption[1].backends, 1_000);
    }

    #[test]
    fn a_file_of_something_else_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.json");
        std::fs::write(&path, "{\"evenness\": [{\"size\": 5}]}").unwrap();
        let message = Maglev::load(&path).unwrap_err().to_string();
        assert!(
            message.contains("m.json is no file of Maglev figures"),
            "{message}"
        );
        assert!(message.contains("missing field"), "{message}");
    }
}
