//! QUIC's keys of a service and a backend.

use toml_edit::{Array, InlineTable, Item, Table, TableLike, Value};
use weir_shm::model::{QuicConfig, ServerIds};

use super::tables::set;

/// Writes `[service.quic]`, which must not be there, if there is anything to say.
pub(super) fn set_configs(table: &mut dyn TableLike, headed: bool, configs: &[QuicConfig]) {
    if configs.is_empty() {
        return;
    }
    let array: Array = configs.iter().map(config_value).collect();
    let entries = [("configs", Value::from(array))];
    let item = if headed {
        let entries = entries.into_iter();
        Item::Table(
            entries
                .map(|(key, value)| (key, Item::Value(value)))
                .collect::<Table>(),
        )
    } else {
        Item::Value(InlineTable::from_iter(entries).into())
    };
    table.insert("quic", item);
}

fn config_value(config: &QuicConfig) -> Value {
    let mut table = InlineTable::from_iter([
        ("rotation", i64::from(config.rotation)),
        ("server_id_length", i64::from(config.server_id_length)),
        ("nonce_length", i64::from(config.nonce_length)),
    ]);
    if let Some(key) = config.key {
        table.insert("key", key.reveal().into());
    }
    table.into()
}

/// Makes `server_id` or `server_ids` say what a backend's server IDs are.
pub(super) fn set_server_ids(table: &mut dyn TableLike, ids: &ServerIds) {
    let keeps = match ids {
        ServerIds::None => None,
        ServerIds::Every(_) => Some("server_id"),
        ServerIds::Each(_) => Some("server_ids"),
    };
    for key in ["server_id", "server_ids"] {
        if keeps != Some(key) {
            table.remove(key);
        }
    }
    match ids {
        ServerIds::None => {}
        ServerIds::Every(id) => set(table, "server_id", id.to_string()),
        ServerIds::Each(ids) => {
            let entries = ids.iter();
            let entries = entries.map(|(rotation, id)| (rotation.to_string(), id.to_string()));
            set(table, "server_ids", InlineTable::from_iter(entries));
        }
    }
}
