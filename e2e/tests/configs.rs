//! Every file in `configs/` is accepted by `weir check` and starts, as it stands, on a machine that has the
//! interfaces which it names.

use std::path::PathBuf;
use std::process::Command;

use weir_e2e::daemon::Daemon;
use weir_e2e::lab::wire;
use weir_e2e::namespace::Namespace;
use weir_e2e::process::capture;
use weir_e2e::{Failure, Result, ensure, host};

fn files() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(host::workspace().join("configs"))? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            found.push(path);
        }
    }
    found.sort();
    ensure!(found.len() >= 6, "configs/ holds only {found:?}");
    Ok(found)
}

#[test]
fn every_example_configuration_passes_the_check() -> Result {
    for path in files()? {
        let mut check = Command::new(host::binary("weir")?);
        let effective = capture(check.args(["check", "--config"]).arg(&path))?;
        ensure!(
            effective.contains("[[service]]"),
            "{}: no effective configuration: {effective}",
            path.display()
        );
    }
    Ok(())
}

#[test]
fn every_example_configuration_starts_and_stops() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    for path in files()? {
        let (machine, outside) = (Namespace::new("machine")?, Namespace::new("outside")?);
        machine.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        for interface in ["eth1", "eth2"] {
            wire(&machine, interface, &outside, interface)?;
        }
        let dir = tempfile::TempDir::with_prefix("weir-e2e-")?;
        let text = std::fs::read_to_string(&path)?;
        let name = text
            .lines()
            .find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
        let name =
            name.ok_or_else(|| Failure::new(format!("{} names no instance", path.display())))?;
        let mut weir = Daemon::launch_in(&machine, dir.path(), name, &path, dir.path())?;
        weir.wait_ready()
            .map_err(|failure| Failure::new(format!("{}: {failure:?}", path.display())))?;
        ensure!(
            weir.terminate()?.success(),
            "{}: did not end well:\n{}",
            path.display(),
            weir.log()
        );
    }
    Ok(())
}
