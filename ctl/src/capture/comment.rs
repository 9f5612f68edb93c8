//! What became of a packet, in words and in JSON.
//!
//! Records hold numbers; names are looked up in the running directory, once for each number. What
//! leaves the pool during a capture keeps its name here.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};
use weir_shm::capture::record::NO_PORT;
use weir_shm::capture::{Direction, Fate, NOBODY, Record, Why};
use weir_shm::client::Client;

use super::port_name;

/// Names of services and backends by number.
pub(super) struct Names<'a> {
    client: Option<&'a Client>,
    services: HashMap<u32, (String, &'static str)>,
    backends: HashMap<u32, String>,
    /// Numbers that have no name, so that it is not looked for again.
    nameless: HashSet<(bool, u32)>,
}

impl<'a> Names<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        let mut names = Self {
            client: Some(client),
            services: HashMap::new(),
            backends: HashMap::new(),
            nameless: HashSet::new(),
        };
        names.read();
        names
    }

    /// Learns the names that are in force.
    fn read(&mut self) {
        let Some(Ok(directory)) = self.client.map(Client::running) else {
            return;
        };
        for (service, entry) in directory.pool.services.iter().zip(&directory.services) {
            let scheduler = service.scheduler.name();
            (self.services).insert(entry.number, (service.name.clone(), scheduler));
            for (backend, entry) in service.backends.iter().zip(&entry.backends) {
                self.backends.insert(entry.number, backend.name(service));
            }
        }
    }

    /// Makes sure that the names of a record are known, if anybody knows them.
    pub(super) fn know(&mut self, record: &Record) {
        let Record {
            service, backend, ..
        } = *record;
        let is_new = |nameless: &HashSet<(bool, u32)>, kind: bool, number: u32| {
            number != NOBODY && !nameless.contains(&(kind, number))
        };
        let unknown = is_new(&self.nameless, true, service)
            && !self.services.contains_key(&service)
            || is_new(&self.nameless, false, backend) && !self.backends.contains_key(&backend);
        if unknown {
            self.read();
            if !self.services.contains_key(&service) {
                self.nameless.insert((true, service));
            }
            if !self.backends.contains_key(&backend) {
                self.nameless.insert((false, backend));
            }
        }
    }

    fn service(&self, number: u32) -> Option<String> {
        let known = self.services.get(&number).map(|(name, _)| name.clone());
        (number != NOBODY).then(|| known.unwrap_or_else(|| format!("number {number}")))
    }

    fn backend(&self, number: u32) -> Option<String> {
        let known = self.backends.get(&number).cloned();
        (number != NOBODY).then(|| known.unwrap_or_else(|| format!("number {number}")))
    }

    /// What named the backend, in one word.
    fn why(&self, record: &Record) -> &'static str {
        match record.why {
            Why::Scheduler => {
                (self.services.get(&record.service)).map_or("scheduler", |(_, scheduler)| scheduler)
            }
            why => why.name(),
        }
    }

    /// The comment on a packet: who gets it, why, and what became of it.
    pub(super) fn comment(&self, record: &Record, ports: &[String]) -> String {
        let mut parts = Vec::new();
        if let Some(service) = self.service(record.service) {
            parts.push(format!("service {service}"));
        }
        if let Some(backend) = self.backend(record.backend) {
            parts.push(match record.why {
                Why::None => format!("backend {backend}"),
                _ => format!("backend {backend} by {}", self.why(record)),
            });
        }
        parts.push(self.fate(record, ports));
        parts.join(", ")
    }

    fn fate(&self, record: &Record, ports: &[String]) -> String {
        let other = port_name(ports, record.other);
        match (record.fate, record.direction) {
            (Fate::Dropped, _) => {
                let reason = record.reason.map_or("no reason", |reason| reason.name());
                format!("dropped: {reason}")
            }
            (Fate::Sent, Direction::In) => format!("sent by {other}"),
            (Fate::Sent, Direction::Out) => format!("came in by {other}"),
            (Fate::Answered, Direction::In) => format!("answered by {other}"),
            (Fate::Answered, Direction::Out) => "answer of weir's".to_owned(),
            (Fate::Control, _) => "to the control core".to_owned(),
            (Fate::Held, _) => "waits for its neighbour".to_owned(),
            (Fate::HandedOver, _) => format!("handed to worker {}", record.other),
            (Fate::Waits, _) => "waits for its first piece".to_owned(),
            (Fate::Made, _) => "made by the control core".to_owned(),
            (Fate::Released, _) => "had waited for its neighbour".to_owned(),
        }
    }

    /// The same for programs; keys that mean nothing are null.
    pub(super) fn json(&self, record: &Record, ports: &[String]) -> Map<String, Value> {
        let has_worker = record.fate == Fate::HandedOver;
        let other = (record.other != NO_PORT && !has_worker)
            .then(|| port_name(ports, record.other).to_owned());
        let picture = json!({
            "direction": record.direction,
            "port": port_name(ports, record.port),
            "other_port": other,
            "service": self.service(record.service),
            "backend": self.backend(record.backend),
            "why": (record.why != Why::None).then(|| self.why(record)),
            "fate": record.fate,
            "to_worker": has_worker.then_some(record.other),
            "drop_reason": record.reason.map(weir_shm::counters::DropReason::name),
            "worker": record.worker,
            "length": record.length,
        });
        match picture {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use weir_shm::counters::DropReason;

    pub(in crate::capture) fn names() -> Names<'static> {
        Names {
            client: None,
            services: HashMap::from([(3, ("web".to_owned(), "maglev"))]),
            backends: HashMap::from([(7, "10.0.0.11:8080".to_owned())]),
            nameless: HashSet::new(),
        }
    }

    pub(in crate::capture) fn record() -> Record {
        Record {
            kept: 60,
            length: 60,
            direction: Direction::In,
            fate: Fate::Sent,
            why: Why::Scheduler,
            reason: None,
            unix_ns: 1_795_209_304_123_456_789,
            service: 3,
            backend: 7,
            port: 0,
            other: 1,
            worker: 2,
        }
    }

    #[test]
    fn a_comment_says_who_gets_it_and_why() {
        let (mut names, ports) = (names(), ["wan".to_owned(), "lan".to_owned()]);
        let base = record();
        let out = Record {
            direction: Direction::Out,
            port: 1,
            other: 0,
            why: Why::Conntrack,
            ..base
        };
        let dropped = Record {
            fate: Fate::Dropped,
            reason: Some(DropReason::NoBackend),
            backend: NOBODY,
            why: Why::None,
            ..base
        };
        let unknown = Record {
            service: 99,
            backend: 98,
            fate: Fate::HandedOver,
            ..base
        };
        names.know(&unknown);
        for (record, text) in [
            (
                base,
                "service web, backend 10.0.0.11:8080 by maglev, sent by lan",
            ),
            (
                out,
                "service web, backend 10.0.0.11:8080 by conntrack, came in by wan",
            ),
            (dropped, "service web, dropped: no_backend"),
            (
                unknown,
                "service number 99, backend number 98 by scheduler, handed to worker 1",
            ),
        ] {
            assert_eq!(names.comment(&record, &ports), text);
        }
        assert_eq!(names.json(&unknown, &ports)["other_port"], Value::Null);
        assert_eq!(names.json(&unknown, &ports)["to_worker"], 1);
        assert_eq!(names.json(&base, &ports)["to_worker"], Value::Null);
        assert_eq!(names.json(&base, &ports)["other_port"], "lan");
    }
}
