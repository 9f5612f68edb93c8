//! `service list`, `service show`, `backend list`.

use std::io::Write;

use serde_json::Value;
use weir_shm::client::Client;
use weir_shm::segment::mailbox::BackendHealth;

use crate::Failure;
use crate::checking::{plain, write_changes, write_check};
use crate::cli::{Cli, Output};
use crate::output::{count, json, nanoseconds, table};
use crate::view::{BackendView, ServiceView, View};

pub(crate) fn list(cli: &Cli, client: &Client, out: &mut dyn Write) -> Result<(), Failure> {
    let services: Vec<ServiceView> = View::read(cli, client)?.services().collect();
    if cli.output == Output::Json {
        return Ok(json(out, &services)?);
    }
    let rows = services.iter().map(|service| {
        let up = service
            .backends
            .iter()
            .filter(|backend| takes_new_flows(backend))
            .count();
        vec![
            service.name.clone(),
            format!("{}/{}", service.endpoint(), service.protocol),
            service.forwarding.to_owned(),
            format!("{up}/{}", service.backends.len()),
            count(service.new_flows),
            count(service.packets),
            count(service.bytes),
        ]
    });
    let heads = [
        "NAME",
        "VIP",
        "MODE",
        ">UP",
        ">NEW FLOWS",
        ">PACKETS",
        ">BYTES",
    ];
    writeln!(out, "{}", table(&heads, rows))?;
    Ok(())
}

pub(crate) fn show(
    cli: &Cli,
    client: &Client,
    name: &str,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let service = with_flows(cli, client, name)?;
    if cli.output == Output::Json {
        return Ok(json(out, &service)?);
    }
    let timeout = |key: &str| {
        service
            .timeouts
            .get(key)
            .and_then(|value| value.as_str())
            .unwrap_or("")
    };
    writeln!(out, "service     {}", service.name)?;
    writeln!(
        out,
        "vip         {}/{}",
        service.endpoint(),
        service.protocol
    )?;
    writeln!(out, "forwarding  {}", service.forwarding)?;
    if !service.settings.is_empty() {
        let settings: Vec<String> = service
            .settings
            .iter()
            .map(|(key, value)| format!("{key} = {value}"))
            .collect();
        writeln!(out, "settings    {}", settings.join(", "))?;
    }
    writeln!(
        out,
        "scheduler   {}, {} entries",
        service.scheduler, service.table_size
    )?;
    writeln!(
        out,
        "timeouts    syn {}, established {}, closing {}, udp {}",
        timeout("syn"),
        timeout("established"),
        timeout("closing"),
        timeout("udp")
    )?;
    if let Some(vnodes) = service.ring_vnodes {
        writeln!(out, "ring        {vnodes} virtual nodes a unit of weight")?;
    }
    if let Some(affinity) = &service.affinity {
        let part = |key: &str| affinity.get(key).map_or_else(String::new, plain);
        writeln!(
            out,
            "affinity    source, /{} and /{}, {}",
            part("prefix4"),
            part("prefix6"),
            part("timeout")
        )?;
    }
    writeln!(out, "hash        {}", service.hash)?;
    writeln!(out, "all down    {}", service.all_down)?;
    writeln!(out, "ping        {}", service.ping)?;
    if let (Some(pool), Some(client)) = (&service.snat_pool, service.client_address) {
        writeln!(out, "snat pool   {}", pool.join(", "))?;
        writeln!(out, "client      told by {client}")?;
    }
    write_check(service.health_check.as_ref(), out)?;
    write_changes(&service.changes, out)?;
    for (place, config) in service.quic.iter().flatten().enumerate() {
        let head = if place == 0 { "quic" } else { "" };
        let encrypted = config.get("encrypted").and_then(Value::as_bool);
        let number = |key: &str| config.get(key).map_or_else(String::new, Value::to_string);
        writeln!(
            out,
            "{head:<12}rotation {}: {}-octet server IDs, {}-octet nonces, {}",
            number("rotation"),
            number("server_id_length"),
            number("nonce_length"),
            if encrypted == Some(true) {
                "encrypted"
            } else {
                "plaintext"
            }
        )?;
    }
    writeln!(
        out,
        "to VIP      {} packets, {} bytes, {} new flows",
        count(service.packets),
        count(service.bytes),
        count(service.new_flows)
    )?;
    writeln!(
        out,
        "from VIP    {} packets, {} bytes",
        count(service.return_packets),
        count(service.return_bytes)
    )?;
    if service.resets > 0 {
        writeln!(
            out,
            "told off    {} packets of clients",
            count(service.resets)
        )?;
    }
    writeln!(out)?;
    write_backends(&service, out)
}

pub(crate) fn backends(
    cli: &Cli,
    client: &Client,
    name: &str,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let service = with_flows(cli, client, name)?;
    if cli.output == Output::Json {
        return Ok(json(out, &service.backends)?);
    }
    write_backends(&service, out)
}

fn with_flows(cli: &Cli, client: &Client, name: &str) -> Result<ServiceView, Failure> {
    let mut service = View::read(cli, client)?.service(name)?;
    if client.is_alive()? {
        service.ask_flows(cli, client);
        service.ask_health(cli, client);
    }
    Ok(service)
}

fn takes_new_flows(backend: &BackendView) -> bool {
    matches!(backend.state, "up" | "fail-open" | "slow-start")
}

fn write_backends(service: &ServiceView, out: &mut dyn Write) -> Result<(), Failure> {
    if service.backends.is_empty() {
        writeln!(
            out,
            "no backends; add one: weirctl backend add {} ADDRESS:PORT",
            service.name
        )?;
        return Ok(());
    }
    let has_ids = service
        .backends
        .iter()
        .any(|backend| backend.server_id.is_some());
    let refuses = service.backends.iter().any(|backend| backend.refused > 0);
    let is_limited = service
        .backends
        .iter()
        .any(|backend| backend.max_flows.is_some());
    let rows = service.backends.iter().map(|backend| {
        let mut state = backend.state.to_owned();
        if backend.force != "auto" {
            state += " (forced)";
        }
        let mut row = vec![
            backend.name.clone(),
            backend.weight.to_string(),
            state,
            backend.flows.map_or_else(|| "-".to_owned(), count),
            count(backend.new_flows),
            count(backend.packets),
            count(backend.bytes),
        ];
        if is_limited {
            row.push(
                backend
                    .max_flows
                    .map_or_else(|| "-".to_owned(), |most| count(most.into())),
            );
        }
        if refuses {
            row.push(count(backend.refused));
        }
        if has_ids {
            row.push(backend.server_id.clone().unwrap_or_else(|| "-".to_owned()));
        }
        row
    });
    let mut heads = vec![
        "BACKEND",
        ">WEIGHT",
        "STATE",
        ">FLOWS",
        ">NEW FLOWS",
        ">PACKETS",
        ">BYTES",
    ];
    if is_limited {
        heads.push(">MAX FLOWS");
    }
    if refuses {
        heads.push(">REFUSED");
    }
    if has_ids {
        heads.push("SERVER ID");
    }
    writeln!(out, "{}", table(&heads, rows))?;
    write_checks(service, out)
}

/// What checks found, if there are any.
fn write_checks(service: &ServiceView, out: &mut dyn Write) -> Result<(), Failure> {
    let checked = |backend: &BackendView| {
        let health = backend.health.as_ref()?;
        Some(vec![
            backend.name.clone(),
            format!("{}%", health.share),
            count(health.checks),
            count(health.failed),
            last_check(health),
        ])
    };
    let rows: Vec<_> = service.backends.iter().filter_map(checked).collect();
    if !rows.is_empty() {
        let heads = ["CHECKS OF", ">SHARE", ">CHECKS", ">FAILED", "LAST"];
        writeln!(out, "\n{}", table(&heads, rows.into_iter()))?;
    }
    Ok(())
}

/// What the last check found, when, and for how long the backend is held down.
fn last_check(health: &BackendHealth) -> String {
    let Some(last) = &health.last else {
        return "none yet".to_owned();
    };
    let took = nanoseconds(health.last_took_us.unwrap_or(0).saturating_mul(1_000));
    let seconds = health.last_ago_ms.unwrap_or(0) / 1_000;
    let mut text = match last.as_str() {
        "ok" => format!("ok in {took}, {seconds}s ago"),
        failure => format!("{failure}, {seconds}s ago"),
    };
    if let Some(held) = health.held_ms {
        text += &format!("; held {}s more", held.div_ceil(1_000));
    }
    text
}
