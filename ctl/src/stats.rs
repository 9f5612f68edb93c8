//! `stats`: all counters.

use std::io::Write;

use serde_json::{Map, Value, json};
use weir_shm::client::Client;
use weir_shm::counters::{DropReason, WORKER_COUNTERS};

use crate::cli::{Cli, Output};
use crate::output::{count, json as write_json, table, text_table};
use crate::view::{ServiceView, View};
use crate::{Failure, figures};

pub(crate) fn run(cli: &Cli, client: &Client, out: &mut dyn Write) -> Result<(), Failure> {
    let view = View::read(cli, client)?;
    if cli.output == Output::Json {
        return Ok(write_json(out, &for_programs(client, &view)?)?);
    }
    let packets = figures::Packets::sum(&view.counters);
    writeln!(
        out,
        "{} received = {} forwarded + {} answered + {} dropped",
        packets.received, packets.forwarded, packets.answered, packets.dropped
    )?;
    let drops = figures::drops(&view.counters);
    if !drops.is_empty() {
        let described = |name: &str| {
            let reason = DropReason::ALL.iter().find(|reason| reason.name() == name);
            reason.map_or("", |reason| reason.description()).to_owned()
        };
        let rows = drops
            .iter()
            .map(|(name, number)| vec![(*name).to_owned(), count(*number), described(name)]);
        writeln!(out, "\n{}", text_table(&["DROPPED", ">COUNT", "WHY"], rows))?;
    }
    let rows = WORKER_COUNTERS.iter().filter_map(|(index, name, text)| {
        let sum = view.counters.sum(*index);
        (sum > 0).then(|| vec![(*name).to_owned(), count(sum), (*text).to_owned()])
    });
    writeln!(
        out,
        "\n{}",
        text_table(&["COUNTER", ">COUNT", "WHAT"], rows)
    )?;
    let rows = view.services().flat_map(|service| {
        let own = row(
            &service.name,
            service.new_flows,
            service.packets,
            service.bytes,
        );
        let backends = service.backends.into_iter().map(|backend| {
            row(
                &format!("  {}", backend.name),
                backend.new_flows,
                backend.packets,
                backend.bytes,
            )
        });
        std::iter::once(own).chain(backends).collect::<Vec<_>>()
    });
    writeln!(
        out,
        "\n{}",
        table(&["SERVICE", ">NEW FLOWS", ">PACKETS", ">BYTES"], rows)
    )?;
    Ok(())
}

fn row(name: &str, new_flows: u64, packets: u64, bytes: u64) -> Vec<String> {
    vec![
        name.to_owned(),
        count(new_flows),
        count(packets),
        count(bytes),
    ]
}

/// The same object as `weir replay --json` prints, and behind it the workers' own counters.
fn for_programs(client: &Client, view: &View) -> Result<Value, Failure> {
    let services: Map<String, Value> = view
        .services()
        .map(|service| (service.name.clone(), of_service(&service)))
        .collect();
    let workers: Vec<Value> = (0..client.workers())
        .map(|worker| Value::Object(figures::of_block(&view.counters, worker)))
        .collect();
    let ports: Vec<Value> = client.ports()?.iter().map(figures::port).collect();
    Ok(json!({
        "packets": figures::Packets::sum(&view.counters),
        "drops": figures::drops(&view.counters),
        "services": services,
        "workers": workers,
        "control": figures::of_block(&view.counters, client.workers()),
        "ports": ports,
    }))
}

fn of_service(service: &ServiceView) -> Value {
    let backends: Map<String, Value> = service
        .backends
        .iter()
        .map(|backend| {
            let counts = json!({
                "packets": backend.packets,
                "bytes": backend.bytes,
                "new_flows": backend.new_flows,
            });
            (backend.name.clone(), counts)
        })
        .collect();
    json!({
        "packets": service.packets,
        "bytes": service.bytes,
        "new_flows": service.new_flows,
        "return_packets": service.return_packets,
        "return_bytes": service.return_bytes,
        "backends": backends,
    })
}
