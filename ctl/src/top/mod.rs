//! `top`: a live view of a running weir, read from its segment.
//!
//! A thread reads the segment at the chosen pace and sends what it read; this one waits for keys and
//! draws. The terminal is given back as it was however the view ends: by a key, a signal, an error
//! or a panic.

mod draw;
mod grid;
mod picture;
mod sample;
mod state;
#[cfg(test)]
mod tests;
mod told;

mod once;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event as Input};
use weir_shm::client::{Client, ClientError};
use weir_shm::segment;

use crate::Failure;
use crate::cli::{Cli, Output, Top};
use crate::output::json;

use picture::Picture;
use sample::{Sample, Source};
use state::{State, Then};

/// How long a wait for keys lasts before signals and readings are looked at.
const GLANCE: Duration = Duration::from_millis(50);

/// What is seen of the daemon.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    /// The last picture there was.
    picture: Option<Picture>,
    /// Why there is no newer one.
    away: Option<String>,
}

pub(crate) fn run(cli: &Cli, top: &Top, out: &mut dyn Write) -> Result<(), Failure> {
    let named = cli.instance.as_deref().filter(|name| !name.is_empty());
    let folder = segment::folder();
    let instance = match (named, top.once) {
        // A daemon that is not there yet can be waited for.
        (Some(name), false) if segment::is_instance_name(name) => name.to_owned(),
        _ => {
            let client = Client::open_or_only(&folder, named)?;
            client.must_run()?;
            client.instance().to_owned()
        }
    };
    let mut source = Source::new(folder, instance);
    if top.once {
        let first = source.read()?;
        std::thread::sleep(top.interval);
        let picture = Picture::new(&source.read()?, Some(&first));
        match cli.output {
            Output::Json => json(out, &picture)?,
            Output::Table => once::write(out, &picture)?,
        }
        return Ok(());
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::Other(
            "top needs a terminal; with --once it prints one frame, for scripts".to_owned(),
        ));
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
        signal_hook::consts::SIGINT,
    ] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    // Also makes a panic restore the terminal before it says anything.
    let mut terminal = ratatui::try_init()?;
    let ended = watch(&mut terminal, source, top.interval, &stop);
    ratatui::try_restore()?;
    Ok(ended?)
}

type Reading = Result<Sample, ClientError>;

/// Draws until the viewer quits.
fn watch(
    terminal: &mut DefaultTerminal,
    source: Source,
    interval: Duration,
    stop: &AtomicBool,
) -> io::Result<()> {
    let (send, readings) = mpsc::channel();
    let (pace, paces) = mpsc::channel();
    std::thread::spawn(move || read_on(source, interval, &send, &paces));
    let mut state = State::new(interval);
    let mut sight = Sight::default();
    let mut before: Option<Sample> = None;
    terminal.draw(|frame| draw::draw(frame, &mut state, &sight))?;
    while !stop.load(Ordering::Relaxed) {
        let mut stale = false;
        while let Ok(reading) = readings.try_recv() {
            stale |= !state.paused;
            take_in(&mut sight, &mut before, reading, state.paused);
        }
        if event::poll(GLANCE)? {
            stale = true;
            if let Input::Key(key) = event::read()? {
                match state.key(key) {
                    Then::Quit => return Ok(()),
                    // A reader that is gone is noticed by the readings that do not come.
                    Then::Repace => drop(pace.send(state.interval)),
                    Then::Go => {}
                }
            }
        }
        if stale {
            terminal.draw(|frame| draw::draw(frame, &mut state, &sight))?;
        }
    }
    Ok(())
}

/// Takes a reading in; while the view is paused, only so that rates are right when it goes on.
fn take_in(sight: &mut Sight, before: &mut Option<Sample>, reading: Reading, paused: bool) {
    match reading {
        Ok(sample) => {
            if !paused {
                sight.picture = Some(Picture::new(&sample, before.as_ref()));
                sight.away = None;
            }
            *before = Some(sample);
        }
        Err(error) => sight.away = Some(error.to_string()),
    }
}

/// Reads at the pace that was asked for last, until nobody listens.
fn read_on(
    mut source: Source,
    mut interval: Duration,
    send: &Sender<Reading>,
    paces: &Receiver<Duration>,
) {
    while send.send(source.read()).is_ok() {
        match paces.recv_timeout(interval) {
            Ok(pace) => interval = pace,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
