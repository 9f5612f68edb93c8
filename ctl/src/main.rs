//! `weirctl`: operates a running weir. All it does is in the library; this maps results to exit
//! codes: 0 done, 1 refused or not acknowledged, 2 usage.

use std::process::ExitCode;

use clap::Parser;

use weirctl::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = std::io::stdout().lock();
    match weirctl::run(&cli, &mut out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("weirctl: {failure}");
            ExitCode::FAILURE
        }
    }
}
