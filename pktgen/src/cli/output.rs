//! Where a measurement's report goes: standard output, a file, a page; beside an older one.

use std::fs;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use clap::Args;

use super::CommandError;
use crate::report::compare::{self, Change};
use crate::report::maglev::Maglev;
use crate::report::page::{Contents, page};
use crate::report::{Measurement, Report};

/// What becomes of a report.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Report")]
pub struct OutputArgs {
    /// Print the report as JSON (docs/pktgen.md has its schema) in place of tables.
    #[arg(long)]
    pub json: bool,
    /// Also write the JSON to a file, to be compared with or shown later.
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Also write a page with plots, in one file that needs no other.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print how each figure has changed since an older report, with its spread. With --json, as a
    /// second line.
    #[arg(long, value_name = "OLD.json")]
    pub compare: Option<PathBuf>,
    /// Maglev figures for the page, as `weir-benches --json` writes them.
    #[arg(long, value_name = "FILE", requires = "html")]
    pub maglev: Option<PathBuf>,
}

/// What is read before anything is measured, so that a wrong file name costs no time.
#[derive(Debug, Default)]
pub struct Beside {
    older: Option<Measurement>,
    maglev: Option<Maglev>,
}

impl OutputArgs {
    /// Reads the files that the report goes beside.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn beside(&self) -> Result<Beside, CommandError> {
        Ok(Beside {
            older: self.compare.as_deref().map(Measurement::load).transpose()?,
            maglev: self.maglev.as_deref().map(Maglev::load).transpose()?,
        })
    }

    /// Writes a report's JSON to its file, if one is wanted.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn keep(&self, report: &Measurement) -> Result<(), CommandError> {
        let Some(path) = &self.save else {
            return Ok(());
        };
        let mut text = serde_json::to_string_pretty(report).map_err(std::io::Error::from)?;
        text.push('\n');
        write(path, &text)
    }

    /// Prints and writes a report.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn give(&self, report: &Measurement, beside: &Beside) -> Result<(), CommandError> {
        // Files first: whoever reads our output may have gone.
        self.keep(report)?;
        let changes = beside
            .older
            .as_ref()
            .map(|older| compare::compare(older, report));
        if let Some(path) = &self.html {
            let contents = Contents {
                reports: std::slice::from_ref(report),
                maglev: beside.maglev.as_ref(),
                changes: changes.as_deref().unwrap_or_default(),
            };
            write(path, &page(&contents)?)?;
        }
        let mut out = stdout().lock();
        report.print(self.json, &mut out)?;
        if let Some(changes) = changes {
            print_changes(&changes, self.json, &mut out)?;
        }
        Ok(())
    }
}

/// Prints changes: one JSON object on one line, or a table.
pub(super) fn print_changes(
    changes: &[Change],
    json: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    if json {
        let line = serde_json::json!({
            "version": crate::report::VERSION,
            "command": "compare",
            "changes": changes,
        });
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "{}", compare::table(changes))?;
    }
    Ok(())
}

/// Writes a file.
pub(super) fn write(path: &Path, text: &str) -> Result<(), CommandError> {
    fs::write(path, text).map_err(|source| CommandError::Create {
        path: path.display().to_string(),
        source,
    })
}
