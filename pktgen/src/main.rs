//! The `weir-pktgen` program: reads the command line and turns the outcome into an exit code.

use std::process::ExitCode;

use clap::Parser;
use weir_pktgen::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().execute()
}
