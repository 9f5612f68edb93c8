//! Prints what `weir-benches` measures: tables on standard output, JSON where asked.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;
use weir_benches::maglev::{self, Disruption, Evenness};
use weir_benches::pipeline::{self, Failure, Figure, Mode};
use weir_benches::quic::{self, Decoding};

/// Measures weir's packet path over buffers, and the Maglev figures of the paper.
#[derive(Debug, Parser)]
struct Cli {
    /// Packets a repetition.
    #[arg(long, default_value_t = 4_000_000)]
    packets: u32,
    /// Repetitions of each figure.
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Flow counts, drawn from with equal chances.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 1_000_000])]
    flows: Vec<u32>,
    /// Leave the Maglev figures out.
    #[arg(long)]
    no_maglev: bool,
    /// Also write everything as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    pipeline: Vec<Figure>,
    evenness: Vec<Evenness>,
    disruption: Vec<Disruption>,
    quic: Vec<Decoding>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-benches: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let mut report = Report::default();
    println!("Pipeline alone, 60-byte frames, 100 backends, random flows (ns a packet)");
    println!(
        "{:<8} {:>10} {:>8} {:>16}",
        "mode", "flows", "median", "range"
    );
    for mode in [Mode::DsrL2, Mode::Nat] {
        for flows in &cli.flows {
            let figure = pipeline::measure(mode, *flows, cli.packets, cli.repetitions)?;
            let name = if mode == Mode::Nat { "nat" } else { "dsr-l2" };
            let (low, high) = figure.range;
            println!(
                "{name:<8} {flows:>10} {:>8.1} {low:>7.1} – {high:.1}",
                figure.nanoseconds
            );
            report.pipeline.push(figure);
        }
    }
    quic(cli, &mut report)?;
    if !cli.no_maglev {
        maglev(&mut report);
    }
    if let Some(path) = &cli.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}

fn quic(cli: &Cli, report: &mut Report) -> Result<(), Failure> {
    println!("\nQUIC-LB, from a datagram to its backend (ns a packet)");
    println!(
        "{:<24} {:>9} {:>8} {:>16}",
        "connection ID", "backends", "median", "range"
    );
    for backends in [100, 10_000] {
        for case in quic::CASES {
            let figure = quic::measure(case, backends, cli.packets, cli.repetitions)?;
            let (low, high) = figure.range;
            println!(
                "{:<24} {backends:>9} {:>8.1} {low:>7.1} – {high:.1}",
                figure.name, figure.nanoseconds
            );
            report.quic.push(figure);
        }
    }
    Ok(())
}

fn maglev(report: &mut Report) {
    println!("\nMaglev, paper's figure 11: shares of 1,000 backends (% of the table)");
    println!(
        "{:<9} {:>9} {:>9} {:>10}",
        "entries", "smallest", "largest", "build, ms"
    );
    for size in [65_537, 655_373] {
        let row = maglev::evenness(size, 1_000);
        println!(
            "{size:<9} {:>9.4} {:>9.4} {:>10.2}",
            row.smallest_percent, row.largest_percent, row.build_ms
        );
        report.evenness.push(row);
    }
    println!("\nMaglev, paper's figure 12: entries of surviving backends that change hands (%)");
    println!("{:<9} {:>7} {:>9}", "entries", "failed", "changed");
    for size in [65_537, 655_373] {
        for failed in [1, 5, 10, 20, 29] {
            let row = maglev::disruption(size, failed);
            println!("{size:<9} {failed:>7} {:>9.2}", row.changed_percent);
            report.disruption.push(row);
        }
    }
}
