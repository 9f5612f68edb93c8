//! `capture`: packets with what became of them, into a pcapng file, a pipe, or onto the terminal.
//!
//! The daemon copies, this reads and writes at its own pace: whatever it is too slow for is lost to
//! the capture and to nothing else. One file for each way of showing packets (`pcapng`,
//! `summary`), and one for the words that both use (`comment`).

mod comment;
mod pcapng;
mod summary;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use weir_shm::capture::ring::Progress;
use weir_shm::capture::{Begun, Reader, Record, Request, SNAPLEN};
use weir_shm::client::Client;
use weir_shm::duration;
use weir_shm::segment::mailbox::Question;

use crate::Failure;
use crate::cli::{Cli, Output};
use crate::output::things;
use comment::Names;
use pcapng::Packets;

/// From one look for packets to the next.
const PAUSE: Duration = Duration::from_millis(10);
/// How often it is looked whether the daemon still runs.
const WATCH: Duration = Duration::from_millis(500);
/// How long the daemon may take to end a capture.
const ENDING: Duration = Duration::from_secs(3);

/// `capture`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Ends with Ctrl-C, after --count packets, or after --duration. Filters given together must all match.\n\
A slow reader loses packets of the capture, never of the traffic.\n\n\
Example:\n  weirctl capture --write drops.pcapng --drops --duration 10s"
)]
pub struct Capture {
    /// Write pcapng into this file, or to standard output with "-"; otherwise a line for each packet
    /// is shown
    #[arg(long, short, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Only packets of this service, both ways
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only packets to and from backends of this name
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub backend: Option<String>,
    /// Only packets from or to this address or network
    #[arg(long, value_name = "ADDRESS[/BITS]", value_parser = network)]
    pub address: Option<(IpAddr, u8)>,
    /// Only packets that come in or leave by this port of weir's; a number is a TCP or UDP port
    #[arg(long, value_name = "NAME|NUMBER")]
    pub port: Option<String>,
    /// Only packets dropped for this reason, as "stats" names it; may be repeated
    #[arg(long = "drop", value_name = "REASON")]
    pub reasons: Vec<String>,
    /// Only packets that are dropped, for whatever reason
    #[arg(long)]
    pub drops: bool,
    /// Packets as they come in, as they leave, or both
    #[arg(long, value_enum, default_value_t = Side::Both)]
    pub direction: Side,
    /// One in so many of the packets that match
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub sample: u32,
    /// How many bytes of each packet to keep
    #[arg(long, value_name = "BYTES", default_value_t = SNAPLEN, value_parser = clap::value_parser!(u32).range(1..=i64::from(SNAPLEN)))]
    pub snaplen: u32,
    /// End after so many packets
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this time
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub duration: Option<Duration>,
}

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Side {
    /// As they come in
    In,
    /// As they leave
    Out,
    /// Both
    Both,
}

fn network(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong =
        || format!("found {text:?}; accepted: an address or a network, such as 203.0.113.0/24");
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let all = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        Some(bits) => bits.parse().map_err(|_| wrong())?,
        None => all,
    };
    (bits <= all).then_some((address, bits)).ok_or_else(wrong)
}

impl Capture {
    fn request(&self) -> Request {
        Request {
            service: self.service.clone(),
            backend: self.backend.clone(),
            address: self.address,
            port: self.port.clone(),
            drops: self.drops || !self.reasons.is_empty(),
            reasons: self.reasons.clone(),
            incoming: self.direction != Side::Out,
            outgoing: self.direction != Side::In,
            sample: self.sample,
            snaplen: self.snaplen,
        }
    }
}

pub(crate) fn run(
    cli: &Cli,
    client: &Client,
    capture: &Capture,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    // The file first: what cannot be written need not be captured. It keeps what is in it until the
    // daemon has agreed.
    let place = match capture.write.as_deref() {
        Some(path) if path != Path::new("-") => Some(Place::open(path)?),
        _ => None,
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let (reader, begun) = match client.capture(&capture.request(), cli.ack_timeout) {
        Ok(begun) => begun,
        Err(error) => {
            place.inspect(Place::leave);
            return Err(error.into());
        }
    };
    let mut file = place.map(Place::emptied).transpose()?;
    let mut show: Box<dyn Show + '_> = match (&mut file, &capture.write) {
        (Some(file), _) => Box::new(Packets::new(file, &begun, capture.snaplen)?),
        (None, Some(_)) => Box::new(Packets::new(out, &begun, capture.snaplen)?),
        (None, None) => Box::new(summary::Lines {
            out,
            ports: &begun.ports,
            json: cli.output == Output::Json,
        }),
    };
    let mut taking = Taking {
        names: Names::new(client),
        limit: capture.count.unwrap_or(u64::MAX),
        written: 0,
    };
    let deadline = capture.duration.map(|duration| Instant::now() + duration);
    let (lost, ended) = taking.until(cli, client, reader, show.as_mut(), &stop, deadline)?;
    show.flush()?;
    drop(show);
    let what = things(
        usize::try_from(taking.written).unwrap_or(usize::MAX),
        "packet",
    );
    // Standard output may be the capture itself.
    eprintln!("weirctl: {what} captured, {lost} lost to a slow reader{ended}");
    Ok(())
}

/// Where the packets go.
struct Place<'a> {
    path: &'a Path,
    file: File,
    /// It was not there before.
    is_new: bool,
}

impl<'a> Place<'a> {
    /// Opens a file to be written, as it is; one that is not there is made.
    fn open(path: &'a Path) -> Result<Self, Failure> {
        let mut options = File::options();
        options.write(true);
        let (file, is_new) = match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                (options.open(path), false)
            }
            made => (made, true),
        };
        Ok(Self {
            file: file.map_err(|source| Self::failure(path, source))?,
            path,
            is_new,
        })
    }

    fn failure(path: &Path, source: io::Error) -> Failure {
        Failure::File {
            what: format!("cannot write {}", path.display()),
            source,
        }
    }

    /// Leaves things as they were.
    fn leave(&self) {
        if self.is_new {
            let _ = std::fs::remove_file(self.path);
        }
    }

    /// Without what was in it. Pipes and devices hold nothing.
    fn emptied(self) -> Result<BufWriter<File>, Failure> {
        let failure = |source| Self::failure(self.path, source);
        if self.file.metadata().map_err(failure)?.is_file() {
            self.file.set_len(0).map_err(failure)?;
        }
        Ok(BufWriter::with_capacity(1 << 20, self.file))
    }
}

/// A way of showing packets.
trait Show {
    /// Shows one.
    fn packet(&mut self, record: &Record, names: &Names<'_>, data: &[u8]) -> io::Result<()>;
    /// Lets everything be seen.
    fn flush(&mut self) -> io::Result<()>;
}

/// Packets on their way out.
struct Taking<'a> {
    names: Names<'a>,
    limit: u64,
    written: u64,
}

impl Taking<'_> {
    /// Takes packets until enough are there, time is up, or somebody says so; gives how many were
    /// lost, and what the closing line should say beyond that.
    fn until(
        &mut self,
        cli: &Cli,
        client: &Client,
        mut reader: Reader,
        show: &mut dyn Show,
        stop: &AtomicBool,
        deadline: Option<Instant>,
    ) -> Result<(u64, &'static str), Failure> {
        let mut watched = Instant::now();
        loop {
            if self.written >= self.limit {
                break;
            }
            let progress = self.take(&mut reader, show)?;
            let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if stop.load(Ordering::Relaxed) || is_over {
                break;
            }
            match progress {
                Progress::Read => {}
                Progress::Ended => return Ok((reader.lost(), "; the daemon ended it")),
                Progress::Nothing => {
                    show.flush()?;
                    if watched.elapsed() >= WATCH {
                        watched = Instant::now();
                        if !client.is_alive()? {
                            return Ok((reader.lost(), "; the daemon is gone"));
                        }
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        }
        if client.ask(&Question::EndCapture, cli.ack_timeout).is_err() {
            // It will notice by itself.
            return Ok((reader.lost(), "; the daemon did not answer"));
        }
        let deadline = Instant::now() + ENDING;
        while Instant::now() < deadline {
            match self.take(&mut reader, show)? {
                Progress::Read => {}
                Progress::Nothing => std::thread::sleep(PAUSE),
                Progress::Ended => return Ok((reader.lost(), "")),
            }
        }
        Ok((reader.lost(), "; the daemon did not end it in time"))
    }

    /// Takes what is there. Packets beyond the limit are left out.
    fn take(&mut self, reader: &mut Reader, show: &mut dyn Show) -> Result<Progress, Failure> {
        let progress = reader.read(|record, data| {
            if self.written < self.limit {
                self.written += 1;
                self.names.know(record);
                show.packet(record, &self.names, data)?;
            }
            Ok(())
        });
        progress.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => {
                Failure::Other(format!("the capture's file cannot be used: {error}"))
            }
            _ => Failure::Output(error),
        })
    }
}

/// The port of a record by name; frames of none are the control core's.
fn port_name(ports: &[String], number: u16) -> &str {
    ports
        .get(usize::from(number))
        .map_or(CONTROL, String::as_str)
}

/// What stands for the port of frames that have none.
const CONTROL: &str = "control-core";

/// The ports of a capture, the one for frames without a port last.
fn all_ports(begun: &Begun) -> impl Iterator<Item = &str> {
    let ports = begun.ports.iter().map(String::as_str);
    ports.chain(std::iter::once(CONTROL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_as_they_are_written() {
        assert_eq!(network("192.0.2.1"), Ok(("192.0.2.1".parse().unwrap(), 32)));
        assert_eq!(
            network("2001:db8::/32"),
            Ok(("2001:db8::".parse().unwrap(), 32))
        );
        for text in ["192.0.2.1/33", "here", "192.0.2.1/", "::/129"] {
            assert!(network(text).is_err(), "{text}");
        }
    }
}
