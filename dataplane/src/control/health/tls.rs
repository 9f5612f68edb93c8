//! The TLS of a check: rustls over whatever bytes come and go, with the ring provider.
//!
//! Verification is a choice: a check asks whether a backend works, and within a rack certificates
//! are often its own. Sessions are never resumed, so that each check sees the certificate anew.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use weir_shm::model::{Health, HealthKind, Pool, Service, Tls};

use super::failure::{Failure, Outcome};

/// What a service's checks bring to a TLS handshake.
#[derive(Debug, Clone)]
pub struct Identity(Arc<ClientConfig>);

impl Identity {
    /// Reads the files that a check names.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn load(tls: &Tls) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let verifier: Arc<dyn ServerCertVerifier> = match &tls.ca {
            Some(file) if tls.verify => WebPkiServerVerifier::builder_with_provider(
                Arc::new(trusted(file)?),
                Arc::clone(&provider),
            )
            .build()
            .map_err(|error| format!("{file}: {error}"))?,
            _ => Arc::new(Anyone(provider)),
        };
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let secret =
                    PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{key}: {error}"))?;
                builder
                    .with_client_auth_cert(chain, secret)
                    .map_err(|error| format!("{certificate}: {error}"))?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }
}

/// What was read from the files that checks name.
#[derive(Debug, Default)]
pub struct Identities(HashMap<Tls, Identity>);

impl Identities {
    /// Reads the files that a pool's checks name, those that were not read before.
    ///
    /// # Errors
    /// Which of them cannot be used, and why.
    pub fn read(&mut self, pool: &Pool) -> Result<(), String> {
        let secured = |service: &&Service| service.health.kind == HealthKind::Https;
        for service in pool.services.iter().filter(secured) {
            let tls = &service.health.tls;
            if !self.0.contains_key(tls) {
                let identity = Identity::load(tls).map_err(|reason| {
                    format!("service \"{}\": health.tls: {reason}", service.name)
                })?;
                self.0.insert(tls.clone(), identity);
            }
        }
        Ok(())
    }

    /// What was read for checks with these settings.
    #[must_use]
    pub fn get(&self, tls: &Tls) -> Option<&Identity> {
        self.0.get(tls)
    }
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file)
        .map_err(|error| format!("{file}: {error}"))?
        .collect();
    match all.map_err(|error| format!("{file}: {error}"))? {
        none if none.is_empty() => Err(format!("{file}: it holds no certificate")),
        some => Ok(some),
    }
}

fn trusted(file: &str) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(file)? {
        store
            .add(certificate)
            .map_err(|error| format!("{file}: {error}"))?;
    }
    Ok(store)
}

/// The name that a check calls its backend by: in SNI, unless it is an address (RFC 6066, section 3).
#[must_use]
pub fn server_name(health: &Health, target: IpAddr) -> ServerName<'static> {
    let named = health.tls.server_name.as_ref().or(health.host.as_ref());
    let name = named.and_then(|name| {
        // A host may come with a port.
        let bare = name.rsplit_once(':').map_or(name.as_str(), |(bare, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) {
                bare
            } else {
                name
            }
        });
        ServerName::try_from(bare.to_owned()).ok()
    });
    name.unwrap_or_else(|| ServerName::IpAddress(target.into()))
}

/// A TLS session.
#[derive(Debug)]
pub struct Session(Box<ClientConnection>);

impl Session {
    /// Begins a session in which `request` is sent.
    ///
    /// # Errors
    /// When TLS cannot begin.
    pub fn begin(
        identity: &Identity,
        name: ServerName<'static>,
        request: &[u8],
    ) -> Result<Self, Failure> {
        let mut connection = ClientConnection::new(Arc::clone(&identity.0), name)
            .map_err(|error| Failure::Tls(error.to_string()))?;
        // Kept by rustls until the handshake is done.
        connection
            .writer()
            .write_all(request)
            .map_err(|error| Failure::Tls(error.to_string()))?;
        Ok(Self(Box::new(connection)))
    }

    /// Takes in what came, and gives what it says.
    ///
    /// # Errors
    /// When the peer breaks TLS or cannot be agreed with.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut plain = Vec::new();
        while !bytes.is_empty() {
            let broken = |error: std::io::Error| Failure::Tls(error.to_string());
            self.0.read_tls(&mut bytes).map_err(broken)?;
            let state = self
                .0
                .process_new_packets()
                .map_err(|error| Failure::Tls(error.to_string()))?;
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            if let Some(room) = plain.get_mut(start..) {
                self.0.reader().read_exact(room).map_err(broken)?;
            }
        }
        Ok(plain)
    }

    /// What is to be sent.
    pub fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.0.wants_write() {
            // Writing to memory does not fail.
            if self.0.write_tls(&mut bytes).is_err() {
                break;
            }
        }
        bytes
    }

    /// Says that nothing more will be sent (RFC 8446, section 6.1).
    pub fn close(&mut self) {
        self.0.send_close_notify();
    }

    /// Whether both sides agree.
    #[must_use]
    pub fn is_agreed(&self) -> bool {
        !self.0.is_handshaking()
    }
}

/// Trusts any certificate, but not a peer that does not hold its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The reason that a closed connection gives while TLS was being agreed on.
pub fn closed_early(session: &Session) -> Outcome {
    Err(if session.is_agreed() {
        Failure::Closed
    } else {
        Failure::Tls("closed during the handshake".to_owned())
    })
}
