//! `weir-pktgen pcap`.

use std::fs::File;
use std::io::{BufWriter, stdout};
use std::path::PathBuf;

use clap::Args;
use weir_engine::wire::ethernet::MacAddr;

use super::{CommandError, LinkArgs, ProfileArgs};
use crate::capture::{self, DEFAULT_RATE};
use crate::frame::Link;
use crate::profile::Profile;
use crate::report::{PcapReport, Report, VERSION};

/// The generator's MAC in a file.
const SOURCE: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc1]);
/// The balancer's MAC in a file.
const DESTINATION: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// Write the traffic to a capture file.
///
/// Classic pcap, little-endian, microseconds from 0 on. Without --rate, 1M packets a second. The same
/// options and seed give the same bytes.
#[derive(Debug, Args)]
#[command(
    after_help = "Example, 100k packets of IMIX over a thousand TCP flows, a few of them popular:\n  \
    weir-pktgen pcap --out in.pcap --vip 198.51.100.10 --protocol tcp --size imix \\\n      \
    --popularity zipf:1.1 --count 100k --rate 50k"
)]
pub struct PcapArgs {
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
    /// What to write.
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// The frames' MACs.
    #[command(flatten)]
    pub link: LinkArgs,
}

impl PcapArgs {
    /// Writes the file, and prints what is in it.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn execute(&self) -> Result<bool, CommandError> {
        let mut wanted = self.profile.wanted();
        if wanted.rate == 0 {
            wanted.rate = DEFAULT_RATE;
        }
        let profile = Profile::new(wanted)?;
        if profile.packets().is_none() {
            return Err(capture::CaptureError::NoEnd.into());
        }
        let link = Link {
            destination: self.link.dst_mac.unwrap_or(DESTINATION),
            source: self.link.src_mac.unwrap_or(SOURCE),
            vlan: self.profile.target.vlan,
        };
        let path = self.out.display().to_string();
        let file = File::create(&self.out).map_err(|source| CommandError::Create {
            path: path.clone(),
            source,
        })?;
        let written = capture::write(&profile, &link, BufWriter::new(file))?;
        let report = PcapReport {
            version: VERSION,
            command: "pcap",
            profile: (&profile).into(),
            out: path,
            packets: written.packets,
            bytes: written.bytes,
            flows: written.flows,
            duration_s: written.end.as_secs_f64(),
        };
        report.print(self.json, &mut stdout().lock())?;
        Ok(true)
    }
}
