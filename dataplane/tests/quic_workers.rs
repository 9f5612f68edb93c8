//! QUIC connections (quinn at both ends) through four workers in memory: each datagram goes to the worker
//! that a network card would hash its addresses and ports to, so a client that moves comes to another
//! one, which knows nothing of it.
//!
//! quinn runs as it is; only its sockets are replaced, by a wire with weir in the middle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{
    AsyncUdpSocket, ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint,
    EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, UdpPoller,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use support::workers::{Went, Workers};
use support::{Transport, frame};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use weir::conntrack::Tick;
use weir::control::connection::Outcome;
use weir::control::lookup::Reason;
use weir::quic::encode::{Encoder, FirstOctet};
use weir_shm::model::{Protocol, QuicConfig, QuicKey, ServerId};

const WORKERS: u16 = 4;
const VIP: &str = "198.51.100.10:443";
const CONNECTIONS: u16 = 1_000;
/// Backends 101 and so on; the last two come and go.
const FIRST: u8 = 4;
const BACKENDS: u8 = 6;
/// What changes before each move, ten changes in all. `ID` stands for a new backend's server IDs.
const CHANGES: [&[&str]; 3] = [
    &[
        "backend add web 10.0.0.105:443 ID",
        "backend drain web 10.0.0.102:443",
        "backend weight web 10.0.0.101:443 5",
    ],
    &[
        "backend remove web 10.0.0.105:443",
        "backend add web 10.0.0.106:443 --weight 7 ID",
        "backend weight web 10.0.0.103:443 0",
        "backend enable web 10.0.0.102:443",
    ],
    &[
        "backend add web 10.0.0.105:443 --weight 3 ID",
        "backend weight web 10.0.0.103:443 2",
        "backend remove web 10.0.0.106:443",
    ],
];

/// Three configurations that live side by side: plaintext, one AES block, four passes.
fn configs() -> [QuicConfig; 3] {
    let config = |rotation, server_id_length, nonce_length, key: Option<u8>| QuicConfig {
        rotation,
        server_id_length,
        nonce_length,
        key: key.map(|octet| QuicKey([octet; 16])),
    };
    [
        config(0, 8, 8, None),
        config(3, 8, 8, Some(0x1a)),
        config(5, 3, 6, Some(0x2b)),
    ]
}

fn server_id(config: &QuicConfig, backend: u8) -> ServerId {
    let mut octets = [0xd0 + config.rotation; 15];
    octets[0] = backend;
    ServerId::new(&octets[..usize::from(config.server_id_length)]).unwrap()
}

fn ids(backend: u8) -> impl Iterator<Item = String> {
    let id = move |config: QuicConfig| (config.rotation, server_id(&config, backend));
    configs()
        .map(id)
        .into_iter()
        .map(|(rotation, id)| format!("{rotation}={id}"))
}

fn service(mode: &str) -> String {
    let mut text = format!(
        "[[service]]\nname = \"web\"\nvip = \"198.51.100.10\"\nport = 443\nprotocol = \"quic\"\n\
         forwarding = \"{mode}\"\n"
    );
    let configs = configs().map(|config| {
        let key = config.key.map_or_else(String::new, |key| format!(", key = \"{}\"", key.reveal()));
        let QuicConfig { rotation, server_id_length, nonce_length, .. } = config;
        format!(
            "{{ rotation = {rotation}, server_id_length = {server_id_length}, nonce_length = {nonce_length}{key} }}"
        )
    });
    text += &format!("[service.quic]\nconfigs = [{}]\n", configs.join(", "));
    for backend in 101..=100 + FIRST {
        let ids: Vec<String> = ids(backend)
            .map(|pair| pair.replacen('=', " = \"", 1) + "\"")
            .collect();
        text += &format!(
            "[[service.backend]]\naddress = \"10.0.0.{backend}\"\nserver_ids = {{ {} }}\n",
            ids.join(", ")
        );
    }
    text
}

/// What the thread with the workers is told.
enum Told {
    Datagram(SocketAddr, SocketAddr, Vec<u8>),
    Command(String),
    /// To answer when all before was done.
    Done(mpsc::Sender<Seen>),
}

/// What the workers saw.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Workers that a client's datagrams came to, by the client's port, which it keeps.
    of_client: HashMap<u16, HashSet<u16>>,
    /// Datagrams that no worker passed on.
    dropped: u64,
}

type Boxes = Arc<Mutex<HashMap<SocketAddr, UnboundedSender<(SocketAddr, Vec<u8>)>>>>;

/// The wire: whoever is behind it, and weir in the middle.
#[derive(Clone)]
struct Wire {
    told: mpsc::Sender<Told>,
    boxes: Boxes,
}

impl Wire {
    fn new(mode: &'static str) -> Self {
        let (told, heard) = mpsc::channel();
        let boxes = Boxes::default();
        let to = Arc::clone(&boxes);
        std::thread::spawn(move || {
            let mut workers = Workers::new(WORKERS, &service(mode));
            let (began, mut seen) = (Instant::now(), Seen::default());
            while let Ok(told) = heard.recv() {
                workers.now = 1_000_000_000 + began.elapsed().as_nanos() as u64;
                match told {
                    Told::Command(line) => workers.command(&line),
                    Told::Done(answer) => answer.send(seen.clone()).unwrap(),
                    Told::Datagram(from, destination, bytes) => {
                        let worker = worker_of(from, destination);
                        if from.port() != 443 {
                            seen.of_client
                                .entry(from.port())
                                .or_default()
                                .insert(worker);
                        }
                        let passed = if mode != "nat" && from.port() == 443 {
                            // A backend behind a tunnel answers by itself, from the VIP.
                            Some((VIP.parse().unwrap(), destination, bytes))
                        } else {
                            pass(&mut workers, worker, from, destination, &bytes)
                        };
                        match passed {
                            None => seen.dropped += 1,
                            Some((from, destination, bytes)) => {
                                // Nobody there, as where a client was before: lost.
                                if let Some(there) = to.lock().unwrap().get(&destination) {
                                    let _ = there.send((from, bytes));
                                }
                            }
                        }
                    }
                }
            }
        });
        Self { told, boxes }
    }

    fn socket(&self, at: SocketAddr) -> Arc<Socket> {
        let (there, arriving) = unbounded_channel();
        self.boxes.lock().unwrap().insert(at, there);
        Arc::new(Socket {
            at,
            told: self.told.clone(),
            arriving: Mutex::new(arriving),
        })
    }

    fn seen(&self) -> Seen {
        let (answer, seen) = mpsc::channel();
        self.told.send(Told::Done(answer)).unwrap();
        seen.recv_timeout(Duration::from_secs(30)).unwrap()
    }
}

/// As a network card spreads flows over queues.
fn worker_of(from: SocketAddr, to: SocketAddr) -> u16 {
    let mut hasher = DefaultHasher::new();
    (from, to).hash(&mut hasher);
    (hasher.finish() % u64::from(WORKERS)) as u16
}

/// One datagram through a worker: from whom it is then, to whom, and what it says.
fn pass(
    workers: &mut Workers,
    worker: u16,
    from: SocketAddr,
    to: SocketAddr,
    payload: &[u8],
) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
    let frame = frame(&from.to_string(), &to.to_string(), Transport::Udp);
    let Went::To(_, sent) = workers.play(worker, &frame.payload(payload).build()) else {
        return None;
    };
    // In a tunnel, what the backend finds when it has taken the outer header off.
    let tunnelled = sent[23] == 4;
    let packet = if tunnelled {
        SlicedPacket::from_ip(&sent[34..]).unwrap()
    } else {
        SlicedPacket::from_ethernet(&sent).unwrap()
    };
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (packet.net, packet.transport)
    else {
        panic!("neither IPv4 nor UDP")
    };
    let destination: std::net::Ipv4Addr = if tunnelled {
        <[u8; 4]>::try_from(&sent[30..34]).unwrap().into()
    } else {
        ip.header().destination_addr()
    };
    Some((
        SocketAddr::new(ip.header().source_addr().into(), udp.source_port()),
        SocketAddr::new(destination.into(), udp.destination_port()),
        udp.payload().to_vec(),
    ))
}

/// A socket on the wire.
struct Socket {
    at: SocketAddr,
    told: mpsc::Sender<Told>,
    arriving: Mutex<UnboundedReceiver<(SocketAddr, Vec<u8>)>>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Socket({})", self.at)
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let told = Told::Datagram(self.at, transmit.destination, transmit.contents.to_vec());
        self.told.send(told).map_err(io::Error::other)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let arrived = self.arriving.lock().unwrap().poll_recv(context);
        arrived.map(|arrived| {
            let (addr, bytes) = arrived.ok_or(io::ErrorKind::BrokenPipe)?;
            buffers[0][..bytes.len()].copy_from_slice(&bytes);
            meta[0] = RecvMeta {
                addr,
                len: bytes.len(),
                stride: bytes.len(),
                ecn: None,
                dst_ip: None,
            };
            Ok(1)
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.at)
    }
}

/// Connection IDs with a server ID, each with a nonce of its own.
struct Ids {
    config: QuicConfig,
    encoder: Encoder,
    id: ServerId,
    count: u64,
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        self.count += 1;
        let mixed = self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        let length = usize::from(self.config.nonce_length);
        ConnectionId::new(&self.encoder.encode(&self.id, &mixed[..length]).unwrap())
    }

    fn cid_len(&self) -> usize {
        1 + usize::from(self.config.server_id_length + self.config.nonce_length)
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(Duration::from_secs(120).try_into().unwrap()));
    transport.mtu_discovery_config(None);
    Arc::new(transport)
}

/// For "localhost", self-signed.
const CERTIFICATE: &[u8] = include_bytes!("../../e2e/data/quic.cert.der");
const KEY: &[u8] = include_bytes!("../../e2e/data/quic.key.der");

/// A server that answers every stream with its number.
fn serve(wire: &Wire, backend: u8) -> Endpoint {
    let config = configs()[usize::from(backend) % 3];
    let mut endpoint = EndpointConfig::default();
    endpoint.cid_generator(move || {
        Box::new(Ids {
            config,
            encoder: Encoder::new(&config, FirstOctet::Length).unwrap(),
            id: server_id(&config, backend),
            count: 0,
        })
    });
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(KEY));
    let certificate = CertificateDer::from(CERTIFICATE);
    let mut server = ServerConfig::with_single_cert(vec![certificate], key).unwrap();
    server.transport_config(transport());
    let at = format!("10.0.0.{backend}:443").parse().unwrap();
    let socket = wire.socket(at);
    let runtime = Arc::new(TokioRuntime);
    let endpoint =
        Endpoint::new_with_abstract_socket(endpoint, Some(server), socket, runtime).unwrap();
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else {
                    return;
                };
                while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                    if receive.read_to_end(16).await.is_ok()
                        && send.write_all(&[backend]).await.is_ok()
                    {
                        let _ = send.finish();
                    }
                }
            });
        }
    });
    endpoint
}

async fn ask(connection: Connection) -> Option<u8> {
    let question = async {
        let (mut send, mut receive) = connection.open_bi().await.ok()?;
        send.write_all(b"who?").await.ok()?;
        send.finish().ok()?;
        receive.read_to_end(16).await.ok()?.first().copied()
    };
    tokio::time::timeout(Duration::from_secs(30), question)
        .await
        .ok()?
}

async fn ask_all(clients: &[(Endpoint, Connection)]) -> Vec<Option<u8>> {
    let mut answers = Vec::new();
    for some in clients.chunks(50) {
        let asked: Vec<_> = some
            .iter()
            .map(|(_, connection)| tokio::spawn(ask(connection.clone())))
            .collect();
        for answer in asked {
            answers.push(answer.await.unwrap());
        }
    }
    answers
}

/// Where a client is after this many moves. Its port stays, so that a test can tell it by that.
fn place(client: u16, moves: usize) -> SocketAddr {
    let address = std::net::Ipv4Addr::new(203, 0, 113, 10 + moves as u8);
    SocketAddr::new(address.into(), 20_000 + client)
}

async fn roam(mode: &'static str) {
    let wire = Wire::new(mode);
    let _servers: Vec<Endpoint> = (101..=100 + BACKENDS)
        .map(|backend| serve(&wire, backend))
        .collect();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(CERTIFICATE)).unwrap();
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    config.transport_config(transport());
    let mut clients = Vec::new();
    for client in 0..CONNECTIONS {
        let socket = wire.socket(place(client, 0));
        let endpoint = EndpointConfig::default();
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new_with_abstract_socket(endpoint, None, socket, runtime).unwrap();
        let vip = VIP.parse().unwrap();
        let connecting = endpoint
            .connect_with(config.clone(), vip, "localhost")
            .unwrap();
        let connection = tokio::time::timeout(Duration::from_secs(30), connecting).await;
        clients.push((endpoint, connection.unwrap().unwrap()));
    }
    let homes = ask_all(&clients).await;
    let met: HashSet<u8> = homes.iter().map(|home| home.unwrap()).collect();
    assert_eq!(met, (101..=100 + FIRST).collect());
    for (moves, changes) in (1..).zip(CHANGES) {
        for line in changes {
            let new = line.split(['.', ':']).nth(3).unwrap().parse().unwrap();
            let options: String = ids(new).map(|id| format!("--server-id {id} ")).collect();
            wire.told
                .send(Told::Command(line.replace("ID", options.trim())))
                .unwrap();
        }
        for (client, (endpoint, _)) in (0u16..).zip(&clients) {
            endpoint
                .rebind_abstract(wire.socket(place(client, moves)))
                .unwrap();
            // Whoever was there before is gone: what still goes there is lost.
            wire.boxes.lock().unwrap().remove(&place(client, moves - 1));
        }
        let answers = ask_all(&clients).await;
        let astray = answers
            .iter()
            .zip(&homes)
            .filter(|(now, home)| now != home)
            .count();
        assert_eq!(astray, 0, "after move {moves}");
    }
    let seen = wire.seen();
    let several = seen
        .of_client
        .values()
        .filter(|workers| workers.len() > 1)
        .count();
    eprintln!(
        "{mode}: {CONNECTIONS} connections over {} backends and {WORKERS} workers: 3 moves and 10 changes left all at their \
         backend; {several} of them came to more than one worker; {} datagrams dropped",
        met.len(),
        seen.dropped
    );
    assert!(several > usize::from(CONNECTIONS) * 9 / 10, "{several}");
    assert_eq!(seen.dropped, 0);
}

fn run(mode: &'static str) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(roam(mode));
}

#[test]
fn with_nat_connections_stay_while_clients_move_from_worker_to_worker_and_the_pool_changes() {
    run("nat");
}

#[test]
fn through_a_tunnel_connections_stay_while_clients_move_from_worker_to_worker_and_the_pool_changes()
{
    run("dsr-ipip");
}

#[test]
fn lookup_says_what_a_connection_id_leads_to_and_why_not() {
    let mut workers = Workers::new(2, &service("nat"));
    let cid = |config: &QuicConfig, backend: u8| {
        let nonce = vec![7; usize::from(config.nonce_length)];
        let encoder = Encoder::new(config, FirstOctet::Length).unwrap();
        encoder
            .encode(&server_id(config, backend), &nonce)
            .unwrap()
            .to_vec()
    };
    let lookup = |workers: &Workers, cid: &[u8]| {
        let tick = Tick::from_nanos(workers.now);
        let [client, vip] = ["203.0.113.5:1000", VIP].map(|at| at.parse().unwrap());
        let (explanation, reading) =
            workers
                .control
                .lookup_connection(tick, Protocol::Quic, client, vip, cid);
        (
            explanation.backend.unwrap(),
            explanation.reason,
            reading.unwrap(),
        )
    };
    for config in configs() {
        for backend in 101..=100 + FIRST {
            let (to, reason, reading) = lookup(&workers, &cid(&config, backend));
            assert_eq!(to, format!("10.0.0.{backend}:443"));
            assert_eq!(
                (reason, reading.outcome),
                (Reason::ConnectionId, Outcome::Routed)
            );
            assert_eq!(reading.rotation, config.rotation);
            assert_eq!(reading.server_id, Some(server_id(&config, backend)));
        }
        let whole = cid(&config, 101);
        for (id, outcome) in [
            (cid(&config, 150), Outcome::UnknownServerId),
            (whole[..whole.len() - 1].to_vec(), Outcome::TooShort),
            ([&[0xe7], &whole[1..]].concat(), Outcome::ReservedRotation),
            ([&[0x20], &whole[1..]].concat(), Outcome::NoConfiguration),
        ] {
            let (_, reason, reading) = lookup(&workers, &id);
            assert_eq!((reason, reading.outcome), (Reason::Maglev, outcome));
        }
    }
    // What lookup says is what a packet does.
    let id = cid(&configs()[1], 103);
    for (line, outcome) in [
        ("backend drain web 10.0.0.103:443", Outcome::Routed),
        (
            "backend disable web 10.0.0.103:443",
            Outcome::BackendTakesNothing,
        ),
        (
            "backend remove web 10.0.0.103:443",
            Outcome::UnknownServerId,
        ),
    ] {
        workers.command(line);
        let (to, _, reading) = lookup(&workers, &id);
        assert_eq!(reading.outcome, outcome, "{line}");
        let packet = frame("203.0.113.5:1000", VIP, Transport::Udp);
        let short = [&[0x41][..], &id, &[9; 20]].concat();
        let server = workers
            .play(0, &packet.payload(&short).build())
            .server()
            .unwrap();
        assert_eq!(to, format!("10.0.0.{server}:443"), "{line}");
    }
}
