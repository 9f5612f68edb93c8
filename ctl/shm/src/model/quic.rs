//! QUIC-LB in the model: how connection IDs carry a server ID, and which ID each backend has
//! (draft-ietf-quic-load-balancers-21).
//!
//! A configuration agent in the draft's words; what decodes connection IDs is the dataplane's.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::validate::Wrong;
use super::{Protocol, Service};

/// Values of the configuration rotation bits that a configuration may have: 0 to 6. The seventh
/// marks connection IDs that nobody can decode.
pub const ROTATIONS: u8 = 7;
/// The shortest nonce, in octets.
pub const MIN_NONCE: u8 = 4;
/// The most octets of a server ID and nonce together: QUIC's connection IDs have 20 at most, and
/// the first is taken.
pub const MAX_PLAINTEXT: u8 = 19;
/// The longest server ID, in octets.
pub const MAX_SERVER_ID: usize = (MAX_PLAINTEXT - MIN_NONCE) as usize;
/// What a server ID may be, for messages.
pub const SERVER_ID_ACCEPTED: &str =
    "2 to 30 hexadecimal digits, two for each octet, such as \"ed793a51d49b8f5f\"";

/// An AES-128 key. It never shows in messages.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuicKey(pub [u8; 16]);

/// One way of carrying a server ID in a connection ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuicConfig {
    /// The three first bits of the connection IDs that it is for, 0 to 6.
    pub rotation: u8,
    /// Octets of a server ID.
    pub server_id_length: u8,
    /// Octets of a nonce.
    pub nonce_length: u8,
    /// What connection IDs are encrypted with; `None` for plaintext.
    pub key: Option<QuicKey>,
}

/// A server ID: 1 to [`MAX_SERVER_ID`] octets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId {
    octets: [u8; MAX_SERVER_ID],
    len: u8,
}

/// The longest connection ID of QUIC versions 1 and 2, in octets (RFC 9000, section 17.2).
const MAX_CONNECTION_ID: usize = MAX_PLAINTEXT as usize + 1;

/// A connection ID as an operator writes it: 1 to 20 octets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConnectionId(Vec<u8>);

/// The server IDs of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ServerIds {
    /// None: connection IDs never lead to it.
    #[default]
    None,
    /// The same for every configuration.
    Every(ServerId),
    /// One for each of these rotations; never empty.
    Each(BTreeMap<u8, ServerId>),
}

impl fmt::Debug for QuicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuicKey(secret)")
    }
}

/// The octets that an even number of hexadecimal digits stand for.
fn octets(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let pair = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

fn write_hex(octets: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    octets.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
}

impl QuicKey {
    /// The key as the configuration writes it; for the configuration only.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for QuicKey {
    type Err = String;

    /// The message does not repeat what may be most of a secret.
    fn from_str(text: &str) -> Result<Self, String> {
        octets(text)
            .and_then(|octets| octets.try_into().ok())
            .map(Self)
            .ok_or_else(|| {
                let found = text.chars().count();
                format!(
                    "found {found} characters; 32 hexadecimal digits are accepted (AES-128), or \
                     no key for plaintext"
                )
            })
    }
}

impl ServerId {
    /// A server ID of these octets; `None` unless there are 1 to [`MAX_SERVER_ID`].
    #[must_use]
    pub fn new(octets: &[u8]) -> Option<Self> {
        if octets.is_empty() {
            return None;
        }
        let mut id = Self {
            octets: [0; MAX_SERVER_ID],
            len: octets.len() as u8,
        };
        id.octets.get_mut(..octets.len())?.copy_from_slice(octets);
        Some(id)
    }

    /// Its octets.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        self.octets.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl FromStr for ServerId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        octets(text)
            .and_then(|octets| Self::new(&octets))
            .ok_or_else(|| format!("found {text:?}; accepted: {SERVER_ID_ACCEPTED}"))
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(self.octets(), f)
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerId({self})")
    }
}

impl ConnectionId {
    /// Its octets.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for ConnectionId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        octets(text)
            .filter(|octets| (1..=MAX_CONNECTION_ID).contains(&octets.len()))
            .map(Self)
            .ok_or_else(|| {
                format!(
                    "found {text:?}; accepted: a connection ID of 2 to 40 hexadecimal digits, two \
                     for each octet, such as \"07c4605e4504cc4f\""
                )
            })
    }
}

impl TryFrom<String> for ConnectionId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ConnectionId> for String {
    fn from(id: ConnectionId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl ServerIds {
    /// The ID under a configuration of this rotation.
    #[must_use]
    pub fn under(&self, rotation: u8) -> Option<ServerId> {
        match self {
            Self::None => None,
            Self::Every(id) => Some(*id),
            Self::Each(ids) => ids.get(&rotation).copied(),
        }
    }
}

impl fmt::Display for ServerIds {
    /// As operators write it after `--server-id`, or a dash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("-"),
            Self::Every(id) => write!(f, "{id}"),
            Self::Each(ids) => {
                for (place, (rotation, id)) in ids.iter().enumerate() {
                    let comma = if place == 0 { "" } else { "," };
                    write!(f, "{comma}{rotation}={id}")?;
                }
                Ok(())
            }
        }
    }
}

/// What is said after `--server-id`: one ID for every configuration, or one for a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerIdOption {
    /// For which rotation, if not for all.
    pub rotation: Option<u8>,
    /// The ID.
    pub id: ServerId,
}

impl FromStr for ServerIdOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((rotation, id)) = text.split_once('=') else {
            let id = text.parse()?;
            return Ok(Self { rotation: None, id });
        };
        let rotation = parse_rotation(rotation)?;
        Ok(Self {
            rotation: Some(rotation),
            id: id.parse()?,
        })
    }
}

/// A rotation as a key is written.
pub(crate) fn parse_rotation(text: &str) -> Result<u8, String> {
    let digit = |text: &str| match text.as_bytes() {
        [digit @ b'0'..=b'6'] => Some(digit - b'0'),
        _ => None,
    };
    digit(text).ok_or_else(|| format!("found rotation {text:?}; accepted: 0 to 6"))
}

impl ServerIds {
    /// What several options say together.
    ///
    /// # Errors
    /// When one is said twice, or an ID for all beside others.
    pub fn of_options(options: &[ServerIdOption]) -> Result<Self, String> {
        match options {
            [] => return Ok(Self::None),
            [ServerIdOption { rotation: None, id }] => return Ok(Self::Every(*id)),
            _ => {}
        }
        let mut ids = BTreeMap::new();
        for option in options {
            let Some(rotation) = option.rotation else {
                return Err(format!(
                    "found server ID {} beside others; accepted: one server ID for all \
                     configurations, or ROTATION=HEX for each",
                    option.id
                ));
            };
            if ids.insert(rotation, option.id).is_some() {
                return Err(format!(
                    "found two server IDs for rotation {rotation}; accepted: one for each"
                ));
            }
        }
        Ok(Self::Each(ids))
    }
}

/// Checks a service's configurations.
pub(super) fn check_configs(service: &Service) -> Result<(), Wrong> {
    const FIELD: &str = "quic.configs";
    let configs = &service.quic;
    if !configs.is_empty() && service.protocol != Protocol::Quic {
        return Err((
            "quic",
            format!(
                "found [service.quic] with protocol = \"{}\"; accepted: with protocol = \"quic\" \
                 only",
                service.protocol
            ),
        ));
    }
    let mut seen = [false; ROTATIONS as usize];
    for config in configs {
        let QuicConfig {
            rotation,
            server_id_length,
            nonce_length,
            ..
        } = *config;
        let Some(seen) = seen.get_mut(usize::from(rotation)) else {
            return Err((
                FIELD,
                format!("found rotation {rotation}; accepted: 0 to 6"),
            ));
        };
        if std::mem::replace(seen, true) {
            return Err((
                FIELD,
                format!(
                    "found two configurations of rotation {rotation}; accepted: one for each \
                     rotation"
                ),
            ));
        }
        let sum = u16::from(server_id_length) + u16::from(nonce_length);
        if server_id_length == 0 || nonce_length < MIN_NONCE || sum > u16::from(MAX_PLAINTEXT) {
            return Err((
                FIELD,
                format!(
                    "found server_id_length = {server_id_length} and nonce_length = \
                     {nonce_length} in rotation {rotation}; accepted: server IDs of 1 octet or \
                     more, nonces of {MIN_NONCE} or more, {MAX_PLAINTEXT} together at most"
                ),
            ));
        }
    }
    Ok(())
}

/// Checks the server IDs of a service's backends; gives the place of the one that is wrong.
pub(super) fn check_server_ids(service: &Service) -> Result<(), (usize, Wrong)> {
    // By rotation and ID, the backend that has it; by ID, a rotation with a key and one without.
    let mut owners: HashMap<(u8, ServerId), usize> = HashMap::new();
    let mut uses: HashMap<ServerId, [Option<u8>; 2]> = HashMap::new();
    for (place, backend) in service.backends.iter().enumerate() {
        let field = match &backend.server_ids {
            ServerIds::None => continue,
            ServerIds::Every(_) => "server_id",
            ServerIds::Each(_) => "server_ids",
        };
        let name = backend.name(service);
        let wrong = |message| Err((place, (field, message)));
        if service.quic.is_empty() {
            let message = if service.protocol == Protocol::Quic {
                "accepted: in a service with [service.quic] configs".to_owned()
            } else {
                "accepted: with protocol = \"quic\" only".to_owned()
            };
            return wrong(format!("found a server ID for backend {name}; {message}"));
        }
        if let ServerIds::Each(ids) = &backend.server_ids {
            let known = |rotation: &u8| service.quic.iter().any(|one| one.rotation == *rotation);
            if let Some(rotation) = ids.keys().find(|rotation| !known(rotation)) {
                let known: Vec<String> = service
                    .quic
                    .iter()
                    .map(|one| one.rotation.to_string())
                    .collect();
                return wrong(format!(
                    "found a server ID for rotation {rotation}; accepted: rotations that \
                     \"{}\" has a configuration for ({})",
                    service.name,
                    known.join(", ")
                ));
            }
        }
        for config in &service.quic {
            let Some(id) = backend.server_ids.under(config.rotation) else {
                continue;
            };
            let rotation = config.rotation;
            let (length, expected) = (id.octets().len(), config.server_id_length);
            if length != usize::from(expected) {
                return wrong(format!(
                    "found server ID {id} of {length} octets for backend {name}; accepted: \
                     {expected}, the server_id_length of rotation {rotation}"
                ));
            }
            if let Some(other) = owners.insert((rotation, id), place) {
                let other = service
                    .backends
                    .get(other)
                    .map_or_else(String::new, |other| other.name(service));
                return wrong(format!(
                    "found server ID {id} of rotation {rotation} for backend {name}, which \
                     backend {other} has already; accepted: a server ID that no other backend has"
                ));
            }
            let used = uses.entry(id).or_default();
            used[usize::from(config.key.is_some())] = Some(rotation);
            if let [Some(plain), Some(encrypted)] = *used {
                return wrong(format!(
                    "found server ID {id} both in the plaintext configuration of rotation {plain} \
                     and in the encrypted one of rotation {encrypted}; accepted: different server \
                     IDs, since the one would give the other away"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_id_is_written_in_hexadecimal_digits() {
        let id: ServerId = "ED793a".parse().unwrap();
        assert_eq!(
            (id.octets(), id.to_string().as_str()),
            (&[0xed, 0x79, 0x3a][..], "ed793a")
        );
        for bad in ["", "e", "ed7", "xy", "0x12", &"00".repeat(16), "é1"] {
            let error = bad.parse::<ServerId>().unwrap_err();
            assert!(error.contains("hexadecimal"), "{error}");
        }
        assert!("00".repeat(15).parse::<ServerId>().is_ok());
    }

    #[test]
    fn a_connection_id_has_at_most_twenty_octets() {
        let longest = "07".repeat(20);
        let id: ConnectionId = longest.parse().unwrap();
        assert_eq!((id.octets(), id.to_string()), (&[7; 20][..], longest));
        for bad in ["", "0", "07c", "zz", &"07".repeat(21)] {
            let error = bad.parse::<ConnectionId>().unwrap_err();
            assert!(error.contains("2 to 40 hexadecimal digits"), "{error}");
        }
    }

    #[test]
    fn a_key_never_shows_in_a_message() {
        let key: QuicKey = "8f95f09245765f80256934e50c66207f".parse().unwrap();
        assert!(!format!("{key:?}").contains("8f"));
        assert_eq!(key.reveal(), "8f95f09245765f80256934e50c66207f");
        let error = "8f95f09245765f80256934e50c66207"
            .parse::<QuicKey>()
            .unwrap_err();
        assert!(
            error.contains("31 characters") && !error.contains("8f"),
            "{error}"
        );
    }

    #[test]
    fn options_give_one_id_for_all_or_one_for_each_rotation() {
        let of = |texts: &[&str]| {
            let options: Result<Vec<ServerIdOption>, _> =
                texts.iter().map(|text| text.parse()).collect();
            options.and_then(|options| ServerIds::of_options(&options))
        };
        assert_eq!(of(&[]), Ok(ServerIds::None));
        assert_eq!(of(&["c4605e"]).unwrap().to_string(), "c4605e");
        assert_eq!(
            of(&["3=ed79", "0=c4605e"]).unwrap().to_string(),
            "0=c4605e,3=ed79"
        );
        for (bad, part) in [
            (&["c4605e", "0=aa"][..], "beside others"),
            (&["aa", "bb"], "beside others"),
            (&["0=aa", "0=bb"], "two server IDs for rotation 0"),
            (&["7=aa"], "0 to 6"),
            (&["=aa"], "0 to 6"),
            (&["0="], "hexadecimal"),
        ] {
            let error = of(bad).unwrap_err();
            assert!(error.contains(part), "{bad:?}: {error}");
        }
    }
}
