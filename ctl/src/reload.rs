//! `reload`: the daemon reads its configuration file again.

use std::io::Write;

use serde_json::json;
use weir_shm::client::Client;
use weir_shm::segment::mailbox::{Answer, Question};

use crate::cli::{Cli, Output};
use crate::output::{json as write_json, things};
use crate::{Failure, change};

pub(crate) fn run(cli: &Cli, client: &Client, out: &mut dyn Write) -> Result<(), Failure> {
    // Other writers stay out until the file's pool is in force or refused.
    let edit = client.edit(cli.ack_timeout)?;
    let answer = client.ask(&Question::Reload, cli.ack_timeout)?;
    let Answer::Reloaded {
        generation,
        changes,
        left_alone,
        warnings,
    } = answer
    else {
        return Err(Failure::Other(format!(
            "the daemon answered something else: {answer:?}"
        )));
    };
    let workers = match generation {
        Some(generation) => {
            let outcome = edit.wait(generation, cli.ack_timeout)?;
            Some(change::await_workers(&outcome, generation, cli)?)
        }
        None => None,
    };
    drop(edit);
    if cli.output == Output::Json {
        let picture = json!({
            "changed": generation.is_some(),
            "generation": generation,
            "workers": workers,
            "changes": changes,
            "left_alone": left_alone,
            "warnings": warnings,
            "config": client.config_path(),
        });
        return Ok(write_json(out, &picture)?);
    }
    for line in &changes {
        writeln!(out, "{line}")?;
    }
    for warning in &warnings {
        writeln!(out, "warning: {warning}")?;
    }
    for key in &left_alone {
        writeln!(out, "left alone: {key} differs, and needs a restart")?;
    }
    match (generation, workers) {
        (Some(generation), Some(workers)) => writeln!(
            out,
            "generation {generation}: acknowledged by {}",
            things(workers, "worker")
        )?,
        _ => writeln!(
            out,
            "the services of {} are in force already",
            client.config_path().display()
        )?,
    }
    Ok(())
}
