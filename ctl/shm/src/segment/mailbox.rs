//! The mailbox: what operators ask and only the control core can answer.
//!
//! The asker holds [`super::lock::Lock::Asker`], writes the question's text, then its header with a
//! number; the daemon answers the same way under the same number. Texts are JSON.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::bytes::{Malformed, Reader, Writer};
use super::layout::{ANSWER, ANSWER_LEN, QUESTION, QUESTION_LEN};
use super::slot::read_exact;
use crate::capture::{Begun, Request};
use crate::model::{ConnectionId, Protocol};

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask")]
pub enum Question {
    /// Which backend a packet would get, and why.
    Lookup {
        /// Its protocol.
        protocol: Protocol,
        /// The client.
        source: SocketAddr,
        /// The VIP.
        destination: SocketAddr,
        /// The destination connection ID, of a QUIC packet whose ID a server made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        connection_id: Option<ConnectionId>,
    },
    /// Live flows of a service's backends.
    Flows {
        /// The service.
        service: String,
        /// The backend's name; all of the service's if absent.
        backend: Option<String>,
    },
    /// What checks found of a service's backends.
    Health {
        /// The service.
        service: String,
    },
    /// To read the configuration file again and put its pool in force. Whoever asks keeps other
    /// writers out.
    Reload,
    /// Live flows of all services, by backend, state and time since their last packet.
    Census {
        /// Of this service alone.
        service: Option<String>,
        /// Of backends of this name alone.
        backend: Option<String>,
    },
    /// Some of the flows that began last.
    Newest {
        /// Of this service alone.
        service: Option<String>,
        /// Of backends of this name alone.
        backend: Option<String>,
        /// How many at most.
        most: u32,
    },
    /// To begin a capture. Whoever asks holds [`super::lock::Lock::Capturer`].
    Capture(Request),
    /// To end the capture.
    EndCapture,
    /// To bring statistics and states in the segment up to date.
    Publish,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    /// To [`Question::Lookup`].
    Lookup(Box<LookupAnswer>),
    /// To [`Question::Flows`].
    Flows {
        /// One for each backend asked for.
        backends: Vec<BackendFlows>,
    },
    /// To [`Question::Health`].
    Health {
        /// One for each backend, in order.
        backends: Vec<BackendHealth>,
    },
    /// To [`Question::Reload`].
    Reloaded {
        /// The generation that the file's pool became; absent when it was in force already.
        generation: Option<u64>,
        /// What changed, a line each.
        changes: Vec<String>,
        /// What differs from what runs and cannot change at run time.
        left_alone: Vec<String>,
        /// What the operator should know of the file.
        warnings: Vec<String>,
    },
    /// To [`Question::Census`].
    Census(Census),
    /// To [`Question::Newest`].
    Newest {
        /// The newest first.
        flows: Vec<NewFlow>,
    },
    /// To [`Question::Capture`].
    Capturing(Begun),
    /// To [`Question::EndCapture`]: the file will say when all is in it.
    CaptureEnds,
    /// To [`Question::Publish`].
    Published,
    /// To any question that cannot be answered.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Where a packet would go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LookupAnswer {
    /// The service, if the destination is one's.
    pub service: Option<String>,
    /// The backend, if there is one.
    pub backend: Option<String>,
    /// What decides, in one word: `conntrack`, `connection-id`, `maglev`, `moved`, `no_service`,
    /// `no_backend`.
    pub reason: String,
    /// The worker whose conntrack holds the flow.
    pub worker: Option<u32>,
    /// The flow's state there.
    pub state: Option<String>,
    /// Milliseconds since its last packet.
    pub idle_ms: Option<u64>,
    /// The entry of the service's table that the flow falls on.
    pub table_entry: Option<u32>,
    /// Entries of the service's table.
    pub table_size: Option<u32>,
    /// What the connection ID says, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_id: Option<ConnectionIdReading>,
    /// Each step of the decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<LookupSteps>,
    /// What becomes of a packet that is for no service, where it is anybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<Elsewhere>,
}

/// Whose a packet is that goes to no service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Elsewhere {
    /// What it is: `answer` (of a `nat` backend), `session` (an answer to a session of `full-nat`),
    /// `no_session` (to an address that `full-nat` speaks from, but of no session), `other_port` (to a
    /// VIP, but to no service there), `own` (to a port's own address).
    pub kind: String,
    /// The service of the backend that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The backend that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The worker whose session it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<u32>,
    /// The VIP that an answer leaves from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<SocketAddr>,
    /// The client that it goes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<SocketAddr>,
    /// The port whose own address it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The services of the VIP, with where they listen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
}

/// How a packet is steered, step by step.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LookupSteps {
    /// How its destination matched.
    pub vip: VipStep,
    /// The half of its flow's hash that conntrack and the table look at, in hexadecimal digits.
    pub hash: String,
    /// What each worker's conntrack knows of the flow.
    pub conntrack: Vec<ConntrackStep>,
    /// What is remembered of its client, where the service remembers clients.
    pub affinity: Option<AffinityStep>,
    /// What the scheduler would say.
    pub scheduler: SchedulerStep,
    /// How the service's backends are.
    pub pool: PoolStep,
    /// How the backend that it gets is.
    pub backend: Option<BackendStep>,
    /// Its session, with `full-nat`.
    pub session: Option<SessionStep>,
    /// What is done with it.
    pub forwarding: ForwardingStep,
}

/// How a destination matched a VIP.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VipStep {
    /// The VIP with its port and protocol.
    pub listener: String,
    /// Its form: `exact`, `range`, `any-port`, `any-protocol`; of a prefix with `prefix-` before it.
    pub form: String,
    /// Services whose VIPs match, too, and are less specific.
    pub less_specific: Vec<String>,
}

/// What a worker's conntrack knows of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConntrackStep {
    /// The worker.
    pub worker: u32,
    /// Whether it holds the flow; if it does not, the rest is absent.
    pub hit: bool,
    /// The flow's state.
    pub state: Option<String>,
    /// The flow's backend.
    pub backend: Option<String>,
    /// Whether that backend still takes the flow.
    pub kept: Option<bool>,
    /// Milliseconds since its last packet.
    pub idle_ms: Option<u64>,
    /// Milliseconds until it is forgotten.
    pub left_ms: Option<u64>,
}

/// What is remembered of a client.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AffinityStep {
    /// Its backend, if it has one.
    pub backend: Option<String>,
    /// The worker that knows.
    pub worker: Option<u32>,
    /// Milliseconds since it was last confirmed.
    pub idle_ms: Option<u64>,
    /// Milliseconds until it is forgotten.
    pub left_ms: Option<u64>,
    /// Whether that backend takes new flows.
    pub takes_new: bool,
}

/// What a scheduler says of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SchedulerStep {
    /// The scheduler.
    pub scheduler: String,
    /// The backend that it picks; absent where there is none, with `round-robin`, whose turns only
    /// the workers know, and where a SYN's sequence number counts.
    pub pick: Option<String>,
    /// How: `first`, `next` (the first holds as many flows as it may), `full`, `nobody`, `turn`,
    /// `sequence`.
    pub choice: String,
    /// Backends that take new flows.
    pub members: u32,
}

/// How a service's backends are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolStep {
    /// Whether none that could take new flows is up.
    pub all_down: bool,
    /// Whether those that are down take flows all the same.
    pub fails_open: bool,
    /// What the service does when all are down.
    pub policy: String,
    /// The share of weight that is up, in thousandths.
    pub healthy: u16,
}

/// How a backend is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendStep {
    /// Its name.
    pub backend: String,
    /// What it does.
    pub state: String,
    /// Its weight.
    pub weight: u32,
    /// Its limit of flows.
    pub max_flows: Option<u32>,
    /// What its last check found: `ok`, or why it failed.
    pub last_check: Option<String>,
}

/// A session of `full-nat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStep {
    /// The worker whose it is.
    pub worker: u32,
    /// What weir speaks from to the backend.
    pub from: SocketAddr,
    /// The backend.
    pub to: SocketAddr,
    /// Its state.
    pub state: String,
    /// Milliseconds since its last packet.
    pub idle_ms: u64,
    /// Milliseconds until it ends.
    pub left_ms: u64,
}

/// What is done with a packet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ForwardingStep {
    /// The mode.
    pub mode: String,
    /// The neighbour that it is sent to.
    pub next_hop: Option<String>,
    /// Its MAC; absent while it is not known.
    pub mac: Option<String>,
    /// The port that it leaves by.
    pub port: Option<String>,
}

/// What a connection ID says to a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionIdReading {
    /// Its first three bits, which name the configuration.
    pub rotation: u8,
    /// What came of it, in one word: `routed`; or why it is steered by address and port:
    /// `not_quic`, `reserved_rotation`, `no_configuration`, `too_short`, `unknown_server_id`,
    /// `backend_takes_nothing`.
    pub outcome: String,
    /// The server ID in it, where it could be decoded.
    pub server_id: Option<String>,
    /// The backend that has this server ID.
    pub backend: Option<String>,
}

/// A backend's live flows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendFlows {
    /// The backend's name.
    pub backend: String,
    /// Its flows that have not timed out.
    pub flows: u64,
}

/// Live flows of all that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Census {
    /// One for each service, in order.
    pub services: Vec<ServiceCensus>,
}

/// A service's live flows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceCensus {
    /// The service.
    pub service: String,
    /// Its backends that have flows or are in the pool, in order of the pool.
    pub backends: Vec<BackendCensus>,
}

/// A backend's live flows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendCensus {
    /// The backend's name.
    pub backend: String,
    /// Whether it is in the pool; one that left may still have flows that wait for their time-out.
    pub in_pool: bool,
    /// Its flows that have not timed out.
    pub flows: u64,
    /// Those by state, in the order of [`FLOW_STATES`].
    pub states: [u64; FLOW_STATES.len()],
    /// Those by the time since their last packet, in the order of [`IDLE_CLASSES`].
    pub idle: [u64; IDLE_CLASSES.len()],
    /// Its sessions, with `full-nat`.
    pub sessions: Option<u64>,
}

/// The states of flows: SYN seen, past it, FIN or RST seen, TCP first seen in mid-stream; UDP with
/// one packet, with more.
pub const FLOW_STATES: [&str; 6] = [
    "syn",
    "established",
    "closing",
    "mid-stream",
    "udp-new",
    "udp",
];

/// Classes of the time since a flow's last packet: its name in JSON, and its end in milliseconds.
pub const IDLE_CLASSES: [(&str, u32); 5] = [
    ("under_1s", 1_000),
    ("under_10s", 10_000),
    ("under_1m", 60_000),
    ("under_5m", 300_000),
    ("longer", u32::MAX),
];

/// A flow that began lately.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewFlow {
    /// Its protocol's number (6 is TCP, 17 UDP).
    pub protocol: u8,
    /// The client.
    pub source: SocketAddr,
    /// The VIP.
    pub destination: SocketAddr,
    /// The service.
    pub service: String,
    /// The backend that it got.
    pub backend: String,
    /// The worker that it came to.
    pub worker: u32,
    /// Milliseconds since it began.
    pub age_ms: u64,
    /// What is known of it now; absent when it is over.
    pub state: Option<String>,
}

/// What checks found of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendHealth {
    /// The backend's name.
    pub backend: String,
    /// Checks that ended.
    pub checks: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// What the last one found: `ok`, or why it failed.
    pub last: Option<String>,
    /// Milliseconds since then.
    pub last_ago_ms: Option<u64>,
    /// Microseconds that it took.
    pub last_took_us: Option<u64>,
    /// Milliseconds for which it is still held down.
    pub held_ms: Option<u64>,
    /// Its share of its weight, in percent.
    pub share: u8,
}

/// Bytes of a letter's header: number, length, checksum.
const HEADER: u64 = 16;

/// One half of the mailbox.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Letterbox {
    offset: u64,
    len: u64,
}

/// For questions.
pub(crate) const QUESTIONS: Letterbox = Letterbox {
    offset: QUESTION,
    len: QUESTION_LEN,
};
/// For answers.
pub(crate) const ANSWERS: Letterbox = Letterbox {
    offset: ANSWER,
    len: ANSWER_LEN,
};

impl Letterbox {
    /// The number of the letter in the box.
    pub(crate) fn number(self, file: &File) -> io::Result<u64> {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, self.offset)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Puts a letter in, its number last.
    pub(crate) fn put<T: Serialize>(self, file: &File, number: u64, letter: &T) -> io::Result<()> {
        let text = serde_json::to_vec(letter)?;
        if text.len() as u64 > self.len - HEADER {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "it does not fit the mailbox",
            ));
        }
        let mut writer = Writer::default();
        writer.u64(number);
        writer.u32(text.len() as u32);
        writer.u32(checksum(number, &text));
        file.write_all_at(&text, self.offset + HEADER)?;
        file.write_all_at(&writer.done(), self.offset)
    }

    /// Takes a letter out, with its number.
    pub(crate) fn get<T: DeserializeOwned>(self, file: &File) -> Result<(u64, T), Malformed> {
        let mut header = [0; HEADER as usize];
        read_exact(file, &mut header, self.offset)?;
        let mut reader = Reader::new(&header);
        let (number, len, sum) = (reader.u64()?, reader.u32()?, reader.u32()?);
        if u64::from(len) > self.len - HEADER {
            return Err(Malformed::new(format!("a letter claims {len} bytes")));
        }
        let mut text = vec![0; len as usize];
        read_exact(file, &mut text, self.offset + HEADER)?;
        if checksum(number, &text) != sum {
            return Err(Malformed::new("a letter's checksum is wrong"));
        }
        let letter = serde_json::from_slice(&text)
            .map_err(|error| Malformed::new(format!("a letter cannot be read: {error}")))?;
        Ok((number, letter))
    }
}

fn checksum(number: u64, text: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(text);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_taken_out_as_it_was_put_in() {
        let file = tempfile::tempfile().unwrap();
        let question = Question::Lookup {
            protocol: Protocol::Tcp,
            source: "203.0.113.5:51234".parse().unwrap(),
            destination: "[2001:db8::1]:80".parse().unwrap(),
            connection_id: Some("07c4605e4504cc4f".parse().unwrap()),
        };
        QUESTIONS.put(&file, 5, &question).unwrap();
        assert_eq!(QUESTIONS.get(&file), Ok((5, question)));
        file.write_all_at(b"x", QUESTION + 20).unwrap();
        assert!(QUESTIONS.get::<Question>(&file).is_err());
    }

    #[test]
    fn a_letter_too_long_is_not_posted() {
        let file = tempfile::tempfile().unwrap();
        let service = "x".repeat(5000);
        assert!(
            QUESTIONS
                .put(
                    &file,
                    1,
                    &Question::Flows {
                        service,
                        backend: None
                    }
                )
                .is_err()
        );
    }
}
