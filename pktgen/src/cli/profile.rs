//! The options that describe traffic, the same for every command that makes some.

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use weir_engine::wire::ethernet::MacAddr;

use crate::popularity::Popularity;
use crate::profile::{Protocol, Tracking, Wanted};
use crate::range::AddressRange;
use crate::schedule::Mix;
use crate::size::Sizes;
use crate::units;

/// Packets of a TCP connection where the command line does not say.
const TCP_PACKETS: u32 = 10;

/// Whom to send to, and from where.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Traffic")]
pub struct TargetArgs {
    /// Destination address; its family is the traffic's.
    #[arg(long, value_name = "ADDR")]
    pub vip: IpAddr,
    /// Destination port.
    #[arg(long, default_value_t = 80)]
    pub port: u16,
    /// Transport. TCP sends a SYN, data segments and a FIN, open loop: it does not wait for answers
    /// [default: udp; of churn: tcp].
    #[arg(long, value_enum)]
    pub protocol: Option<Protocol>,
    /// Client addresses: a prefix or first-last [default: 198.18.0.0/16 or 2001:2::/48].
    #[arg(long, value_name = "RANGE")]
    pub clients: Option<AddressRange>,
    /// Seed of everything random: the same seed gives the same packets.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// VLAN identifier of a tag, 1 to 4094.
    #[arg(long, value_name = "ID")]
    pub vlan: Option<u16>,
}

impl TargetArgs {
    /// The transport asked for, or `default`.
    #[must_use]
    pub fn transport(&self, default: Protocol) -> Protocol {
        self.protocol.unwrap_or(default)
    }

    /// Traffic to this target: one flow, at full speed, without an end.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        Wanted {
            vip: self.vip,
            port: self.port,
            protocol: self.transport(Protocol::Udp),
            clients: self.clients,
            flows: 1,
            popularity: Popularity::Uniform,
            sizes: None,
            packets_per_flow: 0,
            rate: 0,
            count: None,
            duration: None,
            seed: self.seed,
            vlan: self.vlan,
            mix: Mix::Steady,
            tracking: Tracking::Flows,
        }
    }
}

/// What to send.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Traffic")]
pub struct ProfileArgs {
    /// Whom to.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Number of flows, as in 1000 or 100k.
    #[arg(long, default_value = "1000", value_parser = flows)]
    pub flows: u32,
    /// How packets are shared among flows: uniform, sequential (each in turn), zipf:S.
    #[arg(long, default_value = "uniform")]
    pub popularity: Popularity,
    /// Frame sizes, FCS included (RFC 2544): 64, or a list as in 64,512,1518, or shares as in
    /// 64:7,594:4,1518:1, or imix, which is short for those (its smallest is lifted to what the
    /// headers need). The headers and an 18-byte stamp must fit: 64 for UDP over IPv4, 76 for TCP
    /// over IPv4, 84 and 96 over IPv6, 4 more with a VLAN tag [default: the smallest that fits].
    #[arg(long, value_name = "SIZES")]
    pub size: Option<Sizes>,
    /// Packets of a TCP connection, SYN and FIN included; then the flow opens anew. 0: it never ends
    /// [default: 10].
    #[arg(long, value_name = "N")]
    pub packets_per_flow: Option<u32>,
    /// Packets a second, as in 50k or 1.5M; 0: as fast as possible.
    #[arg(long, value_name = "PPS", default_value = "0", value_parser = units::count)]
    pub rate: u64,
    /// Stop after this many packets.
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub count: Option<u64>,
    /// Stop after this time, as in 10s.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub duration: Option<Duration>,
}

/// Whom the frames come from and go to.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Link")]
pub struct LinkArgs {
    /// Source MAC [default: the device's own, or 02:00:00:00:00:c1 in a file].
    #[arg(long, value_name = "MAC")]
    pub src_mac: Option<MacAddr>,
    /// Destination MAC [default: that of the next hop, found by ARP or NDP, or 02:00:00:00:00:01 in
    /// a file].
    #[arg(long, value_name = "MAC")]
    pub dst_mac: Option<MacAddr>,
}

impl ProfileArgs {
    /// The options as a profile to be checked.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        let packets_per_flow =
            self.packets_per_flow
                .unwrap_or(match self.target.transport(Protocol::Udp) {
                    Protocol::Tcp => TCP_PACKETS,
                    Protocol::Udp => 0,
                });
        Wanted {
            flows: self.flows,
            popularity: self.popularity,
            sizes: self.size.clone(),
            packets_per_flow,
            rate: self.rate,
            count: self.count,
            duration: self.duration,
            ..self.target.wanted()
        }
    }
}

/// Reads a number of flows.
pub(super) fn flows(text: &str) -> Result<u32, String> {
    let count = units::count(text).map_err(|error| error.to_string())?;
    u32::try_from(count).map_err(|_| {
        format!(
            "{count} flows are too many; up to {} are accepted",
            u32::MAX
        )
    })
}
