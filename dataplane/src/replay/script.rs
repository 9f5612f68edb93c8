//! Scripts: pool changes at moments of a replay, one `@SECONDS COMMAND` a line.

use std::path::Path;

use weir_shm::command::{self, PoolCommand};

/// A command and its moment.
#[derive(Debug, Clone)]
pub struct Timed {
    /// Nanoseconds from the first frame.
    pub at_nanos: u64,
    /// What to do.
    pub command: PoolCommand,
    /// Where it stands, as `file:line`.
    pub origin: String,
}

/// Commands in order of their moments; those of one moment in the file's order.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// The commands.
    pub commands: Vec<Timed>,
}

/// A script that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not `@SECONDS COMMAND`.
    #[error("{origin}: {problem}")]
    Line {
        /// Where it stands, as `file:line`.
        origin: String,
        /// What was found and what is accepted.
        problem: String,
    },
}

impl Script {
    /// Reads a file.
    ///
    /// # Errors
    /// With the line, what was found and what is accepted.
    pub fn load(path: &Path) -> Result<Self, ScriptError> {
        let text = std::fs::read_to_string(path).map_err(|source| ScriptError::Unreadable {
            path: path.display().to_string(),
            source,
        })?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// Reads a text that came from `name`. Empty lines and lines that start with `#` say nothing.
    ///
    /// # Errors
    /// As [`Script::load`].
    pub fn parse(name: &str, text: &str) -> Result<Self, ScriptError> {
        let mut commands = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let origin = format!("{name}:{number}");
            let timed = timed(line, &origin).map_err(|problem| ScriptError::Line {
                origin: origin.clone(),
                problem,
            })?;
            commands.push(timed);
        }
        commands.sort_by_key(|timed: &Timed| timed.at_nanos);
        Ok(Self { commands })
    }
}

fn timed(line: &str, origin: &str) -> Result<Timed, String> {
    let expected = || {
        format!(
            "\"{line}\" found; \"@SECONDS COMMAND\" is accepted, as \"@1.5 backend drain web 10.0.0.11:8080\""
        )
    };
    let rest = line.strip_prefix('@').ok_or_else(expected)?;
    let (moment, command) = rest.split_once(char::is_whitespace).ok_or_else(expected)?;
    let seconds: f64 = moment.parse().map_err(|_| expected())?;
    if !(0.0..=1e9).contains(&seconds) {
        return Err(format!(
            "@{moment} found; 0 to 1000000000 seconds are accepted"
        ));
    }
    let command = command::parse_line(command.trim()).map_err(|error| error.to_string())?;
    // Rounded, so that 1.1 is not a nanosecond short.
    let at_nanos = (seconds * 1e9).round() as u64;
    Ok(Timed {
        at_nanos,
        command,
        origin: origin.to_owned(),
    })
}
