//! The packet path allocates nothing: counted by an allocator that counts, over bursts of every kind
//! once everything is warm.

use allocation_counter::measure;
use weir_benches::instructions::{CASES, bed};
use weir_benches::rig::traffic::Traffic;

const FLOWS: u32 = 1_000;
const BURSTS: u32 = 2_000;

#[test]
fn bursts_of_known_and_of_new_flows_allocate_nothing() {
    for (name, mode, kind, known) in CASES {
        let traffic = Traffic::new(*kind);
        let mut bed = bed(mode, u64::from(FLOWS)).unwrap();
        let path = bed.path().unwrap();
        path.load(&traffic);
        path.visit(&traffic, FLOWS);
        let mut flow = 0;
        // New flows are many more than the table holds, so that they evict each other, too.
        let found = measure(|| {
            for now in 0..BURSTS {
                let each = || {
                    flow += 1;
                    if *known { flow % FLOWS } else { FLOWS + flow }
                };
                path.round(&traffic, each, true, 2 + now);
            }
        });
        path.all_forwarded().unwrap();
        assert_eq!(
            (found.count_total, found.bytes_total),
            (0, 0),
            "{name}: allocations and their bytes in {BURSTS} bursts"
        );
    }
}

#[test]
fn the_counter_counts() {
    let found = measure(|| drop(std::hint::black_box(vec![0u8; 4_096])));
    assert_eq!((found.count_total, found.bytes_total), (1, 4_096));
}
