//! A configuration error names file, line, column, what was found and what is accepted; exit 2.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

use std::path::Path;

use weir::config::Config;
use weir_shm::document::parse_services;

const GOOD: &str = r#"[instance]
name = "lb1"
hash_key = "000102030405060708090a0b0c0d0e0f"

[engine]
workers = [1]
control_core = 0

[[port]]
name = "wan"
device = "net_null0"
addresses = ["192.0.2.2/24", "2001:db8::2/64"]

[[port]]
name = "lan"
device = "net_null1"
addresses = ["10.0.0.1/24"]

[[route]]
to = "0.0.0.0/0"
via = "192.0.2.1"

[[neighbor]]
address = "192.0.2.1"
mac = "02:00:00:00:00:fe"

[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
forwarding = "nat"
[[service.backend]]
address = "10.0.0.11"
port = 8080
weight = 2

[[service]]
name = "dns"
vip = "198.51.100.11"
port = "any"
protocol = "udp"
forwarding = "dsr-l2"
[[service.backend]]
address = "10.0.0.12"

[[service]]
name = "quic"
vip = "198.51.100.12"
port = 443
protocol = "quic"
forwarding = "nat"
[service.quic]
configs = [
    { rotation = 0, server_id_length = 3, nonce_length = 4, key = "8f95f09245765f80256934e50c66207f" },
    { rotation = 3, server_id_length = 8, nonce_length = 8 },
]
[[service.backend]]
address = "10.0.0.21"
server_ids = { 0 = "ed793a", 3 = "0102030405060708" }
[[service.backend]]
address = "10.0.0.22"
[[service.backend]]
address = "10.0.0.23"
server_ids = { 3 = "0102030405060709" }

[[service]]
name = "quic-plain"
vip = "198.51.100.12"
port = 444
protocol = "quic"
forwarding = "dsr-l2"
[service.quic]
configs = [{ rotation = 0, server_id_length = 3, nonce_length = 4 }]
[[service.backend]]
address = "10.0.0.21"
server_id = "ed793a"
"#;

const WITH_KERNEL: &str = "addresses = [\"10.0.0.1/24\"]\nkernel = \"weir-lan\"\nkernel_rate = 500";

#[test]
fn a_port_may_have_a_way_to_the_kernel() {
    let text = GOOD.replace("addresses = [\"10.0.0.1/24\"]", WITH_KERNEL);
    let config = check(&text).unwrap();
    assert_eq!(config.ports[0].kernel, None);
    let kernel = config.ports[1].kernel.clone().unwrap();
    assert_eq!((kernel.interface.as_str(), kernel.rate), ("weir-lan", 500));
    assert_eq!(config.kernel_number("weir-lan"), Some(1));
    assert_eq!(check(&config.effective()).unwrap().ports, config.ports);
    let without_rate = check(&text.replace("kernel_rate = 500", "")).unwrap();
    assert_eq!(without_rate.ports[1].kernel.as_ref().unwrap().rate, 10_000);
}

#[test]
fn a_wrong_way_to_the_kernel_is_named_with_its_place() {
    let wan = "addresses = [\"192.0.2.2/24\", \"2001:db8::2/64\"]";
    let both = GOOD
        .replace(wan, &format!("{wan}\nkernel = \"tap0\""))
        .replace("addresses = [\"10.0.0.1/24\"]", WITH_KERNEL);
    for (from, to, at, says) in [
        ("\"weir-lan\"", "\"a/b\"", "19:10", "1 to 15 letters"),
        ("\"weir-lan\"", "\"a234567890123456\"", "19:10", "1 to 15"),
        ("\"weir-lan\"", "7", "19:10", "1 to 15 letters"),
        ("\"weir-lan\"", "\"tap0\"", "19:10", "\"wan\""),
        ("= 500", "= 0", "20:15", "1 to 1000000"),
        ("= 500", "= \"fast\"", "20:15", "1 to 1000000"),
        ("kernel = \"weir-lan\"", "", "20:15", "without `kernel`"),
        (
            "addresses = [\"10.0.0.1/24\"]",
            "",
            "19:10",
            "without `addresses`",
        ),
    ] {
        assert!(both.contains(from), "{from}");
        let message = check(&both.replace(from, to)).unwrap_err();
        let place = format!("weir.toml:{at}: ");
        assert!(
            message.starts_with(&place) && message.contains(says),
            "{to}: {message}"
        );
    }
}

fn check(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("weir.toml"), text).map_err(|error| error.to_string())
}

#[test]
fn the_effective_configuration_means_the_same() {
    let config = check(GOOD).unwrap();
    let again = check(&config.effective()).unwrap();
    assert_eq!(config.effective(), again.effective());
    assert_eq!(config.pool, again.pool);
    assert_eq!((config.engine, config.ports), (again.engine, again.ports));
}

/// The keys that a document accepts at its top, as its complaint about any other lists them.
fn top_level_keys(complaint: &str) -> std::collections::BTreeSet<&str> {
    let (_, accepted) = complaint.split_once("accepted: ").unwrap();
    accepted.split(", ").collect()
}

#[test]
fn what_apply_takes_has_every_table_of_a_whole_configuration() {
    let unknown = "[nosuch]\n";
    let configuration = check(unknown).unwrap_err();
    let apply = parse_services("pools.toml", unknown).unwrap_err().message;
    assert_eq!(top_level_keys(&apply), top_level_keys(&configuration));
    let text = format!("[metrics]\nlisten = \"127.0.0.1:9100\"\n[log]\nlevel = \"warn\"\n{GOOD}");
    let config = check(&text).unwrap();
    for whole in [text, config.effective()] {
        assert_eq!(
            parse_services("weir.toml", &whole).unwrap().pool,
            config.pool
        );
    }
}

#[test]
fn the_effective_configuration_tells_what_a_check_does_and_means_the_same() {
    let with = |health: &str| {
        GOOD.replace(
            "[[service.backend]]\naddress = \"10.0.0.11\"\n",
            &format!("[service.health]\n{health}\n[[service.backend]]\naddress = \"10.0.0.11\"\nforce = \"down\"\n"),
        )
    };
    let plain = "method = \"GET\"\npath = \"/\"\n# host: the backend's address and port\n";
    for (health, told) in [
        ("kind = \"http\"", plain),
        ("kind = \"https\"", plain),
        ("kind = \"https\"", "\ntls = { verify = false }\n"),
        (
            "kind = \"http\"\nmethod = \"HEAD\"\nhost = \"a.example\"",
            "\nhost = \"a.example\"\n",
        ),
        ("kind = \"http\"\nmethod = \"GET\"\npath = \"/\"", plain),
        ("kind = \"tcp\"", "\n# port: the backend's\n"),
        (
            "kind = \"udp\"\nport = 53\npayload = \"hex:00\"",
            "\nport = 53\n",
        ),
        ("kind = \"icmp\"", "\nslow_start = \"0s\"\n"),
    ] {
        let config = check(&with(health)).unwrap();
        let effective = config.effective();
        assert!(effective.contains(told), "{health}: {effective}");
        let again = check(&effective).unwrap();
        assert_eq!(again.pool, config.pool, "{health}");
        assert_eq!(again.effective(), effective, "{health}");
    }
    let udp = check(&with("kind = \"tcp\"\nmethod = \"GET\"")).unwrap_err();
    assert!(udp.contains("found `method` with kind = \"tcp\""), "{udp}");
}

#[test]
fn an_owner_that_is_not_known_here_may_be_known_elsewhere() {
    let with = |keys: &str| {
        check(&GOOD.replace("name = \"lb1\"", keys))
            .unwrap()
            .warnings
    };
    assert!(with("owner = \"root\"\ngroup = \"12345\"").is_empty());
    assert_eq!(
        with("owner = \"no-such-user\"\ngroup = \"no-such-group\""),
        [
            "2:9: [instance] owner = \"no-such-user\": no such user on this machine",
            "3:9: [instance] group = \"no-such-group\": no such group on this machine",
        ]
    );
}

#[test]
fn everything_but_ports_and_services_has_a_default() {
    let config = check("[[port]]\nname = \"wan\"\ndevice = \"0000:3b:00.0\"\n").unwrap();
    assert_eq!(config.instance.name, "weir");
    assert_eq!(
        (config.engine.workers, config.engine.control_core),
        (vec![1], 0)
    );
    assert!(
        config.warnings[0].contains("hash_key"),
        "{:?}",
        config.warnings
    );
}

#[test]
fn metrics_are_told_where_the_configuration_says_so() {
    assert_eq!(check(GOOD).unwrap().metrics, None);
    for listen in ["127.0.0.1:9100", "[::1]:9100"] {
        let text = format!("[metrics]\nlisten = \"{listen}\"\n{GOOD}");
        let config = check(&text).unwrap();
        let metrics = config.metrics.clone().unwrap();
        assert_eq!(metrics.listen, listen.parse().unwrap());
        assert_eq!(metrics.place, "weir.toml:2:10");
        let effective = config.effective();
        assert!(effective.contains(&format!("[metrics]\nlisten = \"{listen}\"\n")));
        assert_eq!(
            check(&effective).unwrap().metrics.unwrap().listen,
            metrics.listen
        );
    }
}

/// One change to the good file, where the complaint must point, and what it must say.
struct Bad {
    from: &'static str,
    to: &'static str,
    at: &'static str,
    says: &'static [&'static str],
}

const fn bad(
    from: &'static str,
    to: &'static str,
    at: &'static str,
    says: &'static [&'static str],
) -> Bad {
    Bad { from, to, at, says }
}

#[test]
fn each_mistake_is_named_with_its_place_what_was_found_and_what_is_accepted() {
    let cases = [
        bad(
            "name = \"lb1\"",
            "nmae = \"lb1\"",
            "2:1",
            &["`nmae`", "`name`"],
        ),
        bad(
            "[engine]",
            "[metrics]\nlisten = \"localhost:9100\"\n[engine]",
            "6:10",
            &["`listen`", "localhost:9100", "\"127.0.0.1:9100\""],
        ),
        bad(
            "[engine]",
            "[metrics]\nlisten = \"[::1]:0\"\n[engine]",
            "6:10",
            &["`listen`", "[::1]:0", "from 1 to 65535"],
        ),
        bad(
            "[engine]",
            "[metrics]\nlisten = 9100\n[engine]",
            "6:10",
            &["`listen`", "9100", "an address and a port"],
        ),
        bad(
            "[engine]",
            "[metrics]\nport = 9100\n[engine]",
            "6:1",
            &["`port`", "`listen`"],
        ),
        bad("name = \"lb1\"", "name = 7", "2:8", &["7", "accepted"]),
        bad(
            "name = \"lb1\"",
            "name = \"../x\"",
            "2:8",
            &["../x", "letters"],
        ),
        bad("0a0b0c0d0e0f\"", "0a\"", "3:12", &["32 hexadecimal digits"]),
        bad(
            "workers = [1]",
            "workers = []",
            "6:11",
            &["empty", "CPU cores"],
        ),
        bad("workers = [1]", "workers = [0]", "6:11", &["control_core"]),
        bad(
            "workers = [1]",
            "workers = [1, 1]",
            "6:11",
            &["core 1 twice"],
        ),
        bad(
            "workers = [1]",
            "workers = 1",
            "6:11",
            &["array of CPU cores"],
        ),
        bad(
            "control_core = 0",
            "idle = \"sleepy\"",
            "7:8",
            &["sleepy", "\"poll\", \"adaptive\""],
        ),
        bad(
            "control_core = 0",
            "memory = \"swap\"",
            "7:10",
            &["swap", "\"hugepages\", \"anonymous\""],
        ),
        bad(
            "control_core = 0",
            "flows_per_worker = 0",
            "7:20",
            &["0", "1 to 10000000000"],
        ),
        bad(
            "device = \"net_null1\"",
            "device = \"eth1\"",
            "16:10",
            &["unknown device", "PCI address"],
        ),
        bad(
            "device = \"net_null1\"",
            "device = \"net_null0\"",
            "16:10",
            &["net_null0", "wan"],
        ),
        bad(
            "name = \"lan\"",
            "name = \"wan\"",
            "15:8",
            &["duplicate port", "wan"],
        ),
        bad(
            "[\"10.0.0.1/24\"]",
            "[\"10.0.0.1\"]",
            "17:13",
            &["10.0.0.1", "192.0.2.2/24"],
        ),
        bad(
            "[\"10.0.0.1/24\"]",
            "[\"10.0.0.0/24\"]",
            "17:13",
            &["network's address"],
        ),
        bad(
            "[\"10.0.0.1/24\"]",
            "[\"10.0.0.1/33\"]",
            "17:13",
            &["10.0.0.1/33"],
        ),
        bad(
            "[\"10.0.0.1/24\"]",
            "[\"192.0.2.2/24\"]",
            "17:13",
            &["192.0.2.2 twice"],
        ),
        bad(
            "to = \"0.0.0.0/0\"",
            "to = \"10.1.0.1/16\"",
            "20:6",
            &["10.1.0.0/16", "host bits"],
        ),
        bad(
            "via = \"192.0.2.1\"",
            "via = \"172.16.0.1\"",
            "21:7",
            &["172.16.0.1", "192.0.2.2/24 on wan"],
        ),
        bad(
            "via = \"192.0.2.1\"",
            "via = \"2001:db8::1\"",
            "21:7",
            &["family"],
        ),
        bad(
            "mac = \"02:00:00:00:00:fe\"",
            "mac = \"02:00\"",
            "25:7",
            &["02:00", "02:00:00:00:00:01"],
        ),
        bad(
            "mac = \"02:00:00:00:00:fe\"",
            "mac = \"01:00:5e:00:00:01\"",
            "25:7",
            &["01:00:5e"],
        ),
        bad(
            "via = \"192.0.2.1\"",
            "via = \"192.0.2.2\"",
            "21:7",
            &["`via`", "192.0.2.2", "\"wan\"'s own address"],
        ),
        bad(
            "address = \"192.0.2.1\"",
            "address = \"10.0.0.1\"",
            "24:11",
            &["`address`", "10.0.0.1", "\"lan\"'s own address"],
        ),
        bad(
            "name = \"lb1\"",
            "owner = \"\"",
            "2:9",
            &["`owner`", "found \"\"", "a name, or a number"],
        ),
        bad(
            "name = \"lb1\"",
            "group = 5",
            "2:9",
            &["`group`", "found 5", "a name, or a number"],
        ),
        bad("name = \"dns\"", "name = \"web\"", "39:8", &["web"]),
        bad(
            "port = 80\n",
            "port = 70000\n",
            "30:8",
            &["70000", "1 to 65535"],
        ),
        bad("port = 80\n", "port = 0\n", "30:8", &["0", "1 to 65535"]),
        bad("port = 80\n", "port = \"http\"\n", "30:8", &["http", "any"]),
        bad(
            "protocol = \"tcp\"",
            "protocol = \"sctp\"",
            "31:12",
            &["sctp", "\"tcp\", \"udp\""],
        ),
        bad(
            "forwarding = \"nat\"",
            "forwarding = \"magic\"",
            "32:14",
            &["magic", "\"dsr-l2\", \"nat\""],
        ),
        bad("weight = 2", "weight = -1", "36:10", &["-1", "0 to 65535"]),
        bad("weight = 2", "wieght = 2", "36:1", &["wieght", "weight"]),
        bad(
            "address = \"10.0.0.11\"",
            "address = \"2001:db8::9\"",
            "34:11",
            &["2001:db8::9"],
        ),
        bad(
            "address = \"10.0.0.11\"",
            "address = \"nine\"",
            "34:11",
            &["nine", "address"],
        ),
        bad(
            "address = \"10.0.0.12\"",
            "address = \"172.16.0.9\"",
            "45:11",
            &["172.16.0.9", "dsr-l2", "connected"],
        ),
        bad(
            "address = \"10.0.0.12\"",
            "address = \"10.0.0.1\"",
            "45:11",
            &["own addresses"],
        ),
        bad("[[route]]", "[route]", "19:1", &["[[route]]"]),
        bad("[[route]]", "[[rout]]", "19:3", &["rout", "route"]),
        bad("name = \"lb1\"", "name = \"lb1", "2:12", &["TOML"]),
    ];
    for case in cases {
        assert!(
            GOOD.contains(case.from),
            "{} is not in the good file",
            case.from
        );
        let text = GOOD.replacen(case.from, case.to, 1);
        let error = check(&text)
            .err()
            .unwrap_or_else(|| panic!("accepted: {}", case.to));
        let place = format!("weir.toml:{}: ", case.at);
        assert!(
            error.starts_with(&place),
            "{:?} should be at {place}\n{error}",
            case.to
        );
        for part in case.says {
            assert!(
                error.contains(part),
                "{:?} should say {part:?}:\n{error}",
                case.to
            );
        }
    }
}

#[test]
fn a_backend_without_route_is_an_error() {
    let text = GOOD
        .replace("to = \"0.0.0.0/0\"", "to = \"172.16.0.0/12\"")
        .replace("address = \"10.0.0.11\"", "address = \"10.9.0.11\"");
    let error = check(&text).err().unwrap();
    assert!(
        error.starts_with("weir.toml:34:11: ") && error.contains("no route to"),
        "{error}"
    );
}

#[test]
fn a_vip_cannot_cover_a_gateway_that_has_to_be_asked_for() {
    let gateway = "[[neighbor]]\naddress = \"192.0.2.1\"\nmac = \"02:00:00:00:00:fe\"\n";
    let covering = GOOD.replace("vip = \"198.51.100.11\"", "vip = \"192.0.2.0/28\"");
    let asked_for = covering.replace(gateway, "");
    let error = check(&asked_for).err().unwrap();
    for part in [
        "weir.toml:37:7: ",
        "service \"dns\"",
        "found vip 192.0.2.0/28",
        "the gateway 192.0.2.1",
        "accepted: ",
        "[[neighbor]]",
    ] {
        assert!(error.contains(part), "{part:?}: {error}");
    }
    // What is known by its MAC needs not be heard, but two cannot answer for one address.
    check(&covering).unwrap();
    let same = GOOD.replace("vip = \"198.51.100.11\"", "vip = \"192.0.2.1\"");
    for text in [same.replace(gateway, ""), same] {
        let error = check(&text).err().unwrap();
        assert!(error.contains("found vip 192.0.2.1,"), "{error}");
    }
}

#[test]
fn two_services_on_one_vip_port_and_protocol_are_an_error() {
    let text = GOOD
        .replace("vip = \"198.51.100.11\"", "vip = \"198.51.100.10\"")
        .replace("port = \"any\"", "port = 80")
        .replace("\"udp\"", "\"tcp\"");
    let error = check(&text).err().unwrap();
    assert!(
        error.contains("web") && error.contains("198.51.100.10"),
        "{error}"
    );
}

#[test]
fn two_nat_services_cannot_share_a_backend_and_the_message_names_full_nat() {
    let text = GOOD
        .replace("\"dsr-l2\"", "\"nat\"")
        .replace("\"udp\"", "\"tcp\"")
        .replace("address = \"10.0.0.12\"", "address = \"10.0.0.11\"");
    let error = check(&text).err().unwrap();
    assert!(
        error.contains("full-nat") && error.contains("10.0.0.11"),
        "{error}"
    );
}

#[test]
fn an_exact_port_and_any_port_of_one_vip_go_together() {
    let text = GOOD
        .replace("vip = \"198.51.100.11\"", "vip = \"198.51.100.10\"")
        .replace("\"udp\"", "\"tcp\"");
    check(&text).unwrap();
}

/// The warnings of a tunnel's configuration, but for the one about the hash key.
fn tunnel_warnings(mtu: &str, vip: &str, keys: &str) -> Vec<String> {
    let text = format!(
        "[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\n{mtu}\n\
         addresses = [\"192.0.2.2/24\", \"2001:db8::2/64\"]\n\
         [[service]]\nname = \"web\"\nvip = \"{vip}\"\nport = 80\n{keys}\n\
         [[service.backend]]\naddress = \"192.0.2.11\"\n\
         [[service.backend]]\naddress = \"192.0.2.12\"\n"
    );
    let config = Config::parse(Path::new("test.toml"), &text).unwrap_or_else(|e| panic!("{e}"));
    let tunnels = |warning: &String| warning.contains("1,280");
    config.warnings.into_iter().filter(tunnels).collect()
}

#[test]
fn a_tunnel_too_narrow_for_ipv6_is_warned_of_once_a_service() {
    let (v4, v6) = ("198.51.100.10", "2001:db8:f::10");
    let udp = "protocol = \"udp\"\nforwarding = \"dsr-ipip\"";
    let found = tunnel_warnings("mtu = 1299", v6, udp);
    assert_eq!(found.len(), 1);
    for part in ["\"web\"", "\"wan\"", "1299", "1300"] {
        assert!(found[0].contains(part), "{} lacks {part}", found[0]);
    }
    assert!(tunnel_warnings("mtu = 1300", v6, udp).is_empty());
    assert!(tunnel_warnings("mtu = 1299", v4, udp).is_empty());
    assert!(
        tunnel_warnings("", v6, udp).is_empty(),
        "the device says it"
    );
    let gue = udp.replace("ipip", "gue");
    assert_eq!(tunnel_warnings("mtu = 1300", v6, &gue).len(), 1);
    // TCP has the clamp: 1,200 bytes, and 60 of headers inside, and 20 outside.
    let tcp = "protocol = \"tcp\"\nforwarding = \"dsr-ipip\"";
    assert_eq!(tunnel_warnings("mtu = 1280", v6, tcp).len(), 1);
    let clamped = |mss: u16| format!("{tcp}\nmss_clamp = {mss}");
    assert!(tunnel_warnings("mtu = 1280", v6, &clamped(1_200)).is_empty());
    assert_eq!(tunnel_warnings("mtu = 1280", v6, &clamped(1_201)).len(), 1);
}
