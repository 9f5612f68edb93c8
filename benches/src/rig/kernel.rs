//! The kernel as a balancer: addresses, forwarding, and nftables DNAT in the balancer's namespace.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use weir_e2e::namespace::Namespace;

use super::said;
use crate::Failure;

/// Gives interfaces their addresses and lets the namespace forward.
///
/// # Errors
/// When `ip` refuses.
pub fn route(namespace: &Namespace, addresses: &[(&str, &str)]) -> Result<(), Failure> {
    for (interface, address) in addresses {
        namespace
            .ip(&format!("addr add {address} dev {interface}"))
            .map_err(said)?;
    }
    namespace.sysctl("net.ipv4.ip_forward", "1").map_err(said)
}

/// Takes the addresses away again.
///
/// # Errors
/// When `ip` refuses.
pub fn unroute(namespace: &Namespace, interfaces: &[&str]) -> Result<(), Failure> {
    for interface in interfaces {
        namespace
            .ip(&format!("addr flush dev {interface}"))
            .map_err(said)?;
    }
    namespace.sysctl("net.ipv4.ip_forward", "0").map_err(said)
}

/// Runs an nftables script in a namespace.
///
/// # Errors
/// When nft refuses it.
pub fn nft(namespace: &Namespace, script: &str) -> Result<(), Failure> {
    let mut command = namespace.command("nft");
    command.args(["-f", "-"]);
    fed(command, script)
}

fn fed(mut command: Command, input: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("nft: {error}").into())
}

/// DNAT of a service to its backends, a flow's by a hash of its client.
#[must_use]
pub fn dnat(protocol: &str, vip: &str, port: u16, backends: &[String], to: u16) -> String {
    let mut map = String::new();
    for (number, backend) in backends.iter().enumerate() {
        let comma = if number == 0 { "" } else { ", " };
        let _ = write!(map, "{comma}{number} : {backend} . {to}");
    }
    format!(
        "table ip lb {{\n chain pre {{\n  type nat hook prerouting priority dstnat; policy accept;\n  \
         ip daddr {vip} {protocol} dport {port} dnat ip to jhash ip saddr . {protocol} sport mod {} \
         map {{ {map} }}\n }}\n}}\n",
        backends.len()
    )
}

/// Frames that an interface has taken in so far.
///
/// # Errors
/// When the namespace has no such interface.
pub fn received(namespace: &Namespace, interface: &str) -> Result<u64, Failure> {
    let text = namespace
        .run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))
        .map_err(said)??;
    let line = text.lines().find_map(|line| {
        let (name, counters) = line.split_once(':')?;
        (name.trim() == interface).then_some(counters)
    });
    let packets = line.and_then(|it| it.split_whitespace().nth(1)?.parse().ok());
    packets.ok_or_else(|| format!("no interface {interface}").into())
}
