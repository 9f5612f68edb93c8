//! A thousand QUIC connections (quinn at both ends) whose clients move three times while the pool changes ten times: with
//! server IDs in the connection IDs every connection goes on at its backend; without, most of them end.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::decapsulator::Decapsulator;
use weir_e2e::lab::{Arms, DSR_VIP4, Lab, NAT_VIP4, backend4, instance};
use weir_e2e::quic::{self, Client, Naming};
use weir_e2e::{Result, ensure, host, two_workers};
use weir_shm::model::{QuicConfig, QuicKey, ServerId};

const CONNECTIONS: usize = 1_000;
const MOVES: u8 = 3;
const PORT: u16 = 4433;
/// Backends at the start; two more come and go.
const FIRST: usize = 4;
const BACKENDS: usize = 6;
/// Questions that are under way at the same time.
const AT_ONCE: usize = 100;

/// What changes before each move: in all, ten changes. `ID` stands for the server IDs of a new backend.
const CHANGES: [&[&str]; MOVES as usize] = [
    &[
        "backend add quic 10.0.0.15:4433 ID",
        "backend drain quic 10.0.0.12:4433",
        "backend weight quic 10.0.0.11:4433 5",
    ],
    &[
        "backend remove quic 10.0.0.15:4433",
        "backend add quic 10.0.0.16:4433 --weight 7 ID",
        "backend weight quic 10.0.0.13:4433 0",
        "backend enable quic 10.0.0.12:4433",
    ],
    &[
        "backend add quic 10.0.0.15:4433 --weight 3 ID",
        "backend weight quic 10.0.0.13:4433 2",
        "backend remove quic 10.0.0.16:4433",
    ],
];

/// Two ways of making connection IDs that live side by side, as in the middle of a rotation: one AES block, and the
/// four-pass cipher over an odd number of octets.
fn configurations() -> [QuicConfig; 2] {
    let key = |first| QuicKey([first; 16]);
    [
        QuicConfig {
            rotation: 0,
            server_id_length: 8,
            nonce_length: 8,
            key: Some(key(0x1a)),
        },
        QuicConfig {
            rotation: 5,
            server_id_length: 3,
            nonce_length: 6,
            key: Some(key(0x2b)),
        },
    ]
}

/// A backend's server ID under a configuration.
fn server_id(config: &QuicConfig, n: usize) -> ServerId {
    let mut octets = [0xd0; 15];
    octets[0] = n as u8;
    octets[1] = config.rotation;
    ServerId::new(&octets[..usize::from(config.server_id_length)]).unwrap_or_else(|| unreachable!())
}

/// The service's text in the configuration.
fn service(forwarding: &str, vip: &str, with_ids: bool) -> String {
    let mut text = format!(
        "\n[[service]]\nname = \"quic\"\nvip = \"{vip}\"\nport = {PORT}\nprotocol = \"quic\"\nforwarding = \"{forwarding}\"\n"
    );
    if with_ids {
        let configs = configurations().map(|config| {
            let key = config.key.map_or_else(String::new, |key| key.reveal());
            let QuicConfig { rotation, server_id_length, nonce_length, .. } = config;
            format!(
                "{{ rotation = {rotation}, server_id_length = {server_id_length}, nonce_length = {nonce_length}, key = \
                 \"{key}\" }}"
            )
        });
        text += &format!("[service.quic]\nconfigs = [{}]\n", configs.join(", "));
    }
    for n in 1..=FIRST {
        text += &format!("[[service.backend]]\naddress = \"{}\"\n", backend4(n));
        if with_ids {
            let ids = configurations()
                .map(|config| format!("{} = \"{}\"", config.rotation, server_id(&config, n)));
            text += &format!("server_ids = {{ {} }}\n", ids.join(", "));
        }
    }
    text
}

/// What became of the connections.
#[derive(Debug, Default)]
struct Outcome {
    /// Still at their backend after all moves.
    kept: usize,
    /// Answered by another backend.
    strayed: usize,
    /// Without an answer.
    lost: usize,
    /// Backends that had connections.
    backends: usize,
}

async fn ask_all(clients: &[Arc<Client>], patience: Duration) -> Result<Vec<Option<u8>>> {
    let mut answers = Vec::with_capacity(clients.len());
    for some in clients.chunks(AT_ONCE) {
        let asked: Vec<_> = some
            .iter()
            .cloned()
            .map(|client| tokio::spawn(async move { client.ask_within(patience).await.ok() }))
            .collect();
        for answer in asked {
            answers.push(answer.await?);
        }
    }
    Ok(answers)
}

async fn connect_all(lab: &Lab, to: SocketAddr) -> Result<Vec<Arc<Client>>> {
    let config = quic::client_config()?;
    let mut clients = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        clients.push(Arc::new(
            Client::connect(&lab.client, source(0)?, to, config.clone()).await?,
        ));
    }
    Ok(clients)
}

/// Where clients are after this many moves.
fn source(moves: u8) -> Result<IpAddr> {
    Ok(format!("192.0.2.{}", 10 + moves).parse()?)
}

fn change(weir: &Daemon, line: &str, with_ids: bool) -> Result {
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    if words.last().is_some_and(|word| word == "ID") {
        words.pop();
        let n = words[3]
            .trim_start_matches("10.0.0.1")
            .trim_end_matches(":4433")
            .parse()?;
        for config in configurations().iter().filter(|_| with_ids) {
            words.push("--server-id".to_owned());
            words.push(format!("{}={}", config.rotation, server_id(config, n)));
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    weir.ctl(&words).map(drop)
}

async fn roam(
    lab: &Lab,
    weir: &Daemon,
    vip: &str,
    at_vip: bool,
    with_ids: bool,
) -> Result<Outcome> {
    let mut servers = Vec::new();
    for (n, namespace) in (1..).zip(&lab.backends) {
        let config = configurations()[n % 2];
        let naming = if with_ids {
            Naming::Routable(config, server_id(&config, n))
        } else {
            Naming::Random
        };
        let own = backend4(n);
        let at = SocketAddr::new(if at_vip { vip } else { &own }.parse()?, PORT);
        servers.push(quic::serve(namespace, at, n as u8, naming)?);
    }
    let clients = connect_all(lab, SocketAddr::new(vip.parse()?, PORT)).await?;
    let patience = if with_ids {
        Duration::from_secs(20)
    } else {
        Duration::from_secs(2)
    };
    let first = ask_all(&clients, patience).await?;
    ensure!(
        first.iter().all(Option::is_some),
        "a connection did not work before any client moved"
    );
    let mut outcome = Outcome::default();
    let mut homes: Vec<u8> = first.iter().flatten().copied().collect();
    homes.sort_unstable();
    homes.dedup();
    outcome.backends = homes.len();
    let mut standing: Vec<(Arc<Client>, Option<u8>)> = clients.iter().cloned().zip(first).collect();
    for (moves, changes) in (1..).zip(CHANGES) {
        for line in changes {
            change(weir, line, with_ids)?;
        }
        for (client, _) in &standing {
            client.move_to(&lab.client, source(moves)?)?;
        }
        let asked: Vec<Arc<Client>> = standing
            .iter()
            .map(|(client, _)| Arc::clone(client))
            .collect();
        let answers = ask_all(&asked, patience).await?;
        let mut next = Vec::with_capacity(standing.len());
        for ((client, home), answer) in standing.into_iter().zip(answers) {
            match answer {
                None => outcome.lost += 1,
                Some(_) if answer != home => outcome.strayed += 1,
                Some(_) => next.push((client, home)),
            }
        }
        standing = next;
    }
    outcome.kept = standing.len();
    Ok(outcome)
}

fn run(forwarding: &str, vip: &str, with_ids: bool, workers: u16) -> Result<Outcome> {
    // Only what the backend answers directly has to reach the client without weir.
    let arms = if forwarding == "nat" && workers == 1 {
        Arms::Two
    } else {
        Arms::One
    };
    let lab = Lab::queued(arms, BACKENDS, workers)?;
    let mut tunnels = Vec::new();
    if forwarding == "dsr-ipip" {
        for backend in &lab.backends {
            tunnels.push(Decapsulator::start(backend)?);
        }
    }
    for moves in 1..=MOVES {
        lab.client
            .ip(&format!("addr add {}/24 dev eth0", source(moves)?))?;
    }
    let name = instance();
    let service = service(forwarding, vip, with_ids);
    let mut weir = if workers == 2 {
        two_workers::start(&lab, two_workers::config(), &service)?
    } else {
        let config = match arms {
            Arms::One => Config::one_armed(&name),
            Arms::Two => Config::two_armed(&name),
        };
        let text = config.text() + &service;
        Daemon::start(&lab.balancer, lab.dir(), &name, &text)?
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let began = Instant::now();
    let outcome = runtime.block_on(roam(&lab, &weir, vip, forwarding != "nat", with_ids))?;
    runtime.shutdown_background();
    for (tunnel, n) in tunnels.iter().zip(1..=FIRST) {
        ensure!(
            tunnel.packets() > 0,
            "nothing came to backend {n} through the tunnel"
        );
    }
    let ids = if with_ids { "with" } else { "without" };
    let frames = two_workers::of_workers(&weir, "forwarded")?;
    eprintln!(
        "{forwarding}, {ids} server IDs, frames by worker {frames:?}: of {CONNECTIONS} connections over {} backends, {MOVES} moves and 10 changes of the pool \
         left {} at their backend, {} at another, {} lost, in {:?}",
        outcome.backends,
        outcome.kept,
        outcome.strayed,
        outcome.lost,
        began.elapsed()
    );
    ensure!(
        frames.len() == usize::from(workers) && frames.iter().all(|frames| *frames > 1_000),
        "a worker did nothing: {frames:?}"
    );
    ensure!(
        outcome.backends == FIRST,
        "connections went to {} of {FIRST} backends",
        outcome.backends
    );
    ensure!(
        weir.terminate()?.success(),
        "weir did not end well:\n{}",
        weir.log()
    );
    Ok(outcome)
}

fn all_stay(forwarding: &str, vip: &str, workers: u16) -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let outcome = run(forwarding, vip, true, workers)?;
    ensure!(
        outcome.kept == CONNECTIONS,
        "connections were lost or went astray: {outcome:?}"
    );
    Ok(())
}

#[test]
fn with_nat_a_thousand_connections_stay_while_clients_move_and_the_pool_changes() -> Result {
    all_stay("nat", NAT_VIP4, 1)
}

#[test]
fn with_dsr_l2_a_thousand_connections_stay_while_clients_move_and_the_pool_changes() -> Result {
    all_stay("dsr-l2", DSR_VIP4, 1)
}

#[test]
fn through_ipip_a_thousand_connections_stay_while_clients_move_and_the_pool_changes() -> Result {
    all_stay("dsr-ipip", DSR_VIP4, 1)
}

#[test]
fn with_nat_and_two_workers_a_thousand_connections_stay_too() -> Result {
    all_stay("nat", NAT_VIP4, 2)
}

#[test]
fn through_ipip_and_two_workers_a_thousand_connections_stay_too() -> Result {
    all_stay("dsr-ipip", DSR_VIP4, 2)
}

#[test]
fn without_server_ids_most_connections_end_when_their_clients_move() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let outcome = run("nat", NAT_VIP4, false, 1)?;
    ensure!(
        outcome.kept < CONNECTIONS / 2,
        "the same without server IDs shows no difference: {outcome:?}"
    );
    Ok(())
}
