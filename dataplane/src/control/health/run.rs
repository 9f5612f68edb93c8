//! One check under way: packets and time come in, packets and at last an outcome go out.

use std::net::SocketAddr;
use std::time::Duration;

use weir_shm::model::{Health, HealthKind};

use super::connection::{Connection, same_family};
use super::failure::{Failure, Outcome};
use super::http;
use super::packet::{self, Heard};
use super::path::Path;
use super::quic::Probe;
use super::tls::{self, Identity, Session};
use crate::control::neighbours::Nanos;

/// How long a connection may take to end in order once its check is over.
const LINGER: Duration = Duration::from_secs(1);

/// What is checked, and how.
#[derive(Debug)]
pub struct Spec {
    /// The way there and back.
    pub path: Path,
    /// The check itself.
    pub health: Health,
    /// What `https` brings to the handshake.
    pub identity: Option<Identity>,
}

/// What is said over a connection.
#[derive(Debug)]
enum Talk {
    /// Nothing: that it is made is enough.
    Connect,
    /// A request, as much of it as is not sent yet, and its answer.
    Http(Vec<u8>, http::Answer),
    /// The same within TLS; what is encrypted and not sent yet.
    Https(Session, Vec<u8>, http::Answer),
}

#[derive(Debug)]
enum Exchange {
    Tcp(Box<Connection>, Talk),
    Udp,
    Quic(Probe),
    Echo,
}

/// A check under way; see the module's text.
#[derive(Debug)]
pub struct Run {
    /// The number of what it checks.
    pub target: usize,
    /// When it began.
    pub started: Nanos,
    deadline: Nanos,
    /// Whether its outcome is told and only the connection has to end.
    over: bool,
    exchange: Exchange,
    leaving: Vec<Vec<u8>>,
}

impl Run {
    /// Begins a check by `port`, which is also its identifier in echo requests.
    ///
    /// # Errors
    /// When it failed already.
    pub fn begin(
        now: Nanos,
        target: usize,
        spec: &Spec,
        port: u16,
        random: &mut fastrand::Rng,
    ) -> Result<Self, Failure> {
        let Path {
            source,
            target: to,
            port: to_port,
            ..
        } = spec.path;
        if !same_family(source, to) {
            return Err(Failure::NoSource);
        }
        let mut leaving = Vec::new();
        let from = SocketAddr::new(source, port);
        let peer = SocketAddr::new(to, to_port);
        let mut connect = |talk| {
            let connection = Connection::open(now, from, peer, random.u64(..));
            connection
                .map(|connection| Exchange::Tcp(Box::new(connection), talk))
                .ok_or(Failure::NoSource)
        };
        let exchange = match spec.health.kind {
            HealthKind::Tcp | HealthKind::None => connect(Talk::Connect)?,
            HealthKind::Http => {
                let request = http::request(&spec.health, &authority(peer, 80));
                connect(Talk::Http(request, http::Answer::new(&spec.health)))?
            }
            HealthKind::Https => {
                let identity = spec
                    .identity
                    .as_ref()
                    .ok_or_else(|| Failure::Tls("no configuration".to_owned()))?;
                let request = http::request(&spec.health, &authority(peer, 443));
                let name = tls::server_name(&spec.health, to);
                let session = Session::begin(identity, name, &request)?;
                let answer = http::Answer::new(&spec.health);
                connect(Talk::Https(session, Vec::new(), answer))?
            }
            HealthKind::Udp => {
                let payload = spec.health.payload.as_deref().unwrap_or_default();
                leaving.push(packet::udp((source, port), (to, to_port), payload));
                Exchange::Udp
            }
            HealthKind::Icmp => {
                leaving.push(packet::echo(source, to, port, 1));
                Exchange::Echo
            }
            HealthKind::Quic => {
                let probe = Probe::new(random.u64(..), random.u64(..), random.u64(..));
                let datagram = probe.datagram();
                leaving.push(packet::udp((source, port), (to, to_port), &datagram));
                Exchange::Quic(probe)
            }
        };
        let timeout = u64::try_from(spec.health.timeout.as_nanos()).unwrap_or(u64::MAX);
        let mut run = Self {
            target,
            started: now,
            deadline: now.saturating_add(timeout),
            over: false,
            exchange,
            leaving,
        };
        run.collect();
        Ok(run)
    }

    /// IP packets to be sent.
    pub fn outgoing(&mut self) -> std::vec::Drain<'_, Vec<u8>> {
        self.leaving.drain(..)
    }

    fn collect(&mut self) {
        if let Exchange::Tcp(connection, _) = &mut self.exchange {
            self.leaving.extend(connection.outgoing());
        }
    }

    /// A packet came in by its port or identifier.
    pub fn hear(
        &mut self,
        now: Nanos,
        spec: &Spec,
        heard: &Heard<'_>,
        packet: &[u8],
    ) -> Option<Outcome> {
        let outcome = match (&mut self.exchange, heard) {
            (_, Heard::Unreachable(target, _, why)) if *target == spec.path.target => {
                Some(Err(Failure::Unreachable(why)))
            }
            (Exchange::Tcp(connection, talk), Heard::Tcp(_)) => {
                connection.hear(now, packet);
                progress(now, connection, talk)
            }
            (Exchange::Udp, Heard::Udp { from, payload, .. }) if *from == spec.path.port => {
                let wanted = spec.health.answer.as_deref().unwrap_or_default();
                let holds =
                    wanted.is_empty() || payload.windows(wanted.len()).any(|part| part == wanted);
                Some(if holds {
                    Ok(())
                } else {
                    Err(Failure::OtherAnswer)
                })
            }
            (Exchange::Quic(probe), Heard::Udp { from, payload, .. })
                if *from == spec.path.port =>
            {
                Some(if probe.is_answer(payload) {
                    Ok(())
                } else {
                    Err(Failure::OtherAnswer)
                })
            }
            (Exchange::Echo, Heard::Echo(_, 1)) => Some(Ok(())),
            _ => None,
        };
        self.collect();
        outcome.filter(|_| !self.over)
    }

    /// Lets time pass.
    pub fn poll(&mut self, now: Nanos, spec: &Spec) -> Option<Outcome> {
        let mut outcome = None;
        if let Exchange::Tcp(connection, talk) = &mut self.exchange {
            connection.poll(now);
            outcome = progress(now, connection, talk);
        }
        self.collect();
        if self.over {
            return None;
        }
        outcome.or_else(|| (now >= self.deadline).then(|| self.late(spec)))
    }

    /// What it means that time is up.
    fn late(&self, spec: &Spec) -> Outcome {
        let timeout = spec.health.timeout;
        match &self.exchange {
            Exchange::Tcp(connection, _) if connection.was_established() => {
                Err(Failure::Slow(timeout))
            }
            // No answer was asked for, and nobody said that the datagram did not arrive.
            Exchange::Udp if spec.health.answer.as_ref().is_some_and(Vec::is_empty) => Ok(()),
            _ => Err(Failure::NoAnswer(timeout)),
        }
    }

    /// When time must pass next.
    pub fn next_due(&mut self, now: Nanos) -> Nanos {
        match &mut self.exchange {
            Exchange::Tcp(connection, _) => connection
                .next_due(now)
                .map_or(self.deadline, |due| due.min(self.deadline)),
            _ => self.deadline,
        }
    }

    /// The outcome is told: the connection ends in order, so that the backend's own log shows no
    /// error. Call again when packets came or time passed; whether all is over.
    pub fn wind_up(&mut self, now: Nanos, healthy: bool) -> bool {
        let Exchange::Tcp(connection, talk) = &mut self.exchange else {
            return true;
        };
        if !self.over {
            self.over = true;
            self.deadline = now.saturating_add(LINGER.as_nanos() as u64);
            if healthy {
                if let Talk::Https(session, unsent, _) = talk {
                    session.close();
                    unsent.extend(session.outgoing());
                    let sent = connection.send(unsent);
                    unsent.drain(..sent);
                }
                connection.close(now);
            } else {
                connection.abort(now);
            }
        }
        // What still comes is read, so that it does not stand in the way of the end.
        connection.receive();
        if now >= self.deadline && !connection.is_closed() {
            connection.abort(now);
        }
        let closed = connection.is_closed();
        self.collect();
        closed
    }

    /// Whether its outcome is told.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.over
    }
}

/// Host and port as a request names them: the port only where it is not the usual one.
fn authority(peer: SocketAddr, usual: u16) -> String {
    match (peer, peer.port() == usual) {
        (SocketAddr::V4(peer), true) => peer.ip().to_string(),
        (SocketAddr::V6(peer), true) => format!("[{}]", peer.ip()),
        (peer, false) => peer.to_string(),
    }
}

/// Says and reads as much as can be; the outcome if there is one.
fn progress(now: Nanos, connection: &mut Connection, talk: &mut Talk) -> Option<Outcome> {
    if !connection.was_established() {
        return connection.is_closed().then_some(Err(Failure::Refused));
    }
    let outcome = match talk {
        Talk::Connect => Some(Ok(())),
        Talk::Http(request, answer) => {
            let sent = connection.send(request);
            request.drain(..sent);
            let bytes = connection.receive();
            answer.read(&bytes, connection.has_ended())
        }
        Talk::Https(session, unsent, answer) => {
            let bytes = connection.receive();
            let ended = connection.has_ended();
            let read = session.read(&bytes);
            unsent.extend(session.outgoing());
            let sent = connection.send(unsent);
            unsent.drain(..sent);
            match read {
                Err(failure) => Some(Err(failure)),
                Ok(plain) => match answer.read(&plain, ended) {
                    Some(Err(Failure::Closed)) => Some(tls::closed_early(session)),
                    other => other,
                },
            }
        }
    };
    connection.poll(now);
    outcome
}
