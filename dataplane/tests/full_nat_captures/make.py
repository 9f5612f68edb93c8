#!/usr/bin/env python3
"""Makes the captures of this folder with scapy, which knows nothing of weir.

For each case: NAME-wan.pcap and NAME-lan.pcap go in by the ports of weir.toml (which is made here,
too), NAME-out.pcap is what must come out, byte for byte and in order, and NAME.json says how many
frames must be dropped for which reason.

Nothing is read from what weir sends: every service has one backend, and `replay` gives out ports and
identifications from the lowest up. Expected packets are built by scapy from fields that are worked
out here, after RFC 7915 (between families) and the PROXY protocol's text, with all lengths and
checksums computed by scapy. The files are kept in the repository: tests need no scapy.

    python3 -m venv venv && venv/bin/pip install scapy
    venv/bin/python make.py
"""

import ipaddress
import json
import os
import struct

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6ParamProblem, ICMPv6TimeExceeded, IPv6,
                                IPv6ExtHdrFragment)
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import PcapWriter

HERE = os.path.dirname(os.path.abspath(__file__))
GATEWAY, WAN, LAN, BACKEND = "02:00:00:00:00:fe", "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:0b"
CLIENT = {4: "203.0.113.5", 6: "2001:db8:99::5"}
SERVER = {4: "10.0.0.11", 6: "2001:db8:2::11"}
SNAT = {4: "10.0.0.5", 6: "2001:db8:2::5"}
OWN_LAN = {4: "10.0.0.1", 6: "2001:db8:2::1"}
ROUTER = {4: "192.0.2.77", 6: "2001:db8:1::77"}
HEADER = {4: 20, 6: 40}
LAN_MTU, WAN_MTU = 1400, 1500
CPORT, VPORT, SPORT, FIRST = 40000, 80, 8080, 1024

CONFIG = """# What the captures beside this file are played through; made by make.py.
[instance]
name = "captures"
hash_key = "000102030405060708090a0b0c0d0e0f"

[engine]
workers = [1]
control_core = 0
flows_per_worker = 1000

[[port]]
name = "wan"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.2/24", "2001:db8:1::2/64"]

[[port]]
name = "lan"
device = "net_null1"
mac = "02:00:00:00:00:02"
mtu = 1400
addresses = ["10.0.0.1/24", "2001:db8:2::1/64"]

[[route]]
to = "0.0.0.0/0"
via = "192.0.2.1"

[[route]]
to = "::/0"
via = "2001:db8:1::1"

[[neighbor]]
address = "192.0.2.1"
mac = "02:00:00:00:00:fe"

[[neighbor]]
address = "2001:db8:1::1"
mac = "02:00:00:00:00:fe"

[[neighbor]]
address = "10.0.0.11"
mac = "02:00:00:00:00:0b"

[[neighbor]]
address = "2001:db8:2::11"
mac = "02:00:00:00:00:0b"
"""

HOWS = ["none", "proxy-v2", "toa"]
PAIRS = [(c, b) for c in (4, 6) for b in (4, 6)]


def vip(client, backend, how):
    place = 10 + PAIRS.index((client, backend)) * 4 + HOWS.index(how)
    return f"198.51.100.{place}" if client == 4 else f"2001:db8:ff::{place}"


def plain_vip(mode, family):
    place = {"nat": 50, "dsr-l2": 51}[mode]
    return f"198.51.100.{place}" if family == 4 else f"2001:db8:ff::{place}"


def configuration():
    text = CONFIG
    for client, backend in PAIRS:
        for how in HOWS:
            for protocol in ("tcp", "udp"):
                if (how, protocol) == ("toa", "udp"):
                    continue
                text += f"""
[[service]]
name = "{protocol}-{client}-{backend}-{how}"
vip = "{vip(client, backend, how)}"
port = 80
protocol = "{protocol}"
forwarding = "full-nat"
table_size = 13
snat_pool = ["{SNAT[4]}", "{SNAT[6]}"]
client_address = "{how}"
[[service.backend]]
address = "{SERVER[backend]}"
port = 8080
"""
    for mode in ("nat", "dsr-l2"):
        for family in (4, 6):
            port = "port = 8080\n" if mode == "nat" else ""
            text += f"""
[[service]]
name = "{mode}-{family}"
vip = "{plain_vip(mode, family)}"
port = 80
protocol = "udp"
forwarding = "{mode}"
table_size = 13
[[service.backend]]
address = "{SERVER[family]}"
{port}"""
    return text


def between_macs(port, out):
    if out:
        return Ether(src=WAN, dst=GATEWAY) if port == "wan" else Ether(src=LAN, dst=BACKEND)
    return Ether(src=GATEWAY, dst=WAN) if port == "wan" else Ether(src=BACKEND, dst=LAN)


def ip(version, source, destination, tos=0x28, ttl=61, id=0x1234, flags="DF", fl=0):
    if version == 6:
        return IPv6(src=source, dst=destination, tc=tos, hlim=ttl, fl=fl)
    return IP(src=source, dst=destination, tos=tos, ttl=ttl, id=id, flags=flags)


class Case:
    """What goes in and what must come out, frame by frame."""

    def __init__(self, name):
        self.name, self.inputs, self.outs, self.drops, self.at = name, {"wan": [], "lan": []}, [], {}, 0

    def play(self, port, packet, *outs, drop=None):
        """A packet goes in by a port; `outs` are (port, packet) in order."""
        self.at += 0.001
        self.inputs[port].append((self.at, bytes(between_macs(port, False) / packet)))
        self.outs += [(self.at, bytes(between_macs(to, True) / made)) for to, made in outs]
        if drop:
            self.drops[drop] = self.drops.get(drop, 0) + 1

    def save(self):
        for port, frames in self.inputs.items():
            if frames:
                write(f"{self.name}-{port}.pcap", frames)
        write(f"{self.name}-out.pcap", self.outs)
        with open(os.path.join(HERE, f"{self.name}.json"), "w") as file:
            json.dump(self.drops, file, sort_keys=True)
            file.write("\n")


def write(name, frames):
    with PcapWriter(os.path.join(HERE, name), linktype=1) as writer:
        writer.write_header(None)
        for at, frame in frames:
            moment = 1_700_000_000 + at
            writer.write_packet(frame, sec=int(moment), usec=round(moment % 1 * 1e6))


class Session:
    """The two sides of a session, and the identifications that it has given out."""

    def __init__(self, client, backend, how="none", port=FIRST):
        self.client, self.backend, self.how, self.port, self.ids = client, backend, how, port, 0
        self.vip = vip(client, backend, how)

    def next_id(self):
        self.ids += 1
        return self.ids - 1

    def asked(self, transport, **fields):
        return ip(self.client, CLIENT[self.client], self.vip, **fields) / transport(CPORT, VPORT)

    def answered(self, transport, **fields):
        return ip(self.backend, SERVER[self.backend], SNAT[self.backend], **fields) / transport(SPORT, self.port)

    def to_backend(self, transport, **fields):
        return self.other(self.client, self.backend, SNAT[self.backend], SERVER[self.backend],
                          transport(self.port, SPORT), **fields)

    def to_client(self, transport, **fields):
        return self.other(self.backend, self.client, self.vip, CLIENT[self.client], transport(VPORT, CPORT), **fields)

    def other(self, was, now, source, destination, segment, tos=0x28, ttl=61, id=0x1234, flags="DF", fl=0):
        """RFC 7915, sections 4.1 and 5.1, of a whole packet."""
        if (was, now) == (6, 4):
            total = 20 + len(bytes(segment))
            id, flags = self.next_id(), ("DF" if total > 1260 else 0)
        if (was, now) == (4, 6):
            fl = 0
        return ip(now, source, destination, tos=tos, ttl=ttl - 1, id=id, flags=flags, fl=fl) / segment


def tcp(flags, seq, ack=0, data=b"", options=(), window=8000):
    def made(sport, dport):
        segment = TCP(sport=sport, dport=dport, flags=flags, seq=seq, ack=ack, window=window, options=list(options))
        return segment / Raw(data) if data else segment
    return made


def udp(data):
    return lambda sport, dport: UDP(sport=sport, dport=dport) / Raw(data)


def proxy_header(session, datagram=False):
    """HAProxy's text, section 2.2."""
    packed = [ipaddress.ip_address(it).packed for it in (CLIENT[session.client], session.vip)]
    family = (0x11 if session.client == 4 else 0x21) + (1 if datagram else 0)
    block = b"".join(packed) + struct.pack("!HH", CPORT, VPORT)
    return b"\r\n\r\n\x00\r\nQUIT\n" + bytes([0x21, family]) + struct.pack("!H", len(block)) + block


def toa(session):
    """TCP option 254: port, then address."""
    return (254, struct.pack("!H", CPORT) + ipaddress.ip_address(CLIENT[session.client]).packed)


def tcp_case(client, backend, how):
    case, s = Case(f"tcp-{client}to{backend}-{how}"), Session(client, backend, how)
    header = proxy_header(s) if how == "proxy-v2" else b""
    more = len(header)
    option = [toa(s)] if how == "toa" else []
    smaller = more or (2 + len(option[0][1]) if option else 0)
    mss, sack = ("MSS", 1440), ("SAckOK", b"")
    case.play("wan", s.asked(tcp("S", 1000, options=[mss, sack])),
              ("lan", s.to_backend(tcp("S", 1000, options=[mss, sack]))))
    case.play("lan", s.answered(tcp("SA", 5000, 1001, options=[mss, sack])),
              ("wan", s.to_client(tcp("SA", 5000, 1001, options=[("MSS", 1440 - smaller), sack], window=8000 - more))))
    # The handshake's last segment tells; the client's first data does as long as that was not heard of.
    case.play("wan", s.asked(tcp("A", 1001, 5001)),
              ("lan", s.to_backend(tcp("A", 1001, 5001, header, options=option))))
    case.play("wan", s.asked(tcp("PA", 1001, 5001, b"GET / HTTP/1.0\r\n\r\n")),
              ("lan", s.to_backend(tcp("PA", 1001, 5001, header + b"GET / HTTP/1.0\r\n\r\n", options=option))))
    # The header is heard of: from here on only numbers change.
    case.play("lan", s.answered(tcp("A", 5001, 1001 + more + 18)),
              ("wan", s.to_client(tcp("A", 5001, 1019))))
    case.play("wan", s.asked(tcp("PA", 1019, 5001, b"odd")),
              ("lan", s.to_backend(tcp("PA", 1019 + more, 5001, b"odd"))))
    case.play("lan", s.answered(tcp("PA", 5001, 1019 + more, b"answer!", options=[
                  ("NOP", None), ("NOP", None), ("SAck", (1019 + more + 2, 1019 + more + 3))])),
              ("wan", s.to_client(tcp("PA", 5001, 1019, b"answer!", options=[
                  ("NOP", None), ("NOP", None), ("SAck", (1021, 1022))]))))
    case.play("wan", s.asked(tcp("FA", 1022, 5008)), ("lan", s.to_backend(tcp("FA", 1022 + more, 5008))))
    case.play("lan", s.answered(tcp("FA", 5008, 1023 + more)), ("wan", s.to_client(tcp("FA", 5008, 1023))))
    case.play("wan", s.asked(tcp("A", 1023, 5009)), ("lan", s.to_backend(tcp("A", 1023 + more, 5009))))
    case.save()
    return case.name


def udp_case(client, backend, how):
    case, s = Case(f"udp-{client}to{backend}-{how}"), Session(client, backend, how)
    header = proxy_header(s, datagram=True) if how == "proxy-v2" else b""
    for place, length in enumerate((0, 1, 17, 512, 1241, 1300)):
        data = bytes(range(256)) * 6
        first = header if place == 0 else b""
        case.play("wan", s.asked(udp(data[:length])), ("lan", s.to_backend(udp(first + data[:length]))))
        case.play("lan", s.answered(udp(data[:length])), ("wan", s.to_client(udp(data[:length]))))
    case.save()
    return case.name


# RFC 7915, section 4.2: ICMPv4 type and code to what scapy calls it in ICMPv6.
TO_V6 = {(3, 0): (1, 0), (3, 1): (1, 0), (3, 2): (4, 1), (3, 3): (1, 4), (3, 4): (2, 0), (3, 5): (1, 0), (3, 6): (1, 0),
         (3, 7): (1, 0), (3, 8): (1, 0), (3, 9): (1, 1), (3, 10): (1, 1), (3, 11): (1, 0), (3, 12): (1, 0),
         (3, 13): (1, 1), (3, 14): None, (3, 15): (1, 1), (11, 0): (3, 0), (11, 1): (3, 1), (12, 0): (4, 0),
         (12, 1): None, (12, 2): (4, 0)}
# Section 5.2.
TO_V4 = {(1, 0): (3, 1), (1, 1): (3, 10), (1, 2): (3, 1), (1, 3): (3, 1), (1, 4): (3, 3), (2, 0): (3, 4), (3, 0): (11, 0),
         (3, 1): (11, 1), (4, 0): (12, 0), (4, 1): (3, 2), (4, 2): None}
# Figures 3 and 6.
POINTER_V6 = {0: 0, 1: 1, 2: 4, 3: 4, 8: 7, 9: 6, 12: 8, 15: 8, 16: 24, 19: 24}
POINTER_V4 = {0: 0, 1: 1, 4: 2, 5: 2, 6: 9, 7: 8, 8: 12, 23: 12, 24: 16, 39: 16}


def error(version, kind, code, number, quoted):
    """An ICMP error of either family; `number` is an MTU or a pointer."""
    if version == 4:
        made = ICMP(type=kind, code=code)
        if (kind, code) == (3, 4):
            made.nexthopmtu = number
        if kind == 12:
            made.ptr = number
        return made / Raw(quoted)
    if kind == 2:
        return ICMPv6PacketTooBig(code=code, mtu=number) / Raw(quoted)
    if kind == 4:
        return ICMPv6ParamProblem(code=code, ptr=number) / Raw(quoted)
    return {1: ICMPv6DestUnreach, 3: ICMPv6TimeExceeded}[kind](code=code) / Raw(quoted)


def errors_case(client, backend):
    """Every error about either direction, with little and much of the packet that it quotes."""
    case, s = Case(f"errors-{client}to{backend}"), Session(client, backend)
    data = b"q" * 700
    # As each side sent it, and as the other got it.
    asked, got_by_backend = s.asked(udp(data)), s.to_backend(udp(data))
    case.play("wan", asked, ("lan", got_by_backend))
    answered, got_by_client = s.answered(udp(data)), s.to_client(udp(data))
    case.play("lan", answered, ("wan", got_by_client))
    ways = [("lan", "wan", backend, client, got_by_backend, asked, SNAT[backend], s.vip, CLIENT[client], SERVER[backend]),
            ("wan", "lan", client, backend, got_by_client, answered, s.vip, SNAT[backend], SERVER[backend], ROUTER[client])]
    for came, goes, here, there, about, meant, to, speaks, receiver, router in ways:
        table = TO_V6 if here == 4 else TO_V4
        for (kind, code), other in table.items():
            number = {(4, 3, 4): 1300, (6, 2, 0): 1320, (4, 12, 0): 8, (4, 12, 2): 16, (6, 4, 0): 24, (6, 4, 1): 6,
                      (6, 4, 2): 40}.get((here, kind, code), 0)
            for much in (8, 600):
                told = number
                quoted = bytes(about)[:HEADER[here] + much]
                sent = ip(here, router, to, tos=0xC0, ttl=50, flags=0) / error(here, kind, code, number, quoted)
                if here == there:
                    # The same error, its quote between the receiver's own ends; TTL in the quote as it arrived.
                    inner = meant.copy()
                    if here == 4:
                        inner.ttl = about.ttl
                    else:
                        inner.hlim = about.hlim
                    inside = bytes(inner)[:HEADER[here] + much]
                    made = ip(here, router, receiver, tos=0xC0, ttl=49, flags=0) / error(here, kind, code, number, inside)
                    case.play(came, sent, (goes, made))
                    continue
                if other is None:
                    case.play(came, sent, drop="untranslatable")
                    continue
                # The quote in the receiver's family: the packet that it sent, as it looked at the router.
                whole = bytes(meant)
                if there == 6:
                    head = IPv6(src=meant.src, dst=meant.dst, tc=about.tos, hlim=about.ttl, nh=17,
                                plen=len(whole) - HEADER[6])
                else:
                    head = IP(src=meant.src, dst=meant.dst, tos=about.tc, ttl=about.hlim, proto=17, id=0, flags="DF",
                              len=len(whole))
                room = (1280 if there == 6 else 576) - 2 * HEADER[there] - 8
                inside = bytes(head) + whole[HEADER[there]:][:min(much, room)]
                if (kind, code) in ((3, 4), (2, 0)) and other in ((2, 0), (3, 4)):
                    # The ports' own MTU: 1,400 toward backends, 1,500 toward clients.
                    near, far = (WAN_MTU, LAN_MTU) if there == client else (LAN_MTU, WAN_MTU)
                    told = max(1280, min(number + 20, near, far + 20)) if there == 6 else min(number - 20, near, far - 20)
                elif other == (4, 1):
                    told = 6
                elif other[0] == 4:
                    told = POINTER_V6[number]
                elif other[0] == 12:
                    told = POINTER_V4[number]
                made = (ip(there, speaks, receiver, tos=0xC0, ttl=49, id=0, flags="DF")
                        / error(there, *other, told, inside))
                case.play(came, sent, (goes, made))
    case.save()
    return case.name


def too_big(version, source, destination, mtu, packet):
    """weir's own error about a packet that it received (RFC 1812, RFC 4443): as much as fits 576 or 1,280 bytes."""
    if version == 4:
        quoted = bytes(packet)[:576 - 28]
        return IP(src=source, dst=destination, tos=0xC0, ttl=64, id=0, flags="DF") / error(4, 3, 4, mtu, quoted)
    return IPv6(src=source, dst=destination, hlim=64) / error(6, 2, 0, mtu, bytes(packet)[:1280 - 48])


def mtu_case(client, backend):
    """Toward backends 1,400 bytes fit, toward clients 1,500."""
    case, s = Case(f"mtu-full-nat-{client}to{backend}"), Session(client, backend)
    case.play("wan", s.asked(udp(b"open")), ("lan", s.to_backend(udp(b"open"))))
    fits = {(4, 4): 1400, (6, 6): 1400, (4, 6): 1380, (6, 4): 1420}[client, backend]
    size = lambda total: udp(b"m" * (total - HEADER[client] - 8))
    large = s.asked(size(fits + 1))
    s.next_id()
    case.play("wan", large, ("wan", too_big(client, s.vip, CLIENT[client], fits, large)))
    case.play("wan", s.asked(size(fits)), ("lan", s.to_backend(size(fits))))
    if (client, backend) == (6, 4):
        return case.save() or case.name
    if client == 4:
        # May be cut: pieces leave under an identification of the new address's own.
        data = bytes(range(250)) * 5 + b"e" * 218
        id = s.next_id()
        datagram = bytes(UDP(bytes(s.to_backend(udp(data)).payload)))
        room = (LAN_MTU - 20) // 8 * 8 if backend == 4 else (LAN_MTU - 48) // 8 * 8
        pieces = [(at, datagram[at:at + room]) for at in range(0, len(datagram), room)]
        outs = []
        for at, part in pieces:
            last = at + room >= len(datagram)
            if backend == 4:
                made = IP(src=SNAT[4], dst=SERVER[4], tos=0x28, ttl=60, id=id, flags=0 if last else "MF", frag=at // 8,
                          proto=17) / Raw(part)
            else:
                made = (IPv6(src=SNAT[6], dst=SERVER[6], tc=0x28, hlim=60)
                        / IPv6ExtHdrFragment(nh=17, offset=at // 8, m=0 if last else 1, id=id) / Raw(part))
            outs.append(("lan", made))
        case.play("wan", s.asked(udp(data), flags=0), *outs)
    case.save()
    return case.name


def plain_mtu_case(mode, family):
    """The same of modes without sessions."""
    case = Case(f"mtu-{mode}-{family}")
    target = plain_vip(mode, family)
    to = (SERVER[family], SPORT) if mode == "nat" else (target, VPORT)
    ttl = 60 if mode == "nat" else 61

    def asked(total, flags="DF"):
        return ip(family, CLIENT[family], target, flags=flags) / UDP(sport=CPORT, dport=VPORT) / Raw(b"m" * (total - HEADER[family] - 8))

    def got(total, flags="DF"):
        return (ip(family, CLIENT[family], to[0], ttl=ttl, flags=flags) / UDP(sport=CPORT, dport=to[1])
                / Raw(b"m" * (total - HEADER[family] - 8)))

    case.play("wan", asked(1401), ("wan", too_big(family, target, CLIENT[family], 1400, asked(1401))))
    case.play("wan", asked(1400), ("lan", got(1400)))
    if family == 4:
        datagram = bytes(got(1500).payload)
        outs = []
        for at in (0, 1376):
            part = datagram[at:at + 1376]
            outs.append(("lan", IP(src=CLIENT[4], dst=to[0], tos=0x28, ttl=ttl, id=0x1234, flags=0 if at else "MF",
                                   frag=at // 8, proto=17) / Raw(part)))
        case.play("wan", asked(1500, flags=0), *outs)
    case.save()
    return case.name


def main():
    for name in os.listdir(HERE):
        if name.endswith((".pcap", ".json")):
            os.remove(os.path.join(HERE, name))
    with open(os.path.join(HERE, "weir.toml"), "w") as file:
        file.write(configuration())
    names = []
    for client, backend in PAIRS:
        names += [tcp_case(client, backend, how) for how in HOWS]
        names += [udp_case(client, backend, how) for how in HOWS[:2]]
        names += [errors_case(client, backend), mtu_case(client, backend)]
    names += [plain_mtu_case(mode, family) for mode in ("nat", "dsr-l2") for family in (4, 6)]
    print(" ".join(names))


main()
