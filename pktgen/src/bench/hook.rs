//! Commands that are run beside a measurement: to reconfigure the device under test before a case, or
//! to change its pools under load.
//!
//! Their standard output is thrown away, since ours is the report's; what they complain about goes to
//! standard error as it is.

use std::io;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How often a command that is waited for is looked at.
const POLL: Duration = Duration::from_millis(5);

/// A command that could not be run, or did not do well.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It did not start.
    #[error("cannot run \"{command}\": {source}")]
    Start {
        /// The command.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// It cannot be waited for.
    #[error("cannot wait for \"{command}\": {source}")]
    Wait {
        /// The command.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// It failed.
    #[error("\"{command}\" ended with {status}; it must end with 0 for the case to be measured")]
    Failed {
        /// The command.
        command: String,
        /// The exit code in words.
        status: String,
    },
    /// It took too long.
    #[error("\"{command}\" was still running after {limit:?} and has been stopped")]
    TooLong {
        /// The command.
        command: String,
        /// How long it was given.
        limit: Duration,
    },
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// The command as its author wrote it.
    pub text: String,
    /// Additions to the environment.
    pub environment: Vec<(&'static str, String)>,
}

impl Task {
    /// A shell's command.
    #[must_use]
    pub fn shell(text: &str) -> Self {
        Self {
            words: ["sh", "-c", text].map(String::from).into(),
            text: text.into(),
            environment: Vec::new(),
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// [`HookError::Start`].
    pub fn start(&self) -> Result<Running, HookError> {
        let (program, arguments) = match self.words.split_first() {
            Some((program, arguments)) => (program.as_str(), arguments),
            None => ("true", &[][..]),
        };
        let child = Command::new(program)
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|source| HookError::Start {
                command: self.text.clone(),
                source,
            })?;
        Ok(Running {
            child,
            text: self.text.clone(),
            start: Instant::now(),
        })
    }

    /// Runs it to its end, which must be a good one, in `limit` at most.
    ///
    /// # Errors
    /// [`HookError`].
    pub fn run(&self, limit: Duration) -> Result<(), HookError> {
        let mut running = self.start()?;
        loop {
            match running.finished(limit)? {
                Some(Finished { code: Some(0), .. }) => return Ok(()),
                Some(Finished { status, .. }) => {
                    return Err(HookError::Failed {
                        command: self.text.clone(),
                        status,
                    });
                }
                None => std::thread::sleep(POLL),
            }
        }
    }
}

/// A command that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// How it ended, in words.
    pub status: String,
    /// How long it took.
    pub took: Duration,
}

/// A command that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    text: String,
    start: Instant,
}

impl Running {
    /// The command as its author wrote it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// [`HookError::TooLong`] if it has not after `limit`, [`HookError::Wait`].
    pub fn finished(&mut self, limit: Duration) -> Result<Option<Finished>, HookError> {
        let ended = self.child.try_wait().map_err(|source| HookError::Wait {
            command: self.text.clone(),
            source,
        })?;
        match ended {
            Some(status) => Ok(Some(Finished {
                code: status.code(),
                status: status.to_string(),
                took: self.start.elapsed(),
            })),
            None if self.start.elapsed() >= limit => Err(HookError::TooLong {
                command: self.text.clone(),
                limit,
            }),
            None => Ok(None),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended, which is all that is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn a_command_sees_its_environment_and_must_end_well() {
        let mut task = Task::shell("test \"$WEIR_PKTGEN_FLOWS\" = 1000");
        assert!(matches!(task.run(LIMIT), Err(HookError::Failed { .. })));
        task.environment = vec![("WEIR_PKTGEN_FLOWS", "1000".into())];
        task.run(LIMIT).unwrap();
    }

    #[test]
    fn a_command_that_does_not_end_is_stopped_and_named() {
        let error = Task::shell("exec sleep 60").run(Duration::from_millis(50));
        let message = error.unwrap_err().to_string();
        assert!(
            message.contains("\"exec sleep 60\" was still running"),
            "{message}"
        );
        let nobody = Task {
            words: vec!["/nowhere/command".into()],
            text: "/nowhere/command".into(),
            environment: Vec::new(),
        };
        assert!(
            nobody
                .run(LIMIT)
                .unwrap_err()
                .to_string()
                .contains("cannot run")
        );
    }
}
