//! What configurations of several tests begin with: ports, routes and neighbours, and no service yet.

/// A port toward clients and one toward the backends 10.0.0.11 and 10.0.0.12.
pub const TWO_PORTS: &str = r#"
[instance]
name = "test"
[engine]
flows_per_worker = 1000
[[port]]
name = "wan"
device = "net_null0"
addresses = ["192.0.2.2/24"]
mac = "02:00:00:00:00:01"
[[port]]
name = "lan"
device = "net_null1"
addresses = ["10.0.0.1/24"]
mac = "02:00:00:00:00:02"
[[route]]
to = "0.0.0.0/0"
via = "192.0.2.1"
[[neighbor]]
address = "192.0.2.1"
mac = "02:00:00:00:00:fe"
[[neighbor]]
address = "10.0.0.11"
mac = "02:00:00:00:00:0b"
[[neighbor]]
address = "10.0.0.12"
mac = "02:00:00:00:00:0c"
"#;
/// One port for all, and a backend of each family, 10.0.0.11 and 2001:db8:1::11.
pub const ONE_PORT: &str = r#"
[engine]
flows_per_worker = 1000
[[port]]
name = "wan"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.2/24", "10.0.0.1/24", "2001:db8:1::1/64", "2001:db8:9::1/64"]
[[route]]
to = "0.0.0.0/0"
via = "192.0.2.1"
[[route]]
to = "::/0"
via = "2001:db8:9::fe"
[[neighbor]]
address = "192.0.2.1"
mac = "02:00:00:00:00:fe"
[[neighbor]]
address = "2001:db8:9::fe"
mac = "02:00:00:00:00:fe"
[[neighbor]]
address = "10.0.0.11"
mac = "02:00:00:00:00:0b"
[[neighbor]]
address = "2001:db8:1::11"
mac = "02:00:00:00:00:0b"
"#;
/// The backend's.
pub const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
