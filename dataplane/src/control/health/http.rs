//! The HTTP of a check: one request (RFC 9112), and as much of its answer as must be read.

use weir_shm::model::Health;
use weir_shm::model::health::{DEFAULT_METHOD, DEFAULT_PATH};

use super::failure::{Failure, Outcome};

/// The most that is read of a header, and of a page in search of a text.
const MAX_HEADER: usize = 16 * 1024;
const MAX_BODY: usize = 64 * 1024;
/// The most header fields that are read.
const MAX_FIELDS: usize = 96;

/// The request's bytes.
#[must_use]
pub fn request(health: &Health, authority: &str) -> Vec<u8> {
    let method = health.method.as_deref().unwrap_or(DEFAULT_METHOD);
    let path = health.path.as_deref().unwrap_or(DEFAULT_PATH);
    let host = health.host.as_deref().unwrap_or(authority);
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: weir/{}\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    )
    .into_bytes()
}

/// How the length of a page is told (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Bytes(usize),
    Chunked,
    UntilClose,
}

#[derive(Debug)]
enum Stage {
    Header,
    Body { status: u16, length: Length },
}

/// Reads an answer as it comes.
#[derive(Debug)]
pub struct Answer {
    statuses: Vec<(u16, u16)>,
    text: Option<Vec<u8>>,
    stage: Stage,
    bytes: Vec<u8>,
}

impl Answer {
    /// Nothing read yet.
    #[must_use]
    pub fn new(health: &Health) -> Self {
        Self {
            statuses: health.status.clone(),
            text: health.body.as_ref().map(|text| text.clone().into_bytes()),
            stage: Stage::Header,
            bytes: Vec::new(),
        }
    }

    /// Reads on; the outcome as soon as there is one. `ended` says that nothing more will come.
    pub fn read(&mut self, bytes: &[u8], ended: bool) -> Option<Outcome> {
        self.bytes.extend_from_slice(bytes);
        loop {
            let outcome = match self.stage {
                Stage::Header => match self.header() {
                    Ok(true) => continue,
                    Ok(false) if ended => Some(Err(Failure::Closed)),
                    Ok(false) => None,
                    Err(outcome) => Some(outcome),
                },
                Stage::Body { status, length } => self.body(status, length, ended),
            };
            return outcome;
        }
    }

    /// Reads the header if it is whole; whether it was. Interim answers (1xx) are passed over.
    fn header(&mut self) -> Result<bool, Outcome> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let length = match response.parse(&self.bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if self.bytes.len() < MAX_HEADER => return Ok(false),
            Ok(httparse::Status::Partial) => {
                return Err(Err(Failure::NotHttp("the header is too long")));
            }
            Err(error) => return Err(Err(Failure::NotHttp(reason(error)))),
        };
        let status = response.code.unwrap_or(0);
        if (100..200).contains(&status) {
            self.bytes.drain(..length);
            return Ok(true);
        }
        let healthy = |(low, high): &(u16, u16)| (*low..=*high).contains(&status);
        if !self.statuses.iter().any(healthy) {
            return Err(Err(Failure::Status(status)));
        }
        if self.text.is_none() {
            return Err(Ok(()));
        }
        let how = body_length(status, response.headers);
        self.bytes.drain(..length);
        self.stage = Stage::Body {
            status,
            length: how,
        };
        Ok(true)
    }

    /// Looks for the text in as much of the page as has come.
    fn body(&self, status: u16, length: Length, ended: bool) -> Option<Outcome> {
        let text = self.text.as_deref().unwrap_or_default();
        let (page, whole) = match length {
            Length::Bytes(length) => {
                let end = length.min(self.bytes.len());
                (self.bytes[..end].to_vec(), self.bytes.len() >= length)
            }
            Length::UntilClose => (self.bytes.clone(), ended),
            Length::Chunked => match unchunk(&self.bytes) {
                Ok(unchunked) => unchunked,
                Err(failure) => return Some(Err(failure)),
            },
        };
        let page = &page[..page.len().min(MAX_BODY)];
        if page.windows(text.len().max(1)).any(|part| part == text) {
            return Some(Ok(()));
        }
        if whole || page.len() >= MAX_BODY {
            return Some(Err(Failure::Body(status)));
        }
        ended.then_some(Err(Failure::Closed))
    }
}

const fn reason(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => "a header field is malformed",
        httparse::Error::NewLine => "a line ends wrongly",
        httparse::Error::Status => "the status line is malformed",
        httparse::Error::Token => "a character that cannot be there",
        httparse::Error::TooManyHeaders => "too many header fields",
        httparse::Error::Version => "the version is none that is known",
    }
}

fn body_length(status: u16, fields: &[httparse::Header<'_>]) -> Length {
    let field = |name: &str| {
        let found = fields
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name));
        found.and_then(|field| std::str::from_utf8(field.value).ok())
    };
    if matches!(status, 204 | 304) {
        return Length::Bytes(0);
    }
    if field("transfer-encoding").is_some_and(|how| {
        how.rsplit(',')
            .next()
            .is_some_and(|last| last.trim().eq_ignore_ascii_case("chunked"))
    }) {
        return Length::Chunked;
    }
    match field("content-length").and_then(|length| length.trim().parse().ok()) {
        Some(length) => Length::Bytes(length),
        None => Length::UntilClose,
    }
}

/// What has come of a chunked page (RFC 9112, section 7.1), and whether it is whole.
fn unchunk(mut bytes: &[u8]) -> Result<(Vec<u8>, bool), Failure> {
    let mut page = Vec::new();
    loop {
        match httparse::parse_chunk_size(bytes) {
            Ok(httparse::Status::Partial) => return Ok((page, false)),
            Ok(httparse::Status::Complete((_, 0))) => return Ok((page, true)),
            Ok(httparse::Status::Complete((start, size))) => {
                let rest = bytes.get(start..).unwrap_or_default();
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                let here = rest.get(..size.min(rest.len())).unwrap_or_default();
                page.extend_from_slice(here);
                // Behind a chunk stands a line's end.
                match size.checked_add(2).and_then(|end| rest.get(end..)) {
                    Some(next) if page.len() < MAX_BODY => bytes = next,
                    _ => return Ok((page, false)),
                }
            }
            Err(_) => return Err(Failure::NotHttp("a chunk's size is malformed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn health(body: Option<&str>) -> Health {
        Health {
            status: vec![(200, 204), (301, 301)],
            body: body.map(str::to_owned),
            ..Health::default()
        }
    }

    fn outcome(body: Option<&str>, answer: &[u8], ended: bool) -> Option<Outcome> {
        Answer::new(&health(body)).read(answer, ended)
    }

    #[test]
    fn a_request_names_method_path_and_host() {
        let mut health = health(None);
        let text = |health: &Health| String::from_utf8(request(health, "10.0.0.1:8080")).unwrap();
        assert!(text(&health).starts_with("GET / HTTP/1.1\r\nHost: 10.0.0.1:8080\r\n"));
        health.method = Some("HEAD".to_owned());
        health.path = Some("/healthz".to_owned());
        health.host = Some("example.net".to_owned());
        assert!(text(&health).starts_with("HEAD /healthz HTTP/1.1\r\nHost: example.net\r\n"));
        assert!(text(&health).ends_with("Connection: close\r\n\r\n"));
    }

    #[test]
    fn statuses_in_the_set_are_healthy_and_others_are_named() {
        let answer = |status: &str| format!("HTTP/1.1 {status}\r\n\r\n").into_bytes();
        assert_eq!(outcome(None, &answer("200 OK"), false), Some(Ok(())));
        assert_eq!(outcome(None, &answer("301"), false), Some(Ok(())));
        assert_eq!(
            outcome(None, &answer("503 Busy"), false),
            Some(Err(Failure::Status(503)))
        );
        let after_hint = [answer("103 Early Hints"), answer("200 OK")].concat();
        assert_eq!(outcome(None, &after_hint, false), Some(Ok(())));
    }

    #[test]
    fn a_cut_answer_is_no_answer_and_garbage_is_no_http() {
        assert_eq!(outcome(None, b"HTTP/1.1 200", false), None);
        assert_eq!(
            outcome(None, b"HTTP/1.1 200", true),
            Some(Err(Failure::Closed))
        );
        assert!(matches!(
            outcome(None, b"SSH-2.0-OpenSSH\r\n", false),
            Some(Err(Failure::NotHttp(_)))
        ));
    }

    #[test]
    fn the_text_is_looked_for_in_the_page_however_its_length_is_told() {
        let head = "HTTP/1.1 200 OK\r\n";
        for page in [
            "Content-Length: 9\r\n\r\nall is ok",
            "Transfer-Encoding: chunked\r\n\r\n4\r\nall \r\n5\r\nis ok\r\n0\r\n\r\n",
            "\r\nall is ok",
        ] {
            let answer = format!("{head}{page}");
            assert_eq!(
                outcome(Some("is ok"), answer.as_bytes(), true),
                Some(Ok(())),
                "{page}"
            );
            assert_eq!(
                outcome(Some("fine"), answer.as_bytes(), true),
                Some(Err(Failure::Body(200))),
                "{page}"
            );
        }
        assert_eq!(
            outcome(
                Some("ok"),
                b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall",
                true
            ),
            Some(Err(Failure::Closed))
        );
        // Not only in the header.
        assert_eq!(
            outcome(
                Some("nginx"),
                b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 0\r\n\r\n",
                false
            ),
            Some(Err(Failure::Body(200)))
        );
    }

    proptest! {
        #[test]
        fn pieces_lead_to_the_same_outcome_as_the_whole(
            cuts in proptest::collection::vec(0usize..90, 0..6),
            wanted in "(is ok|fine)",
        ) {
            let whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nall \r\n5\r\nis ok\r\n0\r\n\r\n";
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(whole.len())).collect();
            cuts.extend([0, whole.len()]);
            cuts.sort_unstable();
            let mut answer = Answer::new(&health(Some(&wanted)));
            let mut outcome = None;
            for pair in cuts.windows(2) {
                outcome = outcome.or_else(|| answer.read(&whole[pair[0]..pair[1]], false));
            }
            outcome = outcome.or_else(|| answer.read(&[], true));
            let expected = if wanted == "fine" { Err(Failure::Body(200)) } else { Ok(()) };
            prop_assert_eq!(outcome, Some(expected));
        }

        #[test]
        fn no_answer_makes_it_panic(bytes: Vec<u8>, ended: bool) {
            let start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            Answer::new(&health(Some("x"))).read(&bytes, ended);
            Answer::new(&health(Some("x"))).read(&[&start[..], &bytes].concat(), ended);
        }
    }
}
