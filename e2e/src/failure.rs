//! The one error of the harness: a sentence. Tests return it, so that a failing test ends with what was wrong rather
//! than with a type's name.

use std::fmt;

/// Why a test failed, as a sentence.
pub struct Failure(String);

/// What harness functions and tests return.
pub type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure with this sentence.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Returns a [`Failure`] with the given sentence from the calling function.
#[macro_export]
macro_rules! fail {
    ($($sentence:tt)*) => { return Err($crate::Failure::new(format!($($sentence)*))) };
}

/// Returns a [`Failure`] with the given sentence unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($sentence:tt)*) => { if !$condition { $crate::fail!($($sentence)*) } };
}
