#!/usr/bin/env python3
"""Makes the captures of this folder with scapy, which knows nothing of weir.

For each case: NAME-wan.pcap and NAME-lan.pcap go in by the ports of weir.toml (which is made here,
too), NAME-out.pcap is what must come out, byte for byte and in order, and NAME.json says how many
frames must be dropped for which reason.

Expected frames are built by scapy anew, with all lengths and checksums computed by scapy. Of a
tunnel's outer headers only the flow's entropy is weir's to choose: UDP source port, IPv6 flow label,
and the source address where it comes from a prefix. So those are read from what weir sends, judged
(range, prefix, the same for all packets of a flow), and put into the frame that scapy builds. Where
scapy has a dissector (IP in IP, GRE, Geneve), what weir sends is taken apart by it, and the inner
packet compared. The files are kept in the repository: tests need no scapy.

    python3 -m venv venv && venv/bin/pip install scapy
    venv/bin/python make.py ../../../target/debug/weir
"""

import ipaddress
import json
import os
import subprocess
import sys
import tempfile

from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.packet import Raw
from scapy.utils import PcapReader, PcapWriter

HERE = os.path.dirname(os.path.abspath(__file__))

GATEWAY, WAN, LAN = "02:00:00:00:00:fe", "02:00:00:00:00:01", "02:00:00:00:00:02"
BACKEND = "02:00:00:00:00:0b"
FROM_CLIENT = Ether(src=GATEWAY, dst=WAN)
FROM_BACKEND = Ether(src=BACKEND, dst=LAN)
TO_CLIENT = Ether(src=WAN, dst=GATEWAY)
TO_BACKEND = Ether(src=LAN, dst=BACKEND)

CLIENT = {4: "203.0.113.5", 6: "2001:db8:99::5"}
OWN = {4: "10.0.0.1", 6: "2001:db8:2::1"}
SERVER = {4: "10.0.0.11", 6: "2001:db8:2::11"}
HEADER = {4: 20, 6: 40}
MTU = 1500

CONFIG = """# What the captures beside this file are played through; made by make.py.
[instance]
name = "captures"
hash_key = "000102030405060708090a0b0c0d0e0f"

[engine]
workers = [1]
control_core = 0
flows_per_worker = 10000

[[port]]
name = "wan"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.2/24", "2001:db8:1::2/64"]

[[port]]
name = "lan"
device = "net_null1"
mac = "02:00:00:00:00:02"
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


def ip(version, source, destination, **fields):
    if version == 6:
        renamed = {"tos": "tc", "ttl": "hlim"}
        fields = {renamed.get(key, key): value for key, value in fields.items() if key not in ("id", "flags")}
        return IPv6(src=source, dst=destination, **fields)
    return IP(src=source, dst=destination, **{"id": 7, **fields})


def read(packet):
    """The packet as bytes would be read back: every computed field filled in."""
    return type(packet)(bytes(packet))


class Mode:
    """A way to a backend: its settings, and what it puts before a packet."""

    def __init__(self, name, forwarding, keys=(), sources=None, full=False):
        self.name, self.forwarding, self.keys = name, forwarding, list(keys)
        self.sources, self.full = sources or {}, full

    def shim(self, inner):
        """Protocol of the outer IP header, UDP destination port or none, bytes before the inner packet."""
        ethertype = {4: 0x0800, 6: 0x86DD}[inner]
        number = {4: 4, 6: 41}[inner]
        if self.name.startswith("ipip"):
            return number, None, b""
        if self.name == "gue-0":
            return 17, 6666, bytes([0, number, 0, 0])
        if self.name == "gue-1":
            return 17, 6080, b""
        if self.name == "gre":
            return 47, None, bytes(GRE(proto=ethertype))
        if self.name == "gre-key":
            return 47, None, bytes(GRE(proto=ethertype, key_present=1, key=7))
        return 17, 6081, bytes(GENEVE(proto=ethertype, vni=0x123456))

    def overhead(self, outer, inner):
        _, port, shim = self.shim(inner)
        return HEADER[outer] + (8 if port else 0) + len(shim)

    def wrap(self, outer, inner, packet, sent):
        """What the backend must get of `packet`; `sent` is what weir sends, of which only the entropy is read."""
        protocol, port, shim = self.shim(inner)
        packet = read(packet)
        traffic_class = packet.tos if inner == 4 else packet.tc
        head = (IP if outer == 4 else IPv6)(bytes(sent)[14:])
        source = OWN[outer]
        if outer in self.sources:
            network = ipaddress.ip_network(self.sources[outer])
            assert ipaddress.ip_address(head.src) in network, (self.name, head.src)
            assert network.prefixlen == network.max_prefixlen or head.src != str(network.network_address)
            source = head.src
        if outer == 4:
            made = IP(src=source, dst=SERVER[4], ttl=64, id=0, flags="DF", tos=traffic_class, proto=protocol)
        else:
            assert head.fl != 0
            made = IPv6(src=source, dst=SERVER[6], hlim=64, tc=traffic_class, fl=head.fl, nh=protocol)
        if port:
            sport = int.from_bytes(bytes(sent)[14 + HEADER[outer]:][:2], "big")
            assert sport >= 49152, sport
            made /= UDP(sport=sport, dport=port, chksum=None if self.full else 0)
        return made / Raw(shim + bytes(packet))

    def unwrap(self, sent):
        """The inner packet as scapy's own dissectors find it, where it has them."""
        outer = Ether(bytes(sent)).payload
        if self.name.startswith("ipip") or self.name.startswith("gre"):
            inner = outer.payload if self.name.startswith("ipip") else outer[GRE].payload
            return bytes(inner.original)
        if self.name == "geneve":
            return bytes(outer[GENEVE].payload.original)
        return None

    def entropy(self, outer, sent):
        head = (IP if outer == 4 else IPv6)(bytes(sent)[14:])
        sport = bytes(sent)[14 + HEADER[outer]:][:2] if self.shim(4)[1] else b""
        return head.src, getattr(head, "fl", 0), sport


TUNNELS = [
    Mode("ipip", "dsr-ipip"),
    Mode("ipip-prefix", "dsr-ipip", ['tunnel_source = ["10.64.0.0/16", "2001:db8:5::/64"]'],
         {4: "10.64.0.0/16", 6: "2001:db8:5::/64"}),
    Mode("gue-0", "dsr-gue", ["gue_variant = 0", "gue_port = 6666", 'outer_udp_checksum = "full"'], full=True),
    Mode("gue-1", "dsr-gue", ["gue_variant = 1", 'tunnel_source = ["10.0.0.200", "2001:db8:2::200"]'],
         {4: "10.0.0.200/32", 6: "2001:db8:2::200/128"}),
    Mode("gre", "dsr-gre"),
    Mode("gre-key", "dsr-gre", ["gre_key = 7"]),
    Mode("geneve", "dsr-geneve", ["geneve_vni = 1193046"]),
]
PLAIN = [Mode("dscp", "dsr-dscp"), Mode("nat", "nat"), Mode("dsr-l2", "dsr-l2")]
COMBINATIONS = [(mode, inner, outer) for mode in TUNNELS for inner in (4, 6) for outer in (4, 6)]
COMBINATIONS += [(mode, family, family) for mode in PLAIN for family in (4, 6)]


def number(mode, inner, outer):
    return 10 + COMBINATIONS.index((mode, inner, outer))


def vip(mode, inner, outer):
    place = number(mode, inner, outer)
    return f"198.51.100.{place}" if inner == 4 else f"2001:db8:ff::{place}"


def title(mode, inner, outer):
    return f"{mode.name}-{inner}in{outer}" if mode in TUNNELS else f"{mode.name}-{inner}"


def config():
    text = CONFIG
    for mode, inner, outer in COMBINATIONS:
        for protocol, port in [("tcp", 80), ("udp", 53), ("quic", 443)]:
            if mode not in TUNNELS and protocol == "quic":
                continue
            text += f'\n[[service]]\nname = "{title(mode, inner, outer)}-{protocol}"\n'
            text += f'vip = "{vip(mode, inner, outer)}"\nport = {port}\nprotocol = "{protocol}"\n'
            text += f'forwarding = "{mode.forwarding}"\ntable_size = 13\n'
            text += "".join(f"{key}\n" for key in mode.keys if not (mode.name == "dscp"))
            if mode.name == "dscp":
                text += f"dscp = {5 + inner}\n"
            if protocol == "tcp":
                text += "mss_clamp = 1400\n"
            text += f'[[service.backend]]\naddress = "{SERVER[outer]}"\n'
    return text


class Case:
    """Frames in, and what must come out: bytes, or a function of what weir sent in that place."""

    def __init__(self, name):
        self.name, self.inputs, self.outputs, self.drops = name, {"wan": [], "lan": []}, [], {}

    def into(self, port, frame, at=0.0):
        self.inputs[port].append((at, bytes(frame)))
        return self

    def out(self, frame):
        self.outputs.append(frame)
        return self

    def write_pcap(self, path, frames):
        with PcapWriter(path, linktype=1) as writer:
            writer.write_header(None)
            for place, (at, frame) in enumerate(frames):
                moment = 1_700_000_000 + at + place * 0.000_010
                writer.write_packet(frame, sec=int(moment), usec=round(moment % 1 * 1e6))

    def make(self, weir):
        command = [weir, "replay", "--config", os.path.join(HERE, "weir.toml"), "--json"]
        for port, frames in self.inputs.items():
            if frames:
                path = os.path.join(HERE, f"{self.name}-{port}.pcap")
                self.write_pcap(path, frames)
                command += ["--in", f"{port}={path}"]
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "out.pcap")
            report = subprocess.run(command + ["--out", out], check=True, capture_output=True)
            with PcapReader(out) as reader:
                sent = [bytes(packet) for packet in reader]
        report = json.loads(report.stdout)
        assert len(sent) == len(self.outputs), f"{self.name}: {len(sent)} came, {len(self.outputs)} wanted: {report}"
        wanted = []
        for place, (got, frame) in enumerate(zip(sent, self.outputs)):
            frame = bytes(frame(got) if callable(frame) else frame)
            assert got == frame, f"{self.name}, frame {place}:\n got    {got.hex()}\n wanted {frame.hex()}"
            wanted.append((0, frame))
        drops = {reason: count for reason, count in report["drops"].items() if count}
        assert drops == self.drops, f"{self.name}: drops {drops}, wanted {self.drops}"
        self.write_pcap(os.path.join(HERE, f"{self.name}-out.pcap"), wanted)
        with open(os.path.join(HERE, f"{self.name}.json"), "w") as file:
            json.dump(self.drops, file, indent=1, sort_keys=True)
            file.write("\n")
        return sent


def pattern(length, seed=1):
    return bytes((seed * 31 + place * 7 + place // 251) & 0xFF for place in range(length))


def expect(mode, inner, outer, packet):
    """A function that builds what must come of `packet` of what weir sent."""
    if mode.name == "dscp":
        made = read(packet)
        if inner == 4:
            made.tos = (5 + inner) << 2 | made.tos & 3
            del made.chksum
        else:
            made.tc = (5 + inner) << 2 | made.tc & 3
        made.dst = SERVER[inner]
        layer = made.getlayer(TCP) or made.getlayer(UDP)
        if not (isinstance(layer, UDP) and layer.chksum == 0):
            del layer.chksum
        frame = bytes(TO_BACKEND / made)
        return frame + b"\xee" * max(0, 60 - len(frame))

    def build(sent):
        found = mode.unwrap(sent)
        assert found is None or found == bytes(read(packet)), f"{mode.name}: scapy finds another inner packet"
        return TO_BACKEND / mode.wrap(outer, inner, packet, sent)

    return build


def forwarding(weir, mode, inner, outer):
    """Segments and datagrams of all kinds, whole and untouched inside."""
    to = vip(mode, inner, outer)
    base = lambda **fields: ip(inner, CLIENT[inner], to, **fields)
    case = Case(title(mode, inner, outer))
    packets = [
        base(tos=0xB9) / TCP(sport=5000, dport=80, flags="S", seq=1),
        base(ttl=1, tos=0x02) / TCP(sport=5000, dport=80, flags="A", seq=2, ack=1) / Raw(b"x"),
        base(tos=0x03) / TCP(sport=5000, dport=80, flags="PA", seq=2, ack=1) / Raw(pattern(1001)),
        base(flags="DF") / UDP(sport=5001, dport=53) / Raw(pattern(99)),
        base(ttl=255) / UDP(sport=5001, dport=53) / Raw(pattern(1)),
        base() / UDP(sport=5002, dport=53) / Raw(b""),
    ]
    if inner == 4:
        packets.append(base() / UDP(sport=5002, dport=53, chksum=0) / Raw(pattern(9)))
    if mode in TUNNELS:
        # The first octets of a long header with a client's connection ID.
        packets.append(base() / UDP(sport=5003, dport=443) / Raw(b"\xc0\0\0\0\1\x08" + pattern(8) + pattern(1100)))
    for packet in packets:
        frame = bytes(FROM_CLIENT / packet)
        # As NICs deliver short frames: padded.
        case.into("wan", frame + b"\xee" * max(0, 60 - len(frame)))
        case.out(expect(mode, inner, outer, packet))
    # The tag comes off with the Ethernet header.
    tagged = packets[2]
    kind = {4: 0x0800, 6: 0x86DD}[inner]
    case.into("wan", FROM_CLIENT / Dot1Q(vlan=5, prio=3, type=kind) / tagged)
    case.out(expect(mode, inner, outer, tagged))
    sent = case.make(weir)
    if mode in TUNNELS:
        flows = [0, 0, 0, 1, 1, 2] + [2] * (inner == 4) + [3, 0]
        seen = {}
        for flow, frame in zip(flows, sent):
            assert seen.setdefault(flow, mode.entropy(outer, frame)) == mode.entropy(outer, frame), "a flow's entropy"


def plain(weir, mode, family):
    """Segments and datagrams without a tunnel, to the backend and, in nat, back."""
    to = vip(mode, family, family)
    case = Case(title(mode, family, family))
    nat = mode.name == "nat"
    transports = [
        lambda a, b: TCP(sport=a, dport=b, flags="S", seq=1),
        lambda a, b: TCP(sport=a, dport=b, flags="A", seq=2, ack=1) / Raw(b"x"),
        lambda a, b: TCP(sport=a, dport=b, flags="PA", seq=2, ack=1) / Raw(pattern(1001)),
        lambda a, b: TCP(sport=a, dport=b, flags="FA", seq=1003, ack=1, options=[("Timestamp", (1, 2))]),
        lambda a, b: UDP(sport=a, dport=b) / Raw(pattern(99)),
        lambda a, b: UDP(sport=a, dport=b) / Raw(b""),
    ]
    if family == 4:
        transports.append(lambda a, b: UDP(sport=a, dport=b, chksum=0) / Raw(pattern(9)))
    for place, transport in enumerate(transports):
        server = 80 if isinstance(transport(1, 1), TCP) else 53
        # All classes and ECN codepoints, short and long lives.
        fields = {"tos": 0xB8 | place % 4, "flags": "DF" if place % 2 else 0}
        lives = 64 + place if nat else 1 + place
        asked = ip(family, CLIENT[family], to, ttl=lives, **fields) / transport(5000, server)
        wanted = SERVER[family] if nat else to
        got = ip(family, CLIENT[family], wanted, ttl=lives - nat, **fields) / transport(5000, server)
        frame = bytes(FROM_CLIENT / asked)
        case.into("wan", frame)
        case.out(TO_BACKEND / got)
        if nat:
            answer = ip(family, SERVER[family], CLIENT[family], ttl=lives, **fields) / transport(server, 5000)
            back = ip(family, to, CLIENT[family], ttl=lives - 1, **fields) / transport(server, 5000)
            case.into("lan", FROM_BACKEND / answer, at=1)
            case.out(TO_CLIENT / back)
    # Those to the backend go first.
    case.outputs.sort(key=lambda frame: bytes(frame)[:6] != bytes(TO_BACKEND)[:6])
    case.make(weir)


def spreading(weir, mode, inner, outer):
    """Many flows: entropy differs from flow to flow."""
    case = Case(f"entropy-{title(mode, inner, outer)}")
    to = vip(mode, inner, outer)
    for flow in range(64):
        packet = ip(inner, CLIENT[inner], to) / UDP(sport=6000 + flow, dport=53) / Raw(pattern(20))
        case.into("wan", FROM_CLIENT / packet).out(expect(mode, inner, outer, packet))
    sent = case.make(weir)
    different = len({mode.entropy(outer, frame) for frame in sent})
    assert different >= 60, f"{case.name}: {different} of 64 flows differ"


def answer_too_big(inner, mtu, packet, by):
    """The ICMP error about `packet`, from `by`."""
    quoted = bytes(read(packet))
    if inner == 4:
        header = IP(src=by, dst=CLIENT[4], ttl=64, id=0, flags="DF", tos=0xC0)
        return TO_CLIENT / header / ICMP(type=3, code=4, nexthopmtu=mtu) / Raw(quoted[:576 - 28])
    return TO_CLIENT / IPv6(src=by, dst=CLIENT[6], hlim=64) / ICMPv6PacketTooBig(mtu=mtu) / Raw(quoted[:1280 - 48])


def pieces(packet, mtu):
    """An IPv4 packet in pieces of at most `mtu` bytes, cut by hand."""
    packet = read(packet)
    payload, room = bytes(packet)[20:], (mtu - 20) & ~7
    made = []
    for offset in range(0, len(payload), room):
        part = payload[offset:offset + room]
        more = "MF" if offset + room < len(payload) else 0
        fields = {"tos": packet.tos, "ttl": packet.ttl, "id": packet.id, "proto": packet.proto}
        made.append(IP(src=packet.src, dst=packet.dst, flags=more, frag=offset // 8, **fields) / Raw(part))
    return made


def path_mtu(weir, mode, inner, outer):
    """What fits goes; one byte more is answered, or cut where that is allowed."""
    to = vip(mode, inner, outer)
    case = Case(f"mtu-{title(mode, inner, outer)}")
    limit = MTU - mode.overhead(outer, inner)
    headers = HEADER[inner] + 8
    fits = ip(inner, CLIENT[inner], to, flags="DF") / UDP(sport=7000, dport=53) / Raw(pattern(limit - headers))
    large = ip(inner, CLIENT[inner], to, flags="DF") / UDP(sport=7000, dport=53) / Raw(pattern(limit - headers + 1))
    case.into("wan", FROM_CLIENT / fits).out(expect(mode, inner, outer, fits))
    case.into("wan", FROM_CLIENT / large).out(answer_too_big(inner, limit, large, to))
    segment = ip(inner, CLIENT[inner], to, flags="DF") / TCP(sport=7000, dport=80, flags="A") / Raw(pattern(1440))
    if len(segment) > limit:
        case.into("wan", FROM_CLIENT / segment).out(answer_too_big(inner, limit, segment, to))
    if inner == 4:
        whole = ip(4, CLIENT[4], to, tos=0x28) / UDP(sport=7001, dport=53) / Raw(pattern(1472))
        case.into("wan", FROM_CLIENT / whole)
        for piece in pieces(whole, limit):
            case.out(expect(mode, inner, outer, piece))
    case.make(weir)


def rate_limit(weir):
    """Errors are limited in rate; what is not answered is dropped for the same reason."""
    mode, inner, outer = COMBINATIONS[0]
    to = vip(mode, inner, outer)
    case = Case("mtu-rate")
    large = ip(4, CLIENT[4], to, flags="DF") / UDP(sport=7000, dport=53) / Raw(pattern(1472))
    for _ in range(60):
        case.inputs["wan"].append((0.0, bytes(FROM_CLIENT / large)))
    for _ in range(50):
        case.out(answer_too_big(4, 1480, large, to))
    case.drops = {"too_large": 10}
    case.make(weir)


def clamp(weir, mode, inner, outer):
    """The MSS of SYNs, and of nothing else; in nat of the answers, too."""
    to = vip(mode, inner, outer)
    case = Case(f"mss-{title(mode, inner, outer)}")
    rest = [("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]

    def syn(mss, flags="S", before=()):
        options = [*before, ("MSS", mss), *rest] if mss else rest
        return ip(inner, CLIENT[inner], to) / TCP(sport=8000, dport=80, flags=flags, seq=1, options=options)

    for mss, clamped, flags, before in [
        (1460, 1400, "S", ()), (1460, 1400, "S", (("NOP", None),)), (1400, 1400, "S", ()), (536, 536, "S", ()),
        (None, None, "S", ()), (1460, 1460, "A", ()), (9000, 1400, "SEC", ()),
    ]:
        case.into("wan", FROM_CLIENT / syn(mss, flags, before))
        meant = syn(clamped, flags, before)
        if mode.name == "nat":
            case.out(TO_BACKEND / ip(inner, CLIENT[inner], SERVER[inner], ttl=63) / meant.payload)
        elif mode.name == "dsr-l2":
            case.out(TO_BACKEND / meant)
        else:
            case.out(expect(mode, inner, outer, meant))
    if mode.name == "nat":
        for mss, clamped in [(1460, 1400), (1200, 1200)]:
            segment = lambda mss: TCP(sport=80, dport=8000, flags="SA", seq=1, ack=2, options=[("MSS", mss), *rest])
            case.into("lan", FROM_BACKEND / ip(inner, SERVER[inner], CLIENT[inner]) / segment(mss), at=1)
            case.out(TO_CLIENT / ip(inner, to, CLIENT[inner], ttl=63) / segment(clamped))
    case.make(weir)


if __name__ == "__main__":
    weir = os.path.abspath(sys.argv[1])
    with open(os.path.join(HERE, "weir.toml"), "w") as file:
        file.write(config())
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    for mode, inner, outer in COMBINATIONS:
        if mode in TUNNELS or mode.name == "dscp":
            forwarding(weir, mode, inner, outer)
        else:
            plain(weir, mode, inner)
        clamp(weir, mode, inner, outer)
        if only == "forward":
            continue
        if mode in TUNNELS:
            path_mtu(weir, mode, inner, outer)
        if mode.name in ("ipip-prefix", "gue-1", "geneve") and not (outer == 4 and mode.name == "ipip"):
            spreading(weir, mode, inner, outer)
    if only != "forward":
        rate_limit(weir)
