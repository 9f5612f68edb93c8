//! Captures made by scapy, with what must come out of them made by scapy, too: fragments, ICMP
//! errors, pings and TTLs through the whole chain. See `captures/make.py`.

#[path = "support/captures.rs"]
mod captures;

cases! {
    "captures";
    pieces_in_order_are_translated_both_ways: "fragments-in-order-4", "fragments-in-order-6";
    pieces_before_their_first_wait_for_it: "fragments-backwards-4", "fragments-backwards-6";
    datagrams_interleaved_and_duplicated_do_not_mix: "fragments-duplicates-4", "fragments-duplicates-6";
    dsr_l2_passes_pieces_unchanged: "fragments-dsr-4", "fragments-dsr-6";
    segments_in_pieces_are_translated: "fragments-tcp-4", "fragments-tcp-6";
    tiny_and_overlapping_pieces_are_refused: "fragments-refused-4", "fragments-refused-6";
    pieces_without_a_first_are_dropped_after_a_second: "fragments-timeout-4", "fragments-timeout-6";
    an_atomic_fragment_is_a_whole_packet: "fragments-atomic-6";
    options_behind_the_fragment_header_are_passed_over: "fragments-options-6";
    errors_to_a_vip_reach_the_backend_and_quote_its_packet: "icmp-errors-4", "icmp-errors-6";
    errors_from_the_backends_side_quote_the_clients_packet: "icmp-errors-back-4", "icmp-errors-back-6";
    errors_that_quote_nothing_of_ours_are_refused: "icmp-errors-refused-4", "icmp-errors-refused-6";
    pings_are_answered_forwarded_or_dropped: "ping-4", "ping-6";
    a_ttl_that_ends_in_nat_is_answered: "ttl-4", "ttl-6";
}
