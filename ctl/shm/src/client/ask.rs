//! Asking the control core.

use std::time::{Duration, Instant};

use super::{Client, ClientError};
use crate::segment::lock::{self, Lock};
use crate::segment::mailbox::{ANSWERS, Answer, QUESTIONS, Question};

/// The longest pause between two looks into the mailbox.
const PAUSE: Duration = Duration::from_millis(5);

impl Client {
    /// Asks, and waits up to `timeout` for other askers and for the answer.
    ///
    /// # Errors
    /// When the daemon does not run, does not answer, or cannot.
    pub fn ask(&self, question: &Question, timeout: Duration) -> Result<Answer, ClientError> {
        self.must_run()?;
        let deadline = Instant::now() + timeout;
        if !lock::take(&self.file, Lock::Asker, timeout).map_err(|source| self.io(source))? {
            return Err(ClientError::Busy {
                instance: self.header.instance.clone(),
                doing: "asking",
                waited: timeout,
            });
        }
        let answer = self.ask_alone(question, deadline, timeout);
        // If the system refuses, the lock goes with the file at the latest.
        lock::release(&self.file, Lock::Asker).ok();
        answer
    }

    fn ask_alone(
        &self,
        question: &Question,
        deadline: Instant,
        waited: Duration,
    ) -> Result<Answer, ClientError> {
        let io = |source| self.io(source);
        // Another number than the last question's and the last answer's.
        let last = QUESTIONS.number(&self.file).map_err(io)?;
        let answered = ANSWERS.number(&self.file).map_err(io)?;
        let mut number = last.wrapping_add(1).max(1);
        if number == answered {
            number = number.wrapping_add(1).max(1);
        }
        QUESTIONS.put(&self.file, number, question).map_err(io)?;
        let mut pause = Duration::from_micros(200);
        loop {
            if ANSWERS.number(&self.file).map_err(io)? == number {
                // A torn letter is read again until time is up.
                if let Ok((found, answer)) = ANSWERS.get(&self.file)
                    && found == number
                {
                    return match answer {
                        Answer::Refused { reason } => Err(ClientError::Refused(reason)),
                        answer => Ok(answer),
                    };
                }
            }
            if Instant::now() >= deadline {
                self.must_run()?;
                return Err(ClientError::NoAnswer {
                    instance: self.header.instance.clone(),
                    waited,
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE);
        }
    }
}
