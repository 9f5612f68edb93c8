//! `weir-pktgen report`.

use std::io::stdout;
use std::path::PathBuf;

use clap::Args;

use super::CommandError;
use super::output::{print_changes, write};
use crate::report::compare;
use crate::report::maglev::Maglev;
use crate::report::page::{Contents, page};
use crate::report::{Measurement, Report};

/// Show saved reports again: tables, one page with plots, changes.
///
/// Reads what rfc2544, scale and churn wrote with --save, or printed with --json. Without --html and
/// --compare it prints the tables.
#[derive(Debug, Args)]
#[command(
    after_help = "Example, one page of three measurements and the Maglev figures:\n  \
    weir-benches --json maglev.json\n  \
    weir-pktgen report rfc2544.json scale.json churn.json --maglev maglev.json --html report.html\n\n\
    Example, what has changed since last week:\n  \
    weir-pktgen report scale.json --compare last-week/scale.json"
)]
pub struct ReportArgs {
    /// Saved reports.
    #[arg(value_name = "FILE.json", required_unless_present = "maglev")]
    pub files: Vec<PathBuf>,
    /// Maglev figures, as `weir-benches --json` writes them.
    #[arg(long, value_name = "FILE", requires = "html")]
    pub maglev: Option<PathBuf>,
    /// Write a page with plots, in one file that needs no other.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print how each figure has changed since an older report, with its spread.
    #[arg(long, value_name = "OLD.json")]
    pub compare: Option<PathBuf>,
    /// Print JSON in place of tables: a line for each report, and one for the changes.
    #[arg(long)]
    pub json: bool,
}

impl ReportArgs {
    /// Reads, writes and prints.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn execute(&self) -> Result<bool, CommandError> {
        if self.compare.is_some() && self.files.len() != 1 {
            return Err(CommandError::Usage(format!(
                "--compare takes one report and an older one; {} are given",
                self.files.len()
            )));
        }
        let reports: Vec<Measurement> = self
            .files
            .iter()
            .map(|path| Measurement::load(path))
            .collect::<Result<_, _>>()?;
        let maglev = self.maglev.as_deref().map(Maglev::load).transpose()?;
        let older = self.compare.as_deref().map(Measurement::load).transpose()?;
        let changes = match (&older, reports.first()) {
            (Some(older), Some(report)) => compare::compare(older, report),
            _ => Vec::new(),
        };
        if let Some(path) = &self.html {
            let contents = Contents {
                reports: &reports,
                maglev: maglev.as_ref(),
                changes: &changes,
            };
            write(path, &page(&contents)?)?;
        }
        let mut out = stdout().lock();
        if self.html.is_none() && older.is_none() {
            for report in &reports {
                report.print(self.json, &mut out)?;
            }
        }
        if older.is_some() {
            print_changes(&changes, self.json, &mut out)?;
        }
        Ok(true)
    }
}
