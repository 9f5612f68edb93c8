//! How a service checks its backends and what becomes of their flows, as it is shown.

use std::io::{self, Write};

use serde_json::{Map, Value, json};
use weir_shm::duration;
use weir_shm::model::health::bytes_text;
use weir_shm::model::{Health, HealthKind, Service, WHOLE_SHARE, percent};

/// Keys that are told apart from the rest.
const HEAD: [&str; 5] = ["kind", "interval", "timeout", "fall", "rise"];

/// All that a check goes by, under its keys in the configuration; `None` where nothing is checked.
pub(crate) fn check_view(health: &Health) -> Option<Value> {
    if health.kind == HealthKind::None {
        return None;
    }
    let mut view = Map::new();
    let mut put = |key: &str, value: Value| {
        if !value.is_null() {
            view.insert(key.to_owned(), value);
        }
    };
    put("kind", json!(health.kind.name()));
    put("interval", json!(duration::text(health.interval)));
    put("timeout", json!(duration::text(health.timeout)));
    put("fall", json!(health.fall));
    put("rise", json!(health.rise));
    put("port", json!(health.port));
    if health.kind.asks_for_a_page() {
        put("method", json!(health.method.as_deref().unwrap_or("GET")));
        put("path", json!(health.path.as_deref().unwrap_or("/")));
        put("host", json!(health.host));
        put("status", json!(health.statuses()));
        put("body", json!(health.body));
    }
    put("payload", json!(health.payload.as_deref().map(bytes_text)));
    put("answer", json!(health.answer.as_deref().map(bytes_text)));
    if health.kind == HealthKind::Https {
        let tls = &health.tls;
        put(
            "tls",
            json!({
                "verify": tls.verify,
                "ca": tls.ca,
                "server_name": tls.server_name,
                "certificate": tls.certificate,
                "key": tls.key,
            }),
        );
    }
    let flap = health.flap;
    put(
        "flap",
        json!({
            "changes": flap.changes,
            "window": duration::text(flap.window),
            "hold": duration::text(flap.hold),
            "max_hold": duration::text(flap.max_hold),
        }),
    );
    Some(Value::Object(view))
}

/// How changes of health and of the pool take effect, under their keys.
pub(crate) fn changes_view(service: &Service) -> Map<String, Value> {
    let pairs = [
        ("slow_start", json!(duration::text(service.slow_start))),
        (
            "min_healthy",
            json!(f64::from(service.min_healthy) / f64::from(WHOLE_SHARE)),
        ),
        ("on_down", json!(service.on_down.name())),
        ("unknown_tcp", json!(service.unknown_tcp.name())),
        (
            "deregistration_delay",
            json!(duration::or_never(service.deregistration_delay)),
        ),
    ];
    let pairs = pairs.into_iter();
    pairs.map(|(key, value)| (key.to_owned(), value)).collect()
}

/// A value without quotation marks; a table as its pairs.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(table) => {
            let given = table.iter().filter(|(_, value)| !value.is_null());
            let pairs: Vec<String> = given
                .map(|(key, value)| format!("{key} {}", plain(value)))
                .collect();
            pairs.join(", ")
        }
        other => other.to_string(),
    }
}

/// Writes how backends are checked.
pub(crate) fn write_check(check: Option<&Value>, out: &mut dyn Write) -> io::Result<()> {
    let Some(Value::Object(check)) = check else {
        return writeln!(out, "health      none");
    };
    let part = |key: &str| check.get(key).map_or_else(String::new, plain);
    writeln!(
        out,
        "health      {}, every {}, timeout {}, fall {}, rise {}",
        part("kind"),
        part("interval"),
        part("timeout"),
        part("fall"),
        part("rise")
    )?;
    for (key, value) in check
        .iter()
        .filter(|(key, _)| !HEAD.contains(&key.as_str()))
    {
        writeln!(out, "            {key}: {}", plain(value))?;
    }
    Ok(())
}

/// Writes how changes take effect.
pub(crate) fn write_changes(changes: &Map<String, Value>, out: &mut dyn Write) -> io::Result<()> {
    let part = |key: &str| changes.get(key).map_or_else(String::new, plain);
    let share = changes.get("min_healthy").and_then(Value::as_f64);
    let least = (share.unwrap_or(0.0) * f64::from(WHOLE_SHARE)).round() as u16;
    writeln!(
        out,
        "changes     on down {}, slow start {}, min healthy {}, drain {}",
        part("on_down"),
        part("slow_start"),
        percent(least),
        part("deregistration_delay")
    )?;
    writeln!(out, "unknown TCP {}", part("unknown_tcp"))
}
