//! Locks on single bytes of the segment's file, by which processes exclude each other.
//!
//! They are open-file-description locks: the kernel gives one up as soon as its holder is gone,
//! however it went.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// What a lock stands for; its value is the byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// A daemon lives.
    Daemon = 0,
    /// Somebody changes the pool.
    Writer = 1,
    /// Somebody asks.
    Asker = 2,
    /// Somebody captures packets.
    Capturer = 3,
}

/// From one try to the next when a lock is waited for.
const RETRY: Duration = Duration::from_millis(2);

fn description(lock: Lock, kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: lock as libc::off_t,
        l_len: 1,
        l_pid: 0,
    }
}

/// Takes a lock if nobody has it. It is held until `file` is closed or [`release`] is called.
///
/// # Errors
/// Of the system, other than that somebody has it.
pub fn try_take(file: &File, lock: Lock) -> io::Result<bool> {
    match fcntl(
        file,
        FcntlArg::F_OFD_SETLK(&description(lock, libc::F_WRLCK)),
    ) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes a lock, waiting up to `timeout`; says whether it was to be had.
///
/// # Errors
/// Of the system.
pub fn take(file: &File, lock: Lock, timeout: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + timeout;
    loop {
        if try_take(file, lock)? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(RETRY);
    }
}

/// Gives a lock back.
///
/// # Errors
/// Of the system.
pub fn release(file: &File, lock: Lock) -> io::Result<()> {
    fcntl(
        file,
        FcntlArg::F_OFD_SETLK(&description(lock, libc::F_UNLCK)),
    )?;
    Ok(())
}

/// Whether somebody else has a lock.
///
/// # Errors
/// Of the system.
pub fn is_taken(file: &File, lock: Lock) -> io::Result<bool> {
    let mut description = description(lock, libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut description))?;
    Ok(libc::c_int::from(description.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_free_when_the_holder_is_gone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (first, second) = (file.reopen().unwrap(), file.reopen().unwrap());
        assert!(try_take(&first, Lock::Writer).unwrap());
        assert!(is_taken(&second, Lock::Writer).unwrap());
        assert!(!is_taken(&second, Lock::Asker).unwrap());
        assert!(!take(&second, Lock::Writer, Duration::from_millis(5)).unwrap());
        assert!(try_take(&second, Lock::Asker).unwrap());
        drop(first);
        assert!(take(&second, Lock::Writer, Duration::from_millis(5)).unwrap());
        release(&second, Lock::Writer).unwrap();
        assert!(!is_taken(&file.reopen().unwrap(), Lock::Writer).unwrap());
    }
}
