//! A service's keys about tunnels, DSCP and MSS.

use super::convert::Given;
use super::{Diagnostic, ServiceDoc, Source, Value};
use crate::model::{
    MAX_DSCP, MAX_MSS, MAX_VNI, MIN_MSS, OuterChecksum, SOURCE_ACCEPTED, Tunnel, TunnelSources,
};

/// Where the values of the keys stand.
pub(super) fn fields(doc: &ServiceDoc) -> [Given<'_>; 8] {
    [
        ("tunnel_source", doc.tunnel_source.as_ref()),
        ("gue_variant", doc.gue_variant.as_ref()),
        ("gue_port", doc.gue_port.as_ref()),
        ("gre_key", doc.gre_key.as_ref()),
        ("geneve_vni", doc.geneve_vni.as_ref()),
        ("outer_udp_checksum", doc.outer_udp_checksum.as_ref()),
        ("dscp", doc.dscp.as_ref()),
        ("mss_clamp", doc.mss_clamp.as_ref()),
    ]
}

/// The settings as they are written; whether they fit the mode is the model's to say.
pub(super) fn settings(source: &Source, doc: &ServiceDoc) -> Result<Tunnel, Diagnostic> {
    let number = |key: &str, value: &Option<Value>, range: std::ops::RangeInclusive<u32>| {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        let given = value.as_ref();
        given
            .map(|value| source.integer(key, value, range))
            .transpose()
            .map(|number| number.map(|number| u32::try_from(number).unwrap_or(u32::MAX)))
    };
    let byte = |number: Option<u32>| number.map(|number| u8::try_from(number).unwrap_or(u8::MAX));
    let word = |number: Option<u32>| number.map(|number| u16::try_from(number).unwrap_or(u16::MAX));
    let mut sources = TunnelSources::default();
    if let Some(value) = &doc.tunnel_source {
        sources = tunnel_sources(source, value)?;
    }
    let checksum = doc.outer_udp_checksum.as_ref();
    Ok(Tunnel {
        sources,
        gue_variant: byte(number("gue_variant", &doc.gue_variant, 0..=1)?),
        gue_port: word(number("gue_port", &doc.gue_port, 1..=65_535)?),
        gre_key: number("gre_key", &doc.gre_key, 0..=u32::MAX)?,
        geneve_vni: number("geneve_vni", &doc.geneve_vni, 0..=MAX_VNI)?,
        outer_udp_checksum: checksum
            .map(|value| source.word("outer_udp_checksum", value, &OuterChecksum::accepted()))
            .transpose()?,
        dscp: byte(number("dscp", &doc.dscp, 1..=u32::from(MAX_DSCP))?),
        mss_clamp: word(number(
            "mss_clamp",
            &doc.mss_clamp,
            u32::from(MIN_MSS)..=u32::from(MAX_MSS),
        )?),
    })
}

/// An address, a prefix, or a list of one for each family.
fn tunnel_sources(source: &Source, value: &Value) -> Result<TunnelSources, Diagnostic> {
    const KEY: &str = "tunnel_source";
    let texts: Vec<&str> = match value.get_ref() {
        toml::Value::Array(items) if !items.is_empty() => {
            let texts = items.iter().map(toml::Value::as_str);
            let texts: Option<Vec<&str>> = texts.collect();
            texts.ok_or_else(|| source.refused(KEY, value, "another type", SOURCE_ACCEPTED))?
        }
        toml::Value::Array(_) => {
            return Err(source.refused(KEY, value, "an empty list", SOURCE_ACCEPTED));
        }
        _ => vec![source.string(KEY, value, SOURCE_ACCEPTED)?],
    };
    let mut sources = TunnelSources::default();
    for text in texts {
        text.parse()
            .and_then(|one| sources.add(one))
            .map_err(|message| source.diagnostic(value.span(), &format!("`{KEY}`: {message}")))?;
    }
    Ok(sources)
}
