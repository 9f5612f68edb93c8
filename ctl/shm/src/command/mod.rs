//! The vocabulary of pool changes: what `weirctl` takes after its name, and what a replay script
//! holds on its lines.
//!
//! A command is first parsed ([`PoolCommand`]), then applied to a pool in memory
//! ([`PoolCommand::apply_to`]). What it leads to is checked as a whole, so a command can never make
//! a pool that a file could not.

pub mod backend;
pub mod difference;
pub mod endpoint;
pub mod health;
pub mod lifetime;
pub mod quic;
mod script;
pub mod service;
pub mod steering;
pub mod tunnel;

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::document::{self, Loaded};
use crate::model::{Pool, Service};

pub use backend::BackendCommand;
pub use difference::Difference;
pub use endpoint::Endpoint;
pub use script::{Usage, parse_line};
pub use service::ServiceCommand;

/// A command about the pool.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum PoolCommand {
    /// Services: VIPs and how they are forwarded
    #[command(
        subcommand,
        after_help = "Example:\n  weirctl service add web --vip 198.51.100.10 --port 80 --protocol tcp --forwarding nat"
    )]
    Service(ServiceCommand),
    /// Backends: the servers behind a service
    #[command(
        subcommand,
        after_help = "Example:\n  weirctl backend drain web 10.0.0.11:8080"
    )]
    Backend(BackendCommand),
    /// Make the pool what a file says, as one change
    Apply(ApplyCommand),
}

/// `apply FILE`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "The file is the whole pool: services that it does not name are removed, and \
its words on drained or disabled backends replace what was set by hand. It holds services only, or \
is a whole configuration, of which the services count.\n\n\
Example:\n  weirctl apply pools.toml --dry-run"
)]
pub struct ApplyCommand {
    /// TOML with [[service]] tables
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print the difference and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What a command did to a pool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Whether the pool is another now.
    pub changed: bool,
    /// What was done, a line each, in the past tense.
    pub lines: Vec<String>,
    /// What the operator should know of the pool, though it was not refused.
    pub warnings: Vec<String>,
}

impl Change {
    fn done(line: String) -> Self {
        Self {
            changed: true,
            lines: vec![line],
            warnings: Vec::new(),
        }
    }

    fn nothing(line: String) -> Self {
        Self {
            changed: false,
            lines: vec![line],
            warnings: Vec::new(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

/// Why a command was not carried out; the pool is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No service has this name.
    #[error("no service \"{found}\"; {}", listed("there is", "there are", .known))]
    UnknownService {
        /// What was asked for.
        found: String,
        /// The services that there are.
        known: Vec<String>,
    },
    /// The service has no such backend.
    #[error("no backend {found} in service \"{service}\"; {}", listed("it has", "it has", .known))]
    UnknownBackend {
        /// The service.
        service: String,
        /// What was asked for.
        found: String,
        /// Its backends.
        known: Vec<String>,
    },
    /// What is to be added is there already.
    #[error("{what} is there already; {hint}")]
    Exists {
        /// The service or backend.
        what: String,
        /// What to do instead.
        hint: String,
    },
    /// No backend would be left that takes new flows.
    #[error(
        "{backend} is the last backend of \"{service}\" that takes new flows; to drain it all the same: --force"
    )]
    Last {
        /// The service.
        service: String,
        /// The backend.
        backend: String,
    },
    /// The pool would contradict itself.
    #[error("{0}")]
    Invalid(String),
    /// The file to apply cannot be read.
    #[error("cannot read {file}: {reason}")]
    Unreadable {
        /// The file.
        file: String,
        /// What the system says.
        reason: String,
    },
    /// The file to apply is wrong.
    #[error(transparent)]
    Document(#[from] document::Diagnostic),
}

/// At most this many names are listed in a message.
const LISTED: usize = 12;

fn listed(one: &str, many: &str, names: &[String]) -> String {
    let verb = if names.len() == 1 { one } else { many };
    let listed: Vec<&str> = names.iter().take(LISTED).map(String::as_str).collect();
    match names.len() {
        0 => format!("{verb} none"),
        count if count > LISTED => {
            format!("{verb} {} and {} more", listed.join(", "), count - LISTED)
        }
        _ => format!("{verb} {}", listed.join(", ")),
    }
}

impl PoolCommand {
    /// Carries the command out on a pool. Does no I/O, but for `apply`, which reads its file.
    ///
    /// # Errors
    /// Why not; the pool is unharmed.
    pub fn apply_to(&self, pool: &mut Pool) -> Result<Change, Refused> {
        let mut next = pool.clone();
        let mut change = match self {
            Self::Service(command) => command.apply_to(&mut next)?,
            Self::Backend(command) => command.apply_to(&mut next)?,
            Self::Apply(command) => command.apply_to(&mut next)?,
        };
        if change.changed {
            let warnings = next
                .validate()
                .map_err(|problem| Refused::Invalid(problem.message))?;
            change
                .warnings
                .extend(warnings.into_iter().map(|warning| warning.message));
            *pool = next;
        }
        Ok(change)
    }

    /// Whether it can never change a pool.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        match self {
            Self::Service(command) => command.is_read_only(),
            Self::Backend(command) => command.is_read_only(),
            Self::Apply(command) => command.dry_run,
        }
    }
}

impl ApplyCommand {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// When it cannot be read or is wrong.
    pub fn load(&self) -> Result<Loaded, Refused> {
        let file = self.file.display().to_string();
        let bytes = std::fs::read(&self.file).map_err(|error| Refused::Unreadable {
            file: file.clone(),
            reason: error.to_string(),
        })?;
        let text = document::text_of(&file, bytes)?;
        Ok(document::parse_services(&file, &text)?)
    }

    fn apply_to(&self, pool: &mut Pool) -> Result<Change, Refused> {
        let loaded = self.load()?;
        let difference = Difference::between(pool, &loaded.pool);
        if difference.is_empty() {
            return Ok(Change::nothing(
                "the pool is as the file says; nothing to change".to_owned(),
            ));
        }
        let changed = !self.dry_run;
        // Of a pool that changes, the caller collects the warnings.
        let warnings = if changed {
            Vec::new()
        } else {
            loaded.warning_texts()
        };
        if changed {
            *pool = loaded.pool;
        }
        Ok(Change {
            changed,
            lines: difference.lines(),
            warnings,
        })
    }
}

/// The service of this name, to be changed, or the refusal that lists the known ones.
fn service_mut<'a>(pool: &'a mut Pool, name: &str) -> Result<&'a mut Service, Refused> {
    let Some(place) = pool
        .services
        .iter()
        .position(|service| service.name == name)
    else {
        return Err(unknown_service(pool, name));
    };
    Ok(&mut pool.services[place])
}

/// The refusal of a service that is not there.
#[must_use]
pub fn unknown_service(pool: &Pool, name: &str) -> Refused {
    Refused::UnknownService {
        found: name.to_owned(),
        known: pool
            .services
            .iter()
            .map(|service| service.name.clone())
            .collect(),
    }
}

#[cfg(test)]
mod tests;
