//! Captures made by scapy, with what must come out of them made by scapy, too: every mode but
//! `full-nat`, the path's MTU, and the clamp on TCP's MSS. See
//! `tunnel_captures/make.py`.

#[path = "support/captures.rs"]
mod captures;

cases! {
    "tunnel_captures";
    dsr_ipip_4in4: "ipip-4in4", "ipip-prefix-4in4";
    dsr_ipip_4in6: "ipip-4in6", "ipip-prefix-4in6";
    dsr_ipip_6in4: "ipip-6in4", "ipip-prefix-6in4";
    dsr_ipip_6in6: "ipip-6in6", "ipip-prefix-6in6";
    dsr_gue_variant_0_4in4: "gue-0-4in4";
    dsr_gue_variant_0_4in6: "gue-0-4in6";
    dsr_gue_variant_0_6in4: "gue-0-6in4";
    dsr_gue_variant_0_6in6: "gue-0-6in6";
    dsr_gue_variant_1_4in4: "gue-1-4in4";
    dsr_gue_variant_1_4in6: "gue-1-4in6";
    dsr_gue_variant_1_6in4: "gue-1-6in4";
    dsr_gue_variant_1_6in6: "gue-1-6in6";
    dsr_gre_4in4: "gre-4in4", "gre-key-4in4";
    dsr_gre_4in6: "gre-4in6", "gre-key-4in6";
    dsr_gre_6in4: "gre-6in4", "gre-key-6in4";
    dsr_gre_6in6: "gre-6in6", "gre-key-6in6";
    dsr_geneve_4in4: "geneve-4in4";
    dsr_geneve_4in6: "geneve-4in6";
    dsr_geneve_6in4: "geneve-6in4";
    dsr_geneve_6in6: "geneve-6in6";
    dsr_dscp_4: "dscp-4";
    dsr_dscp_6: "dscp-6";
    dsr_l2_4: "dsr-l2-4";
    dsr_l2_6: "dsr-l2-6";
    nat_4: "nat-4";
    nat_6: "nat-6";
    the_mss_of_a_syn_is_clamped_inside_a_tunnel:
        "mss-ipip-4in4", "mss-ipip-4in6", "mss-ipip-6in4", "mss-ipip-6in6",
        "mss-ipip-prefix-4in4", "mss-ipip-prefix-4in6", "mss-ipip-prefix-6in4", "mss-ipip-prefix-6in6",
        "mss-gue-0-4in4", "mss-gue-0-4in6", "mss-gue-0-6in4", "mss-gue-0-6in6",
        "mss-gue-1-4in4", "mss-gue-1-4in6", "mss-gue-1-6in4", "mss-gue-1-6in6",
        "mss-gre-4in4", "mss-gre-4in6", "mss-gre-6in4", "mss-gre-6in6",
        "mss-gre-key-4in4", "mss-gre-key-4in6", "mss-gre-key-6in4", "mss-gre-key-6in6",
        "mss-geneve-4in4", "mss-geneve-4in6", "mss-geneve-6in4", "mss-geneve-6in6";
    the_mss_of_a_syn_is_clamped_without_a_tunnel:
        "mss-dscp-4", "mss-dscp-6", "mss-dsr-l2-4", "mss-dsr-l2-6";
    nat_clamps_the_mss_of_both_directions: "mss-nat-4", "mss-nat-6";
    what_does_not_fit_a_tunnel_is_answered_by_the_vip_or_cut:
        "mtu-ipip-4in4", "mtu-ipip-4in6", "mtu-ipip-6in4", "mtu-ipip-6in6",
        "mtu-ipip-prefix-4in4", "mtu-ipip-prefix-4in6", "mtu-ipip-prefix-6in4", "mtu-ipip-prefix-6in6",
        "mtu-gue-0-4in4", "mtu-gue-0-4in6", "mtu-gue-0-6in4", "mtu-gue-0-6in6",
        "mtu-gue-1-4in4", "mtu-gue-1-4in6", "mtu-gue-1-6in4", "mtu-gue-1-6in6",
        "mtu-gre-4in4", "mtu-gre-4in6", "mtu-gre-6in4", "mtu-gre-6in6",
        "mtu-gre-key-4in4", "mtu-gre-key-4in6", "mtu-gre-key-6in4", "mtu-gre-key-6in6",
        "mtu-geneve-4in4", "mtu-geneve-4in6", "mtu-geneve-6in4", "mtu-geneve-6in6";
    errors_about_the_path_are_limited_in_rate: "mtu-rate";
    flows_differ_in_entropy:
        "entropy-ipip-prefix-4in4", "entropy-ipip-prefix-4in6", "entropy-ipip-prefix-6in4", "entropy-ipip-prefix-6in6",
        "entropy-gue-1-4in4", "entropy-gue-1-4in6", "entropy-gue-1-6in4", "entropy-gue-1-6in6",
        "entropy-geneve-4in4", "entropy-geneve-4in6", "entropy-geneve-6in4", "entropy-geneve-6in6";
}
