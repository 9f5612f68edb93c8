//! The part of a service's record about tunnels, DSCP and MSS.
//!
//! Each optional number has a flag before it and is zero where that is not set.

use std::net::{IpAddr, Ipv4Addr};

use super::bytes::{Malformed, Reader, Writer};
use super::record::known;
use crate::model::{OuterChecksum, Tunnel, TunnelSource, TunnelSources};

/// What stands for an address that is not there.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

pub(super) fn put_tunnel(writer: &mut Writer, tunnel: &Tunnel) {
    for source in [tunnel.sources.v4, tunnel.sources.v6] {
        writer.u8(u8::from(source.is_some()));
        writer.address(source.map_or(NOBODY, |source| source.address));
        writer.u8(source.map_or(0, |source| source.prefix));
    }
    let numbers = [
        tunnel.gue_variant.map(u32::from),
        tunnel.gue_port.map(u32::from),
        tunnel.gre_key,
        tunnel.geneve_vni,
        tunnel
            .outer_udp_checksum
            .map(|checksum| u32::from(checksum.code())),
        tunnel.dscp.map(u32::from),
        tunnel.mss_clamp.map(u32::from),
    ];
    for number in numbers {
        writer.u8(u8::from(number.is_some()));
        writer.u32(number.unwrap_or(0));
    }
}

pub(super) fn take_tunnel(reader: &mut Reader<'_>) -> Result<Tunnel, Malformed> {
    let v4 = take_source(reader, true)?;
    let v6 = take_source(reader, false)?;
    let gue_variant = narrow(number(reader, "a GUE variant")?, "the GUE variant")?;
    let gue_port = narrow(number(reader, "a GUE port")?, "the GUE port")?;
    let gre_key = number(reader, "a GRE key")?;
    let geneve_vni = number(reader, "a Geneve network")?;
    let checksum: Option<u8> = narrow(number(reader, "an outer checksum")?, "the outer checksum")?;
    let dscp = narrow(number(reader, "a DSCP")?, "the DSCP")?;
    let mss_clamp = narrow(number(reader, "an MSS clamp")?, "the MSS clamp")?;
    Ok(Tunnel {
        sources: TunnelSources { v4, v6 },
        gue_variant,
        gue_port,
        gre_key,
        geneve_vni,
        outer_udp_checksum: checksum
            .map(|code| known(OuterChecksum::from_code(code), "the outer checksum"))
            .transpose()?,
        dscp,
        mss_clamp,
    })
}

fn take_source(reader: &mut Reader<'_>, v4: bool) -> Result<Option<TunnelSource>, Malformed> {
    let what = "a tunnel source";
    let is_given = reader.flag(what)?;
    let (address, prefix) = (reader.address(what)?, reader.u8()?);
    match is_given {
        true if address.is_ipv4() == v4 => Ok(Some(TunnelSource { address, prefix })),
        true => Err(Malformed::new(format!("{what} is of the other family"))),
        false if address == NOBODY && prefix == 0 => Ok(None),
        false => Err(Malformed::new(format!(
            "{what} that is not set is {address}"
        ))),
    }
}

fn number(reader: &mut Reader<'_>, what: &str) -> Result<Option<u32>, Malformed> {
    match (reader.flag(what)?, reader.u32()?) {
        (true, number) => Ok(Some(number)),
        (false, 0) => Ok(None),
        (false, _) => Err(Malformed::new(format!(
            "{what} that is not set has a number"
        ))),
    }
}

fn narrow<T: TryFrom<u32>>(number: Option<u32>, what: &str) -> Result<Option<T>, Malformed> {
    let narrow = |number| T::try_from(number);
    let number = number.map(narrow).transpose();
    number.map_err(|_| Malformed::new(format!("{what} is larger than any can be")))
}
