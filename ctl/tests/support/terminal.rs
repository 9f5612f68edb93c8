//! A terminal for tests, driven through tmux.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::Daemon;

const LIMIT: Duration = Duration::from_secs(30);

/// A terminal of its own: a tmux server with one pane, gone when it is dropped.
pub struct Terminal {
    socket: String,
}

impl Terminal {
    /// Runs `line` in a shell in a new terminal.
    pub fn start(width: u16, height: u16, line: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let terminal = Self {
            socket: format!("weir-top-{}-{number}", std::process::id()),
        };
        let (width, height) = (width.to_string(), height.to_string());
        // The shell reads the line from its keyboard, so that it is there when the program has ended.
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &width,
            "-y",
            &height,
            "exec env PS1='$ ' TERM=screen-256color bash --norc --noprofile",
        ]);
        terminal.keys(&[line, "Enter"]);
        terminal
    }

    pub fn output(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        command
            .args(["-L", &self.socket])
            .args(arguments)
            .env_remove("TMUX");
        command
            .output()
            .expect("tmux is needed: scripts/setup system installs it")
    }

    pub fn tmux(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The screen, once it is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let begin = Instant::now();
        loop {
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            assert!(
                begin.elapsed() < LIMIT,
                "not seen: {what}; the screen:\n{screen}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn until_shows(&self, text: &str) -> String {
        self.until(text, |screen| screen.contains(text))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.output(&["kill-server"]);
    }
}

/// The shell's line that runs `weirctl` against a daemon.
pub fn line(daemon: &Daemon, rest: &str) -> String {
    format!(
        "WEIR_SHM_DIR={} {} {rest}",
        daemon.folder.path().display(),
        env!("CARGO_BIN_EXE_weirctl")
    )
}
