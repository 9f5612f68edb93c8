//! The command line: `weir-pktgen run | reflect | pcap | rfc2544 | scale | churn | report`.

#[cfg(feature = "dpdk")]
mod bed;
#[cfg(feature = "dpdk")]
mod churn;
#[cfg(feature = "dpdk")]
mod device;
#[cfg(feature = "dpdk")]
mod measure;
mod output;
mod pcap;
mod profile;
#[cfg(feature = "dpdk")]
mod reflect;
mod report;
#[cfg(feature = "dpdk")]
mod rfc2544;
#[cfg(feature = "dpdk")]
mod run;
#[cfg(feature = "dpdk")]
mod scale;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[cfg(feature = "dpdk")]
pub use self::bed::BedArgs;
#[cfg(feature = "dpdk")]
pub use self::churn::ChurnArgs;
#[cfg(feature = "dpdk")]
pub use self::device::DeviceArgs;
pub use self::output::OutputArgs;
pub use self::pcap::PcapArgs;
pub use self::profile::{LinkArgs, ProfileArgs, TargetArgs};
#[cfg(feature = "dpdk")]
pub use self::reflect::ReflectArgs;
pub use self::report::ReportArgs;
#[cfg(feature = "dpdk")]
pub use self::rfc2544::Rfc2544Args;
#[cfg(feature = "dpdk")]
pub use self::run::RunArgs;
#[cfg(feature = "dpdk")]
pub use self::scale::ScaleArgs;

use crate::backend::BadBackend;
use crate::bench::script::BadScript;
use crate::capture::CaptureError;
use crate::profile::ProfileError;
use crate::report::measurement::Unreadable;
use crate::report::page::chart::PlotError;

/// Exit code of a command that was asked for something impossible.
pub const USAGE: u8 = 2;

/// Traffic generator, reflector and measuring tool for weir.
#[derive(Debug, Parser)]
#[command(name = "weir-pktgen", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send stamped traffic, and measure what comes back.
    #[cfg(feature = "dpdk")]
    Run(Box<RunArgs>),
    /// Play backends: answer stamped traffic, or count it.
    #[cfg(feature = "dpdk")]
    Reflect(Box<ReflectArgs>),
    /// Measure as RFC 2544 says: throughput, back-to-back frames, latency.
    #[cfg(feature = "dpdk")]
    Rfc2544(Box<Rfc2544Args>),
    /// Measure packets a second against flows, backends, and the share of new flows.
    #[cfg(feature = "dpdk")]
    Scale(Box<ScaleArgs>),
    /// Open and close connections at a rate while the pool changes.
    #[cfg(feature = "dpdk")]
    Churn(Box<ChurnArgs>),
    /// Show saved reports again: tables, a page with plots, changes.
    Report(Box<ReportArgs>),
    /// Write the traffic to a capture file.
    Pcap(Box<PcapArgs>),
}

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The profile cannot be sent.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The backends cannot be played.
    #[error(transparent)]
    Backend(#[from] BadBackend),
    /// Options that exclude each other.
    #[error("{0}")]
    Usage(String),
    /// The capture could not be written.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// A file could not be made.
    #[error("cannot create {path}: {source}")]
    Create {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A report cannot be read back.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// A plot cannot be drawn.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// A script cannot be read.
    #[error(transparent)]
    Script(#[from] BadScript),
    /// The measurement failed.
    #[cfg(feature = "dpdk")]
    #[error(transparent)]
    Bench(#[from] crate::live::bench::BenchError),
    /// The report could not be printed.
    #[error("cannot print the report: {0}")]
    Print(#[from] io::Error),
    /// The devices did not do their part.
    #[cfg(feature = "dpdk")]
    #[error(transparent)]
    Live(#[from] crate::live::LiveError),
}

impl CommandError {
    /// 2 for what the command line got wrong, 1 for what went wrong after that.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Profile(_)
            | Self::Backend(_)
            | Self::Usage(_)
            | Self::Unreadable(_)
            | Self::Script(_)
            | Self::Capture(CaptureError::NoEnd) => USAGE,
            _ => 1,
        }
    }
}

impl Cli {
    /// Carries the command out. The exit code is 0 if all went well and every expectation was met,
    /// 1 if not, 2 if the command line makes no sense.
    #[must_use]
    pub fn execute(self) -> ExitCode {
        let result = match self.command {
            #[cfg(feature = "dpdk")]
            Command::Run(args) => args.execute(),
            #[cfg(feature = "dpdk")]
            Command::Reflect(args) => args.execute(),
            #[cfg(feature = "dpdk")]
            Command::Rfc2544(args) => args.execute(),
            #[cfg(feature = "dpdk")]
            Command::Scale(args) => args.execute(),
            #[cfg(feature = "dpdk")]
            Command::Churn(args) => args.execute(),
            Command::Report(args) => args.execute(),
            Command::Pcap(args) => args.execute(),
        };
        match result {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(1),
            // Whoever reads our output has seen enough.
            Err(CommandError::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("weir-pktgen: {error}");
                ExitCode::from(error.exit_code())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        for sub in command
            .get_subcommands()
            .filter(|sub| sub.get_name() != "help")
        {
            let help = sub
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            // Lines that end in a backslash go on; an example with … is of a part only.
            let whole = help.replace("\\\n", " ");
            let examples = whole.lines().map(str::trim);
            let examples = examples.filter(|line| line.starts_with("weir-pktgen "));
            let mut parsed = 0;
            for example in examples.filter(|line| !line.contains('…')) {
                let words = shlex::split(example).unwrap_or_default();
                if let Err(error) = Cli::try_parse_from(words) {
                    panic!("{example}: {error}");
                }
                parsed += 1;
            }
            assert!(parsed > 0, "{} has no example", sub.get_name());
        }
    }
}
