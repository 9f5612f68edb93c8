//! What a configuration file says that was read again: a pool to put in force, and what cannot
//! change while weir runs.

use std::path::Path;

use weir_shm::model::Pool;

use crate::config::Config;

/// A configuration file that was read again.
#[derive(Debug)]
pub struct Reloaded {
    /// Its pool.
    pub pool: Pool,
    /// What it says otherwise than what runs, and needs a restart.
    pub left_alone: Vec<String>,
    /// What the operator should know of it.
    pub warnings: Vec<String>,
}

/// Reads the file that `running` came from.
///
/// # Errors
/// Why it cannot be used: what runs stays so.
pub fn read(running: &Config, path: &Path) -> Result<Reloaded, String> {
    let config = Config::load(path).map_err(|error| error.to_string())?;
    Ok(Reloaded {
        left_alone: left_alone(running, &config),
        warnings: config.warnings,
        pool: config.pool,
    })
}

/// The keys and tables that differ and cannot change at run time.
fn left_alone(running: &Config, file: &Config) -> Vec<String> {
    let (instance, now) = (&running.instance, &file.instance);
    let (engine, engine_now) = (&running.engine, &file.engine);
    let keys = [
        ("[instance] name", instance.name != now.name),
        ("[instance] hash_key", instance.hash_key != now.hash_key),
        ("[instance] owner", instance.owner != now.owner),
        ("[instance] group", instance.group != now.group),
        ("[engine] workers", engine.workers != engine_now.workers),
        (
            "[engine] control_core",
            engine.control_core != engine_now.control_core,
        ),
        ("[engine] memory", engine.memory != engine_now.memory),
        (
            "[engine] memory_mb",
            engine.memory_mb != engine_now.memory_mb,
        ),
        ("[engine] idle", engine.idle != engine_now.idle),
        (
            "[engine] flows_per_worker",
            engine.flows_per_worker != engine_now.flows_per_worker,
        ),
        (
            "[engine] file_prefix",
            engine.file_prefix != engine_now.file_prefix,
        ),
        ("[engine] eal_args", engine.eal_args != engine_now.eal_args),
        ("[log]", running.log != file.log),
        ("[metrics] listen", listen(running) != listen(file)),
        ("[[route]]", running.routes != file.routes),
        ("[[neighbor]]", running.neighbours != file.neighbours),
    ];
    let mut differing: Vec<String> = keys
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(key, _)| key.to_owned())
        .collect();
    let port = |config: &Config, name: &str| {
        let found = config.ports.iter().find(|port| port.name == name);
        found.cloned()
    };
    let mut names: Vec<&str> = running
        .ports
        .iter()
        .chain(&file.ports)
        .map(|port| port.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        if port(running, name) != port(file, name) {
            differing.push(format!("[[port]] {name}"));
        }
    }
    differing
}

/// Where metrics can be had.
fn listen(config: &Config) -> Option<std::net::SocketAddr> {
    config.metrics.as_ref().map(|metrics| metrics.listen)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"[instance]
name = "lb1"
[engine]
workers = [1]
[[port]]
name = "wan"
device = "net_null0"
addresses = ["192.0.2.2/24"]
[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
forwarding = "nat"
[[service.backend]]
address = "192.0.2.11"
"#;

    fn config(text: &str) -> Config {
        Config::parse(Path::new("weir.toml"), text).unwrap()
    }

    #[test]
    fn what_cannot_change_is_named_and_the_pool_is_not_among_it() {
        let running = config(FILE);
        let changed = FILE
            .replace(
                "workers = [1]",
                "workers = [2]\nidle = \"adaptive\"\n[metrics]\nlisten = \"127.0.0.1:9100\"",
            )
            .replace("192.0.2.2/24", "192.0.2.3/24")
            .replace("192.0.2.11", "192.0.2.12");
        assert_eq!(
            left_alone(&running, &config(&changed)),
            [
                "[engine] workers",
                "[engine] idle",
                "[metrics] listen",
                "[[port]] wan"
            ]
        );
        assert!(left_alone(&running, &config(FILE)).is_empty());
    }
}
