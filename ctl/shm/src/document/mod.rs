//! Pools as TOML.
//!
//! Every complaint names file, line and column, what was found and what is accepted. A file is
//! read in two steps: [`ServiceDoc`] is the text's shape with the place of every value, and
//! [`services_from_docs`] makes a checked [`Pool`] of it. The daemon's own configuration holds
//! `Vec<Spanned<ServiceDoc>>` under its `service` key and calls the same second step.

mod convert;
mod docs;
mod health;
mod quic;
mod source;
mod steering;
mod tunnel;

use std::ops::Range;

use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;

use crate::model::{Pool, Problem};

pub use docs::{
    AffinityDoc, AffinityTable, BackendDoc, FlapDoc, HealthDoc, QuicConfigDoc, QuicDoc, ServiceDoc,
    TimeoutsDoc, TlsDoc,
};
pub use source::{Diagnostic, Source, Value, text_of};

/// A pool that was read and found valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The pool.
    pub pool: Pool,
    /// Where its parts stand in the text.
    pub spans: Spans,
    /// What the operator should know, though it is no error.
    pub warnings: Vec<Diagnostic>,
}

impl Loaded {
    /// The warnings without their places.
    #[must_use]
    pub fn warning_texts(&self) -> Vec<String> {
        self.warnings
            .iter()
            .map(|warning| warning.message.clone())
            .collect()
    }
}

/// Where services and backends stand in a text, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spans {
    /// One for each service, in order.
    pub services: Vec<ServiceSpans>,
}

/// Where a service stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceSpans {
    /// Its head, `[[service]]`.
    pub head: Range<usize>,
    /// The values of its keys; those in tables as `health.kind`, `timeouts.syn` and so on.
    pub fields: Vec<(&'static str, Range<usize>)>,
    /// One for each backend, in order.
    pub backends: Vec<BackendSpans>,
}

/// Where a backend stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackendSpans {
    /// Its head, `[[service.backend]]`.
    pub head: Range<usize>,
    /// The values of its keys.
    pub fields: Vec<(&'static str, Range<usize>)>,
}

impl Spans {
    /// Where a problem of the pool stands: the value if it was written, else the head of its
    /// backend or service, else the start of the text.
    #[must_use]
    pub fn locate(&self, problem: &Problem) -> Range<usize> {
        self.find(problem.service, problem.backend, problem.field)
    }

    /// Where a key of a service or backend stands, or what comes nearest.
    #[must_use]
    pub fn find(&self, service: Option<usize>, backend: Option<usize>, key: &str) -> Range<usize> {
        let Some(service) = service.and_then(|place| self.services.get(place)) else {
            return 0..0;
        };
        let (head, fields) = match backend.and_then(|place| service.backends.get(place)) {
            Some(backend) => (&backend.head, &backend.fields),
            None => (&service.head, &service.fields),
        };
        let place = |key: &str| fields.iter().find(|(name, _)| *name == key);
        // The value, or the table that it is missing from.
        let table = key.rsplit_once('.').map_or("", |(table, _)| table);
        place(key)
            .or_else(|| place(table))
            .map_or(head, |(_, span)| span)
            .clone()
    }
}

/// A file for `weirctl apply`: services, or a whole configuration whose other tables do not count.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct ServicesFile {
    #[serde(default)]
    service: Vec<Spanned<ServiceDoc>>,
    #[serde(rename = "instance")]
    _instance: Option<IgnoredAny>,
    #[serde(rename = "engine")]
    _engine: Option<IgnoredAny>,
    #[serde(rename = "log")]
    _log: Option<IgnoredAny>,
    #[serde(rename = "metrics")]
    _metrics: Option<IgnoredAny>,
    #[serde(rename = "port")]
    _port: Option<IgnoredAny>,
    #[serde(rename = "route")]
    _route: Option<IgnoredAny>,
    #[serde(rename = "neighbor")]
    _neighbor: Option<IgnoredAny>,
}

/// Reads the services of a text that came from `file`.
///
/// # Errors
/// The first thing wrong, with its place.
pub fn parse_services(file: &str, text: &str) -> Result<Loaded, Diagnostic> {
    let source = Source::new(file, text);
    let document: ServicesFile = source.parse()?;
    services_from_docs(&source, &document.service)
}

/// Makes a checked pool of services that were read from `source`.
///
/// # Errors
/// The first thing wrong, with its place.
pub fn services_from_docs(
    source: &Source,
    docs: &[Spanned<ServiceDoc>],
) -> Result<Loaded, Diagnostic> {
    let (pool, spans) = convert::pool(source, docs)?;
    let warnings = pool
        .validate()
        .map_err(|problem| source.diagnostic(spans.locate(&problem), &problem.with_key()))?
        .into_iter()
        .map(|warning| {
            source.diagnostic(
                spans.find(warning.service, None, warning.field),
                &warning.message,
            )
        })
        .collect();
    Ok(Loaded {
        pool,
        spans,
        warnings,
    })
}

#[cfg(test)]
mod tests;
