//! A service's health check, written into a document.

use toml_edit::{Array, InlineTable, Item, Table, TableLike, Value};
use weir_shm::duration;
use weir_shm::model::health::bytes_text;
use weir_shm::model::{Flap, Health, Tls};

use super::tables::Entries;

/// Writes all that is not as usual; a check as usual is none, and needs no words.
pub(super) fn set_health(table: &mut dyn TableLike, headed: bool, health: &Health) {
    if *health == Health::default() {
        return;
    }
    let entries = entries(health);
    let item = if headed {
        Item::Table(
            entries
                .into_iter()
                .map(|(key, value)| (key, Item::Value(value)))
                .collect::<Table>(),
        )
    } else {
        Item::Value(InlineTable::from_iter(entries).into())
    };
    table.insert("health", item);
}

fn entries(health: &Health) -> Entries {
    let default = Health::default();
    let mut entries: Entries = vec![("kind", health.kind.name().into())];
    for (key, own, usual) in [
        ("interval", health.interval, default.interval),
        ("timeout", health.timeout, default.timeout),
    ] {
        if own != usual {
            entries.push((key, duration::text(own).into()));
        }
    }
    for (key, own, usual) in [
        ("fall", health.fall, default.fall),
        ("rise", health.rise, default.rise),
    ] {
        if own != usual {
            entries.push((key, i64::from(own).into()));
        }
    }
    if let Some(port) = health.port {
        entries.push(("port", i64::from(port).into()));
    }
    for (key, text) in [
        ("method", &health.method),
        ("path", &health.path),
        ("host", &health.host),
        ("body", &health.body),
    ] {
        if let Some(text) = text {
            entries.push((key, text.as_str().into()));
        }
    }
    if health.status != default.status {
        entries.push(("status", statuses(&health.status)));
    }
    for (key, bytes) in [("payload", &health.payload), ("answer", &health.answer)] {
        if let Some(bytes) = bytes {
            entries.push((key, bytes_text(bytes).into()));
        }
    }
    if health.tls != default.tls {
        entries.push(("tls", tls(&health.tls)));
    }
    if health.flap != default.flap {
        entries.push(("flap", flap(health.flap)));
    }
    entries
}

fn statuses(ranges: &[(u16, u16)]) -> Value {
    let range = |(low, high): &(u16, u16)| -> Value {
        if low == high {
            i64::from(*low).into()
        } else {
            format!("{low}-{high}").into()
        }
    };
    match ranges {
        [one] => range(one),
        many => many.iter().map(range).collect::<Array>().into(),
    }
}

fn tls(tls: &Tls) -> Value {
    let mut table = InlineTable::new();
    if tls.verify {
        table.insert("verify", true.into());
    }
    for (key, text) in [
        ("ca", &tls.ca),
        ("server_name", &tls.server_name),
        ("certificate", &tls.certificate),
        ("key", &tls.key),
    ] {
        if let Some(text) = text {
            table.insert(key, text.as_str().into());
        }
    }
    table.into()
}

fn flap(flap: Flap) -> Value {
    let text = |time| Value::from(duration::text(time));
    InlineTable::from_iter([
        ("changes", i64::from(flap.changes).into()),
        ("window", text(flap.window)),
        ("hold", text(flap.hold)),
        ("max_hold", text(flap.max_hold)),
    ])
    .into()
}
