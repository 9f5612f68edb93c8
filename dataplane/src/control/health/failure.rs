//! Why a check failed, in words that an operator can act on.

use std::time::Duration;

use weir_shm::duration;

/// Why a check failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing came back at all.
    #[error("no answer within {}", duration::text(*.0))]
    NoAnswer(Duration),
    /// It accepted the connection, and then took too long.
    #[error("connected, but not done within {}", duration::text(*.0))]
    Slow(Duration),
    /// Nobody listens.
    #[error("connection refused")]
    Refused,
    /// The connection was reset or closed before the answer was whole.
    #[error("connection closed before the whole answer")]
    Closed,
    /// A router or the backend says that it cannot be reached.
    #[error("unreachable: {0}")]
    Unreachable(&'static str),
    /// The page's status is not among the healthy ones.
    #[error("HTTP status {0}")]
    Status(u16),
    /// The page does not hold the text.
    #[error("HTTP status {0}, but the page does not hold the text")]
    Body(u16),
    /// What came back is no HTTP.
    #[error("not HTTP: {0}")]
    NotHttp(&'static str),
    /// TLS came to no agreement.
    #[error("TLS: {0}")]
    Tls(String),
    /// The datagram that came back is not the expected one.
    #[error("another answer than expected")]
    OtherAnswer,
    /// weir has no address of its own toward the backend.
    #[error("weir has no address to check it from")]
    NoSource,
    /// Clients' connections were refused.
    #[error("{0} connections of clients refused")]
    ClientsRefused(u64),
}

/// What came of a check.
pub type Outcome = Result<(), Failure>;
