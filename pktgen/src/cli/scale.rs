//! `weir-pktgen scale`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::measure::{Outline, measured};
use super::profile::flows;
use super::{BedArgs, CommandError, OutputArgs, TargetArgs};
use crate::bench::scale::{self, Method, Plan};
use crate::live::bench::Hook;
use crate::popularity::Popularity;
use crate::profile::{Profile, Wanted};
use crate::report::figure::Case;
use crate::size::Sizes;
use crate::units;

/// Measure packets a second against flows, backends, and the share of new flows.
///
/// Three sweeps: number of flows, number of backends, share of packets that open a new flow; each
/// varied by itself, the others at their base values, in rounds over all cases. Before a case every
/// flow is sent once, so that the device under test knows them all. Flows are not followed one by
/// one: the generator needs the same memory for 100 million as for a thousand. (A reflector should
/// not follow them either: start it with --max-flows 0.)
///
/// The number of backends is not the generator's to choose. --for-each runs a command before each
/// case, with the case in its environment, which reconfigures the device under test:
/// WEIR_PKTGEN_SWEEP (flows, backends or new-flows), WEIR_PKTGEN_FLOWS, WEIR_PKTGEN_BACKENDS,
/// WEIR_PKTGEN_NEW_FLOWS. It must end with 0.
#[derive(Debug, Args)]
#[command(
    after_help = "Example, flows and new flows over a memif, with a page of plots:\n  \
    weir-pktgen scale --device net_memif0,role=client,socket=/run/weir.sock --idle poll \\\n      \
    --vip 198.51.100.10 --next-hop 192.0.2.2 --address 192.0.2.1 --save scale.json --html scale.html\n\n\
    Example, all three sweeps; pools/10.toml and so on hold the service with so many backends:\n  \
    weir-pktgen scale --device 0000:3b:00.0 --memory hugepages --idle poll --vip 198.51.100.10 \\\n      \
    --next-hop 192.0.2.2 --address 192.0.2.1 --backends 1,10,100,1000 --base-backends 100 \\\n      \
    --for-each 'weirctl apply pools/$WEIR_PKTGEN_BACKENDS.toml' --json"
)]
pub struct ScaleArgs {
    /// Whom to send to.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Frame sizes, FCS included, as for run [default: the smallest that fits].
    #[arg(long, value_name = "SIZES", help_heading = "Traffic")]
    pub size: Option<Sizes>,
    /// How packets are shared among flows: uniform, sequential (each in turn), zipf:S. New flows are
    /// always among uniform ones.
    #[arg(long, default_value = "uniform", help_heading = "Traffic")]
    pub popularity: Popularity,
    /// Numbers of flows to measure; "none" leaves the sweep out.
    #[arg(long, value_name = "LIST", default_value = "1k,10k,100k,1M,10M,100M",
          value_parser = list_of_flows)]
    pub flows: List<u32>,
    /// Shares of packets that open a new flow; "none" leaves the sweep out.
    #[arg(long, value_name = "LIST", default_value = "0,1%,10%,50%,100%",
          value_parser = list_of_shares)]
    pub new_flows: List<f64>,
    /// Numbers of backends to measure; needs --for-each.
    #[arg(long, value_name = "LIST", requires = "for_each", value_parser = list_of_flows)]
    pub backends: Option<List<u32>>,
    /// Flows while something else is varied.
    #[arg(long, value_name = "N", default_value = "1M", value_parser = flows)]
    pub base_flows: u32,
    /// Backends while something else is varied, for --for-each and the report.
    #[arg(long, value_name = "N")]
    pub base_backends: Option<u32>,
    /// A shell's command, run before each case with the case in its environment.
    #[arg(long, value_name = "COMMAND")]
    pub for_each: Option<String>,
    /// How long that command may take.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = units::duration)]
    pub for_each_timeout: Duration,
    /// How a case's packets a second are found.
    #[arg(long, value_enum, default_value = "saturate")]
    pub method: Method,
    /// Rounds; the report has the medians and the extremes.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub trials: u32,
    /// Length of a trial.
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = units::duration)]
    pub duration: Duration,
    /// Do not send every flow once before a case.
    #[arg(long)]
    pub no_warm_up: bool,
    /// The highest rate, in packets a second [default: as fast as the generator is].
    #[arg(long, value_name = "PPS", value_parser = units::count)]
    pub max_rate: Option<u64>,
    /// Where the search of --method loss-free ends: the interval's share of its upper end.
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = units::share)]
    pub resolution: f64,
    /// Share of packets that may be lost in a trial of --method loss-free that passes.
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = units::share)]
    pub loss_tolerance: f64,
    /// How long no answer must have come for a trial to be over.
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = units::duration)]
    pub drain: Duration,
    /// What becomes of the report.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Where it goes, and comes back from.
    #[command(flatten)]
    pub bed: BedArgs,
}

/// A list on the command line; a type of its own, so that clap takes it for one value.
#[derive(Debug, Clone, PartialEq)]
pub struct List<T>(pub Vec<T>);

fn list<T, E: ToString>(
    text: &str,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<List<T>, String> {
    if text == "none" {
        return Ok(List(Vec::new()));
    }
    let values = text
        .split(',')
        .map(|part| read(part).map_err(|e| e.to_string()));
    values.collect::<Result<_, _>>().map(List)
}

fn list_of_flows(text: &str) -> Result<List<u32>, String> {
    list(text, flows)
}

fn list_of_shares(text: &str) -> Result<List<f64>, String> {
    list(text, units::share)
}

impl ScaleArgs {
    /// Measures, and prints the report. Gives whether all was well.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn execute(&self) -> Result<bool, CommandError> {
        let plan = self.plan()?;
        let base = Wanted {
            flows: self.base_flows,
            sizes: self.size.clone(),
            popularity: self.popularity,
            ..self.target.wanted()
        };
        let cases: Vec<(Case, Profile)> = plan
            .cases()
            .into_iter()
            .map(|case| scale::profile(&base, &case).map(|profile| (case, profile)))
            .collect::<Result<_, _>>()?;
        let first = scale::profile(&base, &Case::default())?;
        let outline = Outline {
            command: "scale",
            settings: self.settings(),
            steps: plan.steps(),
            hook: self.for_each.clone().map(|command| Hook {
                command,
                limit: self.for_each_timeout,
            }),
            drain: self.drain,
        };
        measured(
            &outline,
            &first,
            &self.bed,
            &self.output,
            |bench, figures| scale::measure(bench, &cases, &plan, figures),
        )
    }

    fn plan(&self) -> Result<Plan, CommandError> {
        let usage = |text: &str| Err(CommandError::Usage(text.into()));
        let backends = self.backends.clone().map_or_else(Vec::new, |list| list.0);
        if self.flows.0.is_empty() && backends.is_empty() && self.new_flows.0.is_empty() {
            return usage("nothing to measure; give --flows, --new-flows or --backends");
        }
        if !backends.is_empty() && self.base_backends.is_none() {
            return usage(
                "--backends needs --base-backends, the number while something else is varied",
            );
        }
        if self.resolution <= 0.0 {
            return usage("--resolution 0 would search without an end; give more, as in 1%");
        }
        if self.max_rate == Some(0) {
            return usage(
                "--max-rate 0 sends nothing; leave it out to go as fast as the generator is",
            );
        }
        Ok(Plan {
            flows: self.flows.0.clone(),
            backends,
            new_flows: self.new_flows.0.clone(),
            base_flows: self.base_flows,
            base_backends: self.base_backends,
            trials: self.trials,
            duration: self.duration,
            warm_up: !self.no_warm_up,
            method: self.method,
            resolution: self.resolution,
            tolerance: self.loss_tolerance,
            max_rate: self.max_rate,
        })
    }

    fn settings(&self) -> BTreeMap<String, String> {
        let method = self.method.to_possible_value();
        let mut settings: BTreeMap<String, String> = [
            (
                "method",
                method.map_or_else(String::new, |m| m.get_name().into()),
            ),
            ("trials", self.trials.to_string()),
            ("duration", format!("{:?}", self.duration)),
            (
                "warm-up",
                if self.no_warm_up {
                    "none"
                } else {
                    "every flow once"
                }
                .into(),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if let Some(command) = &self.for_each {
            settings.insert("for each".into(), command.clone());
        }
        if let Some(rate) = self.max_rate {
            settings.insert("max rate".into(), rate.to_string());
        }
        settings
    }
}
