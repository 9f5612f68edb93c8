//! Resting until an operator comes.
//!
//! Whoever wants something of the daemon opens the segment first, which the kernel tells (inotify).
//! So the daemon may look into the segment seldom, and be there at once all the same. Nothing rests
//! on it: a note that does not come costs a millisecond, and notes without sense are but looks.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::time::TimeSpec;

use super::Server;

/// Notes that are read at once: a burst of openings is one visit.
const READS: usize = 16;

/// Looks out for operators.
#[derive(Debug, Default)]
pub(super) struct Attention {
    /// `None` where the kernel has no notes to give.
    notes: Option<Inotify>,
}

impl Attention {
    /// Looks out for those who open the file at `path`.
    pub(super) fn on(path: &Path) -> Self {
        let begin = || -> nix::Result<Inotify> {
            let notes = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
            notes.add_watch(path, AddWatchFlags::IN_OPEN)?;
            Ok(notes)
        };
        Self {
            notes: begin().ok(),
        }
    }

    /// Rests until somebody opens the file, at most so long; whether somebody did.
    fn rest(&self, most: Duration) -> bool {
        let Some(notes) = &self.notes else {
            std::thread::sleep(most);
            return false;
        };
        let mut fds = [PollFd::new(notes.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut fds, Some(TimeSpec::from_duration(most)), None) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(Errno::EINTR) => return false,
            Err(_) => {
                std::thread::sleep(most);
                return false;
            }
        }
        // What is left makes the next rest a short one.
        for _ in 0..READS {
            if notes.read_events().is_err() {
                break;
            }
        }
        true
    }
}

impl Server {
    /// Rests until an operator opens the segment, at most so long; whether one did.
    pub fn rest(&self, most: Duration) -> bool {
        self.attention.rest(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io;
    use std::time::Instant;

    #[test]
    fn a_rest_ends_when_somebody_opens_the_file() -> io::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let attention = Attention::on(file.path());
        let started = Instant::now();
        assert!(!attention.rest(Duration::from_millis(20)));
        assert!(started.elapsed() >= Duration::from_millis(20));
        let path = file.path().to_owned();
        let visitor = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            File::open(path).map(drop)
        });
        let long = Duration::from_secs(60);
        assert!(attention.rest(long) && started.elapsed() < long);
        assert!(visitor.join().is_ok_and(|opened| opened.is_ok()));
        // One visit is told of once.
        assert!(!attention.rest(Duration::from_millis(1)));
        Ok(())
    }
}
