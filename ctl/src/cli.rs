//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use weir_shm::command::PoolCommand;
use weir_shm::duration;
use weir_shm::model::{ConnectionId, Protocol};

use crate::capture::Capture;
use crate::flows::Flows;

/// Operates a running weir
#[derive(Debug, Parser)]
#[command(
    name = "weirctl",
    version,
    after_help = "Exit codes: 0 done; 1 refused, or not acknowledged in time; 2 usage.\n\n\
Example:\n  weirctl backend add web 10.0.0.13:8080 --weight 4"
)]
pub struct Cli {
    /// The instance; may be left out if there is only one
    #[arg(long, global = true, env = "WEIR_INSTANCE", value_name = "NAME")]
    pub instance: Option<String>,
    /// How to show results
    #[arg(long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// How long to wait for the daemon and its workers
    #[arg(long, global = true, value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    pub ack_timeout: Duration,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// How results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs: one JSON value
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show how the daemon, its workers and its ports are
    #[command(after_help = "Example:\n  weirctl status")]
    Status,
    /// The pool.
    #[command(flatten)]
    Pool(PoolCommand),
    /// Tell which backend a packet would get, and why
    Lookup(Lookup),
    /// Capture packets with what becomes of them and why
    Capture(Box<Capture>),
    /// Count live flows by service, backend, state and age, or show the newest
    Flows(Flows),
    /// Show all counters: packets, drops by reason, services, backends
    #[command(after_help = "Example:\n  weirctl stats --output json")]
    Stats,
    /// Watch workers, services, backends, drops and ports live
    Top(Top),
    /// Tell whether this machine is as weir needs it, and what mends it if not
    #[command(
        after_help = "Looks at the configuration that is named, or that of the daemon that runs; works without either.\n\
Exit code 1 when something is wrong; warnings alone are none.\n\n\
Examples:\n  weirctl doctor\n  weirctl doctor --config /etc/weir/lb1.toml"
    )]
    Doctor {
        /// The configuration whose ports and cores are looked at
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Show what happened lately
    #[command(
        after_help = "With --output json: an array; with --follow, one object a line.\n\n\
Example:\n  weirctl events --follow"
    )]
    Events {
        /// Go on showing what happens
        #[arg(long)]
        follow: bool,
        /// Only the last so many
        #[arg(long, value_name = "COUNT")]
        last: Option<usize>,
    },
    /// Read the daemon's configuration file again and put its services in force, as one change
    #[command(
        after_help = "As SIGHUP does. What cannot change while weir runs is named and left alone.\n\n\
Example:\n  weirctl reload"
    )]
    Reload,
    /// Write the pool in force into the daemon's configuration file
    #[command(
        after_help = "Only what differs is changed; comments and order stay.\n\n\
Example:\n  weirctl save"
    )]
    Save,
    /// Print a shell's completion script
    #[command(after_help = "Example:\n  weirctl completions bash > /etc/bash_completion.d/weirctl")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write those of all commands into a folder
    #[command(after_help = "Example:\n  weirctl man /usr/local/share/man/man1")]
    Man {
        /// The folder
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
    },
}

/// `top`.
#[derive(Debug, Args)]
#[command(
    after_help = "Keys: q quits; 1 to 6 and Tab choose the table; s and S the column to sort by, r reverses;\n\
/ filters by a text, Esc shows all; p pauses; + and - change the pace; arrows and pages scroll.\n\
With --once: one frame as text, or as JSON, without a terminal.\n\n\
Examples:\n  weirctl top --interval 2s\n  weirctl top --once --output json"
)]
pub struct Top {
    /// From one reading to the next
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// Print one frame, of that long, and end
    #[arg(long)]
    pub once: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text)?;
    let accepted = Duration::from_millis(100)..=Duration::from_secs(3600);
    if accepted.contains(&interval) {
        return Ok(interval);
    }
    Err(format!("found {text:?}; accepted: 100ms to 1h"))
}

/// `lookup PROTOCOL SOURCE DESTINATION`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  weirctl lookup tcp 203.0.113.5:51234 198.51.100.10:80\n  \
                  weirctl lookup quic 203.0.113.5:51234 198.51.100.10:443 --cid 07c4605e4504cc4f"
)]
pub struct Lookup {
    /// Of a QUIC packet, its destination connection ID: what it says, and why it leads there or not
    #[arg(long, value_name = "HEX")]
    pub cid: Option<ConnectionId>,
    /// tcp or udp
    pub protocol: Protocol,
    /// The client
    #[arg(value_name = "SRC:PORT", value_parser = socket)]
    pub source: SocketAddr,
    /// The VIP
    #[arg(value_name = "DST:PORT", value_parser = socket)]
    pub destination: SocketAddr,
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("found {text:?}; accepted: ADDRESS:PORT, such as 192.0.2.1:80 or [2001:db8::1]:80")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn every(command: &clap::Command, path: &str, check: &mut dyn FnMut(&str, &clap::Command)) {
        check(path, command);
        for subcommand in command.get_subcommands() {
            every(
                subcommand,
                &format!("{path} {}", subcommand.get_name()),
                check,
            );
        }
    }

    #[test]
    fn the_help_of_every_command_ends_with_an_example_that_parses() {
        every(&Cli::command(), "weirctl", &mut |path, command| {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            let example = help.lines().last().unwrap_or_default().trim().to_owned();
            assert!(
                (help.contains("Example:\n") || help.contains("Examples:\n"))
                    && example.starts_with(path),
                "{path}: {help:?}"
            );
            let words = example.split_whitespace().take_while(|word| *word != ">");
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{example}: {error}");
            }
        });
    }
}
