//! QUIC clients and servers (quinn) in namespaces: servers that write their ID into connection IDs, and clients that
//! move to another address and port in mid-connection.
//!
//! Sockets are made in their namespaces; the endpoints share the test's own runtime. A client asks over a stream which
//! server it talks to, and the answer is a byte.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig,
    ServerConfig, TokioRuntime, TransportConfig,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use weir::quic::encode::{Encoder, FirstOctet};
use weir_shm::model::{QuicConfig, ServerId};

use crate::namespace::Namespace;
use crate::{Failure, Result, ensure};

/// For "localhost", self-signed, valid until 2126.
const CERTIFICATE: &[u8] = include_bytes!("../data/quic.cert.der");
const KEY: &[u8] = include_bytes!("../data/quic.key.der");
/// How long a question may wait for its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a handshake may take on a busy machine.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// Connection IDs with a server ID, each with a nonce of its own.
struct Ids {
    encoder: Arc<Encoder>,
    config: QuicConfig,
    id: ServerId,
    count: u64,
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        self.count += 1;
        // Counted, and spread over all octets, so that plaintext nonces do not look alike either.
        let mixed = self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        let nonce: Vec<u8> = mixed
            .iter()
            .cycle()
            .take(usize::from(self.config.nonce_length))
            .copied()
            .collect();
        let id = self.encoder.encode(&self.id, &nonce).unwrap_or_default();
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        1 + usize::from(self.config.server_id_length + self.config.nonce_length)
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn transport(idle: Duration) -> Result<Arc<TransportConfig>> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(idle.try_into()?));
    transport.mtu_discovery_config(None);
    Ok(Arc::new(transport))
}

/// How a server makes connection IDs: by its server ID under a configuration, or in quinn's own way, at random.
#[derive(Debug, Clone, Copy)]
pub enum Naming {
    /// As QUIC-LB says.
    Routable(QuicConfig, ServerId),
    /// As if there were no balancer.
    Random,
}

/// Starts a server in a namespace that answers every stream with its number. It serves until the runtime ends.
pub fn serve(
    namespace: &Namespace,
    at: SocketAddr,
    number: u8,
    naming: Naming,
) -> Result<Endpoint> {
    let mut endpoint = EndpointConfig::default();
    if let Naming::Routable(config, id) = naming {
        let encoder = Encoder::new(&config, FirstOctet::Length);
        let encoder = Arc::new(encoder.ok_or_else(|| Failure::new("no such QUIC configuration"))?);
        ensure!(
            encoder
                .encode(&id, &vec![0; usize::from(config.nonce_length)])
                .is_some(),
            "{id} is no ID of it"
        );
        endpoint.cid_generator(move || {
            Box::new(Ids {
                encoder: Arc::clone(&encoder),
                config,
                id,
                count: 0,
            })
        });
    }
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(KEY));
    let mut server = ServerConfig::with_single_cert(vec![CertificateDer::from(CERTIFICATE)], key)?;
    server.transport_config(transport(Duration::from_secs(120))?);
    let socket = namespace.run(|| UdpSocket::bind(at))??;
    let endpoint = Endpoint::new(endpoint, Some(server), socket, Arc::new(TokioRuntime))?;
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else {
                    return;
                };
                while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                    if receive.read_to_end(16).await.is_ok()
                        && send.write_all(&[number]).await.is_ok()
                    {
                        let _ = send.finish();
                    }
                }
            });
        }
    });
    Ok(endpoint)
}

/// A client with one connection over a socket of its own.
pub struct Client {
    endpoint: Endpoint,
    connection: Connection,
}

/// What all clients of a test share.
pub fn client_config() -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(CERTIFICATE))?;
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots))?;
    config.transport_config(transport(Duration::from_secs(120))?);
    Ok(config)
}

impl Client {
    /// Connects from a namespace, from `source` and any port.
    pub async fn connect(
        namespace: &Namespace,
        source: IpAddr,
        to: SocketAddr,
        config: ClientConfig,
    ) -> Result<Self> {
        let socket = namespace.run(|| UdpSocket::bind((source, 0)))??;
        let endpoint = Endpoint::new(
            EndpointConfig::default(),
            None,
            socket,
            Arc::new(TokioRuntime),
        )?;
        let connecting = endpoint.connect_with(config, to, "localhost")?;
        let connection = tokio::time::timeout(HANDSHAKE, connecting).await??;
        Ok(Self {
            endpoint,
            connection,
        })
    }

    /// Goes on from another address and port: a new socket, and nobody is told.
    pub fn move_to(&self, namespace: &Namespace, source: IpAddr) -> Result {
        let socket = namespace.run(|| UdpSocket::bind((source, 0)))??;
        Ok(self.endpoint.rebind(socket)?)
    }

    /// The number of the server at the other end.
    pub async fn ask(&self) -> Result<u8> {
        self.ask_within(PATIENCE).await
    }

    /// [`Client::ask`] with another patience.
    pub async fn ask_within(&self, patience: Duration) -> Result<u8> {
        let question = async {
            let (mut send, mut receive) = self.connection.open_bi().await?;
            send.write_all(b"who?").await?;
            send.finish()?;
            let answer = receive.read_to_end(16).await?;
            answer
                .first()
                .copied()
                .ok_or_else(|| Failure::new("an empty answer"))
        };
        tokio::time::timeout(patience, question).await?
    }
}

/// A server that serves by itself, until dropped. It can be stopped as by SIGSTOP: its socket takes datagrams, and
/// nobody reads them.
pub struct Standing {
    ends: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// From one look at what it should do to the next.
const GLANCE: Duration = Duration::from_millis(20);

impl Standing {
    /// Starts one at this address in a namespace.
    pub fn start(namespace: &Namespace, at: SocketAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let server = runtime.block_on(async { serve(namespace, at, 0, Naming::Random) })?;
        let ends = Arc::new(AtomicBool::new(false));
        let stopped = Arc::new(AtomicBool::new(false));
        let (until, while_stopped) = (Arc::clone(&ends), Arc::clone(&stopped));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                if while_stopped.load(Ordering::Relaxed) {
                    // Nothing of it runs but this.
                    std::thread::sleep(GLANCE);
                } else {
                    runtime.block_on(async { tokio::time::sleep(GLANCE).await });
                }
            }
            drop(server);
        });
        Ok(Self {
            ends,
            stopped,
            thread: Some(thread),
        })
    }

    /// Stops it, or lets it go on.
    pub fn stop(&self, stops: bool) {
        self.stopped.store(stops, Ordering::Relaxed);
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
