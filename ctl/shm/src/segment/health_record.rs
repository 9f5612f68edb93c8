//! A health check as part of a service's record.

use super::bytes::{Malformed, Reader, Writer};
use super::record::known;
use crate::model::health::{MAX_METHOD, MAX_STATUSES, MAX_TEXT};
use crate::model::{Flap, Health, HealthKind, Tls};

/// Room for a path, a host name, a file's name, a datagram.
const TEXT: u16 = MAX_TEXT as u16;
/// Room for a method.
const METHOD: u16 = MAX_METHOD as u16;

pub(super) fn put(writer: &mut Writer, health: &Health) {
    writer.u8(health.kind.code());
    writer.duration(health.interval);
    writer.duration(health.timeout);
    writer.u32(health.fall);
    writer.u32(health.rise);
    writer.u8(u8::from(health.port.is_some()));
    writer.u16(health.port.unwrap_or(0));
    put_text(writer, health.method.as_ref(), METHOD);
    for text in [&health.path, &health.host, &health.body] {
        put_text(writer, text.as_ref(), TEXT);
    }
    writer.u8(health.status.len().min(MAX_STATUSES) as u8);
    let no_more = std::iter::repeat(&(0, 0));
    for (low, high) in health.status.iter().chain(no_more).take(MAX_STATUSES) {
        writer.u16(*low);
        writer.u16(*high);
    }
    for bytes in [&health.payload, &health.answer] {
        writer.u8(u8::from(bytes.is_some()));
        writer.bytes(bytes.as_deref().unwrap_or_default(), TEXT);
    }
    let tls = &health.tls;
    writer.u8(u8::from(tls.verify));
    for text in [&tls.ca, &tls.server_name, &tls.certificate, &tls.key] {
        put_text(writer, text.as_ref(), TEXT);
    }
    let flap = &health.flap;
    writer.u32(flap.changes);
    for time in [flap.window, flap.hold, flap.max_hold] {
        writer.duration(time);
    }
}

fn put_text(writer: &mut Writer, text: Option<&String>, room: u16) {
    writer.u8(u8::from(text.is_some()));
    writer.text(text.map_or("", String::as_str), room);
}

fn take_text(reader: &mut Reader<'_>, room: u16, what: &str) -> Result<Option<String>, Malformed> {
    match (reader.flag(what)?, reader.text(room, what)?) {
        (true, text) => Ok(Some(text)),
        (false, text) if text.is_empty() => Ok(None),
        (false, _) => Err(Malformed::new(format!("{what} that is not set has a text"))),
    }
}

fn take_bytes(reader: &mut Reader<'_>, what: &str) -> Result<Option<Vec<u8>>, Malformed> {
    match (reader.flag(what)?, reader.bytes(TEXT, what)?) {
        (true, bytes) => Ok(Some(bytes.to_vec())),
        (false, []) => Ok(None),
        (false, _) => Err(Malformed::new(format!("{what} that is not set has bytes"))),
    }
}

pub(super) fn take(reader: &mut Reader<'_>) -> Result<Health, Malformed> {
    let kind = known(HealthKind::from_code(reader.u8()?), "the health check")?;
    let (interval, timeout) = (reader.duration()?, reader.duration()?);
    let (fall, rise) = (reader.u32()?, reader.u32()?);
    let port = match (reader.flag("\"checked port\"")?, reader.u16()?) {
        (true, port) => Some(port),
        (false, 0) => None,
        (false, _) => {
            return Err(Malformed::new(
                "a checked port that is not set has a number",
            ));
        }
    };
    let method = take_text(reader, METHOD, "a method")?;
    let path = take_text(reader, TEXT, "a path")?;
    let host = take_text(reader, TEXT, "a host name")?;
    let body = take_text(reader, TEXT, "a page's text")?;
    let status = take_statuses(reader)?;
    let payload = take_bytes(reader, "a datagram")?;
    let answer = take_bytes(reader, "an answer")?;
    let tls = Tls {
        verify: reader.flag("\"verify\"")?,
        ca: take_text(reader, TEXT, "a file of trusted certificates")?,
        server_name: take_text(reader, TEXT, "a server's name")?,
        certificate: take_text(reader, TEXT, "a certificate's file")?,
        key: take_text(reader, TEXT, "a key's file")?,
    };
    let flap = Flap {
        changes: reader.u32()?,
        window: reader.duration()?,
        hold: reader.duration()?,
        max_hold: reader.duration()?,
    };
    Ok(Health {
        kind,
        interval,
        timeout,
        fall,
        rise,
        port,
        method,
        path,
        host,
        status,
        body,
        payload,
        answer,
        tls,
        flap,
    })
}

fn take_statuses(reader: &mut Reader<'_>) -> Result<Vec<(u16, u16)>, Malformed> {
    let count = usize::from(reader.u8()?);
    if count > MAX_STATUSES {
        return Err(Malformed::new(format!(
            "it claims {count} ranges of statuses"
        )));
    }
    let mut statuses = Vec::with_capacity(count);
    for place in 0..MAX_STATUSES {
        let range = (reader.u16()?, reader.u16()?);
        if place < count {
            statuses.push(range);
        } else if range != (0, 0) {
            return Err(Malformed::new("a range of statuses that is not set"));
        }
    }
    Ok(statuses)
}
