//! QUIC in the records of services and backends.

use std::collections::BTreeMap;

use super::bytes::{Malformed, Reader, Writer};
use crate::model::{MAX_SERVER_ID, QuicConfig, QuicKey, ROTATIONS, ServerId, ServerIds};

/// Bytes of a configuration.
const CONFIG: usize = 3 + 1 + 16;
/// Bytes of a server ID.
const ID: usize = 1 + MAX_SERVER_ID;

/// A service's configurations: a count, then room for as many as there are rotations.
pub(super) fn put_configs(writer: &mut Writer, configs: &[QuicConfig]) {
    let end = writer.len() + 1 + CONFIG * usize::from(ROTATIONS);
    writer.u8(configs.len() as u8);
    for config in configs.iter().take(usize::from(ROTATIONS)) {
        writer.u8(config.rotation);
        writer.u8(config.server_id_length);
        writer.u8(config.nonce_length);
        writer.u8(u8::from(config.key.is_some()));
        writer.raw(&config.key.map_or([0; 16], |key| key.0));
    }
    writer.pad_to(end);
}

/// Reads what [`put_configs`] wrote.
pub(super) fn take_configs(reader: &mut Reader<'_>) -> Result<Vec<QuicConfig>, Malformed> {
    let count = reader.u8()?;
    if count > ROTATIONS {
        return Err(Malformed::new(format!(
            "it claims {count} QUIC configurations"
        )));
    }
    let mut rest = Reader::new(reader.raw(CONFIG * usize::from(ROTATIONS))?);
    let mut configs = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let (rotation, server_id_length, nonce_length) = (rest.u8()?, rest.u8()?, rest.u8()?);
        let key = match (rest.flag("\"a QUIC key\"")?, rest.array()?) {
            (true, key) => Some(QuicKey(key)),
            (false, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) => None,
            (false, _) => return Err(Malformed::new("a QUIC key that is not set has bytes")),
        };
        configs.push(QuicConfig {
            rotation,
            server_id_length,
            nonce_length,
            key,
        });
    }
    rest.padding("the room for QUIC configurations")?;
    Ok(configs)
}

/// What a backend's server IDs are: none, one for all, or one for each rotation.
const NONE: u8 = 0;
const EVERY: u8 = 1;
const EACH: u8 = 2;

/// A backend's server IDs, each in the place of its rotation.
pub(super) fn put_server_ids(writer: &mut Writer, ids: &ServerIds) {
    let end = writer.len() + 1 + ID * usize::from(ROTATIONS);
    let put = |writer: &mut Writer, id: Option<&ServerId>| {
        let octets = id.map_or(&[][..], ServerId::octets);
        let end = writer.len() + ID;
        writer.u8(octets.len() as u8);
        writer.raw(octets);
        writer.pad_to(end);
    };
    match ids {
        ServerIds::None => writer.u8(NONE),
        ServerIds::Every(id) => {
            writer.u8(EVERY);
            put(writer, Some(id));
        }
        ServerIds::Each(ids) => {
            writer.u8(EACH);
            for rotation in 0..ROTATIONS {
                put(writer, ids.get(&rotation));
            }
        }
    }
    writer.pad_to(end);
}

/// Reads what [`put_server_ids`] wrote.
pub(super) fn take_server_ids(reader: &mut Reader<'_>) -> Result<ServerIds, Malformed> {
    let kind = reader.u8()?;
    let mut rest = Reader::new(reader.raw(ID * usize::from(ROTATIONS))?);
    let mut take = || {
        let length = usize::from(rest.u8()?);
        let (octets, padding) = rest
            .raw(MAX_SERVER_ID)?
            .split_at_checked(length)
            .ok_or_else(|| Malformed::new(format!("a server ID claims {length} octets")))?;
        Reader::new(padding).padding("a server ID")?;
        Ok(ServerId::new(octets))
    };
    let ids = match kind {
        NONE => ServerIds::None,
        EVERY => ServerIds::Every(take()?.ok_or_else(|| Malformed::new("a server ID is empty"))?),
        EACH => {
            let mut ids = BTreeMap::new();
            for rotation in 0..ROTATIONS {
                if let Some(id) = take()? {
                    ids.insert(rotation, id);
                }
            }
            if ids.is_empty() {
                return Err(Malformed::new("server IDs by rotation are none"));
            }
            ServerIds::Each(ids)
        }
        other => {
            return Err(Malformed::new(format!(
                "server IDs of kind {other} are none that this weir knows"
            )));
        }
    };
    rest.padding("the room for server IDs")?;
    Ok(ids)
}
