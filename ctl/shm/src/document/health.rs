//! `[service.health]` from the text's shape to the model.

use toml::Spanned;

use super::convert::{Fields, note, port_number};
use super::{Diagnostic, FlapDoc, HealthDoc, Source, TlsDoc, Value};
use crate::command::health::StatusRange;
use crate::model::health::{BYTES_ACCEPTED, bytes_of_text};
use crate::model::{Flap, Health, HealthKind, Tls};

pub(super) fn health(
    source: &Source,
    spanned: &Spanned<HealthDoc>,
    fields: &mut Fields,
) -> Result<Health, Diagnostic> {
    let doc = spanned.get_ref();
    let mut health = Health::default();
    let kind = source.required(
        doc.kind.as_ref(),
        "kind",
        spanned.span(),
        "[service.health]",
    )?;
    health.kind = source.word("kind", kind, &HealthKind::accepted())?;
    if let Some(value) = &doc.interval {
        health.interval = source.duration("interval", value)?;
    }
    if let Some(value) = &doc.timeout {
        health.timeout = source.duration("timeout", value)?;
    }
    for (key, value, place) in [
        ("fall", &doc.fall, &mut health.fall),
        ("rise", &doc.rise, &mut health.rise),
    ] {
        if let Some(value) = value {
            *place = u32::try_from(source.integer(key, value, 1..=1000)?).unwrap_or(u32::MAX);
        }
    }
    if let Some(value) = &doc.port {
        health.port = Some(port_number(source, value)?);
    }
    for (key, value, place) in [
        ("method", &doc.method, &mut health.method),
        ("path", &doc.path, &mut health.path),
        ("host", &doc.host, &mut health.host),
        ("body", &doc.body, &mut health.body),
    ] {
        if let Some(value) = value {
            *place = Some(source.string(key, value, "a string")?.to_owned());
        }
    }
    if let Some(value) = &doc.status {
        health.status = statuses(source, value)?;
    }
    for (key, value, place) in [
        ("payload", &doc.payload, &mut health.payload),
        ("answer", &doc.answer, &mut health.answer),
    ] {
        if let Some(value) = value {
            *place = Some(bytes(source, key, value)?);
        }
    }
    if let Some(doc) = &doc.tls {
        fields.push(("health.tls", doc.span()));
        health.tls = tls(source, doc.get_ref(), fields)?;
    }
    if let Some(doc) = &doc.flap {
        fields.push(("health.flap", doc.span()));
        health.flap = flap(source, doc.get_ref(), fields)?;
    }
    note(
        fields,
        &[
            ("health.kind", doc.kind.as_ref()),
            ("health.interval", doc.interval.as_ref()),
            ("health.timeout", doc.timeout.as_ref()),
            ("health.fall", doc.fall.as_ref()),
            ("health.rise", doc.rise.as_ref()),
            ("health.port", doc.port.as_ref()),
            ("health.method", doc.method.as_ref()),
            ("health.path", doc.path.as_ref()),
            ("health.host", doc.host.as_ref()),
            ("health.status", doc.status.as_ref()),
            ("health.body", doc.body.as_ref()),
            ("health.payload", doc.payload.as_ref()),
            ("health.answer", doc.answer.as_ref()),
        ],
    );
    Ok(health.without_usual_words())
}

/// `200`, `"200-399"`, or an array of such.
fn statuses(source: &Source, value: &Value) -> Result<Vec<(u16, u16)>, Diagnostic> {
    match value.get_ref() {
        toml::Value::Array(items) => items
            .iter()
            .map(|item| status(source, &Spanned::new(value.span(), item.clone())))
            .collect(),
        _ => Ok(vec![status(source, value)?]),
    }
}

fn status(source: &Source, value: &Value) -> Result<(u16, u16), Diagnostic> {
    const ACCEPTED: &str =
        "an HTTP status such as 200, a range such as \"200-399\", or an array of such";
    let text = match value.get_ref() {
        toml::Value::Integer(number) => number.to_string(),
        _ => source.string("status", value, ACCEPTED)?.to_owned(),
    };
    match text.parse() {
        Ok(StatusRange(low, high)) => Ok((low, high)),
        Err(_) => Err(source.refused("status", value, &format!("{text:?}"), ACCEPTED)),
    }
}

fn bytes(source: &Source, key: &str, value: &Value) -> Result<Vec<u8>, Diagnostic> {
    let text = source.string(key, value, BYTES_ACCEPTED)?;
    bytes_of_text(text)
        .map_err(|message| source.diagnostic(value.span(), &format!("`{key}`: {message}")))
}

fn tls(source: &Source, doc: &TlsDoc, fields: &mut Fields) -> Result<Tls, Diagnostic> {
    let mut tls = Tls::default();
    if let Some(value) = &doc.verify {
        tls.verify = source.boolean("verify", value)?;
    }
    for (key, value, place) in [
        ("ca", &doc.ca, &mut tls.ca),
        ("server_name", &doc.server_name, &mut tls.server_name),
        ("certificate", &doc.certificate, &mut tls.certificate),
        ("key", &doc.key, &mut tls.key),
    ] {
        if let Some(value) = value {
            *place = Some(source.string(key, value, "a string")?.to_owned());
        }
    }
    note(
        fields,
        &[
            ("health.tls.ca", doc.ca.as_ref()),
            ("health.tls.server_name", doc.server_name.as_ref()),
            ("health.tls.certificate", doc.certificate.as_ref()),
            ("health.tls.key", doc.key.as_ref()),
        ],
    );
    Ok(tls)
}

fn flap(source: &Source, doc: &FlapDoc, fields: &mut Fields) -> Result<Flap, Diagnostic> {
    let mut flap = Flap::default();
    if let Some(value) = &doc.changes {
        flap.changes = u32::try_from(source.integer("changes", value, 0..=1000)?).unwrap_or(1000);
    }
    for (key, value, place) in [
        ("window", &doc.window, &mut flap.window),
        ("hold", &doc.hold, &mut flap.hold),
        ("max_hold", &doc.max_hold, &mut flap.max_hold),
    ] {
        if let Some(value) = value {
            *place = source.duration(key, value)?;
        }
    }
    if doc.max_hold.is_none() {
        flap.max_hold = flap.max_hold.max(flap.hold);
    }
    note(
        fields,
        &[
            ("health.flap.changes", doc.changes.as_ref()),
            ("health.flap.window", doc.window.as_ref()),
            ("health.flap.hold", doc.hold.as_ref()),
            ("health.flap.max_hold", doc.max_hold.as_ref()),
        ],
    );
    Ok(flap)
}
