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
    /// To bring statistics and states in the segment up to date.
    Publish,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    /// To [`Question::Lookup`].
    Lookup(LookupAnswer),
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
