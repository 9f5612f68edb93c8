//! The machine as the kernel's files tell of it, below a root folder, so that tests can make one up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where facts are read from.
pub(super) struct Machine {
    root: PathBuf,
    /// What `ethtool -k` says of an interface.
    offloads: fn(&Path, &str) -> Option<String>,
}

impl Machine {
    /// This machine.
    pub(super) fn this() -> Self {
        Self {
            root: PathBuf::from("/"),
            offloads: ask_ethtool,
        }
    }

    /// One that lies in a folder; what `ethtool -k` would say is in `ethtool/INTERFACE`.
    #[cfg(test)]
    pub(super) fn below(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            offloads: |root, interface| {
                fs::read_to_string(root.join("ethtool").join(interface)).ok()
            },
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A file's text, without blanks around.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(path)).ok()?;
        Some(text.trim().to_owned())
    }

    /// A file that holds a number.
    pub(super) fn number(&self, path: &str) -> Option<i64> {
        self.text(path)?.parse().ok()
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The last part of where a link leads.
    pub(super) fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// The names in a folder, in order; none if there is no such folder.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path))
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// A file's or folder's permission bits.
    pub(super) fn mode(&self, path: &str) -> Option<u32> {
        let found = fs::metadata(self.path(path)).ok()?;
        Some(found.permissions().mode() & 0o7777)
    }

    /// A list such as `0-3,8`; empty if the file is not there or says nothing.
    pub(super) fn list(&self, path: &str) -> Vec<usize> {
        self.text(path)
            .map(|text| numbers(&text))
            .unwrap_or_default()
    }

    pub(super) fn offloads(&self, interface: &str) -> Option<String> {
        (self.offloads)(&self.root, interface)
    }

    /// Whether this process is root's.
    pub(super) fn is_root(&self) -> bool {
        let status = self.text("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        // Real, effective, saved, file system.
        line.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
    }
}

fn ask_ethtool(_: &Path, interface: &str) -> Option<String> {
    let asked = Command::new("ethtool")
        .args(["-k", interface])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let said = String::from_utf8(asked.stdout).ok()?;
    asked.status.success().then_some(said)
}

/// `0-3,8` as numbers; what is none is left out, and no list is longer than a machine's cores.
pub(super) fn numbers(text: &str) -> Vec<usize> {
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>())
        {
            all.extend((first..=last).take(4096));
        }
    }
    all
}

/// Numbers as `0-3,8`.
pub(super) fn ranges(numbers: &[usize]) -> String {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for number in sorted {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => parts.push((number, number)),
        }
    }
    let texts = parts.iter().map(|(first, last)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    });
    texts.collect::<Vec<_>>().join(",")
}

/// What puts arguments on the kernel's command line where GRUB is set up as by Debian and Ubuntu. Each
/// subject has a file of its own, so that one does not undo another.
pub(super) fn boot_with(subject: &str, arguments: &str) -> String {
    format!(
        "echo 'GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT {arguments}\"' | \
         sudo tee /etc/default/grub.d/weir-{subject}.cfg && sudo update-grub      # then reboot"
    )
}
