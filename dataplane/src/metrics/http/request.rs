//! What a client asks: a method and a path, read from untrusted bytes.

/// The longest request head that is read, in bytes.
pub const LONGEST: usize = 8 * 1024;
/// The most header fields.
const FIELDS: usize = 64;

/// Why a request is not answered with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It is no HTTP.
    Malformed,
    /// Its head is too long, or has too many fields.
    TooLarge,
    /// It is HTTP of another version than 1.
    Version,
    /// It is neither GET nor HEAD.
    Method,
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Whether only the head of the answer is wanted.
    pub head_only: bool,
    /// The path, without a query.
    pub path: &'a str,
}

/// Reads a request's head; `None` while it is not complete.
///
/// # Errors
/// What is wrong with it.
pub fn read(bytes: &[u8]) -> Result<Option<Request<'_>>, Wrong> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() >= LONGEST => return Err(Wrong::TooLarge),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Wrong::TooLarge),
        Err(httparse::Error::Version) => return Err(Wrong::Version),
        Err(_) => return Err(Wrong::Malformed),
    }
    // RFC 9112, section 3.2: one Host, no more and, from HTTP/1.1 on, no less.
    let named = |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case("host");
    let hosts = request.headers.iter().filter(named).count();
    if hosts > 1 || (hosts == 0 && request.version == Some(1)) {
        return Err(Wrong::Malformed);
    }
    let head_only = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(Wrong::Method),
    };
    let target = request.path.unwrap_or_default();
    Ok(Some(Request {
        head_only,
        path: path(target).ok_or(Wrong::Malformed)?,
    }))
}

/// The path of a request's target, in origin form or absolute form (RFC 9112, section 3.2).
fn path(target: &str) -> Option<&str> {
    let target = match target.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest
            .find('/')
            .map_or("/", |slash| rest.get(slash..).unwrap_or("/")),
        _ => target,
    };
    let path = target.split(['?', '#']).next()?;
    path.starts_with('/').then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn get(path: &str) -> Result<Option<Request<'_>>, Wrong> {
        Ok(Some(Request {
            head_only: false,
            path,
        }))
    }

    #[test]
    fn requests_of_both_forms_are_read() {
        assert_eq!(
            read(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"),
            get("/metrics")
        );
        assert_eq!(read(b"GET /metrics?x=1 HTTP/1.0\r\n\r\n"), get("/metrics"));
        assert_eq!(
            read(b"GET http://a:9100/metrics HTTP/1.1\r\nHost: a\r\n\r\n"),
            get("/metrics")
        );
        assert_eq!(read(b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n"), get("/"));
        let head = read(b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap()
            .unwrap();
        assert!(head.head_only);
    }

    #[test]
    fn what_is_not_complete_waits() {
        let whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for len in 0..whole.len() {
            assert_eq!(read(&whole[..len]), Ok(None), "{len}");
        }
    }

    #[test]
    fn each_fault_is_told_apart() {
        assert_eq!(read(b"\x16\x03\x01 tls\r\n\r\n"), Err(Wrong::Malformed));
        assert_eq!(
            read(b"GET / HTTP/1.1\r\n\r\n"),
            Err(Wrong::Malformed),
            "no host"
        );
        assert_eq!(
            read(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
            Err(Wrong::Malformed)
        );
        assert_eq!(read(b"GET metrics HTTP/1.0\r\n\r\n"), Err(Wrong::Malformed));
        assert_eq!(read(b"GET / HTTP/2.0\r\n\r\n"), Err(Wrong::Version));
        assert_eq!(read(b"POST / HTTP/1.0\r\n\r\n"), Err(Wrong::Method));
        let mut many = b"GET / HTTP/1.0\r\n".to_vec();
        many.extend(b"a: b\r\n".repeat(FIELDS + 1));
        assert_eq!(read(&many), Err(Wrong::TooLarge));
        let mut long = b"GET /".to_vec();
        long.resize(LONGEST, b'x');
        assert_eq!(read(&long), Err(Wrong::TooLarge));
    }

    proptest! {
        #[test]
        fn no_bytes_disturb(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
