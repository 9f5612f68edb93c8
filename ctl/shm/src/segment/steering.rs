//! How backends are chosen, in the record of a service.

use super::bytes::{Malformed, Reader, Writer};
use crate::model::{Affinity, AllDown, HashInput, Steering};

/// Writes it; zero stands for virtual nodes that are not given.
pub(super) fn put(writer: &mut Writer, steering: &Steering) {
    let Steering {
        ring_vnodes,
        hash,
        affinity,
        all_down,
    } = steering;
    writer.u32(ring_vnodes.unwrap_or(0));
    writer.u8(hash.code());
    writer.u8(all_down.code());
    writer.u8(u8::from(affinity.is_some()));
    writer.u8(affinity.map_or(0, |affinity| affinity.prefix4));
    writer.u8(affinity.map_or(0, |affinity| affinity.prefix6));
    writer.duration(
        affinity
            .map(|affinity| affinity.timeout)
            .unwrap_or_default(),
    );
}

/// Reads what [`put`] wrote.
pub(super) fn take(reader: &mut Reader<'_>) -> Result<Steering, Malformed> {
    let unknown = |what: &str| Malformed::new(format!("{what} is none that this weir knows"));
    let vnodes = reader.u32()?;
    let hash = HashInput::from_code(reader.u8()?).ok_or_else(|| unknown("the hash"))?;
    let all_down = AllDown::from_code(reader.u8()?).ok_or_else(|| unknown("all_down"))?;
    let is_set = reader.flag("\"affinity\"")?;
    let (prefix4, prefix6, timeout) = (reader.u8()?, reader.u8()?, reader.duration()?);
    let affinity = match (is_set, prefix4, prefix6) {
        (true, ..) => Some(Affinity {
            prefix4,
            prefix6,
            timeout,
        }),
        (false, 0, 0) if timeout.is_zero() => None,
        (false, ..) => return Err(Malformed::new("affinity that is not set has settings")),
    };
    Ok(Steering {
        ring_vnodes: (vnodes > 0).then_some(vnodes),
        hash,
        affinity,
        all_down,
    })
}
