//! The file afterwards says what is in force, and all else is as it was.

use super::*;
use weir_shm::command::parse_line;

const FILE: &str = r#"# The balancer of rack 4.
[instance]
name = "lb1" # do not change

[[service]]   # the shop
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
forwarding = "nat"
# first rack
[[service.backend]]
address = "10.0.0.11"
port = 8080
weight = 1  # old machine
# second rack
[[service.backend]]
address = "10.0.0.12"
port = 8080

# Names.
[[service]]
name = "dns"
vip = "198.51.100.53"
port = "any"
protocol = "udp"
forwarding = "dsr-l2"
backend = [{ address = "10.0.1.1" }, { address = "10.0.1.2", weight = 2 }]

[[port]]
name = "wan"
"#;

fn after(text: &str, commands: &[&str]) -> String {
    let mut pool = document::parse_services("weir.toml", text).unwrap().pool;
    for command in commands {
        parse_line(command).unwrap().apply_to(&mut pool).unwrap();
    }
    match saved("weir.toml", text, &pool).unwrap() {
        Some((text, lines)) => {
            assert!(!lines.is_empty());
            assert!(
                saved("weir.toml", &text, &pool).unwrap().is_none(),
                "not stable: {text}"
            );
            text
        }
        None => text.to_owned(),
    }
}

#[test]
fn what_is_so_already_is_not_touched() {
    assert_eq!(after(FILE, &[]), FILE);
    assert_eq!(
        after(
            FILE,
            &[
                "backend weight web 10.0.0.11:8080 5",
                "backend weight web 10.0.0.11:8080 1"
            ]
        ),
        FILE
    );
}

#[test]
fn a_weight_keeps_its_comment() {
    let expected = FILE.replace("weight = 1  # old machine", "weight = 7  # old machine");
    assert_eq!(
        after(FILE, &["backend weight web 10.0.0.11:8080 7"]),
        expected
    );
}

#[test]
fn backends_come_and_go_in_their_place() {
    let text = after(
        FILE,
        &[
            "backend remove web 10.0.0.11:8080",
            "backend add web 10.0.0.13:8081 --weight 4",
            "backend drain web 10.0.0.12:8080 --timeout 300s",
            "backend force web 10.0.0.13:8081 down",
            "backend add dns 10.0.1.3",
            "backend disable dns 10.0.1.1",
        ],
    );
    let expected = FILE
        .replace(
            "# first rack\n[[service.backend]]\naddress = \"10.0.0.11\"\nport = 8080\nweight = 1  # old machine\n",
            "",
        )
        .replace(
            "address = \"10.0.0.12\"\nport = 8080\n",
            "address = \"10.0.0.12\"\nport = 8080\nstate = \"drain\"\ndrain_timeout = \"300s\"\n\n\
             [[service.backend]]\naddress = \"10.0.0.13\"\nport = 8081\nweight = 4\nforce = \"down\"\n",
        )
        .replace("300s", "5m")
        .replace("{ address = \"10.0.1.1\" }", "{ address = \"10.0.1.1\", state = \"disabled\" }")
        .replace("weight = 2 }]", "weight = 2 }, { address = \"10.0.1.3\" }]");
    assert_eq!(text, expected);
}

#[test]
fn services_come_and_go() {
    let text = after(
        FILE,
        &[
            "service remove dns",
            "service add api --vip 2001:db8::10 --port 443 --protocol tcp --forwarding dsr-l2 \
             --table-size 251 --backend [2001:db8::11]:443",
        ],
    );
    let gone = FILE.find("\n# Names.").unwrap()..FILE.find("\n[[port]]").unwrap();
    let mut expected = FILE.to_owned();
    expected.replace_range(
        gone,
        "\n[[service]]\nname = \"api\"\nvip = \"2001:db8::10\"\nport = 443\nprotocol = \"tcp\"\n\
         forwarding = \"dsr-l2\"\ntable_size = 251\n\n[[service.backend]]\naddress = \"2001:db8::11\"\n",
    );
    assert_eq!(text, expected);
}

#[test]
fn a_file_without_services_gets_some() {
    let text = after(
        "[instance]\nname = \"lb1\"\n",
        &[
            "service add web --vip 192.0.2.1 --port any --protocol tcp --forwarding nat --backend 10.0.0.1",
        ],
    );
    assert_eq!(
        text,
        "[instance]\nname = \"lb1\"\n\n[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\nport = \"any\"\n\
         protocol = \"tcp\"\nforwarding = \"nat\"\n\n[[service.backend]]\naddress = \"10.0.0.1\"\n"
    );
    assert!(!after(FILE, &["service remove web", "service remove dns"]).contains("service"));
}

#[test]
fn settings_that_only_a_file_can_change_are_saved_too() {
    let file = "[[service]]\nname = \"web\"\nvip = \"198.51.100.10\"\nport = 81 # was 80\nprotocol = \"tcp\"\n\
        forwarding = \"nat\"\ntimeouts = { syn = \"3s\" }\n[service.health]\nkind = \"http\"\npath = \"/x\"\n\
        status = 204\n[[service.backend]]\naddress = \"10.0.0.11\"\nport = 80\n";
    let pool = document::parse_services("f", file).unwrap().pool;
    let old = "[[service]]\nname = \"web\"\nvip = \"198.51.100.10\"\nport = 80 # was 80\nprotocol = \"tcp\"\n\
        forwarding = \"dsr-l2\"\n[[service.backend]]\naddress = \"10.0.0.11\"\n";
    let (text, _) = saved("f", old, &pool).unwrap().unwrap();
    assert_eq!(document::parse_services("f", &text).unwrap().pool, pool);
    assert!(text.contains("port = 81 # was 80\n"), "{text}");
    let (text, _) = saved("f", file, &document::parse_services("f", old).unwrap().pool)
        .unwrap()
        .unwrap();
    assert_eq!(
        document::parse_services("f", &text).unwrap().pool,
        document::parse_services("f", old).unwrap().pool
    );
}

#[test]
fn server_ids_are_saved() {
    let head = "[[service]]\nname = \"q\"\nvip = \"198.51.100.10\"\nport = 443\nprotocol = \"quic\"\n\
                forwarding = \"nat\"\n[service.quic]\nconfigs = [{ rotation = 0, server_id_length = 3, \
                nonce_length = 4 }, { rotation = 2, server_id_length = 3, nonce_length = 6 }]\n";
    let text = after(
        head,
        &[
            "backend add q 10.0.0.1:443 --server-id c4605e",
            "backend add q 10.0.0.2:443 --server-id 0=ed793a --server-id 2=ed793b",
        ],
    );
    for line in [
        "server_id = \"c4605e\"\n",
        "server_ids = { 0 = \"ed793a\", 2 = \"ed793b\" }\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    // Settings that only a file changes: the other way round, and away.
    let pool = document::parse_services("f", &text).unwrap().pool;
    for other in [
        text.replace("server_id = \"c4605e\"", "server_ids = { 2 = \"aaaaaa\" }"),
        text.replace(
            "nonce_length = 6",
            "nonce_length = 6, key = \"000102030405060708090a0b0c0d0e0f\"",
        )
        .replace("server_id = \"c4605e\"\n", ""),
        head.replace("[service.quic]\n", "")
            .split("configs")
            .next()
            .unwrap()
            .to_owned(),
    ] {
        let wanted = document::parse_services("f", &other).unwrap().pool;
        let (saved_text, _) = saved("f", &text, &wanted).unwrap().unwrap();
        assert_eq!(
            document::parse_services("f", &saved_text).unwrap().pool,
            wanted
        );
        let (back, _) = saved("f", &other, &pool).unwrap().unwrap();
        assert_eq!(document::parse_services("f", &back).unwrap().pool, pool);
    }
}
