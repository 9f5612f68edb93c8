//! Everything that changes the pool: the change itself, its commit, and what is said about it.

use std::io::{BufWriter, Write};

use serde_json::json;
use weir_shm::client::{Client, Outcome};
use weir_shm::command::{BackendCommand, Change, Difference, PoolCommand};
use weir_shm::document;
use weir_shm::model::Pool;

use crate::Failure;
use crate::cli::{Cli, Output};
use crate::drain::{self, Waited};
use crate::output::{json as write_json, things};

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
    let said = Said {
        change: &change,
        pool: &pool,
        generation: committed.0,
        workers: committed.1,
    };
    let PoolCommand::Backend(BackendCommand::Drain {
        target, wait: true, ..
    }) = command
    else {
        return said.report(cli, client, None, out);
    };
    if cli.output == Output::Json {
        // One JSON value, which tells how the wait ended; whatever that is, the change was made.
        let waited = drain::wait(cli, client, target, &pool);
        let known = waited.as_ref().ok().and_then(Option::as_ref);
        said.report(cli, client, known, out)?;
        return waited.map(drop);
    }
    said.report(cli, client, None, out)?;
    if let Some(waited) = drain::wait(cli, client, target, &pool)? {
        waited.write(out)?;
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

/// What was changed, and how far it has got.
struct Said<'a> {
    change: &'a Change,
    pool: &'a Pool,
    generation: u64,
    /// Workers that run it; none if there was nothing to change.
    workers: Option<usize>,
}

impl Said<'_> {
    fn report(
        &self,
        cli: &Cli,
        client: &Client,
        waited: Option<&Waited>,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let Self {
            change,
            pool,
            generation,
            workers,
        } = *self;
        let saved = is_saved(client, pool);
        // A large pool is many lines.
        let out = &mut BufWriter::new(out);
        if cli.output == Output::Json {
            let mut picture = json!({
                "changed": change.changed,
                "generation": generation,
                "workers": workers,
                "changes": change.lines,
                "warnings": change.warnings,
                "saved": saved,
                "config": client.config_path(),
            });
            if let (Some(waited), Some(object)) = (waited, picture.as_object_mut()) {
                object.insert("drained".to_owned(), json!(waited.left == 0));
                object.insert("flows_left".to_owned(), json!(waited.left));
            }
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
