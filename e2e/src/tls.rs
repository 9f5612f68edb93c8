//! Certificates made by `openssl` for a test, valid for two days.

use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::process::capture;

/// A certificate and its key, as files.
pub struct Issued {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
}

/// Whom a certificate is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum For<'a> {
    /// One that signs others.
    Signing,
    /// Who has this name: a server, or a client.
    Name(&'a str),
}

/// A certificate in the files `name.pem` and `name.key`, signed by another or by itself.
pub fn issue(dir: &Path, name: &str, whom: For<'_>, by: Option<&Issued>) -> Result<Issued> {
    let file = |ending: &str| dir.join(format!("{name}.{ending}")).display().to_string();
    let (cert, key) = (file("pem"), file("key"));
    let (subject, names, constraints) = match whom {
        For::Signing => (
            format!("/CN={name}"),
            None,
            "basicConstraints=critical,CA:TRUE",
        ),
        For::Name(host) => (
            format!("/CN={host}"),
            Some(format!("subjectAltName=DNS:{host}")),
            "basicConstraints=critical,CA:FALSE",
        ),
    };
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]);
    openssl.args(["-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-subj", &subject, "-addext", constraints]);
    if let Some(names) = &names {
        openssl.args(["-addext", names]);
    }
    if let Some(by) = by {
        openssl.args(["-CA", &by.cert, "-CAkey", &by.key]);
    }
    capture(openssl.args(["-keyout", &key, "-out", &cert]))?;
    Ok(Issued { cert, key })
}
