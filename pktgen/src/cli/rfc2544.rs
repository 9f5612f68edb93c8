//! `weir-pktgen rfc2544`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;

use super::measure::{Outline, measured};
use super::profile::flows;
use super::{BedArgs, CommandError, OutputArgs, TargetArgs};
use crate::bench::rfc2544::{self, Plan, Test};
use crate::popularity::Popularity;
use crate::profile::{Profile, ProfileError, Protocol, Wanted};
use crate::size::Sizes;
use crate::units;

/// Measure as RFC 2544 says: throughput without loss, back-to-back frames, latency.
///
/// Throughput is found by binary search: short trials (--search-duration) look for a candidate, a
/// long one (--duration) must confirm it. Without --max-rate, the search starts at what the generator
/// manages; the report says whether device or generator is the limit. The RFC's own trials are
/// longer (60 s, bursts 50 times); so are ours with --duration 60s --trials 50.
#[derive(Debug, Args)]
#[command(
    after_help = "Example, all sizes through a balancer at 192.0.2.2, with a page of plots:\n  \
    weir-pktgen rfc2544 --device 0000:3b:00.0 --memory hugepages --idle poll --vip 198.51.100.10 \\\n      \
    --next-hop 192.0.2.2 --address 192.0.2.1 --duration 60s --save new.json --html rfc2544.html\n\n\
    Example, throughput only, of a device that passes frames on from one port to the other:\n  \
    weir-pktgen rfc2544 --device 0000:3b:00.0 --receive-on 0000:3b:00.1 --answers returned \\\n      \
    --vip 198.51.100.10 --dst-mac 02:00:00:00:00:01 --test throughput --sizes 64,imix"
)]
pub struct Rfc2544Args {
    /// Whom to send to.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Number of flows.
    #[arg(long, default_value = "1000", value_parser = flows, help_heading = "Traffic")]
    pub flows: u32,
    /// How packets are shared among flows: uniform, sequential (each in turn), zipf:S.
    #[arg(long, default_value = "uniform", help_heading = "Traffic")]
    pub popularity: Popularity,
    /// Frame sizes, FCS included, each measured by itself; imix is a mix of three. Those too small for
    /// the headers are lifted to the smallest that fits
    /// [default: 64,128,256,512,1024,1280,1518,imix].
    #[arg(
        long,
        value_name = "SIZES",
        value_delimiter = ',',
        help_heading = "Traffic"
    )]
    pub sizes: Vec<Sizes>,
    /// What to measure; repeatable, or a list.
    #[arg(long = "test", value_enum, value_delimiter = ',', value_name = "TEST",
          default_values = ["throughput", "back-to-back", "latency"])]
    pub tests: Vec<Test>,
    /// How often each figure is measured; the report has the median and the extremes (back-to-back:
    /// the mean).
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub trials: u32,
    /// Length of a trial that decides.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    pub duration: Duration,
    /// Length of a trial that looks for a candidate.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::duration)]
    pub search_duration: Duration,
    /// Where the search ends: the interval's share of its upper end.
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = units::share)]
    pub resolution: f64,
    /// Share of packets that may be lost in a trial that passes; 0 is the RFC's.
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = units::share)]
    pub loss_tolerance: f64,
    /// The highest rate to try, in packets a second [default: as fast as the generator is].
    #[arg(long, value_name = "PPS", value_parser = units::count)]
    pub max_rate: Option<u64>,
    /// The longest burst to try, as time at the highest rate.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = units::duration)]
    pub max_burst: Duration,
    /// Loads at which latency is measured, as shares of the throughput.
    #[arg(long, value_name = "SHARES", value_delimiter = ',', value_parser = units::share,
          default_values = ["10%", "50%", "90%", "100%"])]
    pub latency_at: Vec<f64>,
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

impl Rfc2544Args {
    /// Measures, and prints the report. Gives whether all was well.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn execute(&self) -> Result<bool, CommandError> {
        let profiles = self.profiles()?;
        let plan = self.plan()?;
        let outline = Outline {
            command: "rfc2544",
            settings: self.settings(&profiles),
            steps: plan.steps(profiles.len()),
            hook: None,
            drain: self.drain,
        };
        measured(
            &outline,
            &profiles[0],
            &self.bed,
            &self.output,
            |bench, figures| rfc2544::measure(bench, &profiles, &plan, figures),
        )
    }

    /// One profile a frame size; sizes that come to the same are measured once.
    fn profiles(&self) -> Result<Vec<Profile>, CommandError> {
        let base = Wanted {
            flows: self.flows,
            popularity: self.popularity,
            ..self.target.wanted()
        };
        let smallest = Profile::new(base.clone())?.sizes().smallest();
        let sizes = if self.sizes.is_empty() {
            rfc2544::standard_sizes()
        } else {
            self.sizes.clone()
        };
        let mut profiles: Vec<Profile> = Vec::new();
        for size in sizes {
            let profile = Profile::new(Wanted {
                sizes: Some(size.at_least(smallest)),
                ..base.clone()
            })?;
            if profiles
                .iter()
                .all(|other| other.sizes() != profile.sizes())
            {
                profiles.push(profile);
            }
        }
        if profiles.is_empty() {
            return Err(ProfileError::NoFlows.into());
        }
        Ok(profiles)
    }

    fn plan(&self) -> Result<Plan, CommandError> {
        if self.resolution <= 0.0 {
            return Err(CommandError::Usage(
                "--resolution 0 would search without an end; give more, as in 1%".into(),
            ));
        }
        if self.max_rate == Some(0) {
            return Err(CommandError::Usage(
                "--max-rate 0 sends nothing; leave it out to go as fast as the generator is".into(),
            ));
        }
        Ok(Plan {
            tests: self.tests.clone(),
            trials: self.trials,
            duration: self.duration,
            search: self.search_duration.min(self.duration),
            resolution: self.resolution,
            tolerance: self.loss_tolerance,
            max_rate: self.max_rate,
            burst: self.max_burst,
            loads: self.latency_at.clone(),
        })
    }

    fn settings(&self, profiles: &[Profile]) -> BTreeMap<String, String> {
        let sizes: Vec<String> = profiles.iter().map(|p| p.sizes().label()).collect();
        let mut settings: BTreeMap<String, String> = [
            ("sizes", sizes.join(" ")),
            ("trials", self.trials.to_string()),
            ("duration", format!("{:?}", self.duration)),
            ("search duration", format!("{:?}", self.search_duration)),
            ("resolution", self.resolution.to_string()),
            ("loss tolerance", self.loss_tolerance.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if let Some(rate) = self.max_rate {
            settings.insert("max rate".into(), rate.to_string());
        }
        if self.target.transport(Protocol::Udp) == Protocol::Tcp {
            settings.insert("connections".into(), "never end".into());
        }
        settings
    }
}
