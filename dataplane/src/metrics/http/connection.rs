//! One client's connection: a request is read, an answer written, the end waited for; each within
//! its time.
//!
//! One request a connection: scrapes are seconds apart, and a connection that ends holds nothing.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::request::{self, LONGEST, Request, Wrong};
use super::{CONTENT_HTML, Page};

/// How long a client may take to ask.
pub const ASK: Duration = Duration::from_secs(5);
/// How long a client may take to read the answer.
const READ: Duration = Duration::from_secs(10);
/// How long a client may take to end the connection once it is answered.
const LINGER: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum Stage {
    /// The request, as far as it has come.
    Asking(Vec<u8>),
    /// The answer, and how much of it is sent.
    Answering(Vec<u8>, Arc<[u8]>, usize),
    /// Answered; what still comes is thrown away, so that the answer is not lost to a reset.
    Lingering,
}

/// A connection; see the module's text.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    stage: Stage,
    deadline: Instant,
}

impl Connection {
    /// A connection that was accepted at `now`.
    ///
    /// # Errors
    /// Of the system.
    pub fn new(stream: TcpStream, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            stage: Stage::Asking(Vec::new()),
            deadline: now + ASK,
        })
    }

    /// What it waits for.
    #[must_use]
    pub const fn interest(&self) -> PollFlags {
        match self.stage {
            Stage::Asking(_) | Stage::Lingering => PollFlags::POLLIN,
            Stage::Answering(..) => PollFlags::POLLOUT,
        }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether its time has run out.
    #[must_use]
    pub fn is_late(&self, now: Instant) -> bool {
        now >= self.deadline
    }

    /// Goes on as far as the socket allows, without waiting; whether it is to be kept.
    pub fn go_on(&mut self, now: Instant, page: &mut impl FnMut(&str) -> Option<Page>) -> bool {
        self.try_to_go_on(now, page).unwrap_or(false)
    }

    fn try_to_go_on(
        &mut self,
        now: Instant,
        page: &mut impl FnMut(&str) -> Option<Page>,
    ) -> io::Result<bool> {
        if let Stage::Asking(asked) = &mut self.stage {
            let ended = !take(&mut self.stream, asked)?;
            let answer = match request::read(asked) {
                Ok(None) if ended => return Ok(false),
                Ok(None) => return Ok(true),
                Ok(Some(request)) => answer(request, page),
                Err(wrong) => refusal(wrong),
            };
            self.stage = Stage::Answering(answer.0, answer.1, 0);
            self.deadline = now + READ;
        }
        if let Stage::Answering(head, body, sent) = &mut self.stage {
            loop {
                let rest = match head.get(*sent..) {
                    Some(rest) if !rest.is_empty() => rest,
                    _ => body.get(*sent - head.len()..).unwrap_or_default(),
                };
                if rest.is_empty() {
                    break;
                }
                match self.stream.write(rest) {
                    Ok(0) => return Ok(false),
                    Ok(count) => *sent += count,
                    Err(error) if is_later(&error) => return Ok(true),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.stream.shutdown(Shutdown::Write)?;
            self.stage = Stage::Lingering;
            self.deadline = now + LINGER;
        }
        // What a client still sends is read for a moment, and a bounded part of it at once.
        let mut rest = Vec::new();
        take(&mut self.stream, &mut rest)
    }
}

/// Reads what has come, up to the longest request; whether more may come.
fn take(stream: &mut TcpStream, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut room = [0; 2048];
    while into.len() < LONGEST {
        let most = room.len().min(LONGEST - into.len());
        match stream.read(room.get_mut(..most).unwrap_or_default()) {
            Ok(0) => return Ok(false),
            Ok(count) => into.extend_from_slice(room.get(..count).unwrap_or_default()),
            Err(error) if is_later(&error) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn is_later(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

fn answer(
    request: Request<'_>,
    page: &mut impl FnMut(&str) -> Option<Page>,
) -> (Vec<u8>, Arc<[u8]>) {
    let page =
        page(request.path).unwrap_or_else(|| plain("404 Not Found", "there is / and /metrics"));
    let head = head(&page);
    let body = if request.head_only {
        Arc::default()
    } else {
        page.body
    };
    (head, body)
}

fn refusal(wrong: Wrong) -> (Vec<u8>, Arc<[u8]>) {
    let page = match wrong {
        Wrong::Malformed => plain("400 Bad Request", "that is no HTTP request"),
        Wrong::TooLarge => plain("431 Request Header Fields Too Large", "that is too long"),
        Wrong::Version => plain("505 HTTP Version Not Supported", "HTTP/1.1 is spoken here"),
        Wrong::Method => plain("405 Method Not Allowed", "there is GET and HEAD"),
    };
    (head(&page), page.body)
}

/// A page that says one thing.
#[must_use]
pub fn plain(status: &'static str, text: &str) -> Page {
    Page {
        status,
        content_type: "text/plain; charset=utf-8",
        body: format!("{text}\n").into_bytes().into(),
    }
}

fn head(page: &Page) -> Vec<u8> {
    let Page {
        status,
        content_type,
        body,
    } = page;
    let length = body.len();
    let allow = if status.starts_with("405") {
        "Allow: GET, HEAD\r\n"
    } else {
        ""
    };
    let safe = if *content_type == CONTENT_HTML {
        "Content-Security-Policy: default-src 'none'\r\n"
    } else {
        ""
    };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{allow}{safe}\
         Connection: close\r\n\r\n"
    )
    .into_bytes()
}
