//! The segment's file: where everything is, and how it is written down.
//!
//! Nobody trusts it. The daemon keeps what it needs in its own memory and reads the file like
//! network input; it never maps it, so that a file cut short is a short read and no SIGBUS.

pub(crate) mod bytes;
pub mod commit;
pub mod directory;
pub mod event;
pub(crate) mod header;
mod health_record;
pub mod layout;
pub mod lock;
pub mod mailbox;
pub mod port;
mod quic;
pub mod record;
pub(crate) mod slot;
pub mod status;
mod steering;
mod tunnel;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The folder of segments, unless [`FOLDER_VARIABLE`] names another.
pub const FOLDER: &str = "/dev/shm";
/// The environment variable that names another folder.
pub const FOLDER_VARIABLE: &str = "WEIR_SHM_DIR";
/// How the name of every segment's file begins.
pub const PREFIX: &str = "weir.";

/// The folder of segments.
#[must_use]
pub fn folder() -> PathBuf {
    std::env::var_os(FOLDER_VARIABLE)
        .filter(|value| !value.is_empty())
        .map_or_else(|| PathBuf::from(FOLDER), PathBuf::from)
}

/// The file of an instance's segment.
#[must_use]
pub fn path(folder: &Path, instance: &str) -> PathBuf {
    folder.join(format!("{PREFIX}{instance}"))
}

/// Whether an instance can have this name: up to 63 of `A-Z a-z 0-9 . _ -`, not beginning with a dot.
#[must_use]
pub fn is_instance_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.is_empty() && name.len() <= 63 && !name.starts_with('.') && name.bytes().all(plain)
}

/// Instances that have a segment in the folder, live or not, by name.
///
/// # Errors
/// When the folder cannot be read.
pub fn instances(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if let Some(name) = name.filter(|name| is_instance_name(name))
            && entry.file_type().is_ok_and(|kind| kind.is_file())
        {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Opens a segment's file for reading and writing, and refuses links and devices.
pub(crate) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = options
        .read(true)
        .write(true)
        .mode(0o660)
        .custom_flags(flags)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ))
    }
}
