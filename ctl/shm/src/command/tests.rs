//! Commands on a small pool.

use super::*;
use crate::model::{Admin, Forced, NO_DEADLINE};
use std::time::Duration;

const POOL: &str = r#"
[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
forwarding = "nat"
[[service.backend]]
address = "10.0.0.11"
port = 8080
[[service.backend]]
address = "10.0.0.12"
port = 8080

[[service]]
name = "all"
vip = "2001:db8::10"
port = "any"
protocol = "udp"
forwarding = "dsr-l2"
[[service.backend]]
address = "2001:db8::11"
"#;

fn pool() -> Pool {
    document::parse_services("pool", POOL).unwrap().pool
}

fn run(pool: &mut Pool, line: &str) -> Result<Change, Refused> {
    parse_line(line).unwrap().apply_to(pool)
}

#[test]
fn each_command_changes_what_it_names() {
    let mut pool = pool();
    for line in [
        "backend add web 10.0.0.13:8080 --weight 4",
        "backend weight web 10.0.0.11:8080 2",
        "backend drain web 10.0.0.11:8080",
        "backend disable web 10.0.0.12:8080",
        "backend force web 10.0.0.13:8080 down",
        "backend drain all 2001:db8::11 --timeout never --wait --force",
        "service add dns --vip 198.51.100.53 --port 53 --protocol udp --forwarding nat --backend 10.0.0.53",
    ] {
        let change = run(&mut pool, line).unwrap();
        assert!(
            change.changed && change.lines.len() == 1,
            "{line}: {change:?}"
        );
    }
    let web = pool.service("web").unwrap();
    let found: Vec<_> = web
        .backends
        .iter()
        .map(|backend| (backend.weight, backend.admin, backend.forced))
        .collect();
    assert_eq!(
        found,
        [
            (
                2,
                Admin::Drain {
                    timeout: Duration::from_secs(300)
                },
                Forced::Auto
            ),
            (1, Admin::Disabled, Forced::Auto),
            (4, Admin::Enabled, Forced::Down),
        ]
    );
    let drain = Admin::Drain {
        timeout: NO_DEADLINE,
    };
    assert_eq!(pool.service("all").unwrap().backends[0].admin, drain);
    assert_eq!(pool.service("dns").unwrap().backends[0].port, 53);
    run(&mut pool, "backend enable web 10.0.0.11:8080").unwrap();
    run(&mut pool, "backend remove web 10.0.0.12:8080").unwrap();
    run(&mut pool, "service remove all").unwrap();
    assert_eq!(pool.services.len(), 2);
    assert_eq!(pool.service("web").unwrap().backends.len(), 2);
    assert_eq!(
        pool.service("web").unwrap().backends[0].admin,
        Admin::Enabled
    );
}

#[test]
fn draining_the_last_backend_is_refused_without_force() {
    let mut pool = pool();
    run(&mut pool, "backend drain web 10.0.0.11:8080").unwrap();
    let refused = run(&mut pool, "backend drain web 10.0.0.12:8080").unwrap_err();
    assert!(refused.to_string().contains("--force"), "{refused}");
    // One that drains already takes no new flows, so that nothing is lost.
    run(&mut pool, "backend drain web 10.0.0.11:8080 --timeout 5s").unwrap();
    run(&mut pool, "backend drain web 10.0.0.12:8080 --force").unwrap();
    let web = pool.service("web").unwrap();
    assert!(
        web.backends
            .iter()
            .all(|backend| backend.admin != Admin::Enabled)
    );
}

#[test]
fn what_is_not_there_is_refused_with_what_is() {
    for (line, parts) in [
        (
            "backend drain nope 10.0.0.11:8080",
            vec!["no service \"nope\"", "there are web, all"],
        ),
        (
            "service remove nope",
            vec!["no service \"nope\"", "web, all"],
        ),
        ("service show nope", vec!["no service \"nope\""]),
        ("backend list nope", vec!["no service \"nope\""]),
        (
            "backend remove web 10.0.0.99:8080",
            vec!["10.0.0.99:8080", "10.0.0.11:8080, 10.0.0.12:8080"],
        ),
        (
            "backend remove web 10.0.0.11",
            vec!["10.0.0.11:80", "it has 10.0.0.11:8080"],
        ),
        (
            "backend remove all [2001:db8::11]:80",
            vec!["port 80", "address alone"],
        ),
        (
            "backend add web 10.0.0.11:8080",
            vec!["10.0.0.11:8080", "there already"],
        ),
        ("backend add web [2001:db8::1]:80", vec!["family"]),
        (
            "backend add web 10.0.0.14:80 --weight 70000",
            vec!["70000", "65535"],
        ),
        (
            "service add web --vip 198.51.100.11 --port 80 --protocol tcp --forwarding nat",
            vec!["\"web\"", "there already"],
        ),
        (
            "service add w --vip 198.51.100.10 --port 80 --protocol tcp --forwarding nat",
            vec!["198.51.100.10:80", "\"web\" has already"],
        ),
        (
            "service add w --vip 198.51.100.11 --port 80 --protocol tcp --forwarding nat --backend 10.0.0.11:8080",
            vec!["full-nat"],
        ),
        (
            "apply /nonexistent/pools.toml",
            vec!["/nonexistent/pools.toml", "No such file"],
        ),
    ] {
        let before = pool();
        let mut pool = before.clone();
        let refused = run(&mut pool, line).unwrap_err().to_string();
        for part in parts {
            assert!(
                refused.contains(part),
                "{line}: {part:?} is not in: {refused}"
            );
        }
        assert_eq!(pool, before, "{line} left something behind");
    }
}

#[test]
fn what_is_so_already_is_no_change() {
    let mut pool = pool();
    for line in [
        "backend enable web 10.0.0.11:8080",
        "backend weight web 10.0.0.11:8080 1",
        "backend force web 10.0.0.11:8080 auto",
        "service list",
        "service show web",
        "backend list web",
    ] {
        assert!(!run(&mut pool, line).unwrap().changed, "{line}");
    }
}

#[test]
fn a_line_that_is_no_command_says_so() {
    for (line, part) in [
        ("", "Usage: weirctl <COMMAND>"),
        ("backend", "Usage: weirctl backend <COMMAND>"),
        ("backend explode web", "unrecognized subcommand 'explode'"),
        ("backend weight web 10.0.0.11:8080", "<WEIGHT>"),
        ("backend weight web 10.0.0.11:8080 heavy", "heavy"),
        (
            "backend force web 10.0.0.11:8080 sideways",
            "accepted: \"auto\", \"up\", \"down\"",
        ),
        ("backend drain web 10.0.0.11:8080 --timeout 5", "\"500ms\""),
        ("backend drain web 10.0.0.11:99999", "ADDRESS:PORT"),
        ("backend drain \"web", "quotation mark"),
        (
            "service add x --vip a --port 80 --protocol tcp --forwarding nat",
            "a prefix of addresses",
        ),
        (
            "service add x --vip 192.0.2.1 --port 80 --protocol sctp --forwarding nat",
            "\"tcp\", \"udp\", \"quic\", \"any\"",
        ),
        (
            "lookup tcp 1.1.1.1:1 2.2.2.2:2",
            "unrecognized subcommand 'lookup'",
        ),
    ] {
        let usage = parse_line(line).unwrap_err().to_string();
        assert!(usage.contains(part), "{line}: {part:?} is not in: {usage}");
    }
}

#[test]
fn apply_makes_the_pool_what_the_file_says() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = POOL
        .replace("10.0.0.12", "10.0.0.13")
        .replace("\"all\"", "\"rest\"");
    std::fs::write(file.path(), &text).unwrap();
    let mut pool = pool();
    run(&mut pool, "backend drain web 10.0.0.11:8080").unwrap();
    let before = pool.clone();
    let dry = run(
        &mut pool,
        &format!("apply {} --dry-run", file.path().display()),
    )
    .unwrap();
    assert_eq!((dry.changed, &pool), (false, &before));
    let change = run(&mut pool, &format!("apply {}", file.path().display())).unwrap();
    assert_eq!(change.lines, dry.lines);
    assert_eq!(
        change.lines,
        [
            "- service all ([2001:db8::10]:any/udp, dsr-l2)",
            "- backend web 10.0.0.12:8080",
            "~ backend web 10.0.0.11:8080 (state: drain, 5m → enabled)",
            "+ backend web 10.0.0.13:8080 (weight 1)",
            "+ service rest ([2001:db8::10]:any/udp, dsr-l2)",
            "+ backend rest 2001:db8::11 (weight 1)",
        ]
    );
    assert_eq!(pool, document::parse_services("f", &text).unwrap().pool);
    assert!(
        !run(&mut pool, &format!("apply {}", file.path().display()))
            .unwrap()
            .changed
    );
}

#[test]
fn a_wrong_file_is_refused_with_its_place() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[[service]]\nnam = 1\n").unwrap();
    let mut pool = pool();
    let refused = run(&mut pool, &format!("apply {}", file.path().display())).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains(":2:1: found unknown key `nam`"),
        "{refused}"
    );
}

#[test]
fn a_backend_is_added_with_its_server_ids() {
    let text = "[[service]]\nname = \"q\"\nvip = \"198.51.100.10\"\nport = 443\nprotocol = \"quic\"\n\
                forwarding = \"nat\"\n[service.quic]\nconfigs = [{ rotation = 0, server_id_length = 3, \
                nonce_length = 4 }, { rotation = 2, server_id_length = 3, nonce_length = 6 }]\n";
    let mut pool = document::parse_services("pool", text).unwrap().pool;
    run(&mut pool, "backend add q 10.0.0.1:443 --server-id c4605e").unwrap();
    let line = "backend add q 10.0.0.2:443 --weight 2 --server-id 0=ed793a --server-id 2=ed793b";
    run(&mut pool, line).unwrap();
    run(&mut pool, "backend add q 10.0.0.3:443").unwrap();
    let ids: Vec<String> = pool.services[0]
        .backends
        .iter()
        .map(|backend| backend.server_ids.to_string())
        .collect();
    assert_eq!(ids, ["c4605e", "0=ed793a,2=ed793b", "-"]);
    for (line, part) in [
        ("--server-id c4605e", "10.0.0.1:443 has already"),
        ("--server-id c460", "2 octets"),
        ("--server-id 1=c46050", "rotation 1"),
        ("--server-id c46050 --server-id 0=c46051", "beside others"),
    ] {
        let refused = run(&mut pool, &format!("backend add q 10.0.0.4:443 {line}"));
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(part), "{line}: {refused}");
    }
    let usage = parse_line("backend add q 10.0.0.4:443 --server-id xyz").unwrap_err();
    assert!(usage.to_string().contains("hexadecimal"), "{usage}");
    let before = pool.clone();
    run(&mut pool, "backend remove q 10.0.0.2:443").unwrap();
    let lines = Difference::between(&pool, &before).lines();
    assert_eq!(
        lines,
        ["+ backend q 10.0.0.2:443 (weight 2, server ID 0=ed793a,2=ed793b)"]
    );
}

#[test]
fn a_tunnel_service_is_added_with_its_settings() {
    let mut pool = pool();
    let add = "service add far --vip 198.51.100.60 --port 80 --protocol tcp --forwarding dsr-gue \
               --gue-variant 0 --gue-port 6666 --outer-udp-checksum full --mss-clamp 1400 \
               --tunnel-source 10.64.0.0/16 --tunnel-source 2001:db8:1::1 --backend 10.0.0.60";
    run(&mut pool, add).unwrap();
    let tunnel = pool.service("far").unwrap().tunnel;
    assert_eq!(
        (tunnel.gue_variant(), tunnel.gue_port(), tunnel.mss_clamp),
        (0, 6666, Some(1400))
    );
    assert_eq!(tunnel.sources.iter().count(), 2);
    for (line, part) in [
        ("--forwarding dsr-gre --gue-port 1", "\"dsr-gue\" only"),
        ("--forwarding dsr-dscp", "no `dscp`"),
        (
            "--forwarding dsr-ipip --tunnel-source 10.0.0.1 --tunnel-source 10.0.0.2",
            "of one family",
        ),
    ] {
        let line = format!("service add x --vip 198.51.100.61 --port 80 --protocol tcp {line}");
        let refused = run(&mut pool, &line).unwrap_err().to_string();
        assert!(refused.contains(part), "{line}: {refused}");
    }
    let before = pool.clone();
    pool.service_mut("far").unwrap().tunnel.gue_port = Some(7777);
    let difference = Difference::between(&before, &pool).lines();
    assert_eq!(difference, ["~ service far (gue_port: 6666 → 7777)"]);
}

/// A service in TOML behind its head, and the same as flags behind `service add s`.
const BOTH_WAYS: &[(&str, &str)] = &[
    (
        r#"vip = "198.51.100.60"
port = 80
protocol = "tcp"
forwarding = "nat"
scheduler = "ring"
ring_vnodes = 40
table_size = 251
hash = "5-tuple+isn"
all_down = "reset"
ping = "drop"
mss_clamp = 1400
timeouts = { syn = "5s", established = "10m", closing = "7s", udp = "9s" }
slow_start = "30s"
min_healthy = "33.3%"
on_down = "reset"
unknown_tcp = "reset"
deregistration_delay = "never"
[service.health]
kind = "http"
interval = "3s"
timeout = "500ms"
fall = 4
rise = 6
port = 8081
method = "POST"
path = "/healthz?full=1"
host = "web.example"
status = ["200-204", 301]
body = "all is well"
flap = { changes = 3, window = "1m", hold = "5s", max_hold = "20s" }"#,
        "--vip 198.51.100.60 --port 80 --protocol tcp --forwarding nat --scheduler ring \
         --ring-vnodes 40 --table-size 251 --hash 5-tuple+isn --all-down reset --ping drop \
         --mss-clamp 1400 --timeouts syn=5s,established=10m --timeouts closing=7s,udp=9s \
         --slow-start 30s --min-healthy 33.3% --on-down reset --unknown-tcp reset \
         --deregistration-delay never --health http --interval 3s --timeout 500ms --fall 4 --rise 6 \
         --health-port 8081 --method POST --path '/healthz?full=1' --host web.example \
         --status 200-204,301 --body 'all is well' --flap-changes 3 --flap-window 1m --flap-hold 5s \
         --flap-max-hold 20s",
    ),
    (
        r#"vip = "2001:db8::60"
port = 443
protocol = "tcp"
forwarding = "full-nat"
snat_pool = ["10.0.0.5", "2001:db8::5"]
client_address = "proxy-v2"
affinity = { by = "source", prefix4 = 24, prefix6 = 56, timeout = "1h" }
min_healthy = 0.5
on_down = "keep"
[service.health]
kind = "https"
flap = { hold = "20m" }
tls = { verify = true, ca = "/etc/ca.pem", server_name = "x", certificate = "/c.pem", key = "/k.pem" }"#,
        "--vip 2001:db8::60 --port 443 --protocol tcp --forwarding full-nat \
         --snat-pool 10.0.0.5,2001:db8::5 --client-address proxy-v2 --affinity source \
         --affinity-prefix4 24 --affinity-prefix6 56 --affinity-timeout 1h --min-healthy 0.5 \
         --on-down keep --health https --flap-hold 20m --tls-verify --tls-ca /etc/ca.pem \
         --tls-server-name x --tls-certificate /c.pem --tls-key /k.pem",
    ),
    (
        r#"vip = "198.51.100.0/28"
port = "8000-8100"
protocol = "udp"
forwarding = "dsr-gue"
tunnel_source = ["10.64.0.0/16", "2001:db8:1::1"]
gue_variant = 0
gue_port = 6666
outer_udp_checksum = "full"
[service.health]
kind = "udp"
port = 53
payload = "hex:00ff"
answer = """#,
        "--vip 198.51.100.0/28 --port 8000-8100 --protocol udp --forwarding dsr-gue \
         --tunnel-source 10.64.0.0/16 --tunnel-source 2001:db8:1::1 --gue-variant 0 --gue-port 6666 \
         --outer-udp-checksum full --health udp --health-port 53 --payload hex:00ff --answer ''",
    ),
    (
        r#"vip = "198.51.100.60"
port = "any"
protocol = "tcp"
forwarding = "dsr-gre"
gre_key = 7
ping = "forward"
health = { kind = "icmp" }"#,
        "--vip 198.51.100.60 --port any --protocol tcp --forwarding dsr-gre --gre-key 7 \
         --ping forward --health icmp",
    ),
    (
        r#"vip = "198.51.100.60"
port = 80
protocol = "tcp"
forwarding = "dsr-geneve"
geneve_vni = 9
deregistration_delay = "1m""#,
        "--vip 198.51.100.60 --port 80 --protocol tcp --forwarding dsr-geneve --geneve-vni 9 \
         --deregistration-delay 1m",
    ),
    (
        r#"vip = "198.51.100.60"
port = 80
protocol = "tcp"
forwarding = "dsr-dscp"
dscp = 7"#,
        "--vip 198.51.100.60 --port 80 --protocol tcp --forwarding dsr-dscp --dscp 7",
    ),
    (
        r#"vip = "198.51.100.60"
port = 443
protocol = "quic"
forwarding = "nat"
health = { kind = "quic" }
[service.quic]
configs = [{ rotation = 0, server_id_length = 8, nonce_length = 8, key = "8f95f09245765f80256934e50c66207f" }, { rotation = 3, server_id_length = 3, nonce_length = 4 }]"#,
        "--vip 198.51.100.60 --port 443 --protocol quic --forwarding nat --health quic \
         --quic-config rotation=0,server_id_length=8,nonce_length=8,key=8f95f09245765f80256934e50c66207f \
         --quic-config rotation=3,server_id_length=3,nonce_length=4",
    ),
];

#[test]
fn a_service_is_the_same_by_flags_and_by_file() {
    for (text, flags) in BOTH_WAYS {
        let text = format!("[[service]]\nname = \"s\"\n{text}\n");
        let by_file = document::parse_services("pool", &text).unwrap().pool;
        let mut by_flags = Pool::default();
        run(&mut by_flags, &format!("service add s {flags}")).unwrap();
        assert_eq!(by_flags, by_file, "{flags}");
    }
}

#[test]
fn every_key_of_a_service_has_a_flag() {
    let written: String = BOTH_WAYS.iter().map(|(text, _)| *text).collect();
    // An unknown key is answered with all that there are.
    for (text, table) in [
        ("[[service]]\nnope = 1\n", "service"),
        ("[[service]]\n[service.health]\nnope = 1\n", "health"),
        ("[[service]]\n[service.health.tls]\nnope = 1\n", "tls"),
        ("[[service]]\n[service.health.flap]\nnope = 1\n", "flap"),
        ("[[service]]\n[service.timeouts]\nnope = 1\n", "timeouts"),
    ] {
        let message = document::parse_services("pool", text)
            .unwrap_err()
            .to_string();
        let (_, accepted) = message.split_once("accepted: ").unwrap();
        let keys = accepted.split('`').skip(1).step_by(2);
        let keys: Vec<&str> = keys
            .filter(|key| !["name", "backend"].contains(key))
            .collect();
        assert!(keys.len() > 3, "{message}");
        for key in keys {
            let inner = format!("{key} = ");
            let headed = format!("[service.{key}]");
            assert!(
                written.contains(&inner) || written.contains(&headed),
                "{table}: {key} is in no case of this test"
            );
        }
    }
}

#[test]
fn flags_without_sense_are_refused() {
    let mut pool = pool();
    for (line, part) in [
        ("--path /healthz", "--health"),
        ("--health smtp", "\"quic\""),
        ("--timeouts syn", "established=350s"),
        ("--timeouts fin=1s", "established=350s"),
        ("--min-healthy 50", "\"50%\""),
        ("--quic-config rotation=0", "no server_id_length"),
        ("--quic-config rotation=0,rotation=1", "twice"),
        ("--health http --status ok", "200-399"),
    ] {
        let line = format!(
            "service add x --vip 198.51.100.61 --port 80 --protocol tcp --forwarding nat {line}"
        );
        let usage = parse_line(&line).unwrap_err().to_string();
        assert!(usage.contains(part), "{line}: {usage}");
    }
    for (line, part) in [
        ("--health tcp --path /", "\"http\" and \"https\" only"),
        ("--health http --fall 0", "1 to 1000"),
        (
            "--quic-config rotation=0,server_id_length=3,nonce_length=4",
            "quic",
        ),
    ] {
        let line = format!(
            "service add x --vip 198.51.100.61 --port 80 --protocol tcp --forwarding nat {line}"
        );
        let refused = run(&mut pool, &line).unwrap_err().to_string();
        assert!(refused.contains(part), "{line}: {refused}");
    }
}
