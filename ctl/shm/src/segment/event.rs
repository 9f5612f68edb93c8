//! Events: the last 1,024 changes of state, in a ring.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::str::FromStr;

use super::bytes::{Malformed, Reader, Writer};
use super::layout::{self, EVENT_COUNT, EVENT_LEN, EVENTS};
use super::slot::read_exact;
use crate::model::vocabulary::vocabulary;

vocabulary! {
    /// What an event is about.
    EventKind {
        /// The daemon started.
        Started = 1, "started";
        /// The daemon stopped.
        Stopped = 2, "stopped";
        /// A pool was put in force.
        Configuration = 3, "configuration";
        /// A pool was refused.
        Refused = 4, "refused";
        /// A backend went up or down.
        Health = 5, "health";
        /// A drain began or ended.
        Drain = 6, "drain";
        /// A neighbour was found or lost.
        Neighbour = 7, "neighbour";
        /// A port's link went up or down.
        Link = 8, "link";
        /// The segment was damaged and put right.
        Damage = 9, "damage";
        /// Anything else that an operator should know.
        Warning = 10, "warning";
    }
}

/// The longest text of an event, in bytes; longer ones are cut.
pub const TEXT: u16 = 480;

/// A change of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// From 1, without gaps.
    pub number: u64,
    /// Nanoseconds since 1970.
    pub unix_ns: u64,
    /// What it is about.
    pub kind: EventKind,
    /// What happened.
    pub text: String,
}

impl Event {
    pub(crate) fn write(&self, file: &File) -> io::Result<()> {
        let mut writer = Writer::default();
        writer.u64(self.number);
        writer.u64(self.unix_ns);
        writer.u8(self.kind.code());
        writer.text(&self.text, TEXT);
        writer.pad_to(EVENT_LEN as usize - 4);
        let mut bytes = writer.done();
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        file.write_all_at(&bytes, layout::event(self.number))?;
        file.write_all_at(&(self.number + 1).to_le_bytes(), EVENTS)
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (covered, sum) = bytes.split_at(bytes.len().saturating_sub(4));
        if crc32fast::hash(covered).to_le_bytes() != sum {
            return Err(Malformed::new("an event's checksum is wrong"));
        }
        let mut reader = Reader::new(covered);
        let (number, unix_ns) = (reader.u64()?, reader.u64()?);
        let kind = EventKind::from_code(reader.u8()?)
            .ok_or_else(|| Malformed::new("an event's kind is unknown"))?;
        let text = reader.text(TEXT, "an event")?;
        Ok(Self {
            number,
            unix_ns,
            kind,
            text,
        })
    }

    /// Events from number `from` on that the ring still holds. Those being overwritten while they
    /// are read are left out.
    pub(crate) fn read_from(file: &File, from: u64) -> Result<Vec<Self>, Malformed> {
        let mut next = [0; 8];
        read_exact(file, &mut next, EVENTS)?;
        let next = u64::from_le_bytes(next);
        let first = from.max(next.saturating_sub(EVENT_COUNT)).max(1);
        let mut events = Vec::new();
        for number in (first..next).take(EVENT_COUNT as usize) {
            let mut bytes = [0; EVENT_LEN as usize];
            read_exact(file, &mut bytes, layout::event(number))?;
            events.extend(
                Self::decode(&bytes)
                    .ok()
                    .filter(|event| event.number == number),
            );
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_last_events() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(layout::PORTS).unwrap();
        assert_eq!(Event::read_from(&file, 0), Ok(Vec::new()));
        for number in 1..=1500 {
            let text = format!("backend {number}");
            Event {
                number,
                unix_ns: number,
                kind: EventKind::Health,
                text,
            }
            .write(&file)
            .unwrap();
        }
        let events = Event::read_from(&file, 0).unwrap();
        assert_eq!((events.len(), events[0].number), (1024, 477));
        assert_eq!(
            Event::read_from(&file, 1500).unwrap()[0].text,
            "backend 1500"
        );
        assert_eq!(Event::read_from(&file, 1501), Ok(Vec::new()));
        file.write_all_at(&u64::MAX.to_le_bytes(), EVENTS).unwrap();
        assert_eq!(Event::read_from(&file, 0), Ok(Vec::new()));
    }
}
