//! What a service says about the way to its backends beyond the mode: outer addresses and headers
//! of the tunnels, the DSCP of `dsr-dscp`, and the clamp on TCP's MSS.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::validate::{Problem, Wrong, nonsense};
use super::vocabulary::{listed, vocabulary};
use super::{Forwarding, Pool, Protocol, Service};

/// UDP port of Generic UDP Encapsulation (IANA "gue").
pub const GUE_PORT: u16 = 6080;
/// GUE variant unless the service says otherwise: 1, the inner packet right behind the UDP header.
pub const GUE_VARIANT: u8 = 1;
/// The largest Geneve virtual network identifier: 24 bits (RFC 8926, section 3.4).
pub const MAX_VNI: u32 = (1 << 24) - 1;
/// The largest DSCP: six bits (RFC 2474). Zero marks nothing.
pub const MAX_DSCP: u8 = 63;
/// The smallest MSS that a clamp may set, in bytes.
pub const MIN_MSS: u16 = 88;
/// The largest MSS that a clamp may set: an IPv4 packet of 65,535 bytes.
pub const MAX_MSS: u16 = 65_495;

vocabulary! {
    /// The checksum of outer UDP headers (RFC 6935, RFC 6936).
    #[derive(Default)]
    OuterChecksum {
        /// None: the inner packet has its own.
        #[default]
        Zero = 0, "zero";
        /// Over the whole datagram.
        Full = 1, "full";
    }
}

/// Where outer source addresses come from: one address, or a prefix whose host bits carry the
/// flow's entropy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelSource {
    /// The address, or the prefix's first.
    pub address: IpAddr,
    /// Bits of the prefix: all for a single address.
    pub prefix: u8,
}

/// What a tunnel source may be, for messages.
pub const SOURCE_ACCEPTED: &str = "an address such as \"10.0.0.1\" or \"2001:db8::1\", a prefix without host bits such as \
     \"10.64.0.0/16\", or a list of one for each family";

impl TunnelSource {
    /// Whether it is one address.
    #[must_use]
    pub const fn is_single(&self) -> bool {
        self.prefix == longest(self.address)
    }
}

const fn longest(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl fmt::Display for TunnelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.prefix)
        }
    }
}

impl FromStr for TunnelSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("found {text:?}; accepted: {SOURCE_ACCEPTED}");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| refused())?;
        let prefix = match prefix {
            None => longest(address),
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
                digits.parse().map_err(|_| refused())?
            }
            Some(_) => return Err(refused()),
        };
        let source = Self { address, prefix };
        source.check().map_err(|_| refused())?;
        Ok(source)
    }
}

impl TunnelSource {
    fn check(self) -> Result<(), String> {
        let host_bits = match self.address {
            _ if self.prefix > longest(self.address) => true,
            IpAddr::V4(address) => {
                let host = u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
                address.to_bits() & host != 0
            }
            IpAddr::V6(address) => {
                let host = u128::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
                address.to_bits() & host != 0
            }
        };
        if let Some(what) = nonsense(self.address) {
            return Err(format!("found {self}, {what}; accepted: {SOURCE_ACCEPTED}"));
        }
        if host_bits || self.prefix == 0 {
            return Err(format!("found {self}; accepted: {SOURCE_ACCEPTED}"));
        }
        Ok(())
    }
}

/// The outer source addresses of a service: at most one source for each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TunnelSources {
    /// Of tunnels over IPv4; the egress port's own address if absent.
    pub v4: Option<TunnelSource>,
    /// Of tunnels over IPv6; the egress port's own address if absent.
    pub v6: Option<TunnelSource>,
}

impl TunnelSources {
    /// Those that are there, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = &TunnelSource> {
        self.v4.iter().chain(&self.v6)
    }

    /// The source of tunnels to `backend`, if the service has one of its own.
    #[must_use]
    pub const fn toward(&self, backend: IpAddr) -> Option<TunnelSource> {
        match backend {
            IpAddr::V4(_) => self.v4,
            IpAddr::V6(_) => self.v6,
        }
    }

    /// Adds a source.
    ///
    /// # Errors
    /// When its family has one already.
    pub fn add(&mut self, source: TunnelSource) -> Result<(), String> {
        let place = match source.address {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        };
        match place {
            Some(first) => Err(format!(
                "found {first} and {source}, of one family; accepted: {SOURCE_ACCEPTED}"
            )),
            None => {
                *place = Some(source);
                Ok(())
            }
        }
    }
}

/// A service's settings beyond its mode; absent ones are `None`, and their defaults are what the
/// methods give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tunnel {
    /// Outer source addresses.
    pub sources: TunnelSources,
    /// Variant of GUE, 0 or 1.
    pub gue_variant: Option<u8>,
    /// UDP port of GUE.
    pub gue_port: Option<u16>,
    /// Key of GRE (RFC 2890); no key field if absent.
    pub gre_key: Option<u32>,
    /// Geneve's virtual network identifier.
    pub geneve_vni: Option<u32>,
    /// The outer UDP checksum of GUE and Geneve.
    pub outer_udp_checksum: Option<OuterChecksum>,
    /// What `dsr-dscp` marks packets with.
    pub dscp: Option<u8>,
    /// The largest MSS that a SYN may announce.
    pub mss_clamp: Option<u16>,
}

impl Tunnel {
    /// Variant of GUE, 0 or 1.
    #[must_use]
    pub fn gue_variant(&self) -> u8 {
        self.gue_variant.unwrap_or(GUE_VARIANT)
    }

    /// UDP port of GUE.
    #[must_use]
    pub fn gue_port(&self) -> u16 {
        self.gue_port.unwrap_or(GUE_PORT)
    }

    /// Geneve's virtual network identifier.
    #[must_use]
    pub fn geneve_vni(&self) -> u32 {
        self.geneve_vni.unwrap_or(0)
    }

    /// The outer UDP checksum of GUE and Geneve.
    #[must_use]
    pub fn outer_udp_checksum(&self) -> OuterChecksum {
        self.outer_udp_checksum.unwrap_or_default()
    }

    /// Every key with its value as TOML, `None` where it is not given.
    #[must_use]
    pub fn written(&self) -> [(&'static str, Option<String>); 8] {
        let quoted = |text: &dyn fmt::Display| format!("\"{text}\"");
        let sources: Vec<String> = self.sources.iter().map(|source| quoted(source)).collect();
        let sources = match sources.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            several => Some(format!("[{}]", several.join(", "))),
        };
        let text = |number: Option<u32>| number.map(|number| number.to_string());
        [
            ("tunnel_source", sources),
            ("gue_variant", text(self.gue_variant.map(u32::from))),
            ("gue_port", text(self.gue_port.map(u32::from))),
            ("gre_key", text(self.gre_key)),
            ("geneve_vni", text(self.geneve_vni)),
            (
                "outer_udp_checksum",
                self.outer_udp_checksum.map(|checksum| quoted(&checksum)),
            ),
            ("dscp", text(self.dscp.map(u32::from))),
            ("mss_clamp", text(self.mss_clamp.map(u32::from))),
        ]
    }

    /// The keys that are in force in a service with this mode, each with its value as TOML, defaults
    /// filled in.
    #[must_use]
    pub fn effective(&self, forwarding: Forwarding) -> Vec<(&'static str, String)> {
        let mut filled = *self;
        if forwarding == Forwarding::DsrGue {
            filled.gue_variant = Some(self.gue_variant());
            filled.gue_port = Some(self.gue_port());
        }
        if forwarding == Forwarding::DsrGeneve {
            filled.geneve_vni = Some(self.geneve_vni());
        }
        if forwarding.is_udp_tunnel() {
            filled.outer_udp_checksum = Some(self.outer_udp_checksum());
        }
        let written = filled.written().into_iter();
        written
            .filter_map(|(key, value)| Some((key, value?)))
            .collect()
    }
}

/// The modes for which a key means something.
fn modes(works: fn(Forwarding) -> bool) -> String {
    let modes = Forwarding::ALL.iter().filter(|mode| works(**mode));
    listed(modes.map(|mode| mode.name()))
}

impl Pool {
    /// A backend of `dsr-dscp` knows the VIP by the mark alone, so that there must be one.
    pub(super) fn check_marks(&self) -> Result<(), Problem> {
        let mut marks = HashMap::new();
        for (index, service) in self.services.iter().enumerate() {
            let Some(dscp) = service.tunnel.dscp else {
                continue;
            };
            for (place, backend) in service.backends.iter().enumerate() {
                let first = *marks.entry((backend.address, dscp)).or_insert(service);
                if first.vip == service.vip {
                    continue;
                }
                return Err(Problem {
                    service: Some(index),
                    backend: Some(place),
                    field: "address",
                    message: format!(
                        "found backend {} of \"{}\" with dscp = {dscp} also in \"{}\", whose VIP is \
                         another: the backend could not tell the VIPs apart; accepted: a DSCP of its \
                         own for each VIP",
                        backend.address, service.name, first.name
                    ),
                });
            }
        }
        Ok(())
    }
}

/// Whether a mode takes a key.
type TakesKey = fn(Forwarding) -> bool;

impl Service {
    /// Whether the settings fit each other and the mode.
    pub(super) fn check_tunnel(&self) -> Result<(), Wrong> {
        let tunnel = &self.tunnel;
        let keys: [(&str, bool, TakesKey); 7] = [
            (
                "tunnel_source",
                tunnel.sources.iter().next().is_some(),
                Forwarding::is_tunnel,
            ),
            ("gue_variant", tunnel.gue_variant.is_some(), is_gue),
            ("gue_port", tunnel.gue_port.is_some(), is_gue),
            ("gre_key", tunnel.gre_key.is_some(), is_gre),
            ("geneve_vni", tunnel.geneve_vni.is_some(), is_geneve),
            (
                "outer_udp_checksum",
                tunnel.outer_udp_checksum.is_some(),
                Forwarding::is_udp_tunnel,
            ),
            ("dscp", tunnel.dscp.is_some(), is_dscp),
        ];
        for (key, is_given, works) in keys {
            if is_given && !works(self.forwarding) {
                return Err((
                    key,
                    format!(
                        "found `{key}` with forwarding = \"{}\"; accepted: with {} only",
                        self.forwarding,
                        modes(works)
                    ),
                ));
            }
        }
        for source in tunnel.sources.iter() {
            source
                .check()
                .map_err(|message| ("tunnel_source", message))?;
        }
        if tunnel.gue_variant() > 1 {
            let found = tunnel.gue_variant();
            return Err(("gue_variant", format!("found {found}; accepted: 0 or 1")));
        }
        if tunnel.gue_port() == 0 {
            return Err(("gue_port", "found 0; accepted: 1 to 65535".to_owned()));
        }
        if tunnel.geneve_vni() > MAX_VNI {
            let found = tunnel.geneve_vni();
            return Err((
                "geneve_vni",
                format!("found {found}; accepted: 0 to {MAX_VNI}"),
            ));
        }
        self.check_dscp()?;
        self.check_mss_clamp()
    }

    fn check_dscp(&self) -> Result<(), Wrong> {
        if self.forwarding != Forwarding::DsrDscp {
            return Ok(());
        }
        match self.tunnel.dscp {
            Some(dscp) if self.vip.is_prefix() => Err((
                "vip",
                format!(
                    "found the prefix {} with forwarding = \"dsr-dscp\"; accepted: one address, since \
                     dscp = {dscp} stands for one",
                    self.vip
                ),
            )),
            Some(dscp) if (1..=MAX_DSCP).contains(&dscp) => Ok(()),
            Some(found) => Err(("dscp", format!("found {found}; accepted: 1 to {MAX_DSCP}"))),
            None => Err((
                "dscp",
                format!(
                    "found no `dscp` in \"{}\"; accepted with forwarding = \"dsr-dscp\": the DSCP, 1 \
                     to {MAX_DSCP}, by which its backends know the VIP",
                    self.name
                ),
            )),
        }
    }

    fn check_mss_clamp(&self) -> Result<(), Wrong> {
        match self.tunnel.mss_clamp {
            None => Ok(()),
            Some(_) if !matches!(self.protocol, Protocol::Tcp | Protocol::Any) => Err((
                "mss_clamp",
                format!(
                    "found `mss_clamp` with protocol = \"{}\"; accepted: with \"tcp\" or \"any\" only",
                    self.protocol
                ),
            )),
            Some(mss) if (MIN_MSS..=MAX_MSS).contains(&mss) => Ok(()),
            Some(found) => Err((
                "mss_clamp",
                format!("found {found}; accepted: {MIN_MSS} to {MAX_MSS}"),
            )),
        }
    }
}

fn is_gue(mode: Forwarding) -> bool {
    mode == Forwarding::DsrGue
}

fn is_gre(mode: Forwarding) -> bool {
    mode == Forwarding::DsrGre
}

fn is_geneve(mode: Forwarding) -> bool {
    mode == Forwarding::DsrGeneve
}

fn is_dscp(mode: Forwarding) -> bool {
    mode == Forwarding::DsrDscp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_address_or_a_prefix_without_host_bits() {
        for good in [
            "10.0.0.1",
            "10.64.0.0/16",
            "2001:db8::1",
            "2001:db8:1::/64",
            "10.0.0.0/31",
        ] {
            assert_eq!(good.parse::<TunnelSource>().unwrap().to_string(), good);
        }
        let single: TunnelSource = "10.0.0.1/32".parse().unwrap();
        assert!(single.is_single());
        assert_eq!(single.to_string(), "10.0.0.1");
        for bad in [
            "",
            "10.0.0",
            "10.0.0.1/24",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "2001:db8::1/64",
            "224.0.0.0/8",
            "127.0.0.1",
            "0.0.0.0/0",
            "::/0",
            "::ffff:10.0.0.1",
        ] {
            let error = bad.parse::<TunnelSource>().unwrap_err();
            assert!(error.contains("10.64.0.0/16"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_family_has_one_source() {
        let mut sources = TunnelSources::default();
        sources.add("10.0.0.1".parse().unwrap()).unwrap();
        sources.add("2001:db8::/64".parse().unwrap()).unwrap();
        assert!(
            sources
                .add("10.0.0.2".parse().unwrap())
                .unwrap_err()
                .contains("10.0.0.2")
        );
        let texts: Vec<String> = sources.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.1", "2001:db8::/64"]);
    }
}
