//! Captures: the file that packets go into, and whether anybody reads it.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use super::{Server, create};
use crate::capture::{self, Writer};
use crate::segment::lock::{self, Lock};
use crate::segment::{self};

impl Server {
    /// Makes the file of a capture, with the owner and mode of the segment. It goes with the writer.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin_capture(&self, id: u64) -> io::Result<Writer> {
        let folder = self.path.parent().unwrap_or_else(|| Path::new("."));
        let path = capture::path(folder, &self.header.instance);
        remove(&path)?;
        let file = segment::open(&path, OpenOptions::new().create_new(true))?;
        let owned = create::owner(&self.options).map_err(io::Error::other);
        owned
            .and_then(|owner| create::give(&file, owner))
            .and_then(|()| Writer::new(file, path.clone(), id))
            .inspect_err(|_| {
                // What is left of it goes; if even that fails, the next capture removes it.
                std::fs::remove_file(&path).ok();
            })
    }

    /// Whether the reader of the capture still lives: it holds a lock that the kernel gives up with
    /// its process.
    #[must_use]
    pub fn is_captured(&self) -> bool {
        lock::is_taken(&self.file, Lock::Capturer).unwrap_or(false)
    }
}

/// Removes what a daemon that died left.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
