//! `events`: what happened lately.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};
use weir_shm::client::Client;
use weir_shm::segment;
use weir_shm::segment::event::Event;

use crate::Failure;
use crate::cli::{Cli, Output};
use crate::output::{json as write_json, moment};

/// From one look to the next.
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) fn run(
    cli: &Cli,
    client: &Client,
    follow: bool,
    last: Option<usize>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let events = client.events(0)?;
    let skip = last.map_or(0, |last| events.len().saturating_sub(last));
    let shown = events.get(skip..).unwrap_or_default();
    if cli.output == Output::Json && !follow {
        let all: Vec<Value> = shown.iter().map(for_programs).collect();
        return Ok(write_json(out, &all)?);
    }
    for event in shown {
        write_event(cli, event, out)?;
    }
    if follow {
        let next = events.last().map_or(1, |event| event.number + 1);
        go_on(cli, client, next, out)?;
    }
    Ok(())
}

/// Shows events as they come, until interrupted or nobody reads. A daemon that starts anew under
/// the same name is followed.
fn go_on(cli: &Cli, first: &Client, mut next: u64, out: &mut dyn Write) -> Result<(), Failure> {
    let mut started = first.started_ns();
    loop {
        out.flush()?;
        std::thread::sleep(PAUSE);
        // While no daemon is there, or one is being replaced, there is nothing new.
        let Ok(client) = Client::open(&segment::folder(), first.instance()) else {
            continue;
        };
        if client.started_ns() != started {
            started = client.started_ns();
            next = 1;
        }
        for event in client.events(next)? {
            next = event.number + 1;
            write_event(cli, &event, out)?;
        }
    }
}

fn for_programs(event: &Event) -> Value {
    json!({
        "number": event.number,
        "time": moment(event.unix_ns),
        "unix_ns": event.unix_ns,
        "kind": event.kind,
        "text": event.text,
    })
}

fn write_event(cli: &Cli, event: &Event, out: &mut dyn Write) -> Result<(), Failure> {
    if cli.output == Output::Json {
        writeln!(out, "{}", for_programs(event))?;
    } else {
        writeln!(
            out,
            "{}  {:<13}  {}",
            moment(event.unix_ns),
            event.kind.name(),
            event.text
        )?;
    }
    Ok(())
}
