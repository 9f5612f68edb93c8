//! Making the segment: alone, and over what a dead daemon left.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::{Group, User};

use super::attention::Attention;
use super::{Server, incoming, unix_ns};
use crate::model::Pool;
use crate::segment::commit::{self, CommitWord};
use crate::segment::header::Header;
use crate::segment::lock::{self, Lock};
use crate::segment::status::{DaemonState, Status};
use crate::segment::{self, layout};

/// Times that the file is opened again when others replace it meanwhile.
const TRIES: usize = 16;

/// What a daemon says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerOptions {
    /// Its workers.
    pub workers: usize,
    /// The configuration file's absolute path, for `weirctl save`.
    pub config_path: PathBuf,
    /// Its version.
    pub version: String,
    /// The segment's owner, by name or number; its own by default.
    pub owner: Option<String>,
    /// The segment's group, by name or number; its own by default.
    pub group: Option<String>,
}

/// What a daemon that is gone left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    /// Its process.
    pub pid: u32,
    /// Whether it stopped in order.
    pub stopped: bool,
    /// What was committed last, unless it was refused or cannot be read: changes in it that were
    /// not saved end with that daemon.
    pub pool: Option<Pool>,
}

/// Why a segment was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The name cannot be a file's.
    #[error(
        "found instance name {0:?}; accepted: 1 to 63 of A-Z, a-z, 0-9, \".\", \"_\" and \"-\", not beginning with a dot"
    )]
    Name(String),
    /// More workers than the segment holds.
    #[error("found {0} workers; accepted: up to {max}", max = layout::MAX_WORKERS)]
    Workers(usize),
    /// Another daemon lives under this name.
    #[error("instance \"{instance}\" is running already{}; stop it, or give this one another [instance] name", .pid.map(|pid| format!(" as process {pid}")).unwrap_or_default())]
    Running {
        /// The instance.
        instance: String,
        /// The other daemon's process, if it says so.
        pid: Option<u32>,
    },
    /// The owner or group is not known here.
    #[error("[instance] {key} = \"{found}\": no such {what} on this machine")]
    Unknown {
        /// `owner` or `group`.
        key: &'static str,
        /// `user` or `group`.
        what: &'static str,
        /// The name.
        found: String,
    },
    /// The file cannot be made.
    #[error("cannot make the segment {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

pub(super) fn create(
    folder: &Path,
    instance: &str,
    options: ServerOptions,
) -> Result<(Server, Option<Stale>), CreateError> {
    if !segment::is_instance_name(instance) {
        return Err(CreateError::Name(instance.to_owned()));
    }
    if options.workers > layout::MAX_WORKERS {
        return Err(CreateError::Workers(options.workers));
    }
    let owner = owner(&options)?;
    let path = segment::path(folder, instance);
    let failed = |source| CreateError::Io {
        path: path.clone(),
        source,
    };
    // The old file's lock is held until the new file is in its place.
    let Some(old) = lock_current(&path).map_err(failed)? else {
        let pid = segment::open(&path, &mut OpenOptions::new())
            .ok()
            .and_then(|file| Header::read(&file).ok())
            .map(|header| header.pid);
        return Err(CreateError::Running {
            instance: instance.to_owned(),
            pid,
        });
    };
    let stale = stale(&old);
    let header = Header {
        pid: std::process::id(),
        workers: options.workers,
        started_ns: unix_ns(),
        instance: instance.to_owned(),
        version: options.version.clone(),
        config_path: options.config_path.to_string_lossy().into_owned(),
    };
    let mut server = Server {
        acks: vec![0; options.workers],
        file: old.try_clone().map_err(failed)?,
        path: path.clone(),
        options,
        header,
        status: Status::default(),
        directory: Vec::new(),
        word: 0,
        good_word: 0,
        dealt_with: 0,
        next_event: 1,
        question: 0,
        compared: 0,
        usurped: false,
        attention: Attention::default(),
        twin: false,
    };
    server.put_in_place(folder, owner).map_err(failed)?;
    // What a capture left when its daemon was killed; the next capture would remove it, too.
    super::capture::remove(&crate::capture::path(folder, instance)).ok();
    Ok((server, stale))
}

/// User and group of the new file.
pub(super) type Owner = (Option<u32>, Option<u32>);

pub(super) fn owner(options: &ServerOptions) -> Result<Owner, CreateError> {
    Ok((
        options.owner.as_deref().map(user_id).transpose()?,
        options.group.as_deref().map(group_id).transpose()?,
    ))
}

/// The number of a user by name or number.
///
/// # Errors
/// When there is none of that name.
pub fn user_id(name: &str) -> Result<u32, CreateError> {
    let known = || Some(User::from_name(name).ok()??.uid.as_raw());
    let number = name.parse().ok().or_else(known);
    number.ok_or_else(|| CreateError::Unknown {
        key: "owner",
        what: "user",
        found: name.to_owned(),
    })
}

/// The number of a group by name or number.
///
/// # Errors
/// When there is none of that name.
pub fn group_id(name: &str) -> Result<u32, CreateError> {
    let known = || Some(Group::from_name(name).ok()??.gid.as_raw());
    let number = name.parse().ok().or_else(known);
    number.ok_or_else(|| CreateError::Unknown {
        key: "group",
        what: "group",
        found: name.to_owned(),
    })
}

/// Opens the file that has the name, making it if need be, and takes the daemon's lock on it.
/// `None` when another daemon has it.
fn lock_current(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..TRIES {
        let file = segment::open(path, OpenOptions::new().create(true))?;
        if !lock::try_take(&file, Lock::Daemon)? {
            return Ok(None);
        }
        if is_at(&file, path) {
            return Ok(Some(file));
        }
        // Another daemon replaced the file between our opening and locking it.
    }
    Err(io::Error::other("other processes keep replacing it"))
}

/// Whether the open file is the one that has the name.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn stale(file: &File) -> Option<Stale> {
    let header = Header::read(file).ok()?;
    let status = Status::read(file).ok();
    let stopped = status
        .as_ref()
        .is_some_and(|status| status.state == DaemonState::Stopped);
    let word = commit::read(file).ok().and_then(CommitWord::decode);
    // What was refused was never in force, so nothing of it is lost.
    let was_refused = |generation| {
        status
            .as_ref()
            .is_some_and(|s| s.refusal(generation).is_some())
    };
    let pool = word
        .filter(|word| !was_refused(word.generation))
        .and_then(|word| incoming::read_commit(file, word).ok());
    Some(Stale {
        pid: header.pid,
        stopped,
        pool,
    })
}

/// Gives a file to those who may use the instance.
pub(super) fn give(file: &File, (user, group): Owner) -> io::Result<()> {
    // The mask of the process may have taken bits away.
    file.set_permissions(std::fs::Permissions::from_mode(0o660))?;
    if user.is_some() || group.is_some() {
        fchown(file, user, group)?;
    }
    Ok(())
}

impl Server {
    /// Writes all that the daemon knows into a new file, locks it and gives it the name, so that
    /// nobody ever sees half a segment.
    fn put_in_place(&mut self, folder: &Path, owner: Owner) -> io::Result<()> {
        let new = folder.join(format!(".{}{}.new", segment::PREFIX, self.header.instance));
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = segment::open(&new, OpenOptions::new().create_new(true))?;
        let filled = self
            .fill(&file, owner)
            .and_then(|()| std::fs::rename(&new, &self.path));
        if let Err(error) = filled {
            // The half-made file goes; if even that fails, the next daemon removes it.
            std::fs::remove_file(&new).ok();
            return Err(error);
        }
        self.file = file;
        self.attention = Attention::on(&self.path);
        // The other directory of the new file is empty.
        self.twin = false;
        Ok(())
    }

    fn fill(&self, file: &File, owner: Owner) -> io::Result<()> {
        give(file, owner)?;
        if !lock::try_take(file, Lock::Daemon)? {
            return Err(io::Error::other("another process has locked the new file"));
        }
        file.set_len(layout::file_len(self.header.blocks()))?;
        file.write_all_at(&self.header.encode(), layout::HEADER)?;
        file.write_all_at(&self.status.encode(), layout::STATUS)?;
        file.write_all_at(&self.next_event.to_le_bytes(), layout::EVENTS)?;
        file.write_all_at(&self.directory, layout::running(self.status.directory))?;
        for (worker, ack) in self.acks.iter().enumerate() {
            file.write_all_at(&ack.to_le_bytes(), layout::ack(worker))?;
        }
        Ok(())
    }

    /// Makes the segment anew after somebody removed it.
    pub(super) fn recreate(&mut self) -> io::Result<()> {
        let owner = owner(&self.options).map_err(io::Error::other)?;
        let folder = self
            .path
            .parent()
            .map_or_else(PathBuf::new, Path::to_path_buf);
        self.question = 0;
        // Operators begin with what is in force, the daemon's own copy, and may commit as soon as the new
        // file has the name: nothing that they commit is an old word.
        self.word = 0;
        self.put_in_place(&folder, owner)
    }
}
