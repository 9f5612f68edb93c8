//! How backends are chosen, from TOML: `ring_vnodes`, `hash`, `affinity`, `all_down`.

use std::ops::RangeInclusive;

use super::{Diagnostic, ServiceDoc, Source, Value};
use crate::duration;
use crate::model::{Affinity, AllDown, HashInput, MAX_RING_VNODES, Steering};

const AFFINITY: &str =
    "\"source\", or { by = \"source\", prefix4 = 32, prefix6 = 128, timeout = \"3h\" }";

pub(super) fn steering(source: &Source, doc: &ServiceDoc) -> Result<Steering, Diagnostic> {
    let mut steering = Steering::default();
    if let Some(value) = &doc.ring_vnodes {
        let count = source.integer("ring_vnodes", value, 1..=u64::from(MAX_RING_VNODES))?;
        steering.ring_vnodes = u32::try_from(count).ok();
    }
    if let Some(value) = &doc.hash {
        steering.hash = source.word("hash", value, &HashInput::accepted())?;
    }
    if let Some(value) = &doc.all_down {
        steering.all_down = source.word("all_down", value, &AllDown::accepted())?;
    }
    if let Some(value) = &doc.affinity {
        steering.affinity = Some(affinity(source, value)?);
    }
    Ok(steering)
}

fn affinity(source: &Source, value: &Value) -> Result<Affinity, Diagnostic> {
    let mut affinity = Affinity::default();
    let Some(table) = value.get_ref().as_table() else {
        return match source.string("affinity", value, AFFINITY)? {
            "source" => Ok(affinity),
            other => Err(source.refused("affinity", value, &format!("{other:?}"), AFFINITY)),
        };
    };
    if !table.contains_key("by") {
        return Err(source.refused("affinity", value, "no `by`", AFFINITY));
    }
    for (key, item) in table {
        let refused = |accepted: &str| {
            Err(source.refused("affinity", value, &format!("{key} = {item}"), accepted))
        };
        let bits = |range: RangeInclusive<i64>| {
            let found = item.as_integer().filter(|bits| range.contains(bits));
            found.and_then(|bits| u8::try_from(bits).ok())
        };
        match key.as_str() {
            "by" if item.as_str() == Some("source") => {}
            "by" => return refused("by = \"source\""),
            "prefix4" => match bits(1..=32) {
                Some(bits) => affinity.prefix4 = bits,
                None => return refused("1 to 32 bits"),
            },
            "prefix6" => match bits(1..=128) {
                Some(bits) => affinity.prefix6 = bits,
                None => return refused("1 to 128 bits"),
            },
            "timeout" => match item.as_str().map(duration::parse) {
                Some(Ok(timeout)) => affinity.timeout = timeout,
                _ => return refused(duration::ACCEPTED),
            },
            _ => {
                return Err(source.refused(
                    "affinity",
                    value,
                    &format!("unknown key `{key}`"),
                    "`by`, `prefix4`, `prefix6`, `timeout`",
                ));
            }
        }
    }
    Ok(affinity)
}
