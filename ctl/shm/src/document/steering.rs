//! How backends are chosen, from TOML: `ring_vnodes`, `hash`, `affinity`, `all_down`.

use toml::Spanned;

use super::convert::{Fields, note};
use super::{AffinityDoc, Diagnostic, ServiceDoc, Source};
use crate::model::{Affinity, AllDown, HashInput, MAX_RING_VNODES, Steering};

const AFFINITY: &str =
    "\"source\", or { by = \"source\", prefix4 = 32, prefix6 = 128, timeout = \"3h\" }";

pub(super) fn steering(
    source: &Source,
    doc: &ServiceDoc,
    fields: &mut Fields,
) -> Result<Steering, Diagnostic> {
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
    if let Some(doc) = &doc.affinity {
        fields.push(("affinity", doc.span()));
        steering.affinity = Some(affinity(source, doc, fields)?);
    }
    Ok(steering)
}

fn affinity(
    source: &Source,
    spanned: &Spanned<AffinityDoc>,
    fields: &mut Fields,
) -> Result<Affinity, Diagnostic> {
    let mut affinity = Affinity::default();
    let doc = match spanned.get_ref() {
        AffinityDoc::Table(doc) => doc,
        AffinityDoc::Other(word) => {
            let value = Spanned::new(spanned.span(), word.clone());
            return match source.string("affinity", &value, AFFINITY)? {
                "source" => Ok(affinity),
                other => Err(source.refused("affinity", &value, &format!("{other:?}"), AFFINITY)),
            };
        }
    };
    let Some(by) = &doc.by else {
        let message = format!("`affinity`: found no `by`; accepted: {AFFINITY}");
        return Err(source.diagnostic(spanned.span(), &message));
    };
    match source.string("by", by, "\"source\"")? {
        "source" => {}
        other => return Err(source.refused("by", by, &format!("{other:?}"), "\"source\"")),
    }
    for (key, value, most, place) in [
        ("prefix4", &doc.prefix4, 32, &mut affinity.prefix4),
        ("prefix6", &doc.prefix6, 128, &mut affinity.prefix6),
    ] {
        if let Some(value) = value {
            let bits = source.integer(key, value, 1..=most)?;
            *place = u8::try_from(bits).unwrap_or(u8::MAX);
        }
    }
    if let Some(value) = &doc.timeout {
        affinity.timeout = source.duration("timeout", value)?;
    }
    note(
        fields,
        &[
            ("affinity.prefix4", doc.prefix4.as_ref()),
            ("affinity.prefix6", doc.prefix6.as_ref()),
            ("affinity.timeout", doc.timeout.as_ref()),
        ],
    );
    Ok(affinity)
}
