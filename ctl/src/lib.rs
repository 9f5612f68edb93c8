//! `weirctl` as a library: the command line, what each command does, and how it is shown.
//!
//! One module a noun. Commands write to a `Write`, so that a test sees what an operator sees; what
//! goes wrong is a [`Failure`], and `main` alone knows exit codes.

pub mod capture;
mod change;
mod checking;
pub mod cli;
mod doctor;
mod drain;
mod events;
mod figures;
pub mod flows;
mod lookup;
mod output;
mod pages;
mod reload;
mod save;
mod services;
mod stats;
mod status;
mod top;
mod view;

use std::io::{self, Write};

use weir_shm::client::{Client, ClientError};
use weir_shm::command::{BackendCommand, PoolCommand, Refused, ServiceCommand};
use weir_shm::document::Diagnostic;
use weir_shm::segment;

use cli::{Cli, Command};

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The segment or the daemon stands in the way.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The change is refused before it is committed.
    #[error("refused: {0}")]
    Refused(#[from] Refused),
    /// The daemon refused the change.
    #[error("refused by the daemon: {0}; what was in force stays so")]
    RefusedByDaemon(String),
    /// The daemon or workers did not follow in time.
    #[error("{0}")]
    NotAcknowledged(String),
    /// The configuration file is wrong.
    #[error("cannot save: {0}")]
    Document(#[from] Diagnostic),
    /// A file stands in the way.
    #[error("{what}: {source}")]
    File {
        /// What was tried.
        what: String,
        /// What the system says.
        source: io::Error,
    },
    /// Anything else.
    #[error("{0}")]
    Other(String),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// Whether nobody reads the output any more, which is no failure.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Carries a command out.
///
/// # Errors
/// Why it was not.
pub fn run(cli: &Cli, out: &mut dyn Write) -> Result<(), Failure> {
    match &cli.command {
        Command::Completions { shell } => return pages::completions(*shell, out),
        Command::Man { folder } => return pages::man(folder.as_deref(), out),
        Command::Top(top) => return top::run(cli, top, out),
        Command::Doctor { config } => return doctor::run(cli, config.as_deref(), out),
        _ => {}
    }
    let instance = cli.instance.as_deref().filter(|name| !name.is_empty());
    let client = Client::open_or_only(&segment::folder(), instance)?;
    match &cli.command {
        Command::Status => status::run(cli, &client, out),
        Command::Pool(PoolCommand::Service(ServiceCommand::List)) => {
            services::list(cli, &client, out)
        }
        Command::Pool(PoolCommand::Service(ServiceCommand::Show { name })) => {
            services::show(cli, &client, name, out)
        }
        Command::Pool(PoolCommand::Backend(BackendCommand::List { service })) => {
            services::backends(cli, &client, service, out)
        }
        Command::Pool(command) => change::run(cli, &client, command, out),
        Command::Lookup(lookup) => lookup::run(cli, &client, lookup, out),
        Command::Capture(wanted) => capture::run(cli, &client, wanted, out),
        Command::Flows(asked) => flows::run(cli, &client, asked, out),
        Command::Stats => stats::run(cli, &client, out),
        Command::Events { follow, last } => events::run(cli, &client, *follow, *last, out),
        Command::Reload => reload::run(cli, &client, out),
        Command::Save => save::run(cli, &client, out),
        Command::Top(_)
        | Command::Doctor { .. }
        | Command::Completions { .. }
        | Command::Man { .. } => Ok(()),
    }?;
    out.flush()?;
    Ok(())
}
