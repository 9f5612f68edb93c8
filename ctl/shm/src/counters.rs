//! Which counter stands where: one block of 64-bit numbers for each worker, and one for the
//! control core, all of the same shape.
//!
//! ```text
//! 0                 HEADER_LEN           DROPS_LEN more       8 a service          4 a backend
//! | worker's own    | drops by reason    | services ...       | backends ...       |
//! ```
//!
//! Whoever counts keeps such a block to itself and adds at these indices; the daemon copies it
//! into shared memory now and then. Counters only grow while the daemon lives, and are summed over
//! blocks by whoever reads. Service and backend numbers are the daemon's: they are given once and
//! outlive removal, so that counters go on where they were.

/// Services that have counters: as many as may be seen from the daemon's start to its end.
pub const MAX_SERVICES: usize = 4096;
/// Backends that have counters, over all services.
pub const MAX_BACKENDS: usize = 131_072;

/// Defines the counters of a worker, their indices, names and meanings.
macro_rules! worker_counters {
    ($( $index:literal $constant:ident $name:literal $text:literal; )+) => {
        $( #[doc = $text] pub const $constant: usize = $index; )+

        /// The worker's own counters: index, name, meaning.
        pub const WORKER_COUNTERS: &[(usize, &str, &str)] =
            &[$(($index, $name, $text)),+];
    };
}

worker_counters! {
    0 RECEIVED "received" "Frames that came in.";
    1 RECEIVED_BYTES "received_bytes" "Their bytes.";
    2 FORWARDED "forwarded" "Frames balanced and sent, or given back to a client.";
    3 FORWARDED_BYTES "forwarded_bytes" "Their bytes as they left.";
    4 ANSWERED "answered" "Frames that weir itself answered or took to heart (ARP, NDP, echo).";
    5 PUNTED "punted" "Frames handed to the control core.";
    6 CONNTRACK_HITS "conntrack_hits" "Packets whose flow was remembered.";
    7 CONNTRACK_MISSES "conntrack_misses" "Packets whose flow was not remembered.";
    8 CONNTRACK_INSERTED "conntrack_inserted" "Flows that began to be remembered.";
    9 CONNTRACK_EVICTED "conntrack_evicted" "Flows forgotten to make room for another.";
    10 CONNTRACK_UNTRACKED "conntrack_untracked" "Flows that found no room and were steered by the table alone.";
    11 FLOWS_MOVED "flows_moved" "Packets of known flows whose backend had gone and that got another.";
    12 POLLS "polls" "Rounds of the worker's loop.";
    13 BUSY_POLLS "busy_polls" "Rounds in which a frame came in.";
    14 HELD "held" "Packets that waited for a neighbour.";
    15 EVENTS_LOST "events_lost" "Messages to the control core that found its queue full.";
    16 PIECES_MADE "pieces_made" "Frames that came of cutting packets too large for their way, beyond those that came in.";
    17 FLOWS_DIVERTED "flows_diverted" "New flows that went to the next choice, since the first held as many as its max_flows allows.";
    18 PINNED "pinned" "New flows that affinity gave to the backend of their client.";
    19 RESETS "resets" "Packets of clients answered by a reset, or told that their destination is unreachable.";
    24 TOA_NO_ROOM "toa_no_room" "Segments that should have told the client's address and had no room for the option TOA.";
    20 BUSY_NS "busy_ns" "Nanoseconds of rounds in which a frame came in or went out.";
    21 IDLE_NS "idle_ns" "Nanoseconds of rounds in which nothing did, pauses between them included.";
    22 REPLIES_LOST "replies_lost" "Frames that the control core made and that found the queue to the worker full.";
    25 HANDED_OVER "handed_over" "Frames handed to the worker whose session they belong to.";
    30 TO_KERNEL "to_kernel" "Frames handed to the kernel by a port's interface there.";
    31 FROM_KERNEL "from_kernel" "Frames of the kernel's, sent by the port whose interface it chose.";
}

/// Counters of a worker's own, spare ones included.
pub const HEADER_LEN: usize = 32;
/// The first drop counter.
pub const DROPS: usize = HEADER_LEN;
/// Drop counters, spare ones included.
pub const DROPS_LEN: usize = 96;

/// Counters of a service.
pub const SERVICE_LEN: usize = 8;
/// Counters of a backend.
pub const BACKEND_LEN: usize = 4;
/// The first counter of the first service.
pub const SERVICES: usize = DROPS + DROPS_LEN;
/// The first counter of the first backend.
pub const BACKENDS: usize = SERVICES + MAX_SERVICES * SERVICE_LEN;
/// Counters of a whole block.
pub const BLOCK: usize = BACKENDS + MAX_BACKENDS * BACKEND_LEN;

/// Of a service or backend: packets from clients.
pub const PACKETS: usize = 0;
/// Of a service or backend: bytes of the frames from clients, as they came in.
pub const BYTES: usize = 1;
/// Of a service or backend: flows that began.
pub const NEW_FLOWS: usize = 2;
/// Of a service: packets from backends to clients.
pub const RETURN_PACKETS: usize = 3;
/// Of a service: bytes of the frames from backends to clients, as they came in.
pub const RETURN_BYTES: usize = 4;
/// Of a service: packets of clients that weir itself answered by a reset, or told that their
/// destination is unreachable.
pub const SERVICE_RESETS: usize = 5;

/// Of a backend: connections of clients that it refused.
pub const REFUSED: usize = 3;

/// The first counter of the service with this number; add [`PACKETS`] and so on.
#[must_use]
pub const fn service_base(number: u32) -> usize {
    SERVICES + number as usize * SERVICE_LEN
}

/// The first counter of the backend with this number; add [`PACKETS`] and so on.
#[must_use]
pub const fn backend_base(number: u32) -> usize {
    BACKENDS + number as usize * BACKEND_LEN
}

/// The counter of frames dropped for `reason`.
#[must_use]
pub const fn drop_index(reason: DropReason) -> usize {
    DROPS + reason as usize
}

/// Defines the reasons for which a frame is dropped.
macro_rules! drop_reasons {
    ($( $reason:ident = $code:literal $name:literal $text:literal; )+) => {
        /// Why a frame was dropped. A reason keeps its number for ever and has one meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $( #[doc = $text] $reason = $code, )+
        }

        impl DropReason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$reason),+];

            /// Its name in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$reason => $name),+ }
            }

            /// What it tells an operator.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$reason => $text),+ }
            }
        }
    };
}

drop_reasons! {
    Segmented = 0 "segmented" "The frame came in several buffers; raise the buffer size or lower the MTU.";
    Runt = 1 "runt" "Shorter than an Ethernet header.";
    WrongMac = 2 "wrong_mac" "To another unicast MAC address than the port's.";
    L2Multicast = 3 "l2_multicast" "To a group of MAC addresses that nobody here listens to.";
    VlanMismatch = 4 "vlan_mismatch" "Without the port's VLAN tag, or with another.";
    VlanStacked = 5 "vlan_stacked" "With more than one VLAN tag.";
    UnknownEthertype = 6 "unknown_ethertype" "Neither IPv4, IPv6 nor ARP.";
    ArpMalformed = 7 "arp_malformed" "ARP that is cut short or contradicts itself.";
    ArpNotOurs = 8 "arp_not_ours" "ARP for an address that is not ours.";
    IpVersion = 9 "ip_version" "The IP version contradicts the Ethernet type.";
    IpHeaderLength = 10 "ip_header_length" "The IPv4 header length is impossible.";
    IpLength = 11 "ip_length" "The IP length exceeds the frame, or is shorter than its headers.";
    IpChecksum = 12 "ip_checksum" "The IPv4 header checksum is wrong.";
    IpTtl = 13 "ip_ttl" "TTL or hop limit used up.";
    MartianSource = 14 "martian_source" "From an address that no packet can come from.";
    Fragment = 15 "fragment" "A fragment that follows no flow: neither TCP nor UDP to a VIP, nor a backend's answer.";
    Ipv6Extension = 16 "ipv6_extension" "IPv6 extension headers that are malformed or too many.";
    UnknownProtocol = 17 "unknown_protocol" "To a VIP, but neither TCP, UDP nor ICMP.";
    TcpMalformed = 18 "tcp_malformed" "TCP header cut short or impossible.";
    UdpMalformed = 19 "udp_malformed" "UDP header cut short or impossible.";
    IcmpMalformed = 20 "icmp_malformed" "ICMP cut short or with a wrong checksum.";
    IcmpUnsupported = 21 "icmp_unsupported" "ICMP of a kind that is not handled.";
    NdpMalformed = 22 "ndp_malformed" "Neighbour discovery that breaks RFC 4861's rules.";
    NdpNotOurs = 23 "ndp_not_ours" "Neighbour discovery for an address that is not ours.";
    NoService = 24 "no_service" "To a VIP or own address, but no service has this port and protocol.";
    NoBackend = 25 "no_backend" "The service has no backend that takes the flow.";
    NoRoute = 26 "no_route" "No route leads to the destination.";
    NeighbourUnresolved = 27 "neighbour_unresolved" "The next hop answered neither ARP nor NDP.";
    HoldQueueFull = 28 "hold_queue_full" "Too many packets wait for the next hop's MAC address.";
    ControlQueueFull = 29 "control_queue_full" "The control core's queue was full.";
    TooLarge = 30 "too_large" "Larger than the egress port's MTU.";
    NoBuffer = 31 "no_buffer" "No free packet buffer.";
    TxFull = 32 "tx_full" "The device did not take the frame.";
    NotOurs = 33 "not_ours" "To an address that is neither a VIP nor our own.";
    NeighbourIgnored = 34 "neighbour_ignored" "A neighbour's announcement of no use to weir.";
    FragmentMalformed = 35 "fragment_malformed" "A first fragment too short for its transport header, or one that ends where none can.";
    FragmentOverlap = 36 "fragment_overlap" "A fragment that overlaps what another of its datagram holds.";
    FragmentTimeout = 37 "fragment_timeout" "A fragment whose first one did not come within a second.";
    FragmentTableFull = 38 "fragment_table_full" "A fragment that came before its first one, with too many waiting already.";
    IcmpQuote = 39 "icmp_quote" "An ICMP error that quotes too little of a packet, or none that weir can have sent.";
    IcmpNoFlow = 40 "icmp_no_flow" "An ICMP error about a packet that no backend can have sent.";
    PingRefused = 41 "ping_refused" "An echo request to a VIP whose services say drop, or have no backend to forward it to.";
    PeerQueueFull = 42 "peer_queue_full" "Another worker's, whose queue of frames from its peers was full.";
    AllDown = 43 "all_down" "Every backend of the service is down, and all_down says drop or reset.";
    BackendsFull = 44 "backends_full" "Every backend of the service holds as many flows as its max_flows allows.";
    NoSession = 60 "no_session" "To an address that full-nat sends from, but no session has the port and backend.";
    SessionsExhausted = 61 "sessions_exhausted" "A new flow of a full-nat service that found every session of its worker taken.";
    SnatPortsExhausted = 62 "snat_ports_exhausted" "A new flow of a full-nat service that found no port in its SNAT pool.";
    Untranslatable = 63 "untranslatable" "Cannot be translated between IPv4 and IPv6: a source route, an authentication header, or an ICMP error that the other family does not have.";
    KernelRate = 70 "kernel_rate" "For the kernel, beyond the port's kernel_rate.";
    KernelQueueFull = 71 "kernel_queue_full" "For the kernel, and the queue toward it was full.";
    KernelRefused = 72 "kernel_refused" "For the kernel, whose interface did not take the frame.";
}

const _: () = assert!(DropReason::ALL.len() <= DROPS_LEN);
// Packets and bytes are counted together.
const _: () = assert!(BYTES == PACKETS + 1 && RETURN_BYTES == RETURN_PACKETS + 1);
const _: () = assert!(WORKER_COUNTERS.len() <= HEADER_LEN);
const _: () = assert!(SERVICES.is_multiple_of(8) && BACKENDS.is_multiple_of(8));

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_its_own_name_and_counter() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        let counters: HashSet<_> = DropReason::ALL.iter().map(|r| drop_index(*r)).collect();
        assert_eq!(
            (names.len(), counters.len()),
            (DropReason::ALL.len(), DropReason::ALL.len())
        );
        assert!(
            counters
                .iter()
                .all(|index| (DROPS..DROPS + DROPS_LEN).contains(index))
        );
    }

    #[test]
    fn names_are_in_snake_case() {
        let all = DropReason::ALL.iter().map(|reason| reason.name());
        for name in all.chain(WORKER_COUNTERS.iter().map(|(_, name, _)| *name)) {
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
            );
        }
    }

    #[test]
    fn blocks_do_not_overlap() {
        assert_eq!(service_base(MAX_SERVICES as u32), backend_base(0));
        assert_eq!(backend_base(MAX_BACKENDS as u32), BLOCK);
    }
}
