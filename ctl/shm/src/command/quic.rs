//! The option of `service add` about QUIC connection IDs.

use std::str::FromStr;

use crate::model::QuicConfig;

/// A configuration of QUIC-LB: `rotation=0,server_id_length=8,nonce_length=8,key=HEX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuicOption(pub QuicConfig);

const ACCEPTED: &str = "rotation=N,server_id_length=N,nonce_length=N, and key=HEX unless plaintext";

impl FromStr for QuicOption {
    type Err = String;

    /// The message never shows a key.
    fn from_str(text: &str) -> Result<Self, String> {
        let (mut rotation, mut server_id_length, mut nonce_length) = (None, None, None);
        let mut key = None;
        for pair in text.split(',') {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| format!("found something without \"=\"; accepted: {ACCEPTED}"))?;
            let place = match name {
                "rotation" => &mut rotation,
                "server_id_length" => &mut server_id_length,
                "nonce_length" => &mut nonce_length,
                "key" if key.is_none() => {
                    key = Some(value.parse()?);
                    continue;
                }
                _ => return Err(format!("found {name:?}; accepted: {ACCEPTED}")),
            };
            let number = value
                .parse()
                .map_err(|_| format!("found {name}={value:?}; accepted: a small number"))?;
            if place.replace(number).is_some() {
                return Err(format!("found {name} twice; accepted: once"));
            }
        }
        let needed = |name: &str, given: Option<u8>| {
            given.ok_or_else(|| format!("found no {name}; accepted: {ACCEPTED}"))
        };
        Ok(Self(QuicConfig {
            rotation: needed("rotation", rotation)?,
            server_id_length: needed("server_id_length", server_id_length)?,
            nonce_length: needed("nonce_length", nonce_length)?,
            key,
        }))
    }
}
