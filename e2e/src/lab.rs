//! The network most tests use: a client, a switch, the balancer and some backends, each in its namespace, IPv4 and
//! IPv6 side by side.
//!
//! | who | IPv4 | IPv6 |
//! |---|---|---|
//! | client | 192.0.2.10/24 | 2001:db8:1::10/64 |
//! | weir towards the client | 192.0.2.2/24 | 2001:db8:1::2/64 |
//! | weir towards the backends, their default gateway | 10.0.0.1/24 | 2001:db8:2::1/64 |
//! | backend *n* (from 1) | 10.0.0.(10 + n)/24 | 2001:db8:2::(10 + n)/64 |
//! | VIPs | 198.51.100.0/24 | 2001:db8:ff::/64 |
//!
//! The balancer's interfaces have no kernel addresses: every frame on them is weir's.

use std::path::Path;

use tempfile::TempDir;

use crate::namespace::Namespace;
use crate::tap::{Cable, Change};
use crate::{Result, host};

/// VIPs that are also on the backends' loopback, for `dsr-l2`.
pub const DSR_VIP4: &str = "198.51.100.20";
/// The IPv6 one of [`DSR_VIP4`].
pub const DSR_VIP6: &str = "2001:db8:ff::20";
/// The VIP of `nat` services.
pub const NAT_VIP4: &str = "198.51.100.10";
/// The IPv6 one of [`NAT_VIP4`].
pub const NAT_VIP6: &str = "2001:db8:ff::10";
/// weir's addresses on the client's side, as a configuration lists them.
pub const WAN_ADDRESSES: &str = r#""192.0.2.2/24", "2001:db8:1::2/64""#;
/// weir's addresses on the backends' side.
pub const LAN_ADDRESSES: &str = r#""10.0.0.1/24", "2001:db8:2::1/64""#;

/// Whether client and backends hang on the same port of the balancer (`eth0`) or on two (`eth0` and `eth1`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Arms {
    /// One port for both sides.
    One,
    /// `eth0` towards the client, `eth1` towards the backends.
    Two,
}

/// Namespaces joined by switches, and a folder for the test's files.
pub struct Lab {
    // First, so that it is unplugged before its namespaces go.
    _cable: Option<Cable>,
    /// Where the requests come from.
    pub client: Namespace,
    /// Where weir runs.
    pub balancer: Namespace,
    /// Where the servers run.
    pub backends: Vec<Namespace>,
    // Last, so that the switch outlives what is plugged into it.
    switch: Namespace,
    dir: TempDir,
}

impl Lab {
    /// A lab with this many backends.
    pub fn new(arms: Arms, backends: usize) -> Result<Self> {
        Self::queued(arms, backends, 1)
    }

    /// A lab in which the balancer's interfaces have this many queues each way. The switch's kernel spreads flows over
    /// them (since Linux 5.17), each direction of a flow by itself.
    pub fn queued(arms: Arms, backends: usize, queues: u16) -> Result<Self> {
        let switch = switch()?;
        let lan = if arms == Arms::One { "br0" } else { "br1" };

        let balancer = balancer()?;
        plug_queued(&balancer, "eth0", &switch, "br0", "to-weir0", queues)?;
        if arms == Arms::Two {
            plug_queued(&balancer, "eth1", &switch, "br1", "to-weir1", queues)?;
        }
        Self::around(switch, balancer, None, lan, backends)
    }

    /// A one-armed lab in which the balancer's `eth0` hangs on the switch by a cable that does `forth` to frames on
    /// their way to weir and `back` to those it sends.
    pub fn trunk(backends: usize, forth: Change, back: Change) -> Result<Self> {
        let (switch, balancer) = (switch()?, balancer()?);
        let cable = Cable::join(&switch, &balancer, "eth0", forth, back)?;
        switch.ip("link set eth0 master br0")?;
        Self::around(switch, balancer, Some(cable), "br0", backends)
    }

    fn around(
        switch: Namespace,
        balancer: Namespace,
        cable: Option<Cable>,
        lan: &str,
        backends: usize,
    ) -> Result<Self> {
        let client = Namespace::new("client")?;
        plug(&client, "eth0", &switch, "br0", "to-client")?;
        client.ip("addr add 192.0.2.10/24 dev eth0")?;
        client.ip("addr add 2001:db8:1::10/64 dev eth0 nodad")?;
        client.ip("route add 198.51.100.0/24 via 192.0.2.2")?;
        client.ip("route add 2001:db8:ff::/64 via 2001:db8:1::2")?;

        let dir = TempDir::with_prefix("weir-e2e-")?;
        let mut lab = Self {
            _cable: cable,
            client,
            balancer,
            backends: Vec::new(),
            switch,
            dir,
        };
        for n in 1..=backends {
            lab.add_backend(n, lan)?;
        }
        Ok(lab)
    }

    fn add_backend(&mut self, n: usize, bridge: &str) -> Result {
        let backend = Namespace::new(&format!("b{n}"))?;
        plug(&backend, "eth0", &self.switch, bridge, &format!("to-b{n}"))?;
        backend.ip(&format!("addr add 10.0.0.{}/24 dev eth0", 10 + n))?;
        backend.ip(&format!(
            "addr add 2001:db8:2::{}/64 dev eth0 nodad",
            10 + n
        ))?;
        backend.ip("route add default via 10.0.0.1")?;
        backend.ip("route add default via 2001:db8:2::1")?;
        // dsr-l2: the VIP is on the loopback, ARP and NDP keep quiet about it (an address on `lo` is never announced
        // on `eth0` by IPv6), and what leaves from it goes straight to the client.
        for (key, value) in [
            ("net.ipv4.conf.all.arp_ignore", "1"),
            ("net.ipv4.conf.all.arp_announce", "2"),
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.eth0.rp_filter", "0"),
        ] {
            backend.sysctl(key, value)?;
        }
        backend.ip(&format!("addr add {DSR_VIP4}/32 dev lo"))?;
        backend.ip(&format!("addr add {DSR_VIP6}/128 dev lo nodad"))?;
        backend.ip("route add 192.0.2.0/24 dev eth0 table 20")?;
        backend.ip(&format!("rule add from {DSR_VIP4} table 20"))?;
        backend.ip("-6 route add 2001:db8:1::/64 dev eth0 table 20")?;
        backend.ip(&format!("-6 rule add from {DSR_VIP6} table 20"))?;
        self.backends.push(backend);
        Ok(())
    }

    /// The folder for this test's files; it goes with the lab.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Everything the kernels on both sides found wrong with checksums and IP headers, as text; empty when all was well.
    pub fn checksum_errors(&self) -> Result<String> {
        let mut found = String::new();
        for namespace in self.backends.iter().chain([&self.client]) {
            for (counter, value) in namespace.checksum_errors()? {
                found += &format!("{}: {counter} = {value}\n", namespace.name());
            }
        }
        Ok(found)
    }
}

fn switch() -> Result<Namespace> {
    let switch = Namespace::new("switch")?;
    switch.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
    switch.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    for bridge in ["br0", "br1"] {
        switch.ip(&format!(
            "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        ))?;
        switch.ip(&format!("link set {bridge} up"))?;
    }
    Ok(switch)
}

/// The balancer's namespace: its kernel stays out of everything.
fn balancer() -> Result<Namespace> {
    let balancer = Namespace::new("balancer")?;
    balancer.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
    balancer.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    Ok(balancer)
}

/// The IPv4 address of the n-th backend, counted from 1.
pub fn backend4(n: usize) -> String {
    format!("10.0.0.{}", 10 + n)
}

/// The IPv6 address of the n-th backend, counted from 1.
pub fn backend6(n: usize) -> String {
    format!("2001:db8:2::{}", 10 + n)
}

/// Joins an interface of `namespace` with a bridge of `switch` by a veth without offloads.
pub fn plug(
    namespace: &Namespace,
    interface: &str,
    switch: &Namespace,
    bridge: &str,
    port: &str,
) -> Result {
    plug_queued(namespace, interface, switch, bridge, port, 1)
}

fn plug_queued(
    namespace: &Namespace,
    interface: &str,
    switch: &Namespace,
    bridge: &str,
    port: &str,
    queues: u16,
) -> Result {
    wire_queued(namespace, interface, switch, port, queues)?;
    switch.ip(&format!("link set {port} master {bridge}"))?;
    Ok(())
}

/// Joins two namespaces by a veth without offloads.
pub fn wire(a: &Namespace, interface_a: &str, b: &Namespace, interface_b: &str) -> Result {
    wire_queued(a, interface_a, b, interface_b, 1)
}

fn wire_queued(
    a: &Namespace,
    interface_a: &str,
    b: &Namespace,
    interface_b: &str,
    queues: u16,
) -> Result {
    let queues = match queues {
        1 => String::new(),
        more => format!("numtxqueues {more} numrxqueues {more}"),
    };
    a.ip(&format!(
        "link add {interface_a} {queues} type veth peer name {interface_b} {queues} netns {}",
        b.name()
    ))?;
    for (namespace, interface) in [(a, interface_a), (b, interface_b)] {
        namespace.plain_wire(interface)?;
        namespace.ip(&format!("link set {interface} up"))?;
    }
    Ok(())
}

/// A name for the instance of this test, as in `[instance] name`.
pub fn instance() -> String {
    host::unique("lb")
}
