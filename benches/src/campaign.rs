//! A run over several figures: each in a process of its own with a time limit, so that one that fails
//! or hangs takes no other with it. What was measured goes into the documentation figure by figure.

use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::figures::{self, Settings};
use crate::machine::Machine;
use crate::record::{Book, Record};
use crate::rig::said;
use crate::{Failure, report};

/// How long one figure may take.
const LIMIT: Duration = Duration::from_secs(240);

/// Measures figures (all if none is named) and writes the documentation. Gives whether all could be
/// measured; whether they reach their goals is for the page to tell.
///
/// # Errors
/// When a figure does not exist or the documentation cannot be written.
pub fn run(letters: &[String], settings: &Settings, docs: &Path) -> Result<bool, Failure> {
    let mut wanted = Vec::new();
    for letter in letters {
        wanted.push(figures::by_letter(letter)?);
    }
    if wanted.is_empty() {
        wanted.extend(figures::ALL);
    }
    let (records, runs) = report::files(docs);
    std::fs::create_dir_all(docs.join("performance"))?;
    let mut failed = Vec::new();
    let began = Instant::now();
    for (letter, title, _) in wanted {
        let figure = letter.to_string();
        let start = Instant::now();
        println!("\n{figure}. {title}");
        let measured = measure(&figure, settings);
        // Read and written each time: what was measured is kept whatever becomes of the rest.
        let mut book = Book::read(&records, &runs)?;
        match measured {
            Ok(found) => {
                found.iter().for_each(print);
                book.measured(&figure, found, Machine::here());
            }
            Err(error) => {
                println!("   FAILED: {error}");
                book.failed(&figure, &error.to_string());
                failed.push(figure);
            }
        }
        book.write(&records, &runs)?;
        println!("   {} s", start.elapsed().as_secs());
        sweep()?;
    }
    report::write(docs)?;
    println!(
        "\n{} s in all; docs/performance.md is written",
        began.elapsed().as_secs()
    );
    if !failed.is_empty() {
        println!("could not be measured: {}", failed.join(" "));
    }
    Ok(failed.is_empty())
}

/// Takes away the namespaces and segments of runs that were killed, and keeps this process off the
/// worker's core.
///
/// # Errors
/// When it is not root.
pub fn sweep() -> Result<(), Failure> {
    weir_e2e::host::ready().map_err(said)?;
    Ok(())
}

fn measure(figure: &str, settings: &Settings) -> Result<Vec<Record>, Failure> {
    let dir = tempfile::tempdir()?;
    let (out, log) = (dir.path().join("records"), dir.path().join("log"));
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(std::env::current_exe()?)
        .args([
            "figure",
            figure,
            "--repetitions",
            &settings.repetitions.to_string(),
        ])
        .args(["--window", &weir_shm::duration::text(settings.window)])
        .arg("--out")
        .arg(&out)
        .stdin(Stdio::null())
        .stderr(File::create(&log)?)
        .spawn()?;
    let end = Instant::now() + LIMIT;
    let status: Option<ExitStatus> = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() > end {
            // What it started ends with it.
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    match status {
        Some(status) if status.success() => Ok(serde_json::from_slice(&std::fs::read(&out)?)?),
        Some(status) => Err(format!("{status}; {}", last_words(&said)).into()),
        None => Err(format!(
            "did not end within {} s; {}",
            LIMIT.as_secs(),
            last_words(&said)
        )
        .into()),
    }
}

/// The end of what a process said: its error comes last.
fn last_words(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|it| !it.is_empty())
        .collect();
    let from = lines.len().saturating_sub(8);
    lines[from..].join(" | ")
}

fn print(record: &Record) {
    let yardstick = match (&record.yardstick, record.yardstick_value, record.ratio) {
        (Some(name), Some(value), Some(ratio)) => format!("{name}: {value}, ratio {ratio:.2}"),
        (Some(name), Some(value), None) => format!("{name}: {value}"),
        _ => String::new(),
    };
    println!(
        "   {} {:<66} {:>9} {} ({} – {})  {yardstick}",
        if record.reached { " " } else { "!" },
        record.case,
        record.value,
        record.unit,
        record.min,
        record.max
    );
}
