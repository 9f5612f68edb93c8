#!/usr/bin/env python3
"""Makes the captures of this folder with scapy, which knows nothing of weir.

For each case: NAME-wan.pcap and NAME-lan.pcap go in by the ports of weir.toml, NAME-out.pcap is
what must come out, byte for byte and in order, and NAME.json says how many frames must be dropped
for which reason. Expected frames are built anew, with all checksums computed by scapy, never by
changing what goes in. The files are kept in the repository: tests need no scapy.

    python3 -m venv venv && venv/bin/pip install scapy && venv/bin/python make.py
"""

import json
import os

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6PacketTooBig,
                                ICMPv6TimeExceeded, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment)
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import PcapWriter

HERE = os.path.dirname(os.path.abspath(__file__))

GATEWAY, WAN, LAN = "02:00:00:00:00:fe", "02:00:00:00:00:01", "02:00:00:00:00:02"
NAT_BACKEND, DSR_BACKEND = "02:00:00:00:00:0b", "02:00:00:00:00:0c"
FROM_CLIENT = Ether(src=GATEWAY, dst=WAN)
FROM_BACKEND = Ether(src=NAT_BACKEND, dst=LAN)
TO_CLIENT = Ether(src=WAN, dst=GATEWAY)
TO_BACKEND = Ether(src=LAN, dst=NAT_BACKEND)
TO_DIRECT = Ether(src=LAN, dst=DSR_BACKEND)


class Family:
    """The addresses of one family, and its IP header."""

    def __init__(self, six):
        self.six = six
        if six:
            self.client, self.router = "2001:db8:99::5", "2001:db8:77::1"
            self.vip, self.direct, self.silent = "2001:db8:ff::10", "2001:db8:ff::20", "2001:db8:ff::30"
            self.backend, self.wan, self.lan = "2001:db8:2::11", "2001:db8:1::2", "2001:db8:2::1"
            self.inner_router = "2001:db8:2::fe"
        else:
            self.client, self.router = "203.0.113.5", "192.0.2.77"
            self.vip, self.direct, self.silent = "198.51.100.10", "198.51.100.20", "198.51.100.30"
            self.backend, self.wan, self.lan = "10.0.0.11", "192.0.2.2", "10.0.0.1"
            self.inner_router = "10.0.0.254"

    def ip(self, source, destination, ttl=64, **fields):
        if self.six:
            return IPv6(src=source, dst=destination, hlim=ttl, **fields)
        return IP(src=source, dst=destination, ttl=ttl, **{"id": 7, **fields})

    def pieces(self, packet, number, size=1448, ttl=64, options=False):
        """A datagram in pieces of `size` bytes of payload, cut by hand."""
        packet = type(packet)(bytes(packet))
        header, payload = (IPv6, 40) if self.six else (IP, 20)
        source, destination = packet.src, packet.dst
        payload = bytes(packet)[payload:]
        following = packet.nh if self.six else packet.proto
        if self.six and options:
            payload = bytes(IPv6ExtHdrDestOpt(nh=following)) + payload
            following = 60
        made = []
        for offset in range(0, len(payload), size):
            part = payload[offset:offset + size]
            more = int(offset + size < len(payload))
            if self.six:
                fragment = IPv6ExtHdrFragment(nh=following, offset=offset // 8, m=more, id=number)
                made.append(IPv6(src=source, dst=destination, hlim=ttl) / fragment / Raw(part))
            else:
                made.append(IP(src=source, dst=destination, ttl=ttl, id=number, proto=following,
                               flags="MF" if more else 0, frag=offset // 8) / Raw(part))
        return made

    def too_big(self, mtu=1400):
        return ICMPv6PacketTooBig(mtu=mtu) if self.six else ICMP(type=3, code=4, nexthopmtu=mtu)

    def unreachable(self):
        return ICMPv6DestUnreach(code=4) if self.six else ICMP(type=3, code=3)

    def exceeded(self):
        return ICMPv6TimeExceeded(code=0) if self.six else ICMP(type=11, code=0)

    def echo(self, data):
        if self.six:
            return ICMPv6EchoRequest(id=9, seq=1, data=data)
        return ICMP(type=8, id=9, seq=1) / Raw(data)

    def reply(self, data):
        if self.six:
            return ICMPv6EchoReply(id=9, seq=1, data=data)
        return ICMP(type=0, id=9, seq=1) / Raw(data)


class Case:
    """Frames in and out, and drops."""

    def __init__(self, name):
        self.name, self.inputs, self.outputs, self.drops = name, {"wan": [], "lan": []}, [], {}

    def into(self, port, link, packets, at=0.0):
        for packet in packets:
            self.inputs[port].append((at, bytes(link / packet)))
        return self

    def raw(self, port, frame, at=0.0):
        self.inputs[port].append((at, frame))
        return self

    def out(self, link, packets):
        for packet in packets:
            self.outputs.append(bytes(link / packet))
        return self

    def dropped(self, **reasons):
        for reason, count in reasons.items():
            self.drops[reason] = self.drops.get(reason, 0) + count
        return self

    def write(self):
        for kind, frames in [*self.inputs.items(), ("out", [(0, frame) for frame in self.outputs])]:
            if not frames and kind != "out":
                continue
            with PcapWriter(os.path.join(HERE, f"{self.name}-{kind}.pcap"), linktype=1) as writer:
                writer.write_header(None)
                for number, (at, frame) in enumerate(frames):
                    moment = 1_700_000_000 + at + number * 0.000_010
                    writer.write_packet(frame, sec=int(moment), usec=round(moment % 1 * 1e6))
        with open(os.path.join(HERE, f"{self.name}.json"), "w") as file:
            json.dump(self.drops, file, indent=1, sort_keys=True)
            file.write("\n")


def pattern(length, seed=1):
    return bytes((seed * 31 + place * 7 + place // 251) & 0xff for place in range(length))


def build(packet):
    """The packet as bytes would be read back: every computed field filled in."""
    return type(packet)(bytes(packet))


def fragments(v):
    n = 6 if v.six else 4
    data = pattern(8000)
    query = lambda source=5000: v.ip(v.client, v.vip) / UDP(sport=source, dport=53) / Raw(data)
    inside = lambda source=5000: v.ip(v.client, v.backend) / UDP(sport=source, dport=5353) / Raw(data)
    answer = v.ip(v.backend, v.client) / UDP(sport=5353, dport=5000) / Raw(data)
    outside = v.ip(v.vip, v.client) / UDP(sport=53, dport=5000) / Raw(data)

    case = Case(f"fragments-in-order-{n}")
    case.into("wan", FROM_CLIENT, v.pieces(query(), 100))
    case.into("lan", FROM_BACKEND, v.pieces(answer, 200), at=1)
    case.out(TO_BACKEND, v.pieces(inside(), 100, ttl=63)).out(TO_CLIENT, v.pieces(outside, 200, ttl=63))
    case.write()

    # The first piece comes last: it leaves first, and the others follow in the order in which they came.
    backwards = lambda pieces: pieces[:1] + pieces[:0:-1]
    case = Case(f"fragments-backwards-{n}")
    case.into("wan", FROM_CLIENT, v.pieces(query(), 101)[::-1])
    case.into("lan", FROM_BACKEND, v.pieces(answer, 201)[::-1], at=1)
    case.out(TO_BACKEND, backwards(v.pieces(inside(), 101, ttl=63)))
    case.out(TO_CLIENT, backwards(v.pieces(outside, 201, ttl=63)))
    case.write()

    # Two datagrams at once, with duplicates of first and later pieces.
    one, two = v.pieces(query(), 102), v.pieces(query(5001), 103)
    one_in, two_in = v.pieces(inside(), 102, ttl=63), v.pieces(inside(5001), 103, ttl=63)
    case = Case(f"fragments-duplicates-{n}")
    case.into("wan", FROM_CLIENT, [two[1], one[0], two[1], one[1], one[0], two[0], one[1], *two[2:], *one[2:]])
    case.out(TO_BACKEND, [one_in[0], one_in[1], one_in[0], two_in[0], two_in[1], two_in[1], one_in[1]])
    case.out(TO_BACKEND, [*two_in[2:], *one_in[2:]])
    case.write()

    # Not translated: dsr-l2 sends what came.
    direct = v.pieces(v.ip(v.client, v.direct) / UDP(sport=5000, dport=53) / Raw(data), 104)
    case = Case(f"fragments-dsr-{n}").into("wan", FROM_CLIENT, direct[::-1]).out(TO_DIRECT, backwards(direct))
    case.write()

    # A segment in pieces: the first holds the whole header.
    segment = v.ip(v.client, v.vip) / TCP(sport=5000, dport=80, flags="A", seq=1, options=[("NOP", None)] * 12)
    inner = v.ip(v.client, v.backend) / TCP(sport=5000, dport=8080, flags="A", seq=1, options=[("NOP", None)] * 12)
    case = Case(f"fragments-tcp-{n}")
    case.into("wan", FROM_CLIENT, v.pieces(segment / Raw(data[:200]), 105, size=48))
    case.out(TO_BACKEND, v.pieces(inner / Raw(data[:200]), 105, size=48, ttl=63))
    case.write()

    # Refused: a first piece without its whole header, and what overlaps a first piece.
    case = Case(f"fragments-refused-{n}")
    tiny = v.pieces(segment / Raw(data[:100]), 106, size=8)
    case.into("wan", FROM_CLIENT, tiny[:1]).dropped(fragment_malformed=1)
    short = v.pieces(segment / Raw(data[:100]), 107, size=24)
    case.into("wan", FROM_CLIENT, short[:1], at=0.1).dropped(fragment_malformed=1)
    first, second, third, *_ = v.pieces(query(), 108, size=1000)
    overlapping = v.pieces(query(), 108, size=400)[1]
    case.into("wan", FROM_CLIENT, [first, overlapping, second, third], at=0.2).dropped(fragment_overlap=3)
    case.out(TO_BACKEND, v.pieces(inside(), 108, size=1000, ttl=63)[:1])
    # The overlap came first and waited.
    first, second, *_ = v.pieces(query(), 109, size=1000)
    overlapping = v.pieces(query(), 109, size=400)[1]
    case.into("wan", FROM_CLIENT, [overlapping, first, second], at=0.3).dropped(fragment_overlap=2)
    case.out(TO_BACKEND, v.pieces(inside(), 109, size=1000, ttl=63)[:1])
    # Another first piece of the same datagram.
    first, second, *_ = v.pieces(query(), 110, size=1000)
    case.into("wan", FROM_CLIENT, [first, v.pieces(query(5009), 110, size=1000)[0], second], at=0.4)
    case.out(TO_BACKEND, v.pieces(inside(), 110, size=1000, ttl=63)[:1]).dropped(fragment_overlap=2)
    # Beyond what a datagram can hold, and an odd length in the middle.
    if not v.six:
        case.into("wan", FROM_CLIENT, [IP(src=v.client, dst=v.vip, id=111, proto=17, frag=8189) / Raw(data[:100])], at=0.5)
        case.into("wan", FROM_CLIENT, [IP(src=v.client, dst=v.vip, id=112, proto=17, flags="MF", frag=1) / Raw(data[:13])],
                  at=0.5)
        case.dropped(fragment_malformed=2)
    # To nobody: a VIP's port without a service, and an address that is not ours.
    nobody = v.pieces(v.ip(v.client, v.vip) / UDP(sport=5000, dport=54) / Raw(data), 113)
    case.into("wan", FROM_CLIENT, nobody[:3], at=0.6).dropped(no_service=1, fragment=2)
    stranger = v.pieces(v.ip(v.client, v.router) / UDP(sport=5000, dport=53) / Raw(data), 114)
    case.into("wan", FROM_CLIENT, stranger[:3], at=0.7).dropped(not_ours=3)
    case.write()

    # The first piece never comes, or comes too late: what waited is gone after a second.
    case = Case(f"fragments-timeout-{n}")
    pieces = v.pieces(query(), 115)
    case.into("wan", FROM_CLIENT, pieces[1:]).dropped(fragment_timeout=len(pieces) - 1)
    case.into("wan", FROM_CLIENT, pieces[:1], at=1.1).out(TO_BACKEND, v.pieces(inside(), 115, ttl=63)[:1])
    pieces = v.pieces(query(), 116)
    case.into("wan", FROM_CLIENT, pieces[1:], at=2).into("wan", FROM_CLIENT, pieces[:1], at=2.9)
    out = v.pieces(inside(), 116, ttl=63)
    case.out(TO_BACKEND, [out[0], *out[1:]])
    # Nothing comes after these: the end of the capture finds them.
    case.into("wan", FROM_CLIENT, v.pieces(query(), 117)[1:4], at=3.5).dropped(fragment_timeout=3)
    case.write()


def fragments_of_six_only(v):
    data = pattern(3000)
    query = v.ip(v.client, v.vip) / UDP(sport=5000, dport=53) / Raw(data)
    inside = v.ip(v.client, v.backend) / UDP(sport=5000, dport=5353) / Raw(data)
    # Atomic (RFC 6946): a fragment header on a whole datagram. Never waits, follows nothing.
    atomic = lambda packet, ttl: v.pieces(packet, 300, size=4000, ttl=ttl)
    small, small_inside = query.copy(), inside.copy()
    small[Raw].load = small_inside[Raw].load = data[:900]
    case = Case("fragments-atomic-6")
    case.into("wan", FROM_CLIENT, atomic(small, 64)).out(TO_BACKEND, atomic(small_inside, 63))
    case.write()
    # Options behind the fragment header are part of what is cut.
    case = Case("fragments-options-6")
    case.into("wan", FROM_CLIENT, v.pieces(query, 301, options=True)[::-1])
    pieces = v.pieces(inside, 301, ttl=63, options=True)
    case.out(TO_BACKEND, pieces[:1] + pieces[:0:-1])
    case.write()


def errors(v):
    n = 6 if v.six else 4
    header = 40 if v.six else 20
    data = pattern(1400)
    answer = build(v.ip(v.vip, v.client, ttl=60) / TCP(sport=80, dport=5000, flags="A", seq=77) / Raw(data))
    inner = build(v.ip(v.backend, v.client, ttl=60) / TCP(sport=8080, dport=5000, flags="A", seq=77) / Raw(data))
    dns_answer = build(v.ip(v.vip, v.client, ttl=60) / UDP(sport=53, dport=5000) / Raw(data))
    dns_inner = build(v.ip(v.backend, v.client, ttl=60) / UDP(sport=5353, dport=5000) / Raw(data))
    direct = build(v.ip(v.direct, v.client, ttl=60) / UDP(sport=53, dport=5000) / Raw(data))

    def error(kind, source, destination, quoted, ttl=64):
        return v.ip(source, destination, ttl) / kind / Raw(quoted)

    case = Case(f"icmp-errors-{n}")
    # To the VIP, about answers: to the backend that sent them, also with 8 bytes of transport header, or so many
    # that the checksum is quoted, or most of the packet.
    for quoted, meant in [(answer, inner), (dns_answer, dns_inner)]:
        for length in [header + 8, header + 20, header + 500]:
            for kind in [v.too_big(), v.unreachable(), v.exceeded()]:
                case.into("wan", FROM_CLIENT, [error(kind, v.router, v.vip, bytes(quoted)[:length])])
                case.out(TO_BACKEND, [error(kind, v.router, v.backend, bytes(meant)[:length], 63)])
    # Not translated by dsr-l2.
    about_direct = error(v.too_big(), v.router, v.direct, bytes(direct)[:header + 8])
    case.into("wan", FROM_CLIENT, [about_direct]).out(TO_DIRECT, [about_direct])
    case.write()

    # From the backends' side, about clients' packets as weir translated them: from a router, and from the backend.
    case = Case(f"icmp-errors-back-{n}")
    asked = build(v.ip(v.client, v.vip, ttl=60) / UDP(sport=5000, dport=53) / Raw(data))
    asked_inside = build(v.ip(v.client, v.backend, ttl=60) / UDP(sport=5000, dport=5353) / Raw(data))
    for source in [v.inner_router, v.backend]:
        for length in [header + 8, header + 500]:
            for kind in [v.too_big(), v.unreachable(), v.exceeded()]:
                case.into("lan", FROM_BACKEND, [error(kind, source, v.client, bytes(asked_inside)[:length])])
                case.out(TO_CLIENT, [error(kind, source, v.client, bytes(asked)[:length], 63)])
    case.write()

    case = Case(f"icmp-errors-refused-{n}")
    # A damaged one; one that quotes too little; one about a packet that the VIP did not send; one about a service
    # that there is not; one about a later piece; one whose TTL is used up.
    damaged = bytearray(bytes(FROM_CLIENT / error(v.too_big(), v.router, v.vip, bytes(answer)[:header + 8])))
    damaged[-1] ^= 1
    case.raw("wan", bytes(damaged)).dropped(icmp_malformed=1)
    case.into("wan", FROM_CLIENT, [error(v.too_big(), v.router, v.vip, bytes(answer)[:header + 7])])
    case.dropped(icmp_quote=1)
    other = build(v.ip(v.silent, v.client, ttl=60) / TCP(sport=80, dport=5000) / Raw(data))
    case.into("wan", FROM_CLIENT, [error(v.too_big(), v.router, v.vip, bytes(other)[:header + 8])])
    case.dropped(icmp_quote=1)
    unknown = build(v.ip(v.vip, v.client, ttl=60) / TCP(sport=81, dport=5000) / Raw(data))
    case.into("wan", FROM_CLIENT, [error(v.too_big(), v.router, v.vip, bytes(unknown)[:header + 8])])
    case.dropped(icmp_no_flow=1)
    later = v.pieces(v.ip(v.vip, v.client) / UDP(sport=53, dport=5000) / Raw(pattern(3000)), 5)[1]
    case.into("wan", FROM_CLIENT, [error(v.exceeded(), v.router, v.vip, bytes(later)[:header + 100])])
    case.dropped(icmp_quote=1)
    case.into("wan", FROM_CLIENT, [error(v.too_big(), v.router, v.vip, bytes(answer)[:header + 8], ttl=1)])
    case.dropped(ip_ttl=1)
    # From the backends' side, about nothing that weir sent there.
    stray = build(v.ip(v.client, v.backend, ttl=60) / UDP(sport=5000, dport=9999) / Raw(data))
    case.into("lan", FROM_BACKEND, [error(v.unreachable(), v.backend, v.client, bytes(stray)[:header + 8])])
    case.dropped(not_ours=1)
    case.write()


def pings(v):
    n = 6 if v.six else 4
    case = Case(f"ping-{n}")
    ask = lambda to: v.ip(v.client, to) / v.echo(pattern(100))
    # Answered whatever the pool; forwarded as it is; dropped.
    case.into("wan", FROM_CLIENT, [ask(v.vip), ask(v.direct), ask(v.silent), ask(v.wan)])
    fields = {} if v.six else {"id": 0, "flags": "DF"}
    answer = lambda by: v.ip(by, v.client, **fields) / v.reply(pattern(100))
    case.out(TO_CLIENT, [answer(v.vip)]).out(TO_DIRECT, [ask(v.direct)]).out(TO_CLIENT, [answer(v.wan)])
    case.dropped(ping_refused=1)
    case.write()


def ttl(v):
    n = 6 if v.six else 4
    case = Case(f"ttl-{n}")

    def exceeded(own, to, quoted):
        limit = 1280 - 48 if v.six else 576 - 28
        fields = {} if v.six else {"tos": 0xc0, "id": 0, "flags": "DF"}
        return v.ip(own, to, **fields) / v.exceeded() / Raw(bytes(quoted)[:limit])

    # In nat weir is a router in both directions; what is too large for an answer is cut.
    for length in [10, 1400]:
        packet = v.ip(v.client, v.vip, ttl=1) / UDP(sport=5000, dport=53) / Raw(pattern(length))
        case.into("wan", FROM_CLIENT, [packet]).out(TO_CLIENT, [exceeded(v.wan, v.client, packet)])
    answer = v.ip(v.backend, v.client, ttl=1) / UDP(sport=5353, dport=5000) / Raw(pattern(10))
    case.into("lan", FROM_BACKEND, [answer], at=1).out(TO_BACKEND, [exceeded(v.lan, v.backend, answer)])
    # dsr-l2 is no router.
    packet = v.ip(v.client, v.direct, ttl=1) / UDP(sport=5000, dport=53) / Raw(pattern(10))
    case.into("wan", FROM_CLIENT, [packet], at=2).out(TO_DIRECT, [packet])
    # Only a first piece is answered.
    pieces = v.pieces(v.ip(v.client, v.vip) / UDP(sport=5000, dport=53) / Raw(pattern(3000)), 1, ttl=1)
    case.into("wan", FROM_CLIENT, pieces, at=3).out(TO_CLIENT, [exceeded(v.wan, v.client, pieces[0])])
    case.dropped(ip_ttl=len(pieces) - 1)
    case.write()


if __name__ == "__main__":
    for family in [Family(False), Family(True)]:
        fragments(family)
        errors(family)
        pings(family)
        ttl(family)
    fragments_of_six_only(Family(True))
