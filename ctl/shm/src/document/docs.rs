//! The shape of a service in TOML: every key, each value with its place.
//!
//! Values are taken as they are and judged in `convert`, where a message can name the key and what
//! it accepts.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::Value;

/// `[[service]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct ServiceDoc {
    /// Unique; names the service in commands.
    pub name: Option<Value>,
    /// The address that clients use.
    pub vip: Option<Value>,
    /// The port that clients use, or "any".
    pub port: Option<Value>,
    /// The transport protocol.
    pub protocol: Option<Value>,
    /// How packets get to backends.
    pub forwarding: Option<Value>,
    /// How backends are chosen.
    pub scheduler: Option<Value>,
    /// Entries of the Maglev table.
    pub table_size: Option<Value>,
    /// Virtual nodes on the ring.
    pub ring_vnodes: Option<Value>,
    /// What the table is asked with.
    pub hash: Option<Value>,
    /// Whether a client's flows stay together.
    pub affinity: Option<Spanned<AffinityDoc>>,
    /// What becomes of packets when all backends are down.
    pub all_down: Option<Value>,
    /// "answer", "forward" or "drop".
    pub ping: Option<Value>,
    /// How long flows are remembered.
    pub timeouts: Option<Spanned<TimeoutsDoc>>,
    /// Where outer source addresses of tunnels come from.
    pub tunnel_source: Option<Value>,
    /// Variant of GUE.
    pub gue_variant: Option<Value>,
    /// UDP port of GUE.
    pub gue_port: Option<Value>,
    /// Key of GRE.
    pub gre_key: Option<Value>,
    /// Geneve's virtual network identifier.
    pub geneve_vni: Option<Value>,
    /// The outer UDP checksum, "zero" or "full".
    pub outer_udp_checksum: Option<Value>,
    /// What `dsr-dscp` marks packets with.
    pub dscp: Option<Value>,
    /// The largest MSS that a SYN may announce.
    pub mss_clamp: Option<Value>,
    /// Over how long a new or recovered backend gets its share.
    pub slow_start: Option<Value>,
    /// The share of weight that must be up: 0.5, or "50%".
    pub min_healthy: Option<Value>,
    /// What becomes of flows whose backend goes down.
    pub on_down: Option<Value>,
    /// What becomes of TCP in mid-stream that is not known.
    pub unknown_tcp: Option<Value>,
    /// How long a drain waits for flows to end.
    pub deregistration_delay: Option<Value>,
    /// The addresses that the backends of a full-nat service see.
    pub snat_pool: Option<Value>,
    /// How backends learn the client's address.
    pub client_address: Option<Value>,
    /// `[service.health]`.
    pub health: Option<Spanned<HealthDoc>>,
    /// `[service.quic]`.
    pub quic: Option<Spanned<QuicDoc>>,
    /// `[[service.backend]]`.
    #[serde(default)]
    pub backend: Vec<Spanned<BackendDoc>>,
}

/// `affinity`: a word, or a table.
#[derive(Debug, Clone)]
pub enum AffinityDoc {
    /// `{ by = "source", … }`.
    Table(AffinityTable),
    /// Anything else, a word among it.
    Other(toml::Value),
}

/// `affinity = { … }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct AffinityTable {
    /// What clients are told by.
    pub by: Option<Value>,
    /// Bits of an IPv4 address.
    pub prefix4: Option<Value>,
    /// Bits of an IPv6 address.
    pub prefix6: Option<Value>,
    /// How long a client is remembered.
    pub timeout: Option<Value>,
}

impl<'de> Deserialize<'de> for AffinityDoc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AffinityVisitor)
    }
}

/// Tells a table from all else, so that the table's values keep their places.
struct AffinityVisitor;

impl<'de> Visitor<'de> for AffinityVisitor {
    type Value = AffinityDoc;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AffinityDoc, A::Error> {
        AffinityTable::deserialize(MapAccessDeserializer::new(map)).map(AffinityDoc::Table)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<AffinityDoc, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(AffinityDoc::Other(toml::Value::Array(Vec::new())))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<AffinityDoc, E> {
        Ok(AffinityDoc::Other(text.into()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<AffinityDoc, E> {
        Ok(AffinityDoc::Other(value.into()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<AffinityDoc, E> {
        Ok(AffinityDoc::Other(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<AffinityDoc, E> {
        Ok(AffinityDoc::Other(number.into()))
    }
}

/// `timeouts = { … }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct TimeoutsDoc {
    /// TCP flows of which only the SYN was seen.
    pub syn: Option<Value>,
    /// Established TCP flows.
    pub established: Option<Value>,
    /// TCP flows after FIN or RST.
    pub closing: Option<Value>,
    /// UDP flows.
    pub udp: Option<Value>,
}

/// `[service.health]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct HealthDoc {
    /// What a check does.
    pub kind: Option<Value>,
    /// From the start of one check to the next.
    pub interval: Option<Value>,
    /// How long a check may take.
    pub timeout: Option<Value>,
    /// Failures in a row until down.
    pub fall: Option<Value>,
    /// Successes in a row until up.
    pub rise: Option<Value>,
    /// The port that is checked.
    pub port: Option<Value>,
    /// The HTTP method.
    pub method: Option<Value>,
    /// The page that is asked for.
    pub path: Option<Value>,
    /// The host name that is sent.
    pub host: Option<Value>,
    /// The HTTP statuses that are healthy: 200, "200-399", or an array of such.
    pub status: Option<Value>,
    /// What the page must hold.
    pub body: Option<Value>,
    /// What `udp` sends.
    pub payload: Option<Value>,
    /// What its answer must hold.
    pub answer: Option<Value>,
    /// `tls = { … }`.
    pub tls: Option<Spanned<TlsDoc>>,
    /// `flap = { … }`.
    pub flap: Option<Spanned<FlapDoc>>,
}

/// `tls = { … }` of a health check.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct TlsDoc {
    /// Whether the backend's certificate is checked.
    pub verify: Option<Value>,
    /// PEM file of the certificates to trust.
    pub ca: Option<Value>,
    /// The name in SNI.
    pub server_name: Option<Value>,
    /// PEM file of the certificate to show.
    pub certificate: Option<Value>,
    /// PEM file of its key.
    pub key: Option<Value>,
}

/// `flap = { … }` of a health check.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct FlapDoc {
    /// Changes that are borne.
    pub changes: Option<Value>,
    /// The time in which they are counted.
    pub window: Option<Value>,
    /// How long it is held down at first.
    pub hold: Option<Value>,
    /// How long at most.
    pub max_hold: Option<Value>,
}

/// `[service.quic]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct QuicDoc {
    /// One for each rotation in use.
    pub configs: Option<Spanned<Vec<Spanned<QuicConfigDoc>>>>,
}

/// One of `[service.quic]`'s `configs`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct QuicConfigDoc {
    /// The connection IDs' first three bits.
    pub rotation: Option<Value>,
    /// Octets of a server ID.
    pub server_id_length: Option<Value>,
    /// Octets of a nonce.
    pub nonce_length: Option<Value>,
    /// Encrypts; plaintext if absent.
    pub key: Option<Value>,
}

/// `[[service.backend]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct BackendDoc {
    /// The server's address.
    pub address: Option<Value>,
    /// Its port; the service's if absent.
    pub port: Option<Value>,
    /// Its share of new flows.
    pub weight: Option<Value>,
    /// Flows that it may hold.
    pub max_flows: Option<Value>,
    /// "enabled", "drain" or "disabled"; written by `weirctl save`.
    pub state: Option<Value>,
    /// After which a drain takes the rest of the flows.
    pub drain_timeout: Option<Value>,
    /// "up", "down" or "auto"; written by `weirctl save`.
    pub force: Option<Value>,
    /// What connection IDs call it under every configuration.
    pub server_id: Option<Value>,
    /// What connection IDs call it, by rotation.
    pub server_ids: Option<Value>,
}
