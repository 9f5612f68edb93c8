//! Every complaint of the table names its place, what was found and what is accepted.

use super::*;
use crate::model::{
    Admin, Forced, Forwarding, HealthKind, NO_DEADLINE, OnDown, PortMatch, Protocol, UnknownTcp,
};
use std::time::Duration;

const WEB: &str = r#"[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
forwarding = "nat"
"#;

fn complaint(text: &str) -> String {
    match parse_services("pools.toml", text) {
        Ok(loaded) => panic!("accepted: {loaded:?}"),
        Err(diagnostic) => diagnostic.to_string(),
    }
}

#[test]
fn a_service_as_in_the_design_is_read() {
    let text = format!(
        "{WEB}scheduler = \"maglev\"\ntimeouts = {{ syn = \"5s\" }}\n[service.health]\nkind = \"http\"\n\
         path = \"/healthz\"\ninterval = \"2s\"\ntimeout = \"1s\"\nfall = 3\nrise = 5\n\
         [[service.backend]]\naddress = \"10.0.0.11\"\nport = 8080\nweight = 1\n\
         [[service.backend]]\naddress = \"10.0.0.12\"\nstate = \"drain\"\ndrain_timeout = \"300s\"\nforce = \"down\"\n"
    );
    let loaded = parse_services("weir.toml", &text).unwrap();
    let web = &loaded.pool.services[0];
    assert_eq!((web.name.as_str(), web.port), ("web", PortMatch::Exact(80)));
    assert_eq!(
        (web.protocol, web.forwarding),
        (Protocol::Tcp, Forwarding::Nat)
    );
    assert_eq!(web.timeouts.syn, Duration::from_secs(5));
    assert_eq!(web.timeouts.established, Duration::from_secs(350));
    assert_eq!((web.health.kind, web.health.rise), (HealthKind::Http, 5));
    assert_eq!(web.backends[0].name(web), "10.0.0.11:8080");
    assert_eq!(web.backends[1].name(web), "10.0.0.12:80");
    let drain = Admin::Drain {
        timeout: Duration::from_secs(300),
    };
    assert_eq!(
        (web.backends[1].admin, web.backends[1].forced),
        (drain, Forced::Down)
    );
    assert!(loaded.warnings.is_empty());
}

#[test]
fn health_and_gentle_changes_are_read() {
    let text = format!(
        "{WEB}slow_start = \"30s\"\nmin_healthy = 0.5\non_down = \"reset\"\nunknown_tcp = \"reset\"\n\
         deregistration_delay = \"never\"\n[service.health]\nkind = \"https\"\nmethod = \"HEAD\"\n\
         host = \"example.net\"\nstatus = [200, \"301-302\"]\nport = 8443\n\
         tls = {{ verify = true, ca = \"/etc/ca.pem\", server_name = \"a.example\" }}\n\
         flap = {{ changes = 3, window = \"1m\", hold = \"20m\" }}\n\
         [[service.backend]]\naddress = \"10.0.0.11\"\nstate = \"drain\"\n"
    );
    let loaded = parse_services("weir.toml", &text).unwrap();
    let web = &loaded.pool.services[0];
    assert_eq!(
        (web.slow_start, web.min_healthy, web.deregistration_delay),
        (Duration::from_secs(30), 500, NO_DEADLINE)
    );
    assert_eq!(
        (web.on_down, web.unknown_tcp),
        (OnDown::Reset, UnknownTcp::Reset)
    );
    let health = &web.health;
    assert_eq!(health.status, [(200, 200), (301, 302)]);
    assert!(health.tls.verify && health.tls.server_name.as_deref() == Some("a.example"));
    assert_eq!(
        (health.flap.changes, health.flap.max_hold),
        (3, Duration::from_secs(1200)),
        "never below the first hold"
    );
    assert_eq!(
        web.backends[0].admin,
        Admin::Drain {
            timeout: NO_DEADLINE
        },
        "the service's delay"
    );
    let udp = WEB.replace("\"tcp\"", "\"udp\"");
    let text = format!(
        "{udp}[service.health]\nkind = \"udp\"\npayload = \"hex:00ff\"\nanswer = \"pong\"\n"
    );
    let loaded = parse_services("weir.toml", &text).unwrap();
    let health = &loaded.pool.services[0].health;
    assert_eq!(health.payload.as_deref(), Some(&[0, 255][..]));
    assert_eq!(health.answer.as_deref(), Some(&b"pong"[..]));
}

#[test]
fn of_a_whole_configuration_the_services_count() {
    let text =
        format!("[instance]\nname = \"lb1\"\n[engine]\nworkers = [1]\n[[port]]\nname = 5\n{WEB}");
    assert_eq!(
        parse_services("weir.toml", &text)
            .unwrap()
            .pool
            .services
            .len(),
        1
    );
}

/// Whether a complaint says which key or table it is about.
fn names_its_subject(complaint: &str) -> bool {
    ["`", "[service", " = \"", "not valid TOML"]
        .iter()
        .any(|sign| complaint.contains(sign))
}

#[test]
fn complaints_about_values_name_their_key_and_stand_at_the_value() {
    let health = |keys: &str| format!("{WEB}[service.health]\nkind = \"http\"\n{keys}\n");
    let table = [
        // What is wrong, after which text it stands, and what is said.
        (
            format!("{WEB}timeouts = {{ udp = \"5s\", syn = \"0s\" }}\n"),
            "syn = ",
            "`syn`: found 0s; accepted: 1ms to 30d",
        ),
        (
            format!("{WEB}timeouts = {{ udp = \"31d\" }}\n"),
            "udp = ",
            "`udp`: found 31d; accepted: up to 30d",
        ),
        (
            format!("{WEB}[service.timeouts]\nsyn = \"5s\"\nclosing = \"0s\"\n"),
            "closing = ",
            "`closing`: found 0s",
        ),
        (
            format!("{WEB}affinity = {{ by = \"source\", timeout = \"0s\" }}\n"),
            "timeout = ",
            "`timeout`: found 0s; accepted: 1ms to 30d",
        ),
        (
            format!("{WEB}affinity = {{ by = \"source\", timeout = 5 }}\n"),
            "timeout = ",
            "`timeout`: found 5; accepted: a whole number with a unit",
        ),
        (
            format!("{WEB}affinity = {{ prefix6 = 129, by = \"source\" }}\n"),
            "prefix6 = ",
            "`prefix6`: found 129; accepted: a whole number from 1 to 128",
        ),
        (
            format!("{WEB}[service.affinity]\nby = \"source\"\nprefix4 = 0\n"),
            "prefix4 = ",
            "`prefix4`: found 0; accepted: a whole number from 1 to 32",
        ),
        (
            format!("{WEB}affinity = {{ by = \"destination\" }}\n"),
            "by = ",
            "`by`: found \"destination\"; accepted: \"source\"",
        ),
        (
            format!("{WEB}affinity = {{ by = \"source\", prefix = 24 }}\n"),
            "\"source\", ",
            "found unknown key `prefix`; accepted: `by`, `prefix4`, `prefix6`, `timeout`",
        ),
        (
            format!("{WEB}affinity = {{ prefix4 = 24 }}\n"),
            "affinity = ",
            "`affinity`: found no `by`; accepted: \"source\", or {",
        ),
        (
            format!("{WEB}affinity = \"client\"\n"),
            "affinity = ",
            "`affinity`: found \"client\"; accepted: \"source\", or {",
        ),
        (
            format!("{WEB}affinity = [1]\n"),
            "affinity = ",
            "`affinity`: found an array; accepted: \"source\", or {",
        ),
        (
            health("interval = \"0s\""),
            "interval = ",
            "`interval`: found 0s; accepted: 1ms to 30d",
        ),
        (
            health("flap = { changes = 3, hold = \"0s\" }"),
            " hold = ",
            "`hold`: found 0s",
        ),
        (
            health("flap = { max_hold = \"1m\", hold = \"5m\" }"),
            "max_hold = ",
            "found `max_hold` 1m below `hold` 5m; accepted: at least as long, up to 30d",
        ),
        (
            health("tls = { verify = true, ca = \"\" }").replace("\"http\"", "\"https\""),
            " ca = ",
            "found `ca` \"\"; accepted: 1 to 255 printable characters",
        ),
        (
            health("payload = \"ping\""),
            "payload = ",
            "found `payload` with kind = \"http\"; accepted: with \"udp\" only",
        ),
        (
            health("body = \"ok\"\nmethod = \"HEAD\""),
            "body = ",
            "found `body` with method = \"HEAD\"",
        ),
        (
            format!("{WEB}dscp = 7\n"),
            "dscp = ",
            "found `dscp` with forwarding = \"nat\"; accepted: with \"dsr-dscp\" only",
        ),
        (
            format!("{WEB}ring_vnodes = 7\n"),
            "ring_vnodes = ",
            "found `ring_vnodes` with scheduler = \"maglev\"; accepted: with \"ring\" only",
        ),
        (
            format!("{WEB}mss_clamp = 1400\n").replace("\"tcp\"", "\"udp\""),
            "mss_clamp = ",
            "found `mss_clamp` with protocol = \"udp\"",
        ),
        (
            format!("{WEB}client_address = \"toa\"\n"),
            "client_address = ",
            "`client_address`: found \"toa\" in \"nat\"",
        ),
        (
            format!("{WEB}table_size = 65536\n"),
            "table_size = ",
            "`table_size`: found 65536; accepted: a prime",
        ),
        (
            format!("{WEB}slow_start = \"31d\"\n"),
            "slow_start = ",
            "`slow_start`: found 31d",
        ),
    ];
    for (text, after, says) in &table {
        let at = text.find(after).unwrap() + after.len();
        let before = &text[..at];
        let line = before.lines().count();
        let column = before.lines().last().unwrap().len() + 1;
        assert_eq!(
            complaint(text).split_inclusive(says).next(),
            Some(&*format!("pools.toml:{line}:{column}: {says}")),
            "{}",
            complaint(text)
        );
    }
}

#[test]
fn complaints_name_place_found_and_accepted() {
    let backend = |lines: &str| format!("{WEB}[[service.backend]]\n{lines}");
    let replaced = |from: &str, to: &str| WEB.replace(from, to);
    let table: Vec<(String, &str, &[&str])> = vec![
        (
            replaced("name =", "nam ="),
            "2:1",
            &["unknown key `nam`", "`name`, `vip`, `port`"],
        ),
        (
            replaced("\"web\"", "5"),
            "2:8",
            &["`name`", "found 5", "a string"],
        ),
        (
            replaced("\"web\"", "\"a b\""),
            "2:8",
            &["\"a b\"", "A-Z, a-z, 0-9"],
        ),
        (
            replaced("vip = \"198.51.100.10\"\n", ""),
            "1:1",
            &["no `vip`", "[[service]]"],
        ),
        (
            replaced("198.51.100.10", "198.51.100"),
            "3:7",
            &["\"198.51.100\"", "192.0.2.1"],
        ),
        (
            replaced("198.51.100.10", "224.0.0.1"),
            "3:7",
            &["224.0.0.1", "multicast", "unicast"],
        ),
        (
            replaced("port = 80", "port = 70000"),
            "4:8",
            &["70000", "1 to 65535", "any"],
        ),
        (
            replaced("port = 80", "port = 0"),
            "4:8",
            &["found 0", "1 to 65535"],
        ),
        (
            replaced("port = 80", "port = -1"),
            "4:8",
            &["found -1", "1 to 65535"],
        ),
        (
            replaced("port = 80", "port = \"http\""),
            "4:8",
            &["\"http\"", "1 to 65535"],
        ),
        (
            replaced("port = 80", "port = \"8100-8000\""),
            "4:8",
            &["8100-8000", "\"any\""],
        ),
        (
            replaced("port = 80", "port = [80]"),
            "4:8",
            &["an array", "1 to 65535"],
        ),
        (
            replaced("\"tcp\"", "\"sctp\""),
            "5:12",
            &["\"sctp\"", "\"tcp\", \"udp\", \"quic\""],
        ),
        (
            replaced("\"nat\"", "\"half-nat\""),
            "6:14",
            &["\"half-nat\"", "\"dsr-l2\", \"nat\""],
        ),
        (
            replaced("\"nat\"", "true"),
            "6:14",
            &["found true", "\"dsr-l2\", \"nat\""],
        ),
        (
            format!("{WEB}scheduler = \"rings\"\n"),
            "7:13",
            &["\"ring\"", "\"maglev\""],
        ),
        (
            format!("{WEB}table_size = 65536\n"),
            "7:14",
            &["65536", "prime"],
        ),
        (
            format!("{WEB}table_size = 9000000\n"),
            "7:14",
            &["9000000", "5000000"],
        ),
        (
            format!("{WEB}ping = \"reply\"\n"),
            "7:8",
            &["\"reply\"", "\"answer\", \"forward\", \"drop\""],
        ),
        (
            format!("{WEB}ping = \"forward\"\n"),
            "7:8",
            &["\"forward\"", "\"nat\"", "\"dsr-*\""],
        ),
        (
            format!(
                "{WEB}ping = \"drop\"\n{}",
                replaced("\"web\"", "\"w2\"").replace("port = 80", "port = 81")
            ),
            "8:1",
            &[
                "\"answer\" in \"w2\"",
                "\"drop\" in \"web\"",
                "198.51.100.10",
            ],
        ),
        (
            format!("{WEB}timeouts = {{ syn = 10 }}\n"),
            "7:20",
            &["`syn`", "found 10", "\"10s\""],
        ),
        (
            format!("{WEB}timeouts = {{ sin = \"1s\" }}\n"),
            "7:14",
            &["`sin`", "`syn`, `established`"],
        ),
        (
            format!("{WEB}half_nat = []\n"),
            "7:1",
            &["`half_nat`", "`forwarding`"],
        ),
        (format!("{WEB}name = \"again\"\n"), "7:1", &["`name` twice"]),
        (
            format!("{WEB}{}", replaced("198.51", "203.0")),
            "8:8",
            &["second service \"web\""],
        ),
        (
            format!("{WEB}{}", replaced("\"web\"", "\"w2\"")),
            "9:7",
            &["198.51.100.10:80", "\"web\" has already"],
        ),
        (
            replaced("[[service]]", "[service]"),
            "1:1",
            &["[service]", "[[service]]"],
        ),
        (replaced("\"web\"", "\"web"), "2:12", &["not valid TOML"]),
        (
            format!("[[servic]]\n{WEB}"),
            "1:3",
            &["`servic`", "`service`"],
        ),
        (
            format!("{WEB}min_healthy = 2\n"),
            "7:15",
            &["found 2", "0.0 to 1.0", "50%"],
        ),
        (
            format!("{WEB}on_down = \"drop\"\n"),
            "7:11",
            &["\"drop\"", "\"re-steer\", \"keep\", \"reset\""],
        ),
        (
            format!("{WEB}on_down = \"reset\"\n").replace("\"nat\"", "\"dsr-l2\""),
            "7:11",
            &["\"dsr-l2\"", "\"nat\""],
        ),
        (
            format!("{WEB}unknown_tcp = \"reset\"\n").replace("\"tcp\"\n", "\"udp\"\n"),
            "7:15",
            &["\"udp\"", "\"tcp\" only"],
        ),
        (
            format!("{WEB}deregistration_delay = 5\n"),
            "7:24",
            &["found 5", "\"never\""],
        ),
        (
            format!("{WEB}[service.health]\nkind = \"tcp\"\npayload = \"x\"\n"),
            "9:11",
            &["kind = \"tcp\"", "\"udp\" only"],
        ),
        (
            format!("{WEB}[service.health]\nkind = \"udp\"\npayload = \"hex:0\"\n"),
            "9:11",
            &["hex:0", "two hexadecimal digits"],
        ),
        (
            format!("{WEB}[service.health]\nkind = \"https\"\ntls = {{ verify = true }}\n"),
            "9:7",
            &["without a `ca`"],
        ),
        (
            format!("{WEB}[service.health]\nkind = \"tcp\"\n")
                .replace("port = 80", "port = \"any\""),
            "8:8",
            &["for port any", "`port`"],
        ),
        (
            format!("{WEB}[service.health]\nkind = \"ping\"\n"),
            "8:8",
            &["\"ping\"", "\"icmp\""],
        ),
        (
            format!("{WEB}[service.health]\nfall = 3\n"),
            "7:1",
            &["no `kind`"],
        ),
        (
            format!("{WEB}[service.health]\nkind = \"tcp\"\nfall = 0\n"),
            "9:8",
            &["`fall`", "1 to 1000"],
        ),
        (
            format!("{WEB}[service.health]\nkind = \"tcp\"\npath = \"/\"\n"),
            "9:8",
            &["\"http\""],
        ),
        (
            format!("{WEB}[service.health]\nkind = \"http\"\npath = \"x\"\n"),
            "9:8",
            &["\"x\"", "\"/\""],
        ),
        (
            backend("weight = 1\n"),
            "7:1",
            &["no `address`", "[[service.backend]]"],
        ),
        (
            backend("address = \"10.0.0.300\"\n"),
            "8:11",
            &["10.0.0.300"],
        ),
        (
            backend("address = \"2001:db8::1\"\n"),
            "8:11",
            &["family", "198.51.100.10"],
        ),
        (
            backend("address = \"198.51.100.10\"\n"),
            "8:11",
            &["the VIP of service \"web\""],
        ),
        (
            backend("address = \"10.0.0.1\"\nport = 0\n"),
            "9:8",
            &["found 0", "1 to 65535"],
        ),
        (
            backend("address = \"10.0.0.1\"\nweight = -1\n"),
            "9:10",
            &["-1", "0 to 65535"],
        ),
        (
            backend("address = \"10.0.0.1\"\nweight = \"2\"\n"),
            "9:10",
            &["\"2\"", "0 to 65535"],
        ),
        (
            backend("address = \"10.0.0.1\"\nstate = \"off\"\n"),
            "9:9",
            &["\"off\"", "\"disabled\""],
        ),
        (
            backend("address = \"10.0.0.1\"\ndrain_timeout = \"1s\"\n"),
            "9:17",
            &["state = \"drain\""],
        ),
        (
            backend("address = \"10.0.0.1\"\nforce = \"on\"\n"),
            "9:9",
            &["\"on\"", "\"up\""],
        ),
        (
            backend("address = \"10.0.0.1\"\n[[service.backend]]\naddress = \"10.0.0.1\"\n"),
            "10:11",
            &["10.0.0.1:80 twice"],
        ),
        (
            format!("{WEB}backend = [5]\n"),
            "7:12",
            &["integer `5`", "a table"],
        ),
        (
            replaced("\"nat\"", "\"dsr-l2\"")
                + "[[service.backend]]\naddress = \"10.0.0.1\"\nport = 8080\n",
            "9:8",
            &["8080", "accepted: 80", "nat"],
        ),
        (
            replaced("80", "\"any\"")
                + "[[service.backend]]\naddress = \"10.0.0.1\"\nport = 8080\n",
            "9:8",
            &["8080", "\"any\"", "no port"],
        ),
    ];
    for (text, place, parts) in &table {
        let complaint = complaint(text);
        assert!(
            complaint.starts_with(&format!("pools.toml:{place}: ")),
            "{place}: {complaint}"
        );
        for part in *parts {
            assert!(complaint.contains(part), "{part:?} is not in: {complaint}");
        }
        assert!(names_its_subject(&complaint), "{complaint}");
    }
}

#[test]
fn two_nat_services_cannot_share_a_backend_address_and_port() {
    let service = |name: &str, port: &str, forwarding: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\nvip = \"198.51.100.10\"\nport = {port}\nprotocol = \"tcp\"\n\
             forwarding = \"{forwarding}\"\n[[service.backend]]\naddress = \"10.0.0.1\"\n"
        )
    };
    let shared = |other: &str| service("a", "80", "nat") + other;
    let complaint = complaint(&shared(&(service("b", "81", "nat") + "port = 80\n")));
    assert!(complaint.starts_with("pools.toml:16:"), "{complaint}");
    assert!(
        complaint.contains("\"a\"") && complaint.contains("full-nat"),
        "{complaint}"
    );
    for any in [
        service("b", "\"any\"", "nat") + &service("a", "80", "nat"),
        shared(&service("b", "\"any\"", "nat")),
    ] {
        assert!(
            parse_services("f", &any)
                .unwrap_err()
                .message
                .contains("full-nat")
        );
    }
    // Another port, or a mode whose answers do not come back through weir, is no clash.
    assert!(parse_services("f", &shared(&service("b", "81", "nat"))).is_ok());
    assert!(parse_services("f", &shared(&service("b", "81", "dsr-l2"))).is_ok());
    let udp = service("b", "80", "nat").replace("tcp", "udp");
    assert!(parse_services("f", &shared(&udp)).is_ok());
}

#[test]
fn an_exact_port_and_any_may_share_a_vip() {
    let text = WEB.to_owned() + &WEB.replace("\"web\"", "\"rest\"").replace("80", "\"any\"");
    assert!(parse_services("f", &text).is_ok());
}

#[test]
fn columns_count_characters() {
    let text = "[[service]]\n\"näme\" = 1\n";
    assert!(
        complaint(text).starts_with("pools.toml:2:1: "),
        "{}",
        complaint(text)
    );
    let text = "service = [{ name = \"ä\", bad = 1 }]\n";
    assert!(
        complaint(text).starts_with("pools.toml:1:26: "),
        "{}",
        complaint(text)
    );
}

/// A QUIC service; `configs` begins on line 8, its backends on line 9.
fn quic(configs: &str, backends: &str) -> String {
    let service = WEB.replace("\"tcp\"", "\"quic\"");
    format!("{service}[service.quic]\nconfigs = {configs}\n{backends}")
}

const PLAIN: &str = "[{ rotation = 0, server_id_length = 3, nonce_length = 4 }]";
const TWO: &str = "[{ rotation = 0, server_id_length = 3, nonce_length = 4 }, { rotation = 1, \
                   server_id_length = 3, nonce_length = 5, key = \"8f95f09245765f80256934e50c66207f\" }]";

fn backend(address: &str, lines: &str) -> String {
    format!("[[service.backend]]\naddress = \"{address}\"\n{lines}")
}

#[test]
fn quic_configurations_and_server_ids_are_read() {
    let backends = backend(
        "10.0.0.1",
        "server_ids = { 0 = \"c4605e\", 1 = \"ED793A\" }\n",
    ) + &backend("10.0.0.2", "");
    let pool = parse_services("f", &quic(TWO, &backends)).unwrap().pool;
    let web = &pool.services[0];
    assert_eq!(web.protocol, Protocol::Quic);
    assert_eq!((web.quic[0].rotation, web.quic[0].key), (0, None));
    assert_eq!(
        (web.quic[1].server_id_length, web.quic[1].nonce_length),
        (3, 5)
    );
    assert!(web.quic[1].key.is_some());
    let ids = |backend: usize, rotation| {
        let id = web.backends[backend].server_ids.under(rotation);
        id.map(|id| id.to_string())
    };
    assert_eq!(ids(0, 0).as_deref(), Some("c4605e"));
    assert_eq!(ids(0, 1).as_deref(), Some("ed793a"));
    assert_eq!(ids(0, 2), None);
    assert_eq!(ids(1, 0), None);
    let text = quic(PLAIN, &backend("10.0.0.1", "server_id = \"c4605e\"\n"));
    let pool = parse_services("f", &text).unwrap().pool;
    let id = pool.services[0].backends[0].server_ids.under(0).unwrap();
    assert_eq!(id.octets(), [0xc4, 0x60, 0x5e]);
    let bare = WEB.replace("\"tcp\"", "\"quic\"");
    let warnings = parse_services("f", &bare).unwrap().warning_texts();
    assert!(warnings[0].contains("[service.quic]"), "{warnings:?}");
}

#[test]
fn what_quic_cannot_be_is_refused_with_its_place() {
    let config = |text: &str| quic(&format!("[{{ {text} }}]"), "");
    let same = |id: &str| {
        let line = format!("server_id = \"{id}\"\n");
        backend("10.0.0.1", &line) + &backend("10.0.0.2", &line)
    };
    let table: Vec<(String, &str, &[&str])> = vec![
        (
            quic("[]", ""),
            "8:11",
            &["`configs`", "empty", "one configuration"],
        ),
        (quic("5", ""), "8:11", &["5", "array"]),
        (
            quic(PLAIN, "").replace("\"quic\"", "\"udp\""),
            "7:1",
            &["[service.quic]", "\"udp\"", "\"quic\" only"],
        ),
        (
            quic("[]", "").replace("configs = []\n", ""),
            "7:1",
            &["no `configs`", "[service.quic]"],
        ),
        (config("rotation = 0"), "8:12", &["no `server_id_length`"]),
        (
            config("rotation = 7, server_id_length = 3, nonce_length = 4"),
            "8:25",
            &["`rotation`", "found 7", "0 to 6"],
        ),
        (
            config("rotation = 0, server_id_length = 0, nonce_length = 4"),
            "8:47",
            &["`server_id_length`", "found 0", "1 to 15"],
        ),
        (
            config("rotation = 0, server_id_length = 1, nonce_length = 3"),
            "8:65",
            &["`nonce_length`", "found 3", "4 to 18"],
        ),
        (
            config("rotation = 0, server_id_length = 10, nonce_length = 10"),
            "8:11",
            &["10", "19 together"],
        ),
        (
            config("rotation = 0, server_id_length = 1, nonce_length = 4, key = \"00\""),
            "8:74",
            &["`key`", "2 characters", "32 hexadecimal"],
        ),
        (
            config("rotation = 0, server_id_length = 1, nonce_length = 4, kei = \"00\""),
            "8:68",
            &["`kei`", "`key`"],
        ),
        (
            quic(&TWO.replace("rotation = 1", "rotation = 0"), ""),
            "8:11",
            &["two configurations of rotation 0"],
        ),
        (
            quic(PLAIN, &same("c4605e")),
            "14:13",
            &["c4605e", "10.0.0.2:80", "10.0.0.1:80"],
        ),
        (
            quic(PLAIN, &backend("10.0.0.1", "server_id = \"c460\"\n")),
            "11:13",
            &["c460", "2 octets", "accepted: 3"],
        ),
        (
            quic(PLAIN, &backend("10.0.0.1", "server_id = \"c460x\"\n")),
            "11:13",
            &["c460x", "hexadecimal"],
        ),
        (
            quic(PLAIN, &backend("10.0.0.1", "server_id = 5\n")),
            "11:13",
            &["found 5", "hexadecimal"],
        ),
        (
            quic(TWO, &backend("10.0.0.1", "server_id = \"c4605e\"\n")),
            "11:13",
            &["c4605e", "plaintext", "encrypted", "different"],
        ),
        (
            quic(
                TWO,
                &(backend("10.0.0.1", "server_ids = { 0 = \"c4605e\" }\n")
                    + &backend("10.0.0.2", "server_ids = { 1 = \"c4605e\" }\n")),
            ),
            "14:14",
            &["c4605e", "rotation 0", "rotation 1"],
        ),
        (
            quic(
                TWO,
                &backend("10.0.0.1", "server_ids = { 2 = \"c4605e\" }\n"),
            ),
            "11:14",
            &["rotation 2", "0, 1"],
        ),
        (
            quic(
                TWO,
                &backend("10.0.0.1", "server_ids = { x = \"c4605e\" }\n"),
            ),
            "11:14",
            &["\"x\"", "0 to 6"],
        ),
        (
            quic(TWO, &backend("10.0.0.1", "server_ids = {}\n")),
            "11:14",
            &["empty", "{ 0 ="],
        ),
        (
            quic(TWO, &backend("10.0.0.1", "server_ids = \"c4605e\"\n")),
            "11:14",
            &["string", "{ 0 ="],
        ),
        (
            quic(
                PLAIN,
                &backend(
                    "10.0.0.1",
                    "server_id = \"c4605e\"\nserver_ids = { 0 = \"c4605f\" }\n",
                ),
            ),
            "12:14",
            &["beside `server_id`"],
        ),
        (
            format!("{WEB}{}", backend("10.0.0.1", "server_id = \"c4605e\"\n")),
            "9:13",
            &["server ID", "\"quic\" only"],
        ),
        (
            WEB.replace("\"tcp\"", "\"quic\"") + &backend("10.0.0.1", "server_id = \"c4605e\"\n"),
            "9:13",
            &["server ID", "[service.quic] configs"],
        ),
        (
            quic(PLAIN, "") + &WEB.replace("web", "udp").replace("\"tcp\"", "\"udp\""),
            "11:7",
            &["198.51.100.10:80", "\"web\" has already"],
        ),
    ];
    for (text, place, parts) in &table {
        let complaint = complaint(text);
        assert!(
            complaint.starts_with(&format!("pools.toml:{place}: ")),
            "{place}: {complaint}\n{text}"
        );
        for part in *parts {
            assert!(complaint.contains(part), "{part:?} is not in: {complaint}");
        }
        assert!(names_its_subject(&complaint), "{complaint}");
    }
}

/// A service with a mode and further keys.
fn with(mode: &str, keys: &str) -> String {
    WEB.replace("\"nat\"", &format!("\"{mode}\"")) + keys
}

#[test]
fn settings_of_tunnels_are_read_and_have_defaults() {
    let tunnel = |text: &str| parse_services("f", text).unwrap().pool.services[0].tunnel;
    let gue = tunnel(&with(
        "dsr-gue",
        "gue_variant = 0\ngue_port = 6666\nouter_udp_checksum = \"full\"\nmss_clamp = 1400\n\
         tunnel_source = [\"10.64.0.0/16\", \"2001:db8:1::1\"]\n",
    ));
    assert_eq!((gue.gue_variant(), gue.gue_port()), (0, 6666));
    assert_eq!(gue.outer_udp_checksum(), crate::model::OuterChecksum::Full);
    assert_eq!(gue.mss_clamp, Some(1400));
    assert_eq!(gue.sources.v4.unwrap().to_string(), "10.64.0.0/16");
    assert_eq!(gue.sources.v6.unwrap().to_string(), "2001:db8:1::1");
    let gue = tunnel(&with("dsr-gue", ""));
    assert_eq!((gue.gue_variant(), gue.gue_port()), (1, 6080));
    assert_eq!(gue.outer_udp_checksum(), crate::model::OuterChecksum::Zero);
    assert_eq!(tunnel(&with("dsr-gre", "gre_key = 0\n")).gre_key, Some(0));
    assert_eq!(
        tunnel(&with("dsr-geneve", "geneve_vni = 16777215\n")).geneve_vni(),
        0xff_ffff
    );
    assert_eq!(tunnel(&with("dsr-dscp", "dscp = 7\n")).dscp, Some(7));
    let ipip = with("dsr-ipip", "tunnel_source = \"10.0.0.1\"\n");
    assert!(tunnel(&ipip).sources.v4.unwrap().is_single());
}

#[test]
fn backends_of_tunnels_may_be_of_the_other_family() {
    let v6 = "[[service.backend]]\naddress = \"2001:db8::1\"\n";
    for mode in ["dsr-ipip", "dsr-gue", "dsr-gre", "dsr-geneve"] {
        assert!(parse_services("f", &with(mode, v6)).is_ok(), "{mode}");
    }
    let message = complaint(&with("dsr-dscp", &format!("dscp = 1\n{v6}")));
    assert!(message.contains("the VIP's family"), "{message}");
    // The client's packet arrives as it was sent, so its port is the service's.
    let port = "[[service.backend]]\naddress = \"10.0.0.1\"\nport = 8080\n";
    let message = complaint(&with("dsr-ipip", port));
    assert!(message.contains("80, the service's"), "{message}");
}

#[test]
fn a_setting_is_refused_where_it_means_nothing_or_too_much() {
    for (mode, key, parts) in [
        (
            "nat",
            "gue_port = 6080",
            &["\"nat\"", "\"dsr-gue\" only"][..],
        ),
        (
            "dsr-l2",
            "tunnel_source = \"10.0.0.1\"",
            &["\"dsr-ipip\", \"dsr-gue\""],
        ),
        ("dsr-gue", "gre_key = 7", &["\"dsr-gre\" only"]),
        ("dsr-gre", "geneve_vni = 7", &["\"dsr-geneve\" only"]),
        (
            "dsr-ipip",
            "outer_udp_checksum = \"full\"",
            &["\"dsr-gue\", \"dsr-geneve\" only"],
        ),
        ("dsr-ipip", "dscp = 7", &["\"dsr-dscp\" only"]),
        ("dsr-gue", "gue_variant = 2", &["found 2", "0 to 1"]),
        ("dsr-gue", "gue_port = 0", &["found 0", "1 to 65535"]),
        ("dsr-gre", "gre_key = -1", &["found -1", "4294967295"]),
        (
            "dsr-geneve",
            "geneve_vni = 16777216",
            &["16777216", "16777215"],
        ),
        (
            "dsr-gue",
            "outer_udp_checksum = \"none\"",
            &["\"none\"", "\"zero\", \"full\""],
        ),
        ("dsr-dscp", "dscp = 64", &["found 64", "1 to 63"]),
        ("nat", "mss_clamp = 20", &["found 20", "88 to 65495"]),
        (
            "dsr-ipip",
            "tunnel_source = \"10.0.0.1/24\"",
            &["10.0.0.1/24", "without host bits"],
        ),
        (
            "dsr-ipip",
            "tunnel_source = []",
            &["an empty list", "one for each family"],
        ),
        (
            "dsr-ipip",
            "tunnel_source = [\"10.0.0.1\", \"10.0.0.2\"]",
            &["of one family"],
        ),
    ] {
        let message = complaint(&with(mode, &format!("{key}\n")));
        let column = key.find("= ").unwrap() + 3;
        let place = format!("pools.toml:7:{column}: ");
        assert!(message.starts_with(&place), "{place} is not in: {message}");
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
    }
    let message = complaint(&with("dsr-dscp", ""));
    assert!(message.contains("no `dscp`"), "{message}");
    let udp = with("nat", "mss_clamp = 1400\n").replace("\"tcp\"", "\"udp\"");
    assert!(complaint(&udp).contains("with \"tcp\" or \"any\" only"));
}

#[test]
fn two_vips_need_two_dscps_on_one_backend() {
    let service = |name: &str, vip: &str, dscp: u8| {
        format!(
            "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = 80\nprotocol = \"tcp\"\n\
             forwarding = \"dsr-dscp\"\ndscp = {dscp}\n[[service.backend]]\naddress = \"10.0.0.1\"\n"
        )
    };
    let first = service("a", "198.51.100.10", 7);
    let message = complaint(&(first.clone() + &service("b", "198.51.100.11", 7)));
    assert!(
        message.contains("could not tell the VIPs apart"),
        "{message}"
    );
    assert!(parse_services("f", &(first.clone() + &service("b", "198.51.100.11", 8))).is_ok());
    let same_vip = service("b", "198.51.100.10", 7).replace("port = 80", "port = 81");
    assert!(parse_services("f", &(first + &same_vip)).is_ok());
}
