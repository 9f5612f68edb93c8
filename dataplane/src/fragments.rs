//! Fragments: every piece of a datagram goes where its first piece goes.
//!
//! Read first: RFC 791 (section 3.2), RFC 8200 (section 4.5), RFC 1858 and RFC 3128 (tiny and
//! overlapping pieces), RFC 5722 (overlap in IPv6), RFC 6946 (atomic fragments, which are none),
//! RFC 7112 (all headers in the first piece), and Maglev (NSDI 2016, section 4.3).
//!
//! Only the first piece of a datagram holds ports, so only it can be steered. What was decided for
//! it is remembered under addresses and identification, and the other pieces follow. Pieces that
//! come before it are held, for a second at most. Nothing is put together here: a piece leaves as a
//! piece, translated as the first one was.
//!
//! With several workers a datagram has one owner, told by the hash of its key, whichever worker its
//! pieces come to: so the owner sees them all.

pub mod piece;
pub mod table;

pub use piece::Piece;
pub use table::{Arrival, Fragments};

#[cfg(test)]
mod tests;
