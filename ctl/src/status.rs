//! `status`: how the daemon, its workers and its ports are.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use weir_shm::client::Client;
use weir_shm::segment::status::{DaemonState, Status};

use crate::cli::{Cli, Output};
use crate::output::{count, json as write_json, nanoseconds, span, table, things};
use crate::view::View;
use crate::{Failure, change, figures};

pub(crate) fn run(cli: &Cli, client: &Client, out: &mut dyn Write) -> Result<(), Failure> {
    let alive = client.is_alive()?;
    let status = client.status()?;
    let state = match (alive, status.state) {
        (true, DaemonState::Starting) | (false, DaemonState::Stopped) => status.state.name(),
        (true, _) => "running",
        (false, _) => "dead",
    };
    if status.generation == 0 {
        return starting(cli, client, state, out);
    }
    let view = View::read(cli, client)?;
    // The daemon may have brought it up to date.
    let status = client.status()?;
    if cli.output == Output::Json {
        let picture = for_programs(client, &status, state, &view)?;
        return Ok(write_json(out, &picture)?);
    }
    let uptime = if alive {
        format!(", up {}", span(uptime(client)))
    } else {
        String::new()
    };
    writeln!(out, "instance    {}", client.instance())?;
    writeln!(
        out,
        "state       {state}, process {}{uptime}, weir {}",
        client.pid(),
        client.version()
    )?;
    let saved = match change::is_saved(client, &view.directory.pool) {
        Some(true) => "",
        Some(false) => " (the pool differs: not saved)",
        None => " (cannot be read)",
    };
    writeln!(out, "config      {}{saved}", client.config_path().display())?;
    writeln!(
        out,
        "pool        generation {}: {}, {}",
        status.generation,
        things(view.directory.pool.services.len(), "service"),
        things(view.directory.pool.backend_count(), "backend")
    )?;
    if let Some(refusal) = status.refusals.last() {
        // A damaged commit word tells no generation.
        let which = match refusal.generation {
            0 => String::new(),
            generation => format!("generation {generation}: "),
        };
        writeln!(out, "refused     {which}{}", refusal.reason)?;
    }
    writeln!(
        out,
        "tables      {} built, last change {}, longest {}",
        status.tables_built,
        nanoseconds(status.rebuild_last_ns),
        nanoseconds(status.rebuild_max_ns)
    )?;
    let packets = figures::Packets::sum(&view.counters);
    writeln!(
        out,
        "packets     {} received, {} forwarded, {} answered, {} dropped",
        count(packets.received),
        count(packets.forwarded),
        count(packets.answered),
        count(packets.dropped)
    )?;
    write_workers(client, &view, out)?;
    write_ports(client, out)
}

/// A daemon that has put nothing in force yet.
fn starting(cli: &Cli, client: &Client, state: &str, out: &mut dyn Write) -> Result<(), Failure> {
    if cli.output == Output::Json {
        let picture = json!({
            "instance": client.instance(),
            "state": state,
            "pid": client.pid(),
            "version": client.version(),
            "generation": 0,
        });
        return Ok(write_json(out, &picture)?);
    }
    writeln!(out, "instance    {}", client.instance())?;
    writeln!(
        out,
        "state       {state}, process {}; no pool is in force yet",
        client.pid()
    )?;
    Ok(())
}

fn uptime(client: &Client) -> Duration {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    now.saturating_sub(Duration::from_nanos(client.started_ns()))
}

fn for_programs(
    client: &Client,
    status: &Status,
    state: &str,
    view: &View,
) -> Result<Value, Failure> {
    let acknowledged = client.acknowledged()?;
    let workers: Vec<Value> = acknowledged
        .iter()
        .enumerate()
        .map(|(worker, generation)| {
            let mut own = figures::of_block(&view.counters, worker);
            own.insert("worker".to_owned(), json!(worker));
            own.insert("generation".to_owned(), json!(generation));
            Value::Object(own)
        })
        .collect();
    let refused = status
        .refusals
        .last()
        .map(|refusal| json!({ "generation": refusal.generation, "reason": refusal.reason }));
    let ports: Vec<Value> = client.ports()?.iter().map(figures::port).collect();
    Ok(json!({
        "instance": client.instance(),
        "state": state,
        "pid": client.pid(),
        "version": client.version(),
        "started_unix_ms": client.started_ns() / 1_000_000,
        "config": client.config_path(),
        "saved": change::is_saved(client, &view.directory.pool),
        "generation": status.generation,
        "services": view.directory.pool.services.len(),
        "backends": view.directory.pool.backend_count(),
        "refused": refused,
        "tables": {
            "built": status.tables_built,
            "rebuild_last_ns": status.rebuild_last_ns,
            "rebuild_max_ns": status.rebuild_max_ns,
        },
        "packets": figures::Packets::sum(&view.counters),
        "workers": workers,
        "ports": ports,
    }))
}

fn write_workers(client: &Client, view: &View, out: &mut dyn Write) -> Result<(), Failure> {
    use weir_shm::counters::{
        BUSY_NS, CONNTRACK_HITS, CONNTRACK_MISSES, FORWARDED, IDLE_NS, RECEIVED,
    };
    let acknowledged = client.acknowledged()?;
    let rows = acknowledged.iter().enumerate().map(|(worker, generation)| {
        let of = |index| view.counters.of(worker, index);
        let busy = figures::share(of(BUSY_NS), of(IDLE_NS));
        let hits = figures::share(of(CONNTRACK_HITS), of(CONNTRACK_MISSES));
        vec![
            worker.to_string(),
            generation.to_string(),
            count(of(RECEIVED)),
            count(of(FORWARDED)),
            busy.map_or_else(|| "-".to_owned(), |busy| format!("{busy}%")),
            hits.map_or_else(|| "-".to_owned(), |hits| format!("{hits}%")),
        ]
    });
    let heads = [
        ">WORKER",
        ">GENERATION",
        ">RECEIVED",
        ">FORWARDED",
        ">BUSY",
        ">CONNTRACK HITS",
    ];
    writeln!(out, "\n{}", table(&heads, rows))?;
    Ok(())
}

fn write_ports(client: &Client, out: &mut dyn Write) -> Result<(), Failure> {
    let ports = client.ports()?;
    if ports.is_empty() {
        return Ok(());
    }
    let rows = ports.iter().map(|port| {
        let missed = port
            .rx_missed
            .saturating_add(port.rx_errors)
            .saturating_add(port.rx_no_buffer);
        vec![
            port.name.clone(),
            figures::mac(port),
            if port.link_up { "up" } else { "down" }.to_owned(),
            count(port.rx_packets),
            count(missed),
            count(port.tx_packets),
            count(port.tx_errors),
        ]
    });
    let heads = ["PORT", "MAC", "LINK", ">RX", ">RX LOST", ">TX", ">TX LOST"];
    writeln!(out, "\n{}", table(&heads, rows))?;
    Ok(())
}
