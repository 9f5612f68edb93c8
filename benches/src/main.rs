//! `weir-benches`: measures the figures of `docs/performance.md` and writes that page. `make bench`
//! and `make test` run it; see `scripts/bench`.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use weir_benches::figures::{self, Settings};
use weir_benches::{Failure, campaign, guard, instructions, report};

/// Measures weir, beside yardsticks in the same run.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure figures, put them into the documentation, and write its page anew.
    Run {
        /// Their letters [default: all].
        figures: Vec<String>,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        docs: Docs,
    },
    /// Measure one figure in this process, and write its records to a file.
    Figure {
        /// Its letter.
        letter: String,
        #[command(flatten)]
        settings: Settings,
        /// Where its records go.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Write the page anew from the records there are.
    Page {
        #[command(flatten)]
        docs: Docs,
    },
    /// Measure weir beside testpmd for a moment; fail if it is far slower than it should be.
    Ratio,
    /// Count the packet path's instructions, stage by stage, and hold them against the record.
    Instructions {
        /// Put them on record instead.
        #[arg(long)]
        bless: bool,
        /// The record.
        #[arg(long, default_value = "benches/instructions.json")]
        record: PathBuf,
    },
    /// Run one of its cases, to be watched.
    Stage {
        /// The case.
        case: String,
    },
    /// Take away what a run that was killed has left.
    Sweep,
}

#[derive(Debug, Args)]
struct Docs {
    /// The documentation's folder.
    #[arg(long, default_value = "docs")]
    docs: PathBuf,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weir-benches: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<bool, Failure> {
    match command {
        Command::Run {
            figures,
            settings,
            docs,
        } => campaign::run(&figures, &settings, &docs.docs),
        Command::Figure {
            letter,
            settings,
            out,
        } => figure(&letter, &settings, &out).map(|()| true),
        Command::Page { docs } => report::write(&docs.docs).map(|()| true),
        Command::Ratio => guard::ratio(),
        Command::Instructions { bless, record } => instructions::check(&record, bless),
        Command::Stage { case } => instructions::run_case(&case).map(|()| true),
        Command::Sweep => campaign::sweep().map(|()| true),
    }
}

fn figure(letter: &str, settings: &Settings, out: &Path) -> Result<(), Failure> {
    let (_, _, measure) = figures::by_letter(letter)?;
    campaign::sweep()?;
    let records = measure(settings)?;
    std::fs::write(out, serde_json::to_vec(&records)?)?;
    Ok(())
}
