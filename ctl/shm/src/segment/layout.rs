//! Where everything lies in the segment's file. All numbers are little-endian, all regions begin on
//! a page.
//!
//! | region | written by | holds |
//! |---|---|---|
//! | header | daemon | magic, layout version, sizes, who and where from |
//! | commit | weirctl | the commit word |
//! | status | daemon | state, generation in force, refusals |
//! | acknowledgements | daemon | the generation each worker runs, a cache line each |
//! | question, answer | weirctl, daemon | the mailbox |
//! | events | daemon | the ring |
//! | ports | daemon | device statistics |
//! | slot 0, slot 1 | weirctl | configurations |
//! | running 0, running 1 | daemon | the pool in force with its counter numbers |
//! | counters | daemon | a block for each worker and one for the control core |
//!
//! A change of anything here, in the records or in [`crate::counters`] needs a new
//! [`LAYOUT_VERSION`]; a test insists.

use crate::counters;
use crate::model::{MAX_BACKENDS, MAX_SERVICES};

/// The first bytes of every segment.
pub const MAGIC: [u8; 8] = *b"WEIRSHM\n";
/// The version of this layout.
pub const LAYOUT_VERSION: u32 = 8;

/// Regions begin at multiples of this.
pub const PAGE: u64 = 4096;

/// The header.
pub const HEADER: u64 = 0;
/// The region of the commit word.
pub const COMMIT: u64 = PAGE;
/// The daemon's status.
pub const STATUS: u64 = 2 * PAGE;
/// Bytes of the status.
pub const STATUS_LEN: u64 = 2 * PAGE;
/// The workers' acknowledgements.
pub const ACKS: u64 = STATUS + STATUS_LEN;
/// Bytes from one acknowledgement to the next.
pub const ACK_STRIDE: u64 = 64;
/// Workers that a segment can hold.
pub const MAX_WORKERS: usize = 256;
/// The mailbox's question.
pub const QUESTION: u64 = ACKS + ACK_STRIDE * MAX_WORKERS as u64;
/// Bytes of the question.
pub const QUESTION_LEN: u64 = PAGE;
/// The mailbox's answer.
pub const ANSWER: u64 = QUESTION + QUESTION_LEN;
/// Bytes of the answer.
pub const ANSWER_LEN: u64 = 256 * PAGE;
/// The ring of events, behind a page with the number of the next.
pub const EVENTS: u64 = ANSWER + ANSWER_LEN;
/// Events that the ring keeps.
pub const EVENT_COUNT: u64 = 1024;
/// Bytes of an event.
pub const EVENT_LEN: u64 = 512;
/// Device statistics.
pub const PORTS: u64 = EVENTS + PAGE + EVENT_COUNT * EVENT_LEN;
/// Ports that a segment can hold.
pub const MAX_PORTS: usize = 64;
/// Bytes of a port.
pub const PORT_LEN: u64 = 256;

/// Bytes of a service's record.
pub const SERVICE_RECORD: usize = 4608;
/// Bytes of a backend's record.
pub const BACKEND_RECORD: usize = 192;
/// Bytes of a directory's entry for a service or backend.
pub const ENTRY_RECORD: usize = 8;
/// Bytes before a slot's records.
pub const SLOT_HEADER: usize = 64;

/// The first configuration slot.
pub const SLOTS: u64 = align(PORTS + PORT_LEN * MAX_PORTS as u64);
/// Bytes of a configuration slot.
pub const SLOT_LEN: u64 =
    align((SLOT_HEADER + MAX_SERVICES * SERVICE_RECORD + MAX_BACKENDS * BACKEND_RECORD) as u64);
/// The first running directory.
pub const RUNNING: u64 = SLOTS + 2 * SLOT_LEN;
/// Bytes of a running directory.
pub const RUNNING_LEN: u64 =
    SLOT_LEN + align(((MAX_SERVICES + MAX_BACKENDS) * ENTRY_RECORD) as u64);
/// The first block of counters.
pub const COUNTERS: u64 = RUNNING + 2 * RUNNING_LEN;
/// Bytes of a block of counters.
pub const COUNTERS_LEN: u64 = align(counters::BLOCK as u64 * 8);

const fn align(offset: u64) -> u64 {
    offset.next_multiple_of(PAGE)
}

/// Bytes of the whole file with this many blocks of counters. Most of them are never touched and
/// take no memory.
#[must_use]
pub const fn file_len(blocks: usize) -> u64 {
    COUNTERS + blocks as u64 * COUNTERS_LEN
}

/// Where a configuration slot begins.
#[must_use]
pub(crate) const fn slot(index: u8) -> u64 {
    SLOTS + (index & 1) as u64 * SLOT_LEN
}

/// Where a running directory begins.
#[must_use]
pub(crate) const fn running(index: u8) -> u64 {
    RUNNING + (index & 1) as u64 * RUNNING_LEN
}

/// Where a worker's acknowledgement is.
#[must_use]
pub(crate) const fn ack(worker: usize) -> u64 {
    ACKS + worker as u64 * ACK_STRIDE
}

/// Where a worker's occupancy is: behind its acknowledgement, entries in use and in all.
#[must_use]
pub(crate) const fn occupancy(worker: usize) -> u64 {
    ack(worker) + 8
}

/// Where a counter is.
#[must_use]
pub(crate) const fn counter(block: usize, index: usize) -> u64 {
    COUNTERS + block as u64 * COUNTERS_LEN + index as u64 * 8
}

/// Where an event is.
#[must_use]
pub(crate) const fn event(number: u64) -> u64 {
    EVENTS + PAGE + (number % EVENT_COUNT) * EVENT_LEN
}

const _: () = assert!(counters::MAX_SERVICES == MAX_SERVICES);
const _: () = assert!(counters::MAX_BACKENDS == MAX_BACKENDS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::DropReason;
    use crate::segment::record;

    /// The fingerprint of each layout version that was ever released. Add a line with a new
    /// version; never change one.
    const FINGERPRINTS: &[(u32, u32)] = &[
        (1, 128_882_857),
        (2, 3_701_180_865),
        (3, 4_205_292_862),
        (4, 2_487_981_414),
        (5, 424_476_976),
        (6, 3_595_967_752),
        (7, 3_699_983_709),
        (8, 1_938_961_138),
    ];

    /// Of everything that both sides must agree on, the form of the records included.
    fn fingerprint() -> u32 {
        let mut numbers = vec![
            HEADER,
            COMMIT,
            STATUS,
            STATUS_LEN,
            ACKS,
            ACK_STRIDE,
            MAX_WORKERS as u64,
            QUESTION,
            QUESTION_LEN,
            ANSWER,
            ANSWER_LEN,
            EVENTS,
            EVENT_COUNT,
            EVENT_LEN,
            PORTS,
            MAX_PORTS as u64,
            PORT_LEN,
            SLOTS,
            SLOT_LEN,
            RUNNING,
            RUNNING_LEN,
            COUNTERS,
            COUNTERS_LEN,
            counters::DROPS as u64,
            counters::SERVICES as u64,
            counters::BACKENDS as u64,
            counters::PACKETS as u64,
            counters::BYTES as u64,
            counters::NEW_FLOWS as u64,
            counters::RETURN_PACKETS as u64,
            counters::RETURN_BYTES as u64,
        ];
        let sizes = [SERVICE_RECORD, BACKEND_RECORD, ENTRY_RECORD, SLOT_HEADER];
        numbers.extend(sizes.map(|size| size as u64));
        let mut hasher = crc32fast::Hasher::new();
        for number in numbers {
            hasher.update(&number.to_le_bytes());
        }
        // Counters and reasons may be added at the end; the released ones stay what they are.
        for (index, name, _) in counters::WORKER_COUNTERS.iter().take(16) {
            hasher.update(format!("{index}{name}").as_bytes());
        }
        for reason in DropReason::ALL.iter().take(35) {
            hasher.update(format!("{}{}", *reason as u8, reason.name()).as_bytes());
        }
        hasher.update(&record::encode(&record::tests::sample()));
        hasher.finalize()
    }

    #[test]
    fn the_layout_changes_only_with_its_version() {
        let known = FINGERPRINTS
            .iter()
            .find(|(version, _)| *version == LAYOUT_VERSION);
        assert_eq!(
            known,
            Some(&(LAYOUT_VERSION, fingerprint())),
            "the layout is another: raise LAYOUT_VERSION and add its fingerprint"
        );
    }

    #[test]
    fn regions_do_not_overlap() {
        let regions = [
            HEADER, COMMIT, STATUS, ACKS, QUESTION, ANSWER, EVENTS, PORTS, SLOTS, RUNNING, COUNTERS,
        ];
        assert!(regions.is_sorted());
        assert!(regions.iter().all(|region| region % PAGE == 0));
        assert!(counter(0, counters::BLOCK - 1) + 8 <= file_len(1));
        assert!(event(EVENT_COUNT - 1) + EVENT_LEN <= PORTS);
    }
}
