//! `flows`: how many flows live, by backend, state and the time since their last packet; and the
//! newest ones with their addresses.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};
use weir_shm::client::Client;
use weir_shm::segment::mailbox::{
    Answer, BackendCensus, Census, FLOW_STATES, IDLE_CLASSES, NewFlow, Question,
};

use crate::Failure;
use crate::cli::{Cli, Output};
use crate::output::{count, json as write_json, span, table};

/// `flows`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Flows are what conntrack holds and has not timed out; it keeps no addresses. The newest flows are a\n\
sample: each worker notes at most four in a millisecond, and keeps 256.\n\n\
Example:\n  weirctl flows --newest 20 --service web"
)]
pub struct Flows {
    /// Only flows of this service
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only flows of backends of this name
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub backend: Option<String>,
    /// Show the newest flows with their addresses
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "20", value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub newest: Option<u32>,
}

pub(crate) fn run(
    cli: &Cli,
    client: &Client,
    asked: &Flows,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let (service, backend) = (asked.service.clone(), asked.backend.clone());
    let question = match asked.newest {
        Some(most) => Question::Newest {
            service,
            backend,
            most,
        },
        None => Question::Census { service, backend },
    };
    match client.ask(&question, cli.ack_timeout)? {
        Answer::Census(census) => show_counts(cli, &census, out),
        Answer::Newest { flows } => show_newest(cli, &flows, out),
        other => Err(Failure::Other(format!(
            "the daemon answered something else: {other:?}"
        ))),
    }
}

/// Names with their counts.
fn named<'a>(names: impl Iterator<Item = &'a str>, counts: &[u64]) -> Map<String, Value> {
    names
        .zip(counts)
        .map(|(name, count)| (name.to_owned(), json!(count)))
        .collect()
}

fn picture(backend: &BackendCensus) -> Value {
    json!({
        "backend": backend.backend,
        "in_pool": backend.in_pool,
        "flows": backend.flows,
        "states": named(FLOW_STATES.into_iter(), &backend.states),
        "last_packet": named(IDLE_CLASSES.iter().map(|(name, _)| *name), &backend.idle),
        "sessions": backend.sessions,
    })
}

fn show_counts(cli: &Cli, census: &Census, out: &mut dyn Write) -> Result<(), Failure> {
    let all = || census.services.iter().flat_map(|service| &service.backends);
    let total: u64 = all().map(|backend| backend.flows).sum();
    if cli.output == Output::Json {
        let services = census.services.iter().map(|service| {
            let flows: u64 = service.backends.iter().map(|backend| backend.flows).sum();
            json!({
                "service": service.service,
                "flows": flows,
                "backends": service.backends.iter().map(picture).collect::<Vec<_>>(),
            })
        });
        let picture = json!({ "flows": total, "services": services.collect::<Vec<_>>() });
        return Ok(write_json(out, &picture)?);
    }
    let pairs = || {
        let services = census.services.iter();
        services.flat_map(|service| (service.backends.iter()).map(move |one| (service, one)))
    };
    let sessions = |backend: &BackendCensus| backend.sessions.map_or_else(|| "-".to_owned(), count);
    let rows = pairs().map(|(service, backend)| {
        let mut row = vec![
            service.service.clone(),
            backend_name(backend),
            count(backend.flows),
        ];
        row.extend(backend.states.iter().map(|number| count(*number)));
        row.push(sessions(backend));
        row
    });
    let heads = [
        "SERVICE",
        "BACKEND",
        ">FLOWS",
        ">SYN",
        ">EST",
        ">CLOSING",
        ">MID",
        ">UDP1",
        ">UDP",
        ">SESSIONS",
    ];
    writeln!(out, "{}", table(&heads, rows))?;
    let rows = pairs().map(|(service, backend)| {
        let mut row = vec![service.service.clone(), backend_name(backend)];
        row.extend(backend.idle.iter().map(|number| count(*number)));
        row
    });
    let heads = [
        "LAST PACKET",
        "",
        ">< 1s",
        ">< 10s",
        ">< 1m",
        ">< 5m",
        ">LONGER",
    ];
    writeln!(out, "\n{}", table(&heads, rows))?;
    writeln!(out, "\n{} flows in all", count(total))?;
    Ok(())
}

/// A backend that has left the pool is marked.
fn backend_name(backend: &BackendCensus) -> String {
    let mark = if backend.in_pool { "" } else { " (left)" };
    format!("{}{mark}", backend.backend)
}

fn protocol(number: u8) -> String {
    match number {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    }
}

fn show_newest(cli: &Cli, flows: &[NewFlow], out: &mut dyn Write) -> Result<(), Failure> {
    if cli.output == Output::Json {
        let all = flows.iter().map(|flow| {
            let mut picture = json!(flow);
            if let Some(object) = picture.as_object_mut() {
                object.insert("protocol".to_owned(), json!(protocol(flow.protocol)));
            }
            picture
        });
        return Ok(write_json(out, &all.collect::<Vec<_>>())?);
    }
    let rows = flows.iter().map(|flow| {
        let age = match flow.age_ms {
            0..10_000 => format!("{} ms", flow.age_ms),
            longer => span(Duration::from_millis(longer)),
        };
        vec![
            age,
            protocol(flow.protocol),
            flow.source.to_string(),
            flow.destination.to_string(),
            flow.service.clone(),
            flow.backend.clone(),
            flow.state.clone().unwrap_or_else(|| "over".to_owned()),
        ]
    });
    let heads = [
        ">AGE", "PROTO", "CLIENT", "VIP", "SERVICE", "BACKEND", "STATE",
    ];
    writeln!(out, "{}", table(&heads, rows))?;
    Ok(())
}
