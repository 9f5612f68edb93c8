//! The server over loopback, with good, bad and slow clients.

use super::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Runs a server with one page while `test` talks to it.
fn with_server(size: usize, test: impl FnOnce(SocketAddr)) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stop = Stop::new();
    let page = move |path: &str| {
        (path == "/metrics").then(|| Page {
            status: "200 OK",
            content_type: "text/plain",
            body: vec![b'x'; size].into(),
        })
    };
    thread::scope(|scope| {
        scope.spawn(|| serve(&listener, &stop, page).unwrap());
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(address)));
        stop.raise();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

fn say(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_page_comes_whole_with_its_length_and_the_connection_ends() {
    with_server(3_000_000, |address| {
        let answer = say(address, GET);
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n"),
            "{}",
            &answer[..200]
        );
        assert!(answer.contains("Content-Length: 3000000\r\n"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("Connection: close"));
        assert_eq!(body.len(), 3_000_000);
        let head = say(address, b"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(head.contains("Content-Length: 3000000\r\n") && head.ends_with("\r\n\r\n"));
    });
}

#[test]
fn what_is_not_there_or_not_allowed_gets_its_status() {
    with_server(1, |address| {
        for (request, status) in [
            (&b"GET /other HTTP/1.0\r\n\r\n"[..], "404"),
            (
                b"POST /metrics HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc",
                "405",
            ),
            (b"GET /metrics HTTP/1.1\r\n\r\n", "400"),
            (b"\x00\x01\x02\r\n\r\n", "400"),
            (b"GET /metrics HTTP/3.0\r\n\r\n", "505"),
        ] {
            let answer = say(address, request);
            let expected = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&expected), "{status}: {answer}");
        }
        let allowed = say(address, b"DELETE / HTTP/1.0\r\n\r\n");
        assert!(allowed.contains("Allow: GET, HEAD\r\n"), "{allowed}");
        let mut long = b"GET /".to_vec();
        long.resize(request::LONGEST, b'x');
        assert!(say(address, &long).starts_with("HTTP/1.1 431 "));
    });
}

#[test]
fn a_request_in_many_pieces_is_answered() {
    with_server(5, |address| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in GET {
            stream.write_all(&[*byte]).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\n\r\nxxxxx"), "{answer}");
    });
}

#[test]
fn slow_clients_keep_nobody_out_and_are_sent_away() {
    with_server(5, |address| {
        let start = Instant::now();
        let mut silent: Vec<TcpStream> = (0..CONNECTIONS * 3)
            .map(|_| {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(b"GET /met").unwrap();
                stream
            })
            .collect();
        let answer = say(address, GET);
        assert!(answer.ends_with("xxxxx"), "{answer}");
        assert!(
            start.elapsed() < connection::ASK,
            "it waited for silent clients"
        );
        for stream in &mut silent {
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            let mut rest = Vec::new();
            // An end or a reset, but an end.
            let _ = stream.read_to_end(&mut rest);
            assert!(rest.is_empty());
        }
        assert!(start.elapsed() < connection::ASK * 3);
    });
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    with_server(30_000_000, |address| {
        let mut lazy = TcpStream::connect(address).unwrap();
        lazy.write_all(GET).unwrap();
        thread::sleep(Duration::from_millis(50));
        let start = Instant::now();
        let answer = say(address, b"GET /other HTTP/1.0\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        assert!(start.elapsed() < Duration::from_secs(5));
    });
}
