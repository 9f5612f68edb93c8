use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

fn profiles() -> Profiles {
    Profiles::new(&[Profile::new(10_000, 350_000, 10_000, 120_000)])
}

fn table(flows: u64) -> Conntrack {
    Conntrack::new(flows, false).unwrap()
}

/// A well-mixed hash of a flow's number.
fn hash(flow: u64) -> FlowHash {
    let mix = |x: u64| {
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    FlowHash {
        bucket: mix(flow * 2 + 1),
        fingerprint: mix(flow * 2 + 2).max(1),
    }
}

fn entry(slot: u32, state: State, seen: Tick) -> Details {
    Details::new(slot, state, 0, seen)
}

#[test]
fn an_entry_packs_and_unpacks() {
    let details = Details::new(1_054_321, State::Closing, 255, Tick(u32::MAX));
    assert_eq!(details.backend(), 1_054_321);
    assert_eq!(details.state(), State::Closing);
    assert_eq!(details.profile(), 255);
    assert_eq!(details.seen(), Tick(u32::MAX));
}

#[test]
fn a_flow_is_found_until_its_states_time_out() {
    for (state, timeout) in [
        (State::Syn, 10_000),
        (State::Established, 350_000),
        (State::Loose, 350_000),
        (State::Closing, 10_000),
        (State::Udp, 120_000),
        (State::UdpNew, 120_000),
    ] {
        let mut table = table(100);
        let start = Tick(u32::MAX - 5_000); // the clock wraps while the flow lives
        table.insert(hash(1), entry(7, state, start), start, &profiles());
        let at = |ms: u32| Tick(start.0.wrapping_add(ms));
        let found = table.find(hash(1), at(timeout - 1), &profiles()).unwrap();
        assert_eq!(found.details().backend(), 7);
        assert!(
            table.find(hash(1), at(timeout), &profiles()).is_none(),
            "{state:?}"
        );
    }
}

#[test]
fn a_dead_flows_place_is_reused_and_it_is_never_there_twice() {
    let mut table = table(1);
    for round in 0..50u32 {
        let now = Tick(round * 11_000);
        assert!(table.find(hash(1), now, &profiles()).is_none());
        let inserted = table.insert(hash(1), entry(1, State::Syn, now), now, &profiles());
        assert_eq!(inserted, Inserted::Free);
        let mut live = 0;
        table
            .reader()
            .for_each_live(now, &profiles(), |_| live += 1);
        assert_eq!(live, 1);
    }
}

#[test]
fn the_other_bucket_of_the_other_bucket_is_the_first() {
    for count in [2, 3, 1000, 65_537] {
        for flow in 0..1000 {
            let first = primary(hash(flow), count);
            let second = secondary(first, hash(flow).fingerprint, count);
            assert!(first < count && second < count);
            assert_eq!(secondary(second, hash(flow).fingerprint, count), first);
        }
    }
}

#[test]
fn a_syn_flood_evicts_no_established_flow() {
    let mut table = table(1_000);
    let now = Tick(0);
    let established: Vec<u64> = (0..800)
        .filter(|flow| {
            table.insert(
                hash(*flow),
                entry(1, State::Established, now),
                now,
                &profiles(),
            ) != Inserted::Untracked
        })
        .collect();
    let later = Tick(349_000); // long idle, but alive
    let mut untracked = 0;
    for flow in 10_000..200_000 {
        let inserted = table.insert(hash(flow), entry(2, State::Syn, later), later, &profiles());
        untracked += u32::from(inserted == Inserted::Untracked);
    }
    for flow in established {
        assert!(
            table.find(hash(flow), later, &profiles()).is_some(),
            "flow {flow} was evicted"
        );
    }
    assert!(untracked > 0, "some buckets are full of established flows");
}

#[test]
fn a_table_filled_to_nine_tenths_leaves_out_fewer_than_one_flow_in_a_thousand() {
    const FLOWS: u64 = 200_000;
    let (now, profiles) = (Tick(0), profiles());
    let mut table = table(FLOWS);
    let mut left_out = 0;
    for flow in 0..FLOWS {
        table.begin_burst();
        let details = entry(flow as u32, State::Established, now);
        left_out += u32::from(table.insert(hash(flow), details, now, &profiles) != Inserted::Free);
    }
    let lost = (0..FLOWS)
        .filter(|flow| {
            let held = table.find(hash(*flow), now, &profiles);
            held.is_none_or(|held| held.details().backend() != *flow as u32)
        })
        .count();
    assert_eq!(lost, left_out as usize, "no move loses a flow");
    assert!(left_out < 100, "{left_out} of {FLOWS}");
    let bytes = table.bytes() as f64 / FLOWS as f64;
    assert!(bytes < 20.0, "{bytes} bytes a flow");
}

#[test]
fn one_burst_makes_room_only_so_often() {
    let (now, profiles) = (Tick(0), profiles());
    let untracked = |bursts: bool| {
        let mut table = table(1_000);
        let details = entry(1, State::Established, now);
        (0..1_000)
            .filter(|flow| {
                if bursts {
                    table.begin_burst();
                }
                table.insert(hash(*flow), details, now, &profiles) == Inserted::Untracked
            })
            .count()
    };
    assert!(untracked(true) < 5);
    assert!(untracked(false) > 40, "{}", untracked(false));
}

/// Flows with two different candidate buckets in a table of two: each may lie anywhere in it.
fn roaming(count: usize) -> Vec<FlowHash> {
    let roams =
        |hash: &FlowHash| primary(*hash, 2) != secondary(primary(*hash, 2), hash.fingerprint, 2);
    (0..).map(hash).filter(roams).take(count).collect()
}

#[test]
fn embryonic_flows_give_way_first_then_the_one_closest_to_its_time_out() {
    let mut table = table(1); // two buckets, eight entries
    let now = Tick(100_000);
    let flows = roaming(12);
    for (flow, age) in flows[..6].iter().zip(1..) {
        let seen = Tick(90_000 + age); // closing: between 1 and 6 ms to live
        table.insert(*flow, entry(1, State::Closing, seen), now, &profiles());
    }
    for flow in &flows[6..8] {
        table.insert(*flow, entry(1, State::Syn, now), now, &profiles());
    }
    let alive = |table: &Conntrack| -> Vec<usize> {
        (0..8)
            .filter(|flow| table.find(flows[*flow], now, &profiles()).is_some())
            .collect()
    };
    assert_eq!(alive(&table), [0, 1, 2, 3, 4, 5, 6, 7]);
    let mut newcomer = |flow: usize| {
        let inserted = table.insert(
            flows[flow],
            entry(2, State::Established, now),
            now,
            &profiles(),
        );
        assert_eq!(inserted, Inserted::Evicted);
        alive(&table)
    };
    newcomer(8);
    assert_eq!(newcomer(9), [0, 1, 2, 3, 4, 5], "both SYNs went first");
    assert_eq!(
        newcomer(10),
        [1, 2, 3, 4, 5],
        "then the one closest to its time-out"
    );
    assert_eq!(newcomer(11), [2, 3, 4, 5]);
}

#[test]
fn a_proven_flow_gives_way_only_to_one_that_is_no_syn_and_only_after_half_its_time_out() {
    let mut full = table(1);
    for flow in 0..64 {
        full.insert(
            hash(flow),
            entry(1, State::Udp, Tick(0)),
            Tick(0),
            &profiles(),
        );
    }
    let newcomer = |table: &mut Conntrack, state, now| {
        table.insert(hash(1_000), entry(2, state, now), now, &profiles())
    };
    assert_eq!(
        newcomer(&mut full, State::UdpNew, Tick(60_000)),
        Inserted::Untracked
    );
    assert_eq!(
        newcomer(&mut full, State::Syn, Tick(60_001)),
        Inserted::Untracked
    );
    assert_eq!(
        newcomer(&mut full, State::UdpNew, Tick(60_001)),
        Inserted::Evicted
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against an oracle: what the table says of a flow is what was last said to it, or nothing.
    #[test]
    fn the_table_never_tells_anothers_backend(
        steps in proptest::collection::vec((0u64..300, 0u32..50, 0u32..5_000), 1..600),
    ) {
        let mut table = table(64);
        let mut oracle = HashMap::new();
        let mut now = Tick(0);
        for (flow, slot, wait) in steps {
            now = Tick(now.0 + wait);
            if let Some(held) = table.find(hash(flow), now, &profiles()) {
                prop_assert_eq!(Some(&held.details().backend()), oracle.get(&flow));
                held.set(entry(slot, State::Udp, now));
                oracle.insert(flow, slot);
            } else if table.insert(hash(flow), entry(slot, State::UdpNew, now), now, &profiles())
                != Inserted::Untracked
            {
                oracle.insert(flow, slot);
            }
        }
    }
}

#[test]
fn a_pass_counts_every_live_flow_once_however_it_is_cut() {
    let (mut one, mut other) = (table(1_000), table(500));
    let now = Tick(1);
    for flow in 0..600 {
        let backend = (flow % 3) as u32;
        one.insert(
            hash(flow),
            entry(backend, State::Udp, now),
            now,
            &profiles(),
        );
    }
    for flow in 0..100 {
        other.insert(hash(flow), entry(7, State::Syn, now), now, &profiles());
    }
    let mut pass = Pass::new(vec![one.reader(), other.reader()]);
    let check = |pass: &Pass, syn| {
        let counts = pass.counts();
        assert_eq!((counts.of_worker(0), counts.of_worker(1)), (600, syn));
        assert_eq!(
            [0, 1, 2, 3, 7].map(|n| counts.of_backend(n)),
            [200, 200, 200, 0, syn]
        );
    };
    pass.go_on(now, &profiles(), Some(1));
    check(&pass, 100); // the first one is whole
    let later = Tick(20_000);
    pass.go_on(later, &profiles(), Some(10));
    check(&pass, 100); // not through yet
    for _ in 0..100 {
        pass.go_on(later, &profiles(), Some(7));
    }
    check(&pass, 0); // SYNs have timed out
    pass.go_on(later, &profiles(), None);
    check(&pass, 0);
}
