//! BIRD, the routing daemon, in a namespace: with a configuration, a socket and files of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::namespace::Namespace;
use crate::process::{Process, capture};
use crate::{Failure, Result, wait};

/// A running BIRD. Dropping it ends it.
pub struct Bird {
    process: Process,
    socket: PathBuf,
}

/// A BGP session as BIRD tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Whether it is established.
    pub established: bool,
    /// Since when it is what it is.
    pub since: String,
}

impl Bird {
    /// Starts BIRD with this configuration; `name` tells its files in `dir` from those of others.
    pub fn start(namespace: &Namespace, dir: &Path, name: &str, config: &str) -> Result<Self> {
        let file = |kind: &str| dir.join(format!("bird-{name}.{kind}"));
        let text = format!("log stderr all;\ntimeformat protocol \"%F %T\";\n{config}");
        std::fs::write(file("conf"), text)?;
        let mut command = namespace.command("bird");
        command.arg("-f").arg("-c").arg(file("conf"));
        command
            .arg("-s")
            .arg(file("ctl"))
            .arg("-P")
            .arg(file("pid"));
        let mut process = Process::start("bird", &command, &file("log"))?;
        let socket = file("ctl");
        wait::until(
            "BIRD to listen",
            Duration::from_secs(10),
            || match process.must_run() {
                Err(failure) => Some(Err(failure)),
                Ok(()) => socket.exists().then_some(Ok(())),
            },
        )??;
        Ok(Self { process, socket })
    }

    /// What it answers to a command.
    pub fn ask(&self, words: &str) -> Result<String> {
        let mut command = Command::new("birdc");
        command.arg("-s").arg(&self.socket).args(words.split(' '));
        capture(&mut command)
    }

    /// The BGP session of a protocol.
    pub fn session(&self, protocol: &str) -> Result<Session> {
        let answer = self.ask(&format!("show protocols {protocol}"))?;
        // Name, kind, table, state, since when (day and time), and BGP's own word.
        let line = answer.lines().find(|line| line.starts_with(protocol));
        let words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        match words[..] {
            [_, "BGP", _, _, day, time, ..] => Ok(Session {
                established: words.contains(&"Established"),
                since: format!("{day} {time}"),
            }),
            _ => Err(Failure::new(format!("no session {protocol}: {answer}"))),
        }
    }

    /// Waits until the session of a protocol is established.
    pub fn wait_established(&self, protocol: &str) -> Result<Session> {
        let limit = Duration::from_secs(40);
        let found = wait::until("the BGP session to be established", limit, || {
            let session = self.session(protocol).ok()?;
            session.established.then_some(session)
        });
        found.map_err(|failure| Failure::new(format!("{failure:?}; BIRD wrote:\n{}", self.log())))
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }
}
