//! What a capture has, as records and bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

use weir::capture::Capture;
use weir_shm::capture::Record;
use weir_shm::capture::record::HEAD;

/// A packet as a capture shows it.
pub type Shown = (Record, Vec<u8>);

/// All that was captured since the last time.
pub fn shown(capture: &Capture) -> Vec<Shown> {
    let mut bytes = Vec::new();
    for ring in capture.rings() {
        ring.take(usize::MAX, &mut bytes);
    }
    let mut rest = bytes.as_slice();
    let mut all = Vec::new();
    while let Some((head, behind)) = rest.split_first_chunk::<{ HEAD * 8 }>() {
        let mut words = [0; HEAD];
        for (word, chunk) in words.iter_mut().zip(head.chunks(8)) {
            *word = u64::from_le_bytes(chunk.try_into().unwrap());
        }
        let record = Record::decode(words).unwrap();
        let (data, others) = behind.split_at(Record::words(record.kept) * 8 - HEAD * 8);
        all.push((record, data[..record.kept.into()].to_vec()));
        rest = others;
    }
    assert!(rest.is_empty());
    all
}
