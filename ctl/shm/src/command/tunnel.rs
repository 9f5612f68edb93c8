//! The flags of `service add` about tunnels, DSCP and MSS.

use clap::Args;

use super::Refused;
use crate::model::{MAX_DSCP, MAX_MSS, MAX_VNI, MIN_MSS, OuterChecksum, Tunnel, TunnelSource};

/// See [`Tunnel`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct TunnelArgs {
    /// Outer source of a tunnel: an address, or a prefix for entropy; once for each family
    #[arg(long, value_name = "ADDRESS[/PREFIX]")]
    pub tunnel_source: Vec<TunnelSource>,
    /// Variant of GUE; 1 by default
    #[arg(long, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..=1))]
    pub gue_variant: Option<u8>,
    /// UDP port of GUE; 6080 by default
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub gue_port: Option<u16>,
    /// Key of GRE; none by default
    #[arg(long, value_name = "NUMBER")]
    pub gre_key: Option<u32>,
    /// Virtual network of Geneve; 0 by default
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_VNI)))]
    pub geneve_vni: Option<u32>,
    /// Outer UDP checksum of GUE and Geneve: zero or full; zero by default
    #[arg(long, value_name = "zero|full")]
    pub outer_udp_checksum: Option<OuterChecksum>,
    /// The DSCP by which backends of dsr-dscp know the VIP
    #[arg(long, value_name = "1-63", value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_DSCP)))]
    pub dscp: Option<u8>,
    /// The largest MSS that a SYN may announce
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(i64::from(MIN_MSS)..=i64::from(MAX_MSS)))]
    pub mss_clamp: Option<u16>,
}

impl TunnelArgs {
    /// The settings that were given.
    pub(super) fn settings(&self) -> Result<Tunnel, Refused> {
        let mut tunnel = Tunnel {
            gue_variant: self.gue_variant,
            gue_port: self.gue_port,
            gre_key: self.gre_key,
            geneve_vni: self.geneve_vni,
            outer_udp_checksum: self.outer_udp_checksum,
            dscp: self.dscp,
            mss_clamp: self.mss_clamp,
            ..Tunnel::default()
        };
        for source in &self.tunnel_source {
            tunnel.sources.add(*source).map_err(Refused::Invalid)?;
        }
        Ok(tunnel)
    }
}
