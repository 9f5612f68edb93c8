//! `lookup`: which backend a packet would get, and why, step by step.

mod steps;

use std::io::Write;

use serde_json::json;
use weir_shm::client::Client;
use weir_shm::segment::mailbox::{Answer, ConnectionIdReading, Elsewhere, LookupAnswer, Question};

use crate::Failure;
use crate::cli::{Cli, Lookup, Output};
use crate::output::json as write_json;

pub(crate) fn run(
    cli: &Cli,
    client: &Client,
    lookup: &Lookup,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let Lookup {
        protocol,
        source,
        destination,
        ..
    } = *lookup;
    let question = Question::Lookup {
        protocol,
        source,
        destination,
        connection_id: lookup.cid.clone(),
    };
    let answer = match client.ask(&question, cli.ack_timeout)? {
        Answer::Lookup(answer) => *answer,
        other => {
            return Err(Failure::Other(format!(
                "the daemon answered something else: {other:?}"
            )));
        }
    };
    let explanation = explain(&answer);
    if cli.output == Output::Json {
        let mut picture = json!(answer);
        if let Some(object) = picture.as_object_mut() {
            object.insert("explanation".to_owned(), json!(explanation));
        }
        return Ok(write_json(out, &picture)?);
    }
    writeln!(out, "{protocol} {source} -> {destination}")?;
    if let Some(service) = &answer.service {
        writeln!(out, "service  {service}")?;
    }
    if let Some(reading) = &answer.connection_id {
        writeln!(out, "cid      {}", read(reading))?;
    }
    writeln!(
        out,
        "backend  {}",
        answer.backend.as_deref().unwrap_or("none")
    )?;
    writeln!(out, "reason   {}: {explanation}", answer.reason)?;
    if let Some(steps) = &answer.steps {
        writeln!(out)?;
        steps::write(steps, &answer, out)?;
    }
    Ok(())
}

/// The reason in plain words.
fn explain(answer: &LookupAnswer) -> String {
    let held = || {
        let worker = answer.worker.map_or_else(
            || "a worker".to_owned(),
            |worker| format!("worker {worker}"),
        );
        let state = answer.state.as_deref().unwrap_or("known");
        let idle = answer
            .idle_ms
            .map_or_else(String::new, |idle| format!(", last packet {idle} ms ago"));
        format!("{worker} holds the flow as {state}{idle}")
    };
    let entry = || match (answer.table_entry, answer.table_size) {
        (Some(entry), Some(size)) => format!("entry {entry} of the table's {size}"),
        _ => "the table".to_owned(),
    };
    match answer.reason.as_str() {
        "conntrack" => held(),
        "connection-id" => "the connection ID carries the backend's server ID".to_owned(),
        "maglev" | "ring" if answer.backend.is_none() => {
            "no worker holds the flow; the sequence number of its SYN will tell which entry of the \
             table names the backend"
                .to_owned()
        }
        "maglev" | "ring" | "source-hash" => {
            format!("no worker holds the flow; {} names the backend", entry())
        }
        "round-robin" => "no worker holds the flow; the next turn of the worker that its packet \
                          comes to names the backend"
            .to_owned(),
        "least-connections" => {
            "no worker holds the flow; the backend has the fewest flows for its weight".to_owned()
        }
        "affinity" => "no worker holds the flow; its client has this backend".to_owned(),
        "moved" => format!(
            "{}, but its backend takes no flows; {} names another",
            held(),
            entry()
        ),
        "no_service" => {
            let instead = answer.elsewhere.as_ref().and_then(instead);
            let instead = instead.map_or_else(String::new, |what| format!("; {what}"));
            format!("no service has this VIP, port and protocol{instead}")
        }
        "no_backend" => "the service has no backend that takes the flow".to_owned(),
        other => other.to_owned(),
    }
}

/// What becomes of a packet that is for no service, in plain words.
fn instead(elsewhere: &Elsewhere) -> Option<String> {
    let backend = elsewhere.backend.as_deref().unwrap_or("a backend");
    let service = elsewhere.service.as_deref().unwrap_or("a service");
    let leaves = || {
        let (from, to) = (elsewhere.from?, elsewhere.to?);
        Some(format!("it leaves from {from} to {to}"))
    };
    Some(match elsewhere.kind.as_str() {
        "answer" => format!("an answer of {backend} of {service}: {}", leaves()?),
        "session" => format!(
            "an answer of {backend} of {service} to a session of worker {}: {}",
            elsewhere.worker?,
            leaves()?
        ),
        "no_session" => "weir speaks from this address, but no session has this port".to_owned(),
        "other_port" => format!("at this VIP are {}", elsewhere.services.join(", ")),
        "own" => format!(
            "an own address of port {}, which the control core answers for",
            elsewhere.port.as_deref()?
        ),
        _ => return None,
    })
}

/// What a connection ID says, in plain words.
fn read(reading: &ConnectionIdReading) -> String {
    let rotation = reading.rotation;
    let id = reading.server_id.as_deref().unwrap_or("unknown");
    let owner = reading.backend.as_deref().unwrap_or("a backend");
    let why = match reading.outcome.as_str() {
        "routed" => return format!("rotation {rotation}, server ID {id} of {owner}"),
        "not_quic" => return "not looked at: the service is not of protocol quic".to_owned(),
        "reserved_rotation" => format!("rotation {rotation} is reserved for unroutable IDs"),
        "no_configuration" => format!("the service has no configuration of rotation {rotation}"),
        "too_short" => format!("shorter than those of the configuration of rotation {rotation}"),
        "unknown_server_id" => format!("rotation {rotation}, server ID {id}, which no backend has"),
        "backend_takes_nothing" => {
            format!("rotation {rotation}, server ID {id} of {owner}, which takes no packets")
        }
        other => other.to_owned(),
    };
    format!("{why}; steered by address and port")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(reason: &str, elsewhere: Option<Elsewhere>) -> LookupAnswer {
        LookupAnswer {
            reason: reason.to_owned(),
            elsewhere,
            ..LookupAnswer::default()
        }
    }

    #[test]
    fn a_packet_that_is_for_no_service_is_told_what_it_is() {
        let nobodys = "no service has this VIP, port and protocol";
        assert_eq!(explain(&answer("no_service", None)), nobodys);
        let back = Elsewhere {
            kind: "answer".to_owned(),
            service: Some("web".to_owned()),
            backend: Some("10.0.0.11:8080".to_owned()),
            from: "198.51.100.10:80".parse().ok(),
            to: "203.0.113.5:1000".parse().ok(),
            ..Elsewhere::default()
        };
        let expected = format!(
            "{nobodys}; an answer of 10.0.0.11:8080 of web: it leaves from 198.51.100.10:80 to \
             203.0.113.5:1000"
        );
        assert_eq!(explain(&answer("no_service", Some(back))), expected);
        // What a later daemon might say.
        let unknown = Elsewhere {
            kind: "something".to_owned(),
            ..Elsewhere::default()
        };
        assert_eq!(explain(&answer("no_service", Some(unknown))), nobodys);
    }

    #[test]
    fn a_table_that_is_asked_with_a_sequence_number_names_nobody_before() {
        let text = explain(&answer("maglev", None));
        assert!(text.contains("sequence number of its SYN"), "{text}");
    }
}
