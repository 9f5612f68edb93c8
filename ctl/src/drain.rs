//! `backend drain --wait`: returns when no flow is left.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use weir_shm::client::Client;
use weir_shm::command::backend::Target;
use weir_shm::model::{Admin, Backend, NO_DEADLINE, OnDown, Pool};
use weir_shm::segment::mailbox::{Answer, Question};

use crate::Failure;
use crate::cli::Cli;
use crate::output::{span, things};

/// From one question to the next: each walks over the workers' flow tables.
const PAUSE: Duration = Duration::from_millis(500);

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waited {
    backend: String,
    on_down: OnDown,
    took: Duration,
    /// Flows that were left at the time-out.
    pub(crate) left: u64,
}

/// Waits until the backend has no flow left, or for the drain's time-out; without one, for as long
/// as the daemon lives. Nothing is waited for if the backend is not being drained.
pub(crate) fn wait(
    cli: &Cli,
    client: &Client,
    target: &Target,
    pool: &Pool,
) -> Result<Option<Waited>, Failure> {
    let found = pool.service(&target.service).and_then(|service| {
        let port = target.backend.port_in(service).ok()?;
        let name = Backend::new(target.backend.address, port).name(service);
        let admin = service.backend(&name)?.admin;
        Some((name, admin, service.on_down))
    });
    let Some((name, Admin::Drain { timeout }, on_down)) = found else {
        return Ok(None);
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
    Ok(Some(Waited {
        backend: name,
        on_down,
        took: started.elapsed(),
        left,
    }))
}

impl Waited {
    /// Says how it ended, and what becomes of the flows that were left.
    pub(crate) fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let Self { backend, left, .. } = self;
        if *left == 0 {
            let took = span(self.took);
            return writeln!(out, "drained: no flow of {backend} is left after {took}");
        }
        let left = things(usize::try_from(*left).unwrap_or(usize::MAX), "flow");
        let then = match self.on_down {
            OnDown::Reset => "their clients get a reset",
            OnDown::ReSteer | OnDown::Keep => "other backends take over",
        };
        writeln!(out, "{left} of {backend} left at the time-out; {then}")
    }
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
