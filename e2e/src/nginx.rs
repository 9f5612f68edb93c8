//! A real web server in a backend's namespace. It answers with the backend's name and counts its requests.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::process::{Process, capture};
use crate::{Failure, Result, wait};

/// An nginx that listens on port 8080 and 80 of every address, IPv4 and IPv6, and answers with its name.
pub struct Nginx<'a> {
    namespace: &'a Namespace,
    process: Process,
}

impl<'a> Nginx<'a> {
    /// Starts it, with its files below `dir`, and waits until it answers.
    pub fn start(namespace: &'a Namespace, dir: &Path, name: &str) -> Result<Self> {
        Self::start_with(namespace, dir, name, "")
    }

    /// One in each backend of a lab, named b1, b2 and so on.
    pub fn start_all(lab: &'a Lab) -> Result<Vec<Self>> {
        (1..)
            .zip(&lab.backends)
            .map(|(n, backend)| Self::start(backend, lab.dir(), &format!("b{n}")))
            .collect()
    }

    /// [`Nginx::start`] with further `server` blocks.
    pub fn start_with(
        namespace: &'a Namespace,
        dir: &Path,
        name: &str,
        servers: &str,
    ) -> Result<Self> {
        let home = dir.join(format!("nginx-{name}"));
        std::fs::create_dir(&home)?;
        let config = home.join("nginx.conf");
        std::fs::write(&config, text(&home.display().to_string(), name, servers))?;
        let mut command = namespace.command("nginx");
        command
            .arg("-e")
            .arg(home.join("error.log"))
            .arg("-p")
            .arg(&home)
            .arg("-c")
            .arg(&config);
        let mut process = Process::start("nginx", &command, &home.join("out.log"))?;
        let server = |process: &mut Process| -> Result { process.must_run() };
        wait::until(
            "nginx to answer",
            Duration::from_secs(10),
            || match server(&mut process) {
                Err(failure) => Some(Err(failure)),
                Ok(()) => status(namespace).ok().map(|_| Ok(())),
            },
        )??;
        Ok(Self { namespace, process })
    }

    /// Sends it a signal: stopped, it takes connections and answers nobody.
    pub fn signal(&self, signal: Signal) -> Result {
        self.process.signal(signal)
    }

    /// Requests served so far. Asking counts as one.
    pub fn requests(&self) -> Result<u64> {
        let text = status(self.namespace)?;
        number(
            text.lines()
                .nth(2)
                .and_then(|line| line.split_whitespace().nth(2)),
            &text,
        )
    }

    /// Connections open at the moment, less the one that asks.
    pub fn connections(&self) -> Result<u64> {
        let text = status(self.namespace)?;
        Ok(number(
            text.lines()
                .next()
                .and_then(|line| line.split_whitespace().nth(2)),
            &text,
        )?
        .saturating_sub(1))
    }
}

fn status(namespace: &Namespace) -> Result<String> {
    capture(namespace.command("curl").args([
        "-sS",
        "--fail",
        "--max-time",
        "2",
        "http://127.0.0.1:81/",
    ]))
}

fn number(word: Option<&str>, text: &str) -> Result<u64> {
    word.and_then(|word| word.parse().ok())
        .ok_or_else(|| Failure::new(format!("nginx's status is not as known: {text}")))
}

fn text(home: &str, name: &str, servers: &str) -> String {
    format!(
        r#"user root;
master_process off;   # one process, so that a signal reaches all of it
daemon off;
pid {home}/pid;
error_log {home}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type text/plain;
    keepalive_requests 100;   # so that connections under load come and go
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{
        listen 8080 backlog=4096;
        listen [::]:8080 backlog=4096;
        listen 80 backlog=4096;
        listen [::]:80 backlog=4096;
        location / {{ return 200 "{name}\n"; }}
    }}
    server {{
        listen 127.0.0.1:81;
        location / {{ stub_status; }}
    }}
{servers}}}
"#
    )
}
