//! What weir tells Prometheus, and how: an HTTP server on a kernel socket, off by default.
//!
//! A thread of its own, on the control core and behind it in rank, answers scrapes (`http`). What
//! workers count it reads where they count it, which costs them nothing; how full their flow tables
//! are it finds out a stretch at a time ([`crate::conntrack::Pass`]). Everything else the control
//! core hands over when it is asked (`exchange`) as `facts`; it never waits for a scrape, and a
//! scrape that gets no answer shows the facts it had, with their age. `exposition` puts it all into
//! Prometheus's text format.

pub mod exchange;
pub mod exposition;
pub mod facts;
mod families;
pub mod histogram;
pub mod http;
pub mod scraper;

pub use exchange::Exchange;
pub use facts::Facts;
pub use histogram::Histogram;
pub use scraper::Scraper;
