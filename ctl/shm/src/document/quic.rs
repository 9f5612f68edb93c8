//! `[service.quic]` and the server IDs of backends.

use std::collections::BTreeMap;

use toml::Spanned;

use super::convert::Fields;
use super::docs::{BackendDoc, QuicConfigDoc, QuicDoc};
use super::{Diagnostic, Source, Value};
use crate::model::{
    MAX_PLAINTEXT, MIN_NONCE, QuicConfig, QuicKey, ROTATIONS, SERVER_ID_ACCEPTED, ServerId,
    ServerIds, parse_rotation,
};

/// Reads `[service.quic]`.
pub(super) fn configs(
    source: &Source,
    spanned: &Spanned<QuicDoc>,
    fields: &mut Fields,
) -> Result<Vec<QuicConfig>, Diagnostic> {
    let doc = spanned.get_ref();
    let head = spanned.span();
    let configs = source.required(
        doc.configs.as_ref(),
        "configs",
        head.clone(),
        "[service.quic]",
    )?;
    fields.push(("quic", head));
    fields.push(("quic.configs", configs.span()));
    if configs.get_ref().is_empty() {
        return Err(source.diagnostic(
            configs.span(),
            "`configs`: found an empty array; accepted: one configuration or more (leave \
             [service.quic] out to steer by addresses and ports)",
        ));
    }
    let read = |spanned| config(source, spanned);
    configs.get_ref().iter().map(read).collect()
}

fn config(source: &Source, spanned: &Spanned<QuicConfigDoc>) -> Result<QuicConfig, Diagnostic> {
    let doc = spanned.get_ref();
    let number = |value: Option<&Value>, key: &str, least: u8, most: u8| {
        let value = source.required(value, key, spanned.span(), "a configuration of `configs`")?;
        let number = source.integer(key, value, u64::from(least)..=u64::from(most))?;
        Ok(u8::try_from(number).unwrap_or(most))
    };
    let most = MAX_PLAINTEXT - MIN_NONCE;
    Ok(QuicConfig {
        rotation: number(doc.rotation.as_ref(), "rotation", 0, ROTATIONS - 1)?,
        server_id_length: number(doc.server_id_length.as_ref(), "server_id_length", 1, most)?,
        nonce_length: number(
            doc.nonce_length.as_ref(),
            "nonce_length",
            MIN_NONCE,
            MAX_PLAINTEXT - 1,
        )?,
        key: doc
            .key
            .as_ref()
            .map(|value| key(source, value))
            .transpose()?,
    })
}

/// The message never shows what was found: it may be most of a secret.
fn key(source: &Source, value: &Value) -> Result<QuicKey, Diagnostic> {
    let Some(text) = value.get_ref().as_str() else {
        return Err(source.refused("key", value, "no string", "32 hexadecimal digits"));
    };
    text.parse()
        .map_err(|message: String| source.diagnostic(value.span(), &format!("`key`: {message}")))
}

/// Reads `server_id` or `server_ids`.
pub(super) fn server_ids(source: &Source, doc: &BackendDoc) -> Result<ServerIds, Diagnostic> {
    const TABLE: &str = "a table of server IDs by rotation, such as { 0 = \"c4605e\" }";
    match (&doc.server_id, &doc.server_ids) {
        (None, None) => Ok(ServerIds::None),
        (Some(value), None) => source
            .word::<ServerId>("server_id", value, SERVER_ID_ACCEPTED)
            .map(ServerIds::Every),
        (Some(_), Some(value)) => Err(source.refused(
            "server_ids",
            value,
            "it beside `server_id`",
            "one of the two",
        )),
        (None, Some(value)) => {
            let wrong = |found: &str| source.refused("server_ids", value, found, TABLE);
            let table = value
                .get_ref()
                .as_table()
                .ok_or_else(|| wrong(value.get_ref().type_str()))?;
            if table.is_empty() {
                return Err(wrong("an empty table"));
            }
            let mut ids = BTreeMap::new();
            for (rotation, id) in table {
                let at = |message: String| {
                    source.diagnostic(value.span(), &format!("`server_ids`: {message}"))
                };
                let rotation = parse_rotation(rotation).map_err(at)?;
                let text = id.as_str().ok_or_else(|| wrong(id.type_str()))?;
                ids.insert(rotation, text.parse().map_err(at)?);
            }
            Ok(ServerIds::Each(ids))
        }
    }
}
