//! What `https` checks ask of a server: a certificate that can be trusted and has the right name, the name that they
//! say (SNI), a certificate of their own where the server wants one, and the page behind it all. An nginx answers.

use std::path::Path;

use weir_e2e::checks::{await_fall, await_states, health, must_say};
use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::lab::{Arms, Lab, NAT_VIP4, backend4, instance};
use weir_e2e::nginx::Nginx;
use weir_e2e::tls::{For, Issued, issue};
use weir_e2e::{Result, host};

/// Says by which name it was asked for, with a certificate of the right authority.
const TRUSTED: u16 = 8441;
/// Has signed its certificate itself.
const SELF_SIGNED: u16 = 8442;
/// Wants a certificate of its clients.
const ASKS: u16 = 8443;
/// Serves a page from a file.
const PAGE: u16 = 8444;

struct Certificates {
    authority: Issued,
    /// Another authority.
    stranger: Issued,
    server: Issued,
    self_signed: Issued,
    client: Issued,
}

impl Certificates {
    fn make(dir: &Path) -> Result<Self> {
        let authority = issue(dir, "authority", For::Signing, None)?;
        Ok(Self {
            stranger: issue(dir, "stranger", For::Signing, None)?,
            server: issue(dir, "server", For::Name("tls.test"), Some(&authority))?,
            self_signed: issue(dir, "self-signed", For::Name("tls.test"), None)?,
            client: issue(dir, "client", For::Name("weir.test"), Some(&authority))?,
            authority,
        })
    }

    /// nginx's servers.
    fn servers(&self, dir: &Path) -> String {
        let server = |port: u16, own: &Issued, more: &str, does: &str| {
            format!(
                "server {{ listen {port} ssl; ssl_certificate {}; ssl_certificate_key {}; {more} location / {{ {does} }} }}\n",
                own.cert, own.key
            )
        };
        let asks = format!(
            "ssl_client_certificate {}; ssl_verify_client on;",
            self.authority.cert
        );
        let page = format!("root {}; try_files /page =404;", dir.display());
        [
            server(
                TRUSTED,
                &self.server,
                "",
                "return 200 \"name <$ssl_server_name>\\n\";",
            ),
            server(
                SELF_SIGNED,
                &self.self_signed,
                "",
                "return 200 \"self-signed\\n\";",
            ),
            server(
                ASKS,
                &self.server,
                &asks,
                "return 200 \"client <$ssl_client_s_dn>\\n\";",
            ),
            server(PAGE, &self.server, "", &page),
        ]
        .concat()
    }
}

/// A service's name, the server that it checks, what it asks, and what its last check must have found if it is down.
type Case = (&'static str, u16, String, Option<&'static str>);

fn cases(made: &Certificates) -> Vec<Case> {
    let verified =
        |by: &Issued, more: &str| format!("tls = {{ verify = true, ca = \"{}\"{more} }}", by.cert);
    let unverified = |more: &str| format!("tls = {{ verify = false{more} }}");
    let shows = |own: &Issued| format!(", certificate = \"{}\", key = \"{}\"", own.cert, own.key);
    let host = "host = \"tls.test\"\n";
    let right = &made.authority;
    vec![
        (
            "trusted",
            TRUSTED,
            host.to_owned() + &verified(right, ""),
            None,
        ),
        (
            "wrong-authority",
            TRUSTED,
            host.to_owned() + &verified(&made.stranger, ""),
            Some("UnknownIssuer"),
        ),
        (
            "wrong-name",
            TRUSTED,
            host.to_owned() + &verified(right, ", server_name = \"other.test\""),
            Some("not valid for name"),
        ),
        (
            "says-its-host",
            TRUSTED,
            host.to_owned() + "body = \"name <tls.test>\"\n" + &unverified(""),
            None,
        ),
        (
            "says-its-server-name",
            TRUSTED,
            host.to_owned()
                + "body = \"name <other.test>\"\n"
                + &unverified(", server_name = \"other.test\""),
            None,
        ),
        // RFC 6066, section 3: an address is no name.
        (
            "says-no-address",
            TRUSTED,
            "body = \"name <>\"\n".to_owned() + &unverified(""),
            None,
        ),
        (
            "any-certificate",
            SELF_SIGNED,
            host.to_owned() + &unverified(""),
            None,
        ),
        (
            "self-signed",
            SELF_SIGNED,
            host.to_owned() + &verified(right, ""),
            Some("certificate"),
        ),
        (
            "shows-its-own",
            ASKS,
            host.to_owned()
                + "body = \"client <CN=weir.test>\"\n"
                + &verified(right, &shows(&made.client)),
            None,
        ),
        (
            "shows-none",
            ASKS,
            host.to_owned() + &verified(right, ""),
            Some("400"),
        ),
        (
            "shows-a-strangers",
            ASKS,
            host.to_owned() + &verified(right, &shows(&made.self_signed)),
            Some("400"),
        ),
        (
            "page",
            PAGE,
            host.to_owned() + "body = \"is well\"\n" + &verified(right, ""),
            None,
        ),
    ]
}

#[test]
fn a_server_is_up_by_https_if_certificates_names_and_page_are_right() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 1)?;
    let made = Certificates::make(lab.dir())?;
    let page = lab.dir().join("page");
    std::fs::write(&page, "all is well\n")?;
    let servers = made.servers(lab.dir());
    let nginx = Nginx::start_with(&lab.backends[0], lab.dir(), "tls", &servers)?;
    let name = instance();
    let mut config = Config::one_armed(&name);
    let cases = cases(&made);
    for ((service, port, asks, _), number) in cases.iter().zip(9000_u16..) {
        // Each service has a port of its own; what is checked is another.
        let (vip_port, backend) = (number.to_string(), [format!("{} {number}", backend4(1))]);
        let check = format!("kind = \"https\"\nport = {port}\n{asks}");
        config = config
            .service(service, "nat", "tcp", NAT_VIP4, &vip_port, &backend)
            .service_text(&health(&check));
    }
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    for (service, _, _, wrong) in &cases {
        // With its only backend down a service is open to it all the same.
        let state = if wrong.is_some() { "fail-open" } else { "up" };
        await_states(&weir, service, &[state])?;
        must_say(&weir, service, wrong.unwrap_or("ok in "))?;
    }

    // It lies: the certificate is right, the status, too, and the page is another.
    std::fs::write(&page, "sorry, no database\n")?;
    await_fall(&weir, "https, another page", "page", &["fail-open"])?;
    must_say(&weir, "page", "does not hold the text")?;
    std::fs::write(&page, "all is well\n")?;
    await_states(&weir, "page", &["up"])?;

    // Its certificate is replaced by one that nobody trusts.
    drop(nginx);
    std::fs::copy(&made.self_signed.cert, &made.server.cert)?;
    std::fs::copy(&made.self_signed.key, &made.server.key)?;
    let _nginx = Nginx::start_with(&lab.backends[0], lab.dir(), "again", &servers)?;
    await_states(&weir, "says-its-host", &["up"])?;
    await_states(&weir, "trusted", &["fail-open"])?;
    must_say(&weir, "trusted", "certificate")
}
