//! From the text's shape to the model, one key at a time.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::health::health;
use super::{BackendDoc, BackendSpans, ServiceDoc, ServiceSpans, Source, Spans, Value};
use super::{Diagnostic, TimeoutsDoc, tunnel};
use crate::model::ClientAddress;
use crate::model::{
    Admin, Backend, Forced, Forwarding, MAX_TABLE_SIZE, MAX_WEIGHT, NO_DEADLINE, OnDown,
    PORT_ACCEPTED, Ping, Pool, PortMatch, Protocol, SHARE_ACCEPTED, Scheduler, Service, Timeouts,
    UnknownTcp, VIP_ACCEPTED, Vip, parse_share,
};

/// A key and its value, if it was written.
pub(super) type Given<'a> = (&'static str, Option<&'a Value>);
/// Where the values of keys stand.
pub(super) type Fields = Vec<(&'static str, Range<usize>)>;

pub(super) fn pool(
    source: &Source,
    docs: &[Spanned<ServiceDoc>],
) -> Result<(Pool, Spans), Diagnostic> {
    let mut pool = Pool::default();
    let mut spans = Spans::default();
    for doc in docs {
        let (service, place) = service(source, doc)?;
        pool.services.push(service);
        spans.services.push(place);
    }
    Ok((pool, spans))
}

pub(super) fn note(fields: &mut Fields, all: &[Given<'_>]) {
    let given = all
        .iter()
        .filter_map(|(key, value)| Some((*key, value.as_ref()?.span())));
    fields.extend(given);
}

fn service(
    source: &Source,
    spanned: &Spanned<ServiceDoc>,
) -> Result<(Service, ServiceSpans), Diagnostic> {
    let doc = spanned.get_ref();
    let head = spanned.span();
    let needs = |value, key| source.required(value, key, head.clone(), "[[service]]");
    let name = needs(doc.name.as_ref(), "name")?;
    let vip = needs(doc.vip.as_ref(), "vip")?;
    let protocol = needs(doc.protocol.as_ref(), "protocol")?;
    let forwarding = needs(doc.forwarding.as_ref(), "forwarding")?;
    let protocol = source.word::<Protocol>("protocol", protocol, &Protocol::accepted())?;
    let port = match (&doc.port, protocol) {
        (Some(value), _) => port_match(source, value)?,
        // A service for any protocol has no ports to name.
        (None, Protocol::Any) => PortMatch::Any,
        (None, _) => port_match(source, needs(None, "port")?)?,
    };
    let mut service = Service::new(
        source.string("name", name, "a string")?,
        vip_of(source, vip)?,
        port,
        protocol,
        source.word::<Forwarding>("forwarding", forwarding, &Forwarding::accepted())?,
    );
    if let Some(value) = &doc.scheduler {
        service.scheduler = source.word("scheduler", value, &Scheduler::accepted())?;
    }
    if let Some(value) = &doc.table_size {
        let size = source.integer("table_size", value, 2..=u64::from(MAX_TABLE_SIZE))?;
        service.table_size = u32::try_from(size).unwrap_or(MAX_TABLE_SIZE);
    }
    if let Some(value) = &doc.ping {
        service.ping = source.word("ping", value, &Ping::accepted())?;
    }
    service.tunnel = tunnel::settings(source, doc)?;
    if let Some(value) = &doc.snat_pool {
        service.snat_pool = source.addresses("snat_pool", value)?;
    }
    if let Some(value) = &doc.client_address {
        let accepted = ClientAddress::accepted();
        service.client_address = source.word("client_address", value, &accepted)?;
    }
    let mut fields = Fields::new();
    service.steering = super::steering::steering(source, doc, &mut fields)?;
    note(&mut fields, &tunnel::fields(doc));
    note(
        &mut fields,
        &[
            ("name", doc.name.as_ref()),
            ("vip", doc.vip.as_ref()),
            ("port", doc.port.as_ref()),
            ("protocol", doc.protocol.as_ref()),
            ("forwarding", doc.forwarding.as_ref()),
            ("scheduler", doc.scheduler.as_ref()),
            ("table_size", doc.table_size.as_ref()),
            ("ring_vnodes", doc.ring_vnodes.as_ref()),
            ("hash", doc.hash.as_ref()),
            ("all_down", doc.all_down.as_ref()),
            ("ping", doc.ping.as_ref()),
            ("snat_pool", doc.snat_pool.as_ref()),
            ("client_address", doc.client_address.as_ref()),
        ],
    );
    if let Some(doc) = &doc.timeouts {
        fields.push(("timeouts", doc.span()));
        service.timeouts = timeouts(source, doc.get_ref(), &mut fields)?;
    }
    changes(source, doc, &mut service, &mut fields)?;
    if let Some(doc) = &doc.health {
        service.health = health(source, doc, &mut fields)?;
    }
    if let Some(doc) = &doc.quic {
        service.quic = super::quic::configs(source, doc, &mut fields)?;
    }
    let mut backends = Vec::new();
    for doc in &doc.backend {
        let (backend, place) = backend(source, doc, &service)?;
        service.backends.push(backend);
        backends.push(place);
    }
    Ok((
        service,
        ServiceSpans {
            head,
            fields,
            backends,
        },
    ))
}

fn vip_of(source: &Source, value: &Value) -> Result<Vip, Diagnostic> {
    source
        .string("vip", value, VIP_ACCEPTED)?
        .parse()
        .map_err(|message| source.diagnostic(value.span(), &format!("`vip`: {message}")))
}

/// `80`, `"80"`, `"8000-8100"` or `"any"`.
fn port_match(source: &Source, value: &Value) -> Result<PortMatch, Diagnostic> {
    match value.get_ref() {
        toml::Value::Integer(number) => match u16::try_from(*number) {
            Ok(port) if port != 0 => Ok(PortMatch::Exact(port)),
            _ => Err(source.refused("port", value, &number.to_string(), PORT_ACCEPTED)),
        },
        _ => source
            .string("port", value, PORT_ACCEPTED)?
            .parse()
            .map_err(|message| source.diagnostic(value.span(), &format!("`port`: {message}"))),
    }
}

pub(super) fn port_number(source: &Source, value: &Value) -> Result<u16, Diagnostic> {
    let port = source.integer("port", value, 1..=65_535)?;
    Ok(u16::try_from(port).unwrap_or(u16::MAX))
}

fn timeouts(
    source: &Source,
    doc: &TimeoutsDoc,
    fields: &mut Fields,
) -> Result<Timeouts, Diagnostic> {
    let mut timeouts = Timeouts::default();
    for (key, value, place) in [
        ("syn", &doc.syn, &mut timeouts.syn),
        ("established", &doc.established, &mut timeouts.established),
        ("closing", &doc.closing, &mut timeouts.closing),
        ("udp", &doc.udp, &mut timeouts.udp),
    ] {
        if let Some(value) = value {
            *place = source.duration(key, value)?;
        }
    }
    note(
        fields,
        &[
            ("timeouts.syn", doc.syn.as_ref()),
            ("timeouts.established", doc.established.as_ref()),
            ("timeouts.closing", doc.closing.as_ref()),
            ("timeouts.udp", doc.udp.as_ref()),
        ],
    );
    Ok(timeouts)
}

/// A time after which flows are taken away, or "never".
fn delay(source: &Source, key: &str, value: &Value) -> Result<Duration, Diagnostic> {
    if value.get_ref().as_str() == Some("never") {
        return Ok(NO_DEADLINE);
    }
    source.duration(key, value).map_err(|mut diagnostic| {
        diagnostic.message += ", or \"never\"";
        diagnostic
    })
}

/// `0.5` or `"50%"`, in thousandths.
fn share(source: &Source, key: &str, value: &Value) -> Result<u16, Diagnostic> {
    let text = match value.get_ref() {
        toml::Value::Float(share) => share.to_string(),
        toml::Value::Integer(share) => share.to_string(),
        _ => source.string(key, value, SHARE_ACCEPTED)?.to_owned(),
    };
    let quoted = value.get_ref().is_str();
    // A percentage is text in a file, so that nobody takes 50 for one.
    match parse_share(&text) {
        Ok(share) if !quoted || text.ends_with('%') => Ok(share),
        _ if quoted => Err(source.refused(key, value, &format!("{text:?}"), SHARE_ACCEPTED)),
        _ => Err(source.refused(key, value, &text, SHARE_ACCEPTED)),
    }
}

/// How changes of health and of the pool take effect.
fn changes(
    source: &Source,
    doc: &ServiceDoc,
    service: &mut Service,
    fields: &mut Fields,
) -> Result<(), Diagnostic> {
    if let Some(value) = &doc.slow_start {
        service.slow_start = source.duration("slow_start", value)?;
    }
    if let Some(value) = &doc.min_healthy {
        service.min_healthy = share(source, "min_healthy", value)?;
    }
    if let Some(value) = &doc.on_down {
        service.on_down = source.word("on_down", value, &OnDown::accepted())?;
    }
    if let Some(value) = &doc.unknown_tcp {
        service.unknown_tcp = source.word("unknown_tcp", value, &UnknownTcp::accepted())?;
    }
    if let Some(value) = &doc.deregistration_delay {
        service.deregistration_delay = delay(source, "deregistration_delay", value)?;
    }
    note(
        fields,
        &[
            ("slow_start", doc.slow_start.as_ref()),
            ("min_healthy", doc.min_healthy.as_ref()),
            ("on_down", doc.on_down.as_ref()),
            ("unknown_tcp", doc.unknown_tcp.as_ref()),
            ("deregistration_delay", doc.deregistration_delay.as_ref()),
        ],
    );
    Ok(())
}

fn backend(
    source: &Source,
    spanned: &Spanned<BackendDoc>,
    service: &Service,
) -> Result<(Backend, BackendSpans), Diagnostic> {
    let doc = spanned.get_ref();
    let head = spanned.span();
    let address = source.required(
        doc.address.as_ref(),
        "address",
        head.clone(),
        "[[service.backend]]",
    )?;
    let address = source.address("address", address)?;
    let port = match &doc.port {
        Some(value) => port_number(source, value)?,
        None => service.port.number(),
    };
    let mut backend = Backend::new(address, port);
    if let Some(value) = &doc.weight {
        let weight = source.integer("weight", value, 0..=u64::from(MAX_WEIGHT))?;
        backend.weight = u32::try_from(weight).unwrap_or(MAX_WEIGHT);
    }
    if let Some(value) = &doc.max_flows {
        let flows = source.integer("max_flows", value, 1..=u64::from(u32::MAX))?;
        backend.max_flows = u32::try_from(flows).ok();
    }
    backend.admin = admin(source, doc, service)?;
    if let Some(value) = &doc.force {
        backend.forced = source.word("force", value, &Forced::accepted())?;
    }
    backend.server_ids = super::quic::server_ids(source, doc)?;
    let mut fields = Fields::new();
    note(
        &mut fields,
        &[
            ("address", doc.address.as_ref()),
            ("port", doc.port.as_ref()),
            ("weight", doc.weight.as_ref()),
            ("max_flows", doc.max_flows.as_ref()),
            ("state", doc.state.as_ref()),
            ("drain_timeout", doc.drain_timeout.as_ref()),
            ("force", doc.force.as_ref()),
            ("server_id", doc.server_id.as_ref()),
            ("server_ids", doc.server_ids.as_ref()),
        ],
    );
    Ok((backend, BackendSpans { head, fields }))
}

fn admin(source: &Source, doc: &BackendDoc, service: &Service) -> Result<Admin, Diagnostic> {
    const ACCEPTED: &str = "\"enabled\", \"drain\", \"disabled\"";
    let state = match &doc.state {
        Some(value) => source.string("state", value, ACCEPTED)?,
        None => "enabled",
    };
    if let (Some(value), true) = (&doc.drain_timeout, state != "drain") {
        return Err(source.refused(
            "drain_timeout",
            value,
            "it without a drain",
            "with state = \"drain\" only",
        ));
    }
    match (state, &doc.state) {
        ("drain", _) => {
            let timeout = doc.drain_timeout.as_ref();
            let timeout = timeout
                .map(|value| delay(source, "drain_timeout", value))
                .transpose()?;
            Ok(Admin::Drain {
                timeout: timeout.unwrap_or(service.deregistration_delay),
            })
        }
        ("disabled", _) => Ok(Admin::Disabled),
        ("enabled", _) | (_, None) => Ok(Admin::Enabled),
        (other, Some(value)) => {
            Err(source.refused("state", value, &format!("{other:?}"), ACCEPTED))
        }
    }
}
