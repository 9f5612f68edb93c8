//! The configuration as TOML text, every default filled in: what `weir check` prints, and a
//! configuration that means the same.

use std::fmt::Write;

use weir_engine::wire::ethernet::MacAddr;
use weir_shm::duration;
use weir_shm::model::Forwarding;
use weir_shm::model::health::{DEFAULT_METHOD, DEFAULT_PATH, bytes_text};
use weir_shm::model::{
    Admin, Forced, HealthKind, PortMatch, QuicConfig, Scheduler, ServerIds, Service, Tls, percent,
};

use super::{Config, Idle, Memory};

/// Writes `key = value` lines; writing to a string cannot fail.
struct Lines(String);

impl Lines {
    fn table(&mut self, header: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        let _ = writeln!(self.0, "{header}");
    }

    fn raw(&mut self, key: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{key} = {value}");
    }

    fn text(&mut self, key: &str, value: &str) {
        self.raw(key, quoted(value));
    }

    fn comment(&mut self, text: &str) {
        let _ = writeln!(self.0, "# {text}");
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
    format!(
        "[{}]",
        items.iter().map(show).collect::<Vec<_>>().join(", ")
    )
}

/// The configuration's text.
pub fn text(config: &Config) -> String {
    let mut lines = Lines(String::new());
    instance(&mut lines, config);
    engine(&mut lines, config);
    lines.table("[log]");
    lines.text("level", &config.log.level.to_string());
    lines.text("format", &config.log.format.to_string());
    if let Some(metrics) = &config.metrics {
        lines.table("[metrics]");
        lines.text("listen", &metrics.listen.to_string());
    }
    for port in &config.ports {
        lines.table("[[port]]");
        lines.text("name", &port.name);
        lines.text("device", port.device.as_str());
        lines.raw(
            "addresses",
            list(&port.addresses, |own| quoted(&own.to_string())),
        );
        match port.mac {
            Some(mac) => lines.text("mac", &mac.to_string()),
            None => lines.comment("mac: the device's own"),
        }
        match port.mtu {
            Some(mtu) => lines.raw("mtu", mtu),
            None => lines.comment("mtu: the device's own"),
        }
        if let Some(vlan) = port.vlan {
            lines.raw("vlan", vlan);
        }
        if let Some(kernel) = &port.kernel {
            lines.text("kernel", &kernel.interface);
            lines.raw("kernel_rate", kernel.rate);
        }
    }
    for route in &config.routes {
        lines.table("[[route]]");
        lines.text("to", &route.to.to_string());
        lines.text("via", &route.via.to_string());
    }
    for (address, mac) in &config.neighbours {
        lines.table("[[neighbor]]");
        lines.text("address", &address.to_string());
        lines.text("mac", &MacAddr::to_string(mac));
    }
    for one in &config.pool.services {
        service(&mut lines, one);
    }
    lines.0
}

fn instance(lines: &mut Lines, config: &Config) {
    let instance = &config.instance;
    lines.table("[instance]");
    lines.text("name", &instance.name);
    match instance.hash_key {
        Some(key) => lines.text("hash_key", &format!("{:032x}", u128::from_be_bytes(key.0))),
        None => lines.comment("hash_key: random at each start"),
    }
    for (key, value) in [("owner", &instance.owner), ("group", &instance.group)] {
        if let Some(value) = value {
            lines.text(key, value);
        }
    }
}

fn engine(lines: &mut Lines, config: &Config) {
    let engine = &config.engine;
    lines.table("[engine]");
    lines.raw("workers", list(&engine.workers, usize::to_string));
    lines.raw("control_core", engine.control_core);
    lines.text(
        "memory",
        match engine.memory {
            Memory::HugePages => "hugepages",
            Memory::Anonymous => "anonymous",
        },
    );
    match engine.memory_mb {
        Some(mb) => lines.raw("memory_mb", mb),
        None => lines.comment("memory_mb: as much as the ports need"),
    }
    lines.text(
        "idle",
        match engine.idle {
            Idle::Poll => "poll",
            Idle::Adaptive => "adaptive",
        },
    );
    lines.raw("flows_per_worker", engine.flows_per_worker);
    match &engine.file_prefix {
        Some(prefix) => lines.text("file_prefix", prefix),
        None => lines.comment("file_prefix: made from the instance's name"),
    }
    lines.raw(
        "eal_args",
        list(&engine.eal_args, |argument| quoted(argument)),
    );
}

fn service(lines: &mut Lines, service: &Service) {
    lines.table("[[service]]");
    lines.text("name", &service.name);
    lines.text("vip", &service.vip.to_string());
    match service.port {
        PortMatch::Exact(port) => lines.raw("port", port),
        several => lines.text("port", &several.to_string()),
    }
    lines.text("protocol", service.protocol.name());
    lines.text("forwarding", service.forwarding.name());
    lines.text("scheduler", service.scheduler.name());
    lines.raw("table_size", service.table_size);
    for (key, value) in service.tunnel.effective(service.forwarding) {
        lines.raw(key, value);
    }
    lines.text("ping", service.ping.name());
    steering(lines, service);
    let timeouts = &service.timeouts;
    lines.raw(
        "timeouts",
        format!(
            "{{ syn = \"{}\", established = \"{}\", closing = \"{}\", udp = \"{}\" }}",
            duration::text(timeouts.syn),
            duration::text(timeouts.established),
            duration::text(timeouts.closing),
            duration::text(timeouts.udp),
        ),
    );
    lines.text("slow_start", &duration::text(service.slow_start));
    lines.text("min_healthy", &percent(service.min_healthy));
    lines.text("on_down", service.on_down.name());
    lines.text("unknown_tcp", service.unknown_tcp.name());
    lines.text(
        "deregistration_delay",
        &duration::or_never(service.deregistration_delay),
    );
    if service.forwarding == Forwarding::FullNat {
        lines.raw(
            "snat_pool",
            list(&service.snat_pool, |address| quoted(&address.to_string())),
        );
        lines.text("client_address", service.client_address.name());
    }
    health(lines, service);
    quic(lines, service);
    for backend in &service.backends {
        let _ = writeln!(lines.0, "[[service.backend]]");
        lines.text("address", &backend.address.to_string());
        if service.forwarding.rewrites_port() && service.port.is_exact() {
            lines.raw("port", backend.port);
        }
        lines.raw("weight", backend.weight);
        if let Some(limit) = backend.max_flows {
            lines.raw("max_flows", limit);
        }
        match &backend.server_ids {
            ServerIds::None => {}
            ServerIds::Every(id) => lines.text("server_id", &id.to_string()),
            ServerIds::Each(ids) => {
                let ids: Vec<String> = ids
                    .iter()
                    .map(|(rotation, id)| format!("{rotation} = \"{id}\""))
                    .collect();
                lines.raw("server_ids", format!("{{ {} }}", ids.join(", ")));
            }
        }
        match backend.admin {
            Admin::Enabled => {}
            Admin::Disabled => lines.text("state", "disabled"),
            Admin::Drain { timeout } => {
                lines.text("state", "drain");
                lines.text("drain_timeout", &duration::or_never(timeout));
            }
        }
        if backend.forced != Forced::Auto {
            lines.text("force", backend.forced.name());
        }
    }
}

fn quic(lines: &mut Lines, service: &Service) {
    if service.quic.is_empty() {
        return;
    }
    let _ = writeln!(lines.0, "[service.quic]");
    lines.raw(
        "configs",
        list(&service.quic, |config: &QuicConfig| {
            let key = config
                .key
                .map_or_else(String::new, |key| format!(", key = \"{}\"", key.reveal()));
            format!(
                "{{ rotation = {}, server_id_length = {}, nonce_length = {}{key} }}",
                config.rotation, config.server_id_length, config.nonce_length
            )
        }),
    );
}

fn steering(lines: &mut Lines, service: &Service) {
    let steering = &service.steering;
    if service.scheduler == Scheduler::Ring {
        lines.raw("ring_vnodes", steering.vnodes());
    }
    lines.text("hash", steering.hash.name());
    match steering.affinity {
        None => lines.comment("affinity: none"),
        Some(affinity) => lines.raw(
            "affinity",
            format!(
                "{{ by = \"source\", prefix4 = {}, prefix6 = {}, timeout = \"{}\" }}",
                affinity.prefix4,
                affinity.prefix6,
                duration::text(affinity.timeout),
            ),
        ),
    }
    lines.text("all_down", steering.all_down.name());
}

fn health(lines: &mut Lines, service: &Service) {
    let health = &service.health;
    let _ = writeln!(lines.0, "[service.health]");
    lines.text("kind", health.kind.name());
    if health.kind == HealthKind::None {
        return;
    }
    lines.text("interval", &duration::text(health.interval));
    lines.text("timeout", &duration::text(health.timeout));
    lines.raw("fall", health.fall);
    lines.raw("rise", health.rise);
    match health.port {
        Some(port) => lines.raw("port", port),
        None if health.kind.needs_a_port() => lines.comment("port: the backend's"),
        None => {}
    }
    if health.kind.asks_for_a_page() {
        lines.text("method", health.method.as_deref().unwrap_or(DEFAULT_METHOD));
        lines.text("path", health.path.as_deref().unwrap_or(DEFAULT_PATH));
        match &health.host {
            Some(host) => lines.text("host", host),
            None => lines.comment("host: the backend's address and port"),
        }
        if let Some(body) = &health.body {
            lines.text("body", body);
        }
        let range = |(low, high): &(u16, u16)| quoted(&format!("{low}-{high}"));
        lines.raw("status", list(&health.status, range));
    }
    for (key, value) in [("payload", &health.payload), ("answer", &health.answer)] {
        if let Some(value) = value {
            lines.text(key, &bytes_text(value));
        }
    }
    if health.kind == HealthKind::Https {
        lines.raw("tls", tls(&health.tls));
    }
    let flap = &health.flap;
    lines.raw(
        "flap",
        format!(
            "{{ changes = {}, window = \"{}\", hold = \"{}\", max_hold = \"{}\" }}",
            flap.changes,
            duration::text(flap.window),
            duration::text(flap.hold),
            duration::text(flap.max_hold)
        ),
    );
}

fn tls(tls: &Tls) -> String {
    let mut parts = vec![format!("verify = {}", tls.verify)];
    for (key, value) in [
        ("ca", &tls.ca),
        ("server_name", &tls.server_name),
        ("certificate", &tls.certificate),
        ("key", &tls.key),
    ] {
        if let Some(value) = value {
            parts.push(format!("{key} = {}", quoted(value)));
        }
    }
    format!("{{ {} }}", parts.join(", "))
}
