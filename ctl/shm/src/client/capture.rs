//! Capturing packets.

use std::time::Duration;

use super::{Client, ClientError};
use crate::capture::{self, Begun, Reader, Request};
use crate::segment::lock::{self, Lock};
use crate::segment::mailbox::{Answer, Question};

impl Client {
    /// Begins a capture, which ends with this client at the latest: the daemon notices when its
    /// process is gone.
    ///
    /// # Errors
    /// When another process captures, or the daemon refuses.
    pub fn capture(
        &self,
        request: &Request,
        timeout: Duration,
    ) -> Result<(Reader, Begun), ClientError> {
        self.must_run()?;
        let io = |source| self.io(source);
        if !lock::take(&self.file, Lock::Capturer, Duration::ZERO).map_err(io)? {
            return Err(ClientError::Refused(format!(
                "another weirctl is capturing from instance \"{}\"; one at a time",
                self.header.instance
            )));
        }
        let begun = match self.ask(&Question::Capture(request.clone()), timeout) {
            Ok(Answer::Capturing(begun)) => begun,
            Ok(other) => {
                self.release_capture();
                return Err(ClientError::Refused(format!(
                    "the daemon answered something else: {other:?}"
                )));
            }
            Err(error) => {
                self.release_capture();
                return Err(error);
            }
        };
        let folder = self.path.parent().unwrap_or(&self.path);
        let path = capture::path(folder, &self.header.instance);
        let reader = Reader::open(&path, begun.id).map_err(|source| ClientError::Io {
            path: path.clone(),
            source,
        })?;
        Ok((reader, begun))
    }

    fn release_capture(&self) {
        // If the system refuses, the lock goes with the file at the latest.
        lock::release(&self.file, Lock::Capturer).ok();
    }
}
