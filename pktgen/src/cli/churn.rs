//! `weir-pktgen churn`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::measure::{Outline, measured_with};
use super::profile::flows;
use super::{BedArgs, CommandError, OutputArgs, TargetArgs};
use crate::bench::Stop;
use crate::bench::churn::{Plan, Recorder, figures};
use crate::bench::script::Agenda;
use crate::live::bench::BenchError;
use crate::live::progress::Steps;
use crate::profile::{Profile, Protocol, Wanted};
use crate::report::{self, Expectations, Found};
use crate::size::Sizes;
use crate::units;

/// Open and close connections at a rate while the pool changes.
///
/// Connections are opened at --open-rate (a SYN) until --connections are open; then each one that
/// opens closes the oldest (a FIN). In between, --data-rate data segments a second go to any of them.
/// With UDP, first and last datagrams take the places of SYN and FIN. Reports the connections that
/// changed backend while they were open, with from where and to where, and the packets that were
/// lost. Memory grows with the connections held, not with those opened.
///
/// Pool changes: --script FILE holds lines "@SECONDS COMMAND" whose commands are weirctl's (as
/// weir replay --script takes them); --command is a shell's command, run at intervals of --every. One
/// command runs at a time. Exit code 1 if one fails ("command"), or an expectation is not met.
#[derive(Debug, Args)]
#[command(
    after_help = "Example, 100k connections that live 10 s each, with a backend that goes and comes back:\n  \
    printf '@10 backend drain web 10.0.0.12:80\\n@20 backend enable web 10.0.0.12:80\\n' > changes\n  \
    weir-pktgen churn --device 0000:3b:00.0 --memory hugepages --vip 198.51.100.10 --next-hop 192.0.2.2 \\\n      \
    --address 192.0.2.1 --connections 100k --open-rate 10k --data-rate 200k --duration 30s \\\n      \
    --script changes --fail-on-misdelivery --html churn.html\n\n\
    Example, a command of your own every two seconds:\n  \
    weir-pktgen churn … --command 'weirctl apply pools/$((RANDOM % 2)).toml' --every 2s"
)]
pub struct ChurnArgs {
    /// Whom to send to.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Frame sizes, FCS included, as for run [default: the smallest that fits].
    #[arg(long, value_name = "SIZES", help_heading = "Traffic")]
    pub size: Option<Sizes>,
    /// Connections held open.
    #[arg(long, value_name = "N", default_value = "10k", value_parser = flows,
          help_heading = "Traffic")]
    pub connections: u32,
    /// Connections opened a second, and closed once that many are open.
    #[arg(long, value_name = "N", default_value = "1k", value_parser = units::count,
          help_heading = "Traffic")]
    pub open_rate: u64,
    /// Data segments a second, over all connections.
    #[arg(long, value_name = "PPS", default_value = "10k", value_parser = units::count,
          help_heading = "Traffic")]
    pub data_rate: u64,
    /// How long.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::duration,
          help_heading = "Traffic")]
    pub duration: Duration,
    /// Pool changes: lines "@SECONDS COMMAND".
    #[arg(long, value_name = "FILE", help_heading = "Changes")]
    pub script: Option<PathBuf>,
    /// The program whose commands the script holds.
    #[arg(
        long,
        value_name = "PROGRAM",
        default_value = "weirctl",
        help_heading = "Changes"
    )]
    pub weirctl: String,
    /// A shell's command to be run at intervals.
    #[arg(
        long,
        value_name = "COMMAND",
        requires = "every",
        help_heading = "Changes"
    )]
    pub command: Option<String>,
    /// Those intervals, 100ms at least.
    #[arg(long, value_name = "TIME", requires = "command", value_parser = units::duration,
          help_heading = "Changes")]
    pub every: Option<Duration>,
    /// How long a command may take.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration,
          help_heading = "Changes")]
    pub command_timeout: Duration,
    /// How long no answer must have come for the run to be over.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::duration)]
    pub drain: Duration,
    /// What must hold; a connection that changed backend is misdelivered.
    #[command(flatten)]
    pub expectations: Expectations,
    /// What becomes of the report.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Where it goes, and comes back from.
    #[command(flatten)]
    pub bed: BedArgs,
}

impl ChurnArgs {
    /// Runs, and prints the report. Gives whether all was well.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn execute(&self) -> Result<bool, CommandError> {
        let agenda = self.agenda()?;
        let profile = self.profile()?;
        let outline = Outline {
            command: "churn",
            settings: self.settings(),
            steps: 1,
            hook: None,
            drain: self.drain,
        };
        let (bed, output) = (&self.bed, &self.output);
        measured_with(&outline, &profile, bed, output, |bench, report| {
            let bar = std::mem::replace(bench.steps(), Steps::new(1));
            let mut recorder = Recorder::new(agenda, self.duration, self.command_timeout, bar);
            recorder.other.label("churn".into());
            let outcome = bench.watched(&profile, &mut recorder);
            recorder.other.finish();
            let (timeline, events) = recorder.finish();
            let trial = outcome.map_err(BenchError::from)?;
            report.figures = figures(&trial);
            report.moves = report::moves(&trial.totals.moves);
            let found = Found {
                lost: trial.loss().packets,
                misdelivered: trial.totals.moved_flows + trial.totals.unexpected + trial.late,
                duplicates: trial.totals.duplicates,
                reordered: trial.totals.reordered,
                damaged: trial.bad_checksum,
            };
            let missed = self.expectations.missed(&found);
            report.failed = missed.into_iter().map(String::from).collect();
            if events.iter().any(|event| event.problem.is_some()) {
                report.failed.push("command".into());
            }
            (report.timeline, report.events) = (timeline, events);
            if trial.interrupted {
                return Err(Stop::Interrupted);
            }
            Ok(())
        })
    }

    fn profile(&self) -> Result<Profile, CommandError> {
        let plan = Plan {
            connections: self.connections,
            opens: self.open_rate,
            data: self.data_rate,
            duration: self.duration,
        };
        Ok(plan.profile(&Wanted {
            protocol: self.target.transport(Protocol::Tcp),
            sizes: self.size.clone(),
            ..self.target.wanted()
        })?)
    }

    fn agenda(&self) -> Result<Agenda, CommandError> {
        let mut agenda = Agenda::default();
        if let Some(path) = &self.script {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|error| CommandError::Usage(format!("cannot read {name}: {error}")))?;
            let program = shlex::split(&self.weirctl).filter(|words| !words.is_empty());
            let Some(program) = program else {
                return Err(CommandError::Usage(format!(
                    "--weirctl \"{}\" names no program; words are accepted, quoted as in a shell",
                    self.weirctl
                )));
            };
            agenda = Agenda::parse(&name, &text, &program)?;
        }
        if let (Some(command), Some(every)) = (&self.command, self.every) {
            if every < Duration::from_millis(100) {
                return Err(CommandError::Usage(format!(
                    "--every {every:?} is too short; 100ms or more are accepted"
                )));
            }
            agenda = agenda.every(every, command);
        }
        Ok(agenda)
    }

    fn settings(&self) -> BTreeMap<String, String> {
        let mut settings: BTreeMap<String, String> = [
            ("connections held", self.connections.to_string()),
            ("opened a second", self.open_rate.to_string()),
            ("data a second", self.data_rate.to_string()),
            ("duration", format!("{:?}", self.duration)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if let Some(path) = &self.script {
            settings.insert("script".into(), path.display().to_string());
        }
        if let (Some(command), Some(every)) = (&self.command, self.every) {
            settings.insert(format!("every {every:?}"), command.clone());
        }
        settings
    }
}
