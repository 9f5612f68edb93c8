//! Captures made by scapy, with what must come out of them made by scapy, too: `full-nat` within and
//! between families, what backends are told of their clients, ICMP errors, and the path's MTU in modes
//! without tunnels. See `full_nat_captures/make.py`.

#[path = "support/captures.rs"]
mod captures;

cases! {
    "full_nat_captures";
    full_nat_4_to_4: "tcp-4to4-none", "udp-4to4-none", "errors-4to4", "mtu-full-nat-4to4";
    proxy_v2_4_to_4: "tcp-4to4-proxy-v2", "udp-4to4-proxy-v2";
    toa_4_to_4: "tcp-4to4-toa";
    full_nat_4_to_6: "tcp-4to6-none", "udp-4to6-none", "errors-4to6", "mtu-full-nat-4to6";
    proxy_v2_4_to_6: "tcp-4to6-proxy-v2", "udp-4to6-proxy-v2";
    toa_4_to_6: "tcp-4to6-toa";
    full_nat_6_to_4: "tcp-6to4-none", "udp-6to4-none", "errors-6to4", "mtu-full-nat-6to4";
    proxy_v2_6_to_4: "tcp-6to4-proxy-v2", "udp-6to4-proxy-v2";
    toa_6_to_4: "tcp-6to4-toa";
    full_nat_6_to_6: "tcp-6to6-none", "udp-6to6-none", "errors-6to6", "mtu-full-nat-6to6";
    proxy_v2_6_to_6: "tcp-6to6-proxy-v2", "udp-6to6-proxy-v2";
    toa_6_to_6: "tcp-6to6-toa";
    what_does_not_fit_nat_is_answered_by_the_vip_or_cut: "mtu-nat-4", "mtu-nat-6";
    what_does_not_fit_dsr_l2_is_answered_by_the_vip_or_cut: "mtu-dsr-l2-4", "mtu-dsr-l2-6";
}
