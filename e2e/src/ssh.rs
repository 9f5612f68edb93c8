//! OpenSSH's server in a namespace, with keys and a configuration of its own, and its client.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::namespace::Namespace;
use crate::process::{Process, capture};

/// A running sshd that takes one key for root. Dropping it ends it.
pub struct Sshd {
    _process: Process,
    home: PathBuf,
}

impl Sshd {
    /// Starts sshd on port 22 of `addresses`, with its files below `dir`.
    pub fn start(namespace: &Namespace, dir: &Path, addresses: &[&str]) -> Result<Self> {
        let home = dir.join("ssh");
        std::fs::create_dir(&home)?;
        for key in ["host", "user"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]);
            capture(keygen.arg(home.join(key)))?;
        }
        let at = |name: &str| home.join(name).display().to_string();
        let mut config = format!(
            "Port 22\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nPermitRootLogin prohibit-password\nUseDNS no\n",
            at("host"),
            at("user.pub"),
        );
        for address in addresses {
            config += &format!("ListenAddress {address}\n");
        }
        std::fs::write(home.join("sshd.conf"), config)?;
        // sshd wants a folder in /run; it gets a /run of its own, and leaves nothing there.
        let mut command = namespace.command("unshare");
        command.args(["--mount", "sh", "-c"]);
        command.arg(
            "mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec /usr/sbin/sshd -D -e -f \"$0\"",
        );
        command.arg(home.join("sshd.conf"));
        let process = Process::start("sshd", &command, &home.join("sshd.log"))?;
        Ok(Self {
            _process: process,
            home,
        })
    }

    /// Runs a command by ssh, from a client's namespace; gives what it wrote.
    pub fn run(&self, client: &Namespace, address: &str, words: &str) -> Result<String> {
        let mut ssh = client.command("ssh");
        ssh.args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=5",
        ]);
        ssh.args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ]);
        ssh.args(["-o", "LogLevel=ERROR", "-i"])
            .arg(self.home.join("user"));
        capture(ssh.arg(format!("root@{address}")).arg(words))
    }
}
