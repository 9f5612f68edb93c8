//! `weir run` as a figure's device under test: its configuration, and its counters read from the
//! segment while it works.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use weir_e2e::daemon::Daemon;
use weir_e2e::namespace::Namespace;
use weir_e2e::{cores, lab};
use weir_shm::client::Client;
use weir_shm::counters;
use weir_shm::segment::mailbox::Question;
use weir_shm::segment::{self};

use super::said;
use crate::Failure;

/// The VIP of all figures.
pub const VIP: &str = "198.51.100.10";
/// The MAC that DPDK gives a `net_pcap` port.
pub const PCAP_MAC: &str = "02:70:63:61:70:00";
/// Backends of the measured service, unless a figure needs others.
pub const BACKENDS: u32 = 100;

/// How long weir may take to bring its counters up to date.
const PATIENCE: Duration = Duration::from_secs(2);

/// A configuration with one UDP service on [`VIP`], port 80.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The forwarding mode.
    pub mode: &'static str,
    /// The port's device.
    pub device: String,
    /// Flows a worker remembers.
    pub flows: u64,
    /// Megabytes for packets, where the preloaded ones need more than the default.
    pub memory_mb: Option<u32>,
    /// The port's MAC, where the device has none of use.
    pub mac: Option<&'static str>,
    /// The number of backends.
    pub backends: u32,
    /// The MAC of all of them; one each if absent.
    pub backend_mac: Option<&'static str>,
}

impl Setup {
    /// A hundred backends, a million flows.
    #[must_use]
    pub fn new(mode: &'static str, device: impl Into<String>) -> Self {
        Self {
            mode,
            device: device.into(),
            flows: 1_000_000,
            memory_mb: None,
            mac: None,
            backends: BACKENDS,
            backend_mac: None,
        }
    }

    /// The configuration's text.
    #[must_use]
    pub fn text(&self, instance: &str) -> String {
        let mut text = format!(
            "[instance]\nname = \"{instance}\"\nhash_key = \"000102030405060708090a0b0c0d0e0f\"\n\
             [engine]\nworkers = [{}]\ncontrol_core = 0\nmemory = \"hugepages\"\nidle = \"poll\"\n\
             flows_per_worker = {}\n",
            cores::worker(),
            self.flows
        );
        if let Some(megabytes) = self.memory_mb {
            let _ = writeln!(text, "memory_mb = {megabytes}");
        }
        let _ = write!(
            text,
            "[[port]]\nname = \"wan\"\ndevice = \"{}\"\naddresses = [\"10.0.0.1/16\"]\n",
            self.device
        );
        if let Some(mac) = self.mac {
            let _ = writeln!(text, "mac = \"{mac}\"");
        }
        // The clients, for answers and for packets that go back.
        text += "[[route]]\nto = \"0.0.0.0/0\"\nvia = \"10.0.0.2\"\n\
                 [[neighbor]]\naddress = \"10.0.0.2\"\nmac = \"02:00:00:00:00:fe\"\n";
        for number in 0..self.backends {
            let own = format!("02:00:00:01:{:02x}:{:02x}", number >> 8, number & 0xff);
            let _ = write!(
                text,
                "[[neighbor]]\naddress = \"{}\"\nmac = \"{}\"\n",
                backend(number),
                self.backend_mac.unwrap_or(&own)
            );
        }
        text + &self.service()
    }

    /// The measured service, as a file for `weirctl apply` holds it.
    #[must_use]
    pub fn service(&self) -> String {
        let mut text = String::new();
        let _ = write!(
            text,
            "[[service]]\nname = \"web\"\nvip = \"{VIP}\"\nport = 80\nprotocol = \"udp\"\n\
             forwarding = \"{}\"\nscheduler = \"maglev\"\n",
            self.mode
        );
        for number in 0..self.backends {
            let _ = write!(
                text,
                "[[service.backend]]\naddress = \"{}\"\n",
                backend(number)
            );
        }
        text
    }
}

/// The address of a backend, numbered from zero.
#[must_use]
pub fn backend(number: u32) -> String {
    format!("10.0.{}.{}", 1 + number / 250, 1 + number % 250)
}

/// A running weir. Dropping it ends it.
pub struct Balancer {
    daemon: Daemon,
    client: Client,
}

/// Its counters at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Count {
    /// When they were read.
    pub at: Instant,
    /// Frames sent.
    pub forwarded: u64,
    /// Frames received.
    pub received: u64,
    /// Frames dropped, whatever the reason.
    pub dropped: u64,
}

impl Count {
    /// Millions of frames a second that were forwarded since `earlier`.
    #[must_use]
    pub fn mpps_since(&self, earlier: &Self) -> f64 {
        let seconds = self.at.duration_since(earlier.at).as_secs_f64();
        (self.forwarded - earlier.forwarded) as f64 / seconds / 1e6
    }
}

impl Balancer {
    /// Starts it with a configuration of [`Setup`], with its files in `dir`.
    ///
    /// # Errors
    /// When it does not start, with what it wrote.
    pub fn start(namespace: &Namespace, dir: &Path, setup: &Setup) -> Result<Self, Failure> {
        let instance = lab::instance();
        let text = setup.text(&instance);
        Self::start_with(namespace, dir, &instance, &text)
    }

    /// Starts it with another configuration.
    ///
    /// # Errors
    /// As [`Balancer::start`].
    pub fn start_with(
        namespace: &Namespace,
        dir: &Path,
        instance: &str,
        text: &str,
    ) -> Result<Self, Failure> {
        let daemon = Daemon::start(namespace, dir, instance, text).map_err(said)?;
        let client = Client::open(&segment::folder(), instance)?;
        Ok(Self { daemon, client })
    }

    /// The process, and `weirctl` for it.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// Its counters now.
    ///
    /// # Errors
    /// When it does not answer, or died.
    pub fn count(&mut self) -> Result<Count, Failure> {
        self.daemon.process().must_run().map_err(said)?;
        self.client.ask(&Question::Publish, PATIENCE)?;
        let at = Instant::now();
        let found = self.client.counters(&self.client.running()?)?;
        let drops = counters::DROPS..counters::DROPS + counters::DROPS_LEN;
        Ok(Count {
            at,
            forwarded: found.sum(counters::FORWARDED),
            received: found.sum(counters::RECEIVED),
            dropped: drops.map(|index| found.sum(index)).sum(),
        })
    }

    /// Millions of frames a second that it forwards during `window`, after as long a warm-up as
    /// `settle`.
    ///
    /// # Errors
    /// When it dies, or drops frames: a rate of packets that are thrown away is none.
    pub fn rate(&mut self, settle: Duration, window: Duration) -> Result<f64, Failure> {
        std::thread::sleep(settle);
        let before = self.count()?;
        std::thread::sleep(window);
        let after = self.count()?;
        let dropped = after.dropped - before.dropped;
        if dropped > 0 {
            return Err(format!("weir dropped {dropped} packets that it should forward").into());
        }
        Ok(after.mpps_since(&before))
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// When it does not end well, with what it wrote.
    pub fn stop(mut self) -> Result<(), Failure> {
        let status = self.daemon.terminate().map_err(said)?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("weir ended with {status}:\n{}", self.daemon.log()).into())
        }
    }
}
