//! Requests that are served, and requests that are refused, each with its status.

use super::*;

#[test]
fn every_path_is_greeted() {
    let (_server, address) = web(&[]);
    for target in ["/", "/a/b?c=d#e", "//", "/../..", "/%00", "/\u{e4}", "http://here/a"] {
        let answer = get(address, target, "");
        assert_eq!((answer.status, &answer.body[..]), (200, HELLO), "{target}");
        assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"));
        assert_eq!(answer.header("Content-Length"), Some("12"));
        // The date has the form of `Sun, 06 Nov 1994 08:49:37 GMT`.
        let date = answer.header("Date").expect("a date");
        let time = httpdate::parse_http_date(date).unwrap();
        assert_eq!(httpdate::fmt_http_date(time), date);
        assert!(time.elapsed().unwrap() < Duration::from_secs(60), "{date} is not now");
    }
}

#[test]
fn a_head_is_answered_without_a_body() {
    let (_server, address) = web(&[]);
    let mut client = Client::new(address);
    client.send("HEAD / HTTP/1.1\r\nHost: here\r\n\r\n");
    let answer = client.head();
    assert_eq!((answer.status, answer.header("Content-Length")), (200, Some("12")));
    // The next byte belongs to the next answer.
    client.assert_open();
}

#[test]
fn a_body_that_nobody_wants_is_thrown_away() {
    let (_server, address) = web(&[]);
    let chunked = |body: &str| {
        format!("GET / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: Chunked\r\n\r\n{body}")
    };
    let requests = [
        format!("GET / HTTP/1.1\r\nHost: here\r\nContent-Length: {}\r\n\r\n{GET}", GET.len()),
        format!(
            "HEAD / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 65536\r\n\r\n{}",
            "x".repeat(65_536)
        ),
        chunked("0\r\n\r\n"),
        chunked(
            "5\r\nhello\r\n1a;name=\"value\"\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nTrailer: x\r\n\r\n",
        ),
        chunked(&format!("{:x}\r\n{GET}\r\n0\r\n\r\n", GET.len())),
    ];
    for request in requests {
        let mut client = Client::new(address);
        let head_only = request.starts_with("HEAD");
        client.send(&request);
        let answer = if head_only { client.head() } else { client.answer() };
        assert_eq!(answer.status, 200, "{request}");
        // The body was no request: the next answer is that of the next request.
        client.send("GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        assert_eq!(client.answer().body, HELLO);
        client.assert_closed();
    }
}

#[test]
fn a_client_that_asks_first_is_told_to_send_its_body() {
    let (_server, address) = web(&[]);
    let mut client = Client::new(address);
    let expect = "Expect: 100-continue\r\n";
    client.send(format!("GET / HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n{expect}\r\n"));
    assert_eq!(client.answer().status, 100);
    assert_eq!(client.ask("body").body, HELLO);
    // A request without a body gets 100 too, as from Python's server.
    client.send(format!("GET / HTTP/1.1\r\nHost: here\r\n{expect}\r\n"));
    assert_eq!(client.answer().status, 100);
    assert_eq!(client.answer().body, HELLO);
    // HTTP/1.0 does not know `Expect`.
    assert_eq!(client.ask(format!("GET / HTTP/1.0\r\n{expect}\r\n")).body, HELLO);
    client.assert_closed();
    // A refused client is not told to send its body.
    let mut client = Client::new(address);
    let answer = client
        .ask(format!("GET / HTTP/1.1\r\nHost: here\r\nContent-Length: 65537\r\n{expect}\r\n"));
    assert_eq!(answer.status, 413);
    client.assert_closed();
}

#[test]
fn what_is_no_request_gets_its_status_and_an_end() {
    let (_server, address) = web(&[]);
    let version = |version: &str| format!("GET / {version}\r\n\r\n");
    let long = "a".repeat(65_537);
    let cases = [
        (version("XTTP/1.1"), 400),
        (version("HTTP/9.9.9"), 400),
        (version("HTTP/+1.1"), 400),
        (version("HTTP/1_0.1"), 400),
        (version("HTTP/12345678901.1"), 400),
        (version("HTTP/1.12345678901"), 400),
        (version("HTTP/1"), 400),
        (version("HTTP/0.9"), 400),
        ("GET /\r\n".into(), 400),
        ("GET / \r\n".into(), 400),
        ("GET\r\n".into(), 400),
        ("POST /\r\n".into(), 400),
        (" / HTTP/1.1\r\nHost: here\r\n\r\n".into(), 400),
        ("GET  HTTP/1.1\r\nHost: here\r\n\r\n".into(), 400),
        ("GET /spaced out HTTP/1.1\r\nHost: here\r\n\r\n".into(), 400),
        ("GET no-slash HTTP/1.1\r\nHost: here\r\n\r\n".into(), 400),
        ("\x16\x03\x01\x02\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: here\r\nno colon\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: here\r\n folded: x\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: here\r\nBlank : x\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: here\r\nA: b\0c\r\n\r\n".into(), 400),
        (version("HTTP/1.2"), 505),
        (version("HTTP/2.0"), 505),
        (version("HTTP/3.14"), 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505),
        ("BOGUS / HTTP/1.1\r\nHost: here\r\n\r\n".into(), 501),
        ("get / HTTP/1.1\r\nHost: here\r\n\r\n".into(), 501),
        // Lone newlines end these lines, and an empty line ends the head.
        ("BOGUS / HTTP/1.1\nHost: here\n\r\n".into(), 501),
        ("GET / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: gzip\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".into(), 501),
        ("GET / HTTP/1.1\r\nHost: here\r\nExpect: tea\r\n\r\n".into(), 417),
        (format!("GET /{long} HTTP/1.1\r\nHost: here\r\n\r\n"), 414),
        (format!("{long}{long}"), 414),
        (format!("GET / HTTP/1.1\r\nHost: here\r\nA: {long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: here\r\nA: {long}"), 431),
        (format!("GET / HTTP/1.1\r\nHost: here\r\n{}\r\n", "A: b\r\n".repeat(101)), 431),
        (format!("GET / HTTP/1.1\r\nHost: here\r\n{}", "A: b\r\n".repeat(101)), 431),
        (
            format!(
                "GET / HTTP/1.1\r\nHost: here\r\n{}",
                format!("A: {}\r\n", &long[..60_000]).repeat(3)
            ),
            431,
        ),
    ];
    for (request, status) in cases {
        let answer = assert_refused(address, &request, status);
        assert!(answer.text().contains(&format!("<h1>{status} ")), "{}", answer.text());
    }
    for request in [
        "POST /x",
        "PUT /x",
        "DELETE /x",
        "PATCH /x",
        "OPTIONS /x",
        "TRACE /x",
        "OPTIONS *",
        "CONNECT a:1",
    ] {
        let answer =
            assert_refused(address, format!("{request} HTTP/1.1\r\nHost: here\r\n\r\n"), 405);
        assert_eq!(answer.header("Allow"), Some("GET, HEAD"));
    }
}

/// RFC 9112, 3.2.
#[test]
fn a_request_names_its_host_once_and_well() {
    let (_server, address) = web(&[]);
    let good = [
        "",
        "here",
        "here:8080",
        "here:",
        "127.0.0.1:1",
        "[::1]",
        "[::1]:8080",
        "[fe80::1]:",
        "[v1.a:b]",
        "a_b.c-d~e",
        "%41b",
        "xn--bcher-kva.example",
        "a,b;c=(d)",
    ];
    for host in good {
        let answer = get_raw(address, &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(answer.status, 200, "{host:?}");
    }
    let bad = [
        "a b",
        "a/b",
        "a@b",
        "user:1@b",
        "a:b",
        "a:1:2",
        "a:65536",
        "a:-1",
        "a:+1",
        "[::1",
        "::1",
        "[::1]8080",
        "[::1]x:1",
        "[a]",
        "[]",
        "[::1%eth0]",
        "%4",
        "%zz",
        "a\\b",
        "a\"b",
        "a<b>",
        "a?b",
        "a#b",
        "caf\u{e9}",
        "http://here",
        ":80",
    ];
    for host in bad {
        for version in ["1.1", "1.0"] {
            assert_refused(address, format!("GET / HTTP/{version}\r\nHost: {host}\r\n\r\n"), 400);
        }
        let target = format!("http://{host}/");
        if !host.contains([' ', '/', '?', '#']) {
            assert_refused(address, format!("GET {target} HTTP/1.1\r\nHost: here\r\n\r\n"), 400);
        }
    }
    // The requests have no host, two hosts or an invalid one, with methods that are served and methods that are not.
    for method in ["GET", "HEAD", "POST", "BOGUS"] {
        for hosts in ["", "Host: a\r\nHost: a\r\n", "Host: a\r\nhost: b\r\n", "Host: a b\r\n"] {
            let mut client = Client::new(address);
            client.send(format!("{method} / HTTP/1.1\r\n{hosts}\r\n"));
            assert_eq!(client.head().status, 400, "{method} {hosts:?}");
        }
    }
    assert_refused(address, "GET http:///a HTTP/1.1\r\nHost: here\r\n\r\n", 400);
    // HTTP/1.0 had no such header.
    assert_eq!(get_raw(address, "GET / HTTP/1.0\r\n\r\n").status, 200);
}

/// RFC 9112, 6.3: the end of the body is settled before anything else about a request.
#[test]
fn framing_is_judged_before_the_method() {
    let (_server, address) = web(&[]);
    let framings = [
        ("Content-Length: x\r\n", 400),
        ("Content-Length: -5\r\n", 400),
        ("Content-Length: +5\r\n", 400),
        ("Content-Length: \r\n", 400),
        ("Content-Length: 5, 5\r\n", 400),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", 400),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
        ("Transfer-Encoding: chunked, gzip\r\n", 400),
        ("Transfer-Encoding: chunked, chunked\r\n", 400),
        ("Transfer-Encoding: gzip\r\n", 400),
        ("Transfer-Encoding: identity\r\n", 400),
        ("Transfer-Encoding: \r\n", 400),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Transfer-Encoding: gzip, chunked\r\n", 501),
    ];
    for (framing, status) in framings {
        for method in ["GET", "POST", "OPTIONS", "BREW"] {
            let request = format!("{method} / HTTP/1.1\r\nHost: here\r\n{framing}\r\nhello");
            assert_refused(address, request, status);
        }
    }
    // If the head is valid and the body too large, a method that is not served decides the status.
    for (method, status) in [("GET", 413), ("POST", 405), ("BREW", 501)] {
        let request = format!("{method} / HTTP/1.1\r\nHost: here\r\nContent-Length: 65537\r\n\r\n");
        assert_refused(address, request, status);
    }
}

#[test]
fn a_head_that_is_refused_is_answered_without_a_body() {
    let (_server, address) = web(&[]);
    for (rest, status) in [("HTTP/1.1\r\nHost: here\r\nExpect: tea", 417), ("HTTP/3.0", 505)] {
        let mut client = Client::new(address);
        client.send(format!("HEAD / {rest}\r\n\r\n"));
        let head = client.head();
        assert_eq!(head.status, status);
        assert_ne!(head.header("Content-Length"), Some("0"));
        client.assert_closed();
    }
}

#[test]
fn what_is_unusual_and_right_is_served() {
    let (_server, address) = web(&[]);
    let long = "a".repeat(65_000);
    let requests = [
        // The blank at the end of the first line is trimmed.
        "GET / HTTP/1.1 \r\nHost: here\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\nHost: here\n\n".into(),
        "\r\n\r\nGET / HTTP/1.1\r\nHost: here\r\n\r\n".into(),
        format!("GET /{long} HTTP/1.1\r\nHost: here\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: here\r\nA: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: here\r\n{}\r\n", "A: b\r\n".repeat(99)),
        "GET HTTP://here HTTP/1.1\r\nHost: here\r\n\r\n".into(),
    ];
    for request in requests {
        let mut client = Client::new(address);
        assert_eq!(client.ask(&request).body, HELLO, "{request:.80}");
        client.assert_open();
    }
    // A header may have bytes of Latin-1.
    let mut client = Client::new(address);
    assert_eq!(client.ask(b"GET / HTTP/1.1\r\nHost: here\r\nA: caf\xe9\r\n\r\n").body, HELLO);
}
