//! Everything that changes the pool: the change itself, its commit, and what is said about it.

use std::io::{BufWriter, Write};

use serde_json::json;
use weir_shm::client::{Client, Outcome};
use weir_shm::command::{BackendCommand, Change, Difference, PoolCommand};
use weir_shm::document;
use weir_shm::model::Pool;

use crate::cli::{Cli, Output};
use crate::output::{json as write_json, things};
use crate::{Failure, drain};

pub(crate) fn run(
    cli: &Cli,
    client: &Client,
    command: &PoolCommand,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    if command.is_read_only() {
        return dry_run(cli, client, command, out);
    }
    // Other writers stay out until this change is in force or refused.
    let mut edit = client.edit(cli.ack_timeout)?;
    let mut pool = edit.base().clone();
    let change = command.apply_to(&mut pool)?;
    let committed = if change.changed {
        let generation = edit.commit(&pool)?;
        let workers = await_workers(&edit.wait(generation, cli.ack_timeout)?, generation, cli)?;
        (generation, Some(workers))
    } else {
        (client.status()?.generation, None)
    };
    drop(edit);
    report(cli, client, &change, &pool, committed, out)?;
    if let PoolCommand::Backend(BackendCommand::Drain {
        target, wait: true, ..
    }) = command
    {
        drain::wait(cli, client, target, &pool, out)?;
    }
    Ok(())
}

/// The number of workers that run a generation, or why not all do.
pub(crate) fn await_workers(
    outcome: &Outcome,
    generation: u64,
    cli: &Cli,
) -> Result<usize, Failure> {
    match outcome {
        Outcome::Acknowledged { workers } => Ok(*workers),
        Outcome::Refused { reason } => Err(Failure::RefusedByDaemon(reason.clone())),
        Outcome::TimedOut { accepted, missing } => {
            let waited = cli.ack_timeout;
            let who = if *accepted {
                let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
                format!("worker {} does not run it yet", missing.join(", "))
            } else {
                "the daemon has not looked at it".to_owned()
            };
            Err(Failure::NotAcknowledged(format!(
                "generation {generation} was committed, but not acknowledged within {waited:?}: {who}"
            )))
        }
    }
}

fn dry_run(
    cli: &Cli,
    client: &Client,
    command: &PoolCommand,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut pool = client.running()?.pool;
    let change = command.apply_to(&mut pool)?;
    if cli.output == Output::Json {
        let picture = json!({
            "changed": false,
            "dry_run": true,
            "changes": change.lines,
            "warnings": change.warnings,
        });
        return Ok(write_json(out, &picture)?);
    }
    let out = &mut BufWriter::new(out);
    write_lines(&change, out)?;
    writeln!(out, "dry run: nothing was changed")?;
    Ok(out.flush()?)
}

fn report(
    cli: &Cli,
    client: &Client,
    change: &Change,
    pool: &Pool,
    (generation, workers): (u64, Option<usize>),
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let saved = is_saved(client, pool);
    // A large pool is many lines.
    let out = &mut BufWriter::new(out);
    if cli.output == Output::Json {
        let picture = json!({
            "changed": change.changed,
            "generation": generation,
            "workers": workers,
            "changes": change.lines,
            "warnings": change.warnings,
            "saved": saved,
            "config": client.config_path(),
        });
        write_json(out, &picture)?;
        return Ok(out.flush()?);
    }
    write_lines(change, out)?;
    if let Some(workers) = workers {
        writeln!(
            out,
            "generation {generation}: acknowledged by {}",
            things(workers, "worker")
        )?;
    }
    if saved == Some(false) {
        let config = client.config_path().display();
        writeln!(out, "not saved: `weirctl save` writes it to {config}")?;
    }
    out.flush()?;
    Ok(())
}

fn write_lines(change: &Change, out: &mut dyn Write) -> Result<(), Failure> {
    for line in &change.lines {
        writeln!(out, "{line}")?;
    }
    for warning in &change.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    Ok(())
}

/// Whether the daemon's configuration file says the same as `pool`; `None` when it cannot be read.
pub(crate) fn is_saved(client: &Client, pool: &Pool) -> Option<bool> {
    let path = client.config_path();
    let text = std::fs::read_to_string(path).ok()?;
    let loaded = document::parse_services(&path.to_string_lossy(), &text).ok()?;
    Some(Difference::between(&loaded.pool, pool).is_empty())
}
