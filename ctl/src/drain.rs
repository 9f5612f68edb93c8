//! `backend drain --wait`: returns when no flow is left.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use weir_shm::client::Client;
use weir_shm::command::backend::Target;
use weir_shm::model::{Admin, Backend, NO_DEADLINE, Pool};
use weir_shm::segment::mailbox::{Answer, Question};

use crate::Failure;
use crate::cli::{Cli, Output};
use crate::output::{span, things};

/// From one question to the next: each walks over the workers' flow tables.
const PAUSE: Duration = Duration::from_millis(500);

/// Waits until the backend has no flow left, or for the drain's time-out; without one, for as long
/// as the daemon lives.
pub(crate) fn wait(
    cli: &Cli,
    client: &Client,
    target: &Target,
    pool: &Pool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let found = pool.service(&target.service).and_then(|service| {
        let port = target.backend.port_in(service).ok()?;
        let name = Backend::new(target.backend.address, port).name(service);
        let admin = service.backend(&name)?.admin;
        Some((name, admin))
    });
    let Some((name, Admin::Drain { timeout })) = found else {
        return Ok(());
    };
    let timeout = (timeout != NO_DEADLINE).then_some(timeout);
    let question = Question::Flows {
        service: target.service.clone(),
        backend: Some(name.clone()),
    };
    let started = Instant::now();
    let bar = bar(&name);
    let mut first = None;
    let left = loop {
        let flows = flows(cli, client, &question, &name)?;
        let total = *first.get_or_insert(flows);
        bar.set_length(total.max(flows));
        bar.set_position(total.saturating_sub(flows));
        let expired = timeout.is_some_and(|timeout| started.elapsed() >= timeout);
        if flows == 0 || expired {
            break flows;
        }
        let left = timeout.map_or(PAUSE, |timeout| timeout.saturating_sub(started.elapsed()));
        std::thread::sleep(PAUSE.min(left));
    };
    bar.finish_and_clear();
    if cli.output == Output::Json {
        // The change itself was the command's one JSON value.
        return Ok(());
    }
    let waited = span(started.elapsed());
    if left == 0 {
        writeln!(out, "drained: no flow of {name} is left after {waited}")?;
    } else {
        let left = things(usize::try_from(left).unwrap_or(usize::MAX), "flow");
        writeln!(
            out,
            "{left} of {name} left at the time-out; other backends take over"
        )?;
    }
    Ok(())
}

fn flows(cli: &Cli, client: &Client, question: &Question, name: &str) -> Result<u64, Failure> {
    match client.ask(question, cli.ack_timeout)? {
        Answer::Flows { backends } => {
            let told = backends.into_iter().find(|told| told.backend == name);
            Ok(told.map_or(0, |told| told.flows))
        }
        other => Err(Failure::Other(format!(
            "the daemon answered something else: {other:?}"
        ))),
    }
}

/// A progress bar, which hides itself when standard error is no terminal.
fn bar(name: &str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_message(format!("draining {name}"));
    match ProgressStyle::with_template("{msg} [{wide_bar}] {pos}/{len} flows ended, {elapsed}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
