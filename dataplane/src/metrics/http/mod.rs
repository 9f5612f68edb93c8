//! A small HTTP server for a few pages: one thread, bounded connections, a time for everything.
//!
//! It takes part in nothing but its sockets. A client that is slow to ask or to read costs one
//! connection for some seconds; when there are too many, the one that has been there for longest
//! goes, so that slow clients cannot keep Prometheus out.

pub mod connection;
pub mod request;

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weir_engine::worker::Stop;

use connection::Connection;

/// Connections at once.
pub const CONNECTIONS: usize = 32;
/// How long a round waits for something to happen: how fast the server ends when it is told to.
const ROUND_MS: u8 = 100;
/// How long nothing is accepted when the system would not give a socket.
const BACK_OFF: Duration = Duration::from_millis(50);

/// The media type of pages for people.
pub const CONTENT_HTML: &str = "text/html; charset=utf-8";

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Status code and reason.
    pub status: &'static str,
    /// The media type.
    pub content_type: &'static str,
    /// The content.
    pub body: Arc<[u8]>,
}

/// Serves until it is told to stop. `page` makes the page of a path; `None` is not found.
///
/// # Errors
/// When the listener cannot be used at all.
pub fn serve(
    listener: &TcpListener,
    stop: &Stop,
    mut page: impl FnMut(&str) -> Option<Page>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    // Oldest first.
    let mut connections: VecDeque<Connection> = VecDeque::new();
    while !stop.is_raised() {
        let ready = wait(listener, &connections)?;
        let now = Instant::now();
        let mut place = 0;
        connections.retain_mut(|connection| {
            let ready = ready.get(place + 1).copied().unwrap_or(false);
            place += 1;
            !connection.is_late(now) && (!ready || connection.go_on(now, &mut page))
        });
        if ready.first().copied().unwrap_or(false) {
            accept(listener, now, &mut connections);
        }
    }
    Ok(())
}

/// Waits for a while; which of the listener and the connections have something to do.
fn wait(listener: &TcpListener, connections: &VecDeque<Connection>) -> io::Result<Vec<bool>> {
    let of_connections = connections
        .iter()
        .map(|connection| PollFd::new(connection.socket(), connection.interest()));
    let mut sockets: Vec<PollFd<'_>> =
        std::iter::once(PollFd::new(listener.as_fd(), PollFlags::POLLIN))
            .chain(of_connections)
            .collect();
    match poll(&mut sockets, PollTimeout::from(ROUND_MS)) {
        Ok(_) => {}
        Err(nix::Error::EINTR) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    let ready = |socket: &PollFd<'_>| socket.any().unwrap_or(true);
    Ok(sockets.iter().map(ready).collect())
}

/// Takes in who has come, as many as may be here at once.
fn accept(listener: &TcpListener, now: Instant, connections: &mut VecDeque<Connection>) {
    for _ in 0..CONNECTIONS {
        match listener.accept() {
            Ok((stream, _)) => {
                while connections.len() >= CONNECTIONS {
                    connections.pop_front();
                }
                connections.extend(Connection::new(stream, now));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // The client has gone, or there are too many open files: the next round tells.
            Err(_) => return thread::sleep(BACK_OFF),
        }
    }
}

#[cfg(test)]
mod tests;
