//! The page: `docs/performance.md` from its records, its template and its reasons, and the plots.
//!
//! | file in `docs/` | written by |
//! |---|---|
//! | `performance.json`, `performance/runs.json` | `make bench` |
//! | `performance/template.md`: the prose; `{{…}}` are filled in | hand |
//! | `performance/reasons.toml`: why a goal is missed, and what was tried | hand |
//! | `performance.md`, `performance/*.svg` | `make bench`, from all of the above |
//! | `steering.md`, `quic.md`: the figures in them | `make bench`, from the records; the rest by hand |

mod guides;
mod page;
mod plots;

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Failure;
use crate::record::Book;

/// Where records and runs lie below the documentation's folder.
#[must_use]
pub fn files(docs: &Path) -> (PathBuf, PathBuf) {
    (
        docs.join("performance.json"),
        docs.join("performance/runs.json"),
    )
}

/// Why some cases of a figure miss their goal.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// The figure.
    pub figure: String,
    /// What the cases begin with; all if empty.
    #[serde(default)]
    pub case: String,
    /// Why, and what was tried: a sentence or two of Markdown.
    pub text: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reasons {
    #[serde(default)]
    reason: Vec<Reason>,
}

/// Writes the page and its plots, and the figures that guides quote.
///
/// # Errors
/// When something cannot be read or written, or the template asks for what there is not.
pub fn write(docs: &Path) -> Result<(), Failure> {
    let (records, runs) = files(docs);
    let book = Book::read(&records, &runs)?;
    let folder = docs.join("performance");
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let reasons: Reasons = toml::from_str(&read("reasons.toml")?)?;
    let plots = plots::draw(&book, &folder)?;
    let page = page::fill(&read("template.md")?, &book, &reasons.reason, &plots)?;
    std::fs::write(docs.join("performance.md"), page)?;
    guides::write(docs, &book)
}
