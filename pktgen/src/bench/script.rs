//! What is to happen during a run, and when: a script of `@SECONDS COMMAND` lines, as
//! `weir replay --script` takes them, and a command at intervals.

use std::collections::VecDeque;
use std::time::Duration;

use super::hook::Task;

/// A script that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct BadScript {
    /// Where, as `file:line`.
    origin: String,
    /// What was found and what is accepted.
    problem: String,
}

/// What is to happen, in the order of its moments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Agenda {
    timed: VecDeque<(Duration, Task)>,
    /// A command, its interval, and when it is due next.
    repeated: Option<(Task, Duration, Duration)>,
}

impl Agenda {
    /// Reads a script from `name`, whose commands are arguments of `program` (a program, and words
    /// that come before those of the script). Empty lines and lines that start with `#` say nothing.
    ///
    /// # Errors
    /// With the line, what was found and what is accepted.
    pub fn parse(name: &str, text: &str, program: &[String]) -> Result<Self, BadScript> {
        let mut timed = Vec::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = entry(line, program).map_err(|problem| BadScript {
                origin: format!("{name}:{number}"),
                problem,
            })?;
            timed.push(entry);
        }
        timed.sort_by_key(|(at, _)| *at);
        Ok(Self {
            timed: timed.into(),
            repeated: None,
        })
    }

    /// The same agenda, with a shell's `command` at every `interval` from then on.
    #[must_use]
    pub fn every(mut self, interval: Duration, command: &str) -> Self {
        self.repeated = Some((Task::shell(command), interval, interval));
        self
    }

    /// What is due `elapsed` after the start: the first of what has not been given yet.
    pub fn due(&mut self, elapsed: Duration) -> Option<Task> {
        if self.timed.front().is_some_and(|(at, _)| *at <= elapsed) {
            return self.timed.pop_front().map(|(_, task)| task);
        }
        let (task, interval, next) = self.repeated.as_mut()?;
        if *next > elapsed {
            return None;
        }
        // One that took longer than its interval is not made up for.
        while *next <= elapsed {
            *next += (*interval).max(Duration::from_millis(1));
        }
        Some(task.clone())
    }

    /// How many commands of the script have not been given yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.timed.len()
    }
}

fn entry(line: &str, program: &[String]) -> Result<(Duration, Task), String> {
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
    let command = command.trim();
    let arguments = shlex::split(command)
        .filter(|words| !words.is_empty())
        .ok_or_else(|| format!("\"{command}\" found; words are accepted, quoted as in a shell"))?;
    let words = program.iter().cloned().chain(arguments).collect();
    let task = Task {
        words,
        text: command.into(),
        environment: Vec::new(),
    };
    Ok((Duration::from_secs_f64(seconds), task))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "# two changes\n@2.5 backend remove web 10.0.0.12:80\n\n@1 backend weight web '10.0.0.11:80' 4\n";

    fn parse(text: &str) -> Result<Agenda, BadScript> {
        let program = ["weirctl", "--instance", "lb1"].map(String::from);
        Agenda::parse("a", text, &program)
    }

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn commands_come_when_they_are_due_in_the_order_of_their_moments() {
        let mut agenda = parse(SCRIPT).unwrap();
        assert_eq!(agenda.due(at(0.9)), None);
        let first = agenda.due(at(1.0)).unwrap();
        assert_eq!(
            first.words,
            [
                "weirctl",
                "--instance",
                "lb1",
                "backend",
                "weight",
                "web",
                "10.0.0.11:80",
                "4"
            ]
        );
        assert_eq!(agenda.due(at(1.1)), None);
        assert_eq!(agenda.left(), 1);
        assert_eq!(
            agenda.due(at(9.0)).unwrap().text,
            "backend remove web 10.0.0.12:80"
        );
        assert_eq!(agenda.due(at(9.0)), None);
    }

    #[test]
    fn a_repeated_command_comes_at_its_interval_and_late_ones_are_left_out() {
        let mut agenda = Agenda::default().every(at(2.0), "weirctl apply a.toml");
        let due: Vec<f64> = (0..100)
            .map(|tenth| f64::from(tenth) / 10.0)
            .filter(|now| !(3.5..7.0).contains(now))
            .filter(|now| agenda.due(at(*now)).is_some())
            .collect();
        assert_eq!(due, [2.0, 7.0, 8.0]);
    }

    #[test]
    fn what_is_no_line_of_a_script_is_named_with_its_place() {
        for (line, words) in [
            ("backend list web", "a:1: \"backend list web\" found"),
            ("@1", "\"@SECONDS COMMAND\" is accepted"),
            ("@x status", "\"@SECONDS COMMAND\" is accepted"),
            ("@-1 status", "0 to 1000000000 seconds"),
            ("@1 backend add 'web", "quoted as in a shell"),
        ] {
            let message = parse(line).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
