//! The web program: its protocol as any client sees it, and what all groups of its tests share.

mod attacks;
mod browser;
mod clients;
mod codec;
mod files;
mod log;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use test_support::process::Process;
use test_support::program::*;
use test_support::promises;
use test_support::{connect, read_to_end};

const WEB: Program<'_> = Program(env!("CARGO_BIN_EXE_web"));

#[test]
fn the_readme_names_every_option() {
    promises::the_readme_names_every_option(WEB, &["serve"], include_str!("../../README.md"));
}

#[test]
fn the_help_says_where_it_listens() {
    promises::the_help_says_where_it_listens(WEB, "127.0.0.1:8080", false);
}

/// A web server on TCP, and its address.
fn web(options: &[&str]) -> (Process, SocketAddr) {
    let (server, addresses) = WEB.serve(&["127.0.0.1:0"], options);
    (server, addresses[0].parse().unwrap())
}

/// An answer, as a client takes it apart.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(header, _)| header.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| &**value);
        assert!(found.next().is_none(), "{name} is there twice: {self:?}");
        value
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A connection, read answer by answer.
struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        Self { reader: BufReader::new(connect(address)) }
    }

    /// From another address than all other clients.
    fn from_elsewhere(address: SocketAddr) -> Self {
        Self { reader: BufReader::new(connect_from([127, 0, 0, 2], address)) }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.reader.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// The head of the next answer.
    fn head(&mut self) -> Answer {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).expect("an answer in time");
            let line = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("no line: {line:?}"));
            if line.is_empty() {
                break;
            }
            lines.push(line.to_owned());
        }
        let status = lines[0].strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
        let header = |line: &String| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_owned(), value.to_owned())
        };
        Answer { status, headers: lines[1..].iter().map(header).collect(), body: Vec::new() }
    }

    /// The next answer to a GET.
    fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        if answer.status != 304 && answer.status != 100 {
            let length = answer.header("Content-Length").expect("a length").parse().unwrap();
            answer.body = vec![0; length];
            self.reader.read_exact(&mut answer.body).expect("the body in time");
        }
        answer
    }

    fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Answer {
        self.send(bytes);
        self.answer()
    }

    fn get(&mut self, target: &str, headers: &str) -> Answer {
        self.ask(format!("GET {target} HTTP/1.1\r\nHost: here\r\n{headers}\r\n"))
    }

    /// Fails unless the server has closed, and has sent nothing more before.
    #[track_caller]
    fn assert_closed(&mut self) {
        assert_eq!(read_to_end(&mut self.reader), b"", "something came after the last answer");
    }

    /// Fails unless the connection still serves.
    #[track_caller]
    fn assert_open(&mut self) {
        assert_eq!(self.get("/", "").status, 200);
    }
}

/// One answer over a connection of its own.
fn get(address: SocketAddr, target: &str, headers: &str) -> Answer {
    Client::new(address).get(target, headers)
}

const HELLO: &[u8] = b"Hello, World";
const GET: &str = "GET / HTTP/1.1\r\nHost: here\r\n\r\n";

#[test]
fn every_path_is_greeted() {
    let (_server, address) = web(&[]);
    for target in ["/", "/a/b?c=d#e", "//", "/../..", "/%00", "/\u{e4}", "http://here/a"] {
        let answer = get(address, target, "");
        assert_eq!((answer.status, &answer.body[..]), (200, HELLO), "{target}");
        assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"));
        assert_eq!(answer.header("Content-Length"), Some("12"));
        // Sun, 06 Nov 1994 08:49:37 GMT
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
    // The next byte is the next answer's.
    client.assert_open();
}

#[test]
fn a_connection_stays_or_closes_as_the_client_says() {
    let (_server, address) = web(&[]);
    let cases = [
        ("1.1", "", true),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "connection: Foo, CLOSE\r\n", false),
        ("1.1", "Connection: close, keep-alive\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
    ];
    for (version, headers, stays) in cases {
        for _ in 0..2 {
            let mut client = Client::new(address);
            let answer = client.ask(format!("GET / HTTP/{version}\r\nHost: here\r\n{headers}\r\n"));
            assert_eq!((answer.status, &answer.body[..]), (200, HELLO));
            let says = match (stays, version) {
                (false, _) => Some("close"),
                (true, "1.0") => Some("keep-alive"),
                (true, _) => None,
            };
            assert_eq!(answer.header("Connection"), says, "{version} {headers}");
            if stays { client.assert_open() } else { client.assert_closed() }
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_and_by_one_send() {
    let (_server, address) = web(&[]);
    let mut client = connect(address);
    // One answer, for its length: all are equally long.
    client.write_all(GET.as_bytes()).unwrap();
    let mut buffer = vec![0; 65_536];
    let length = client.read(&mut buffer).unwrap();
    // What is sent by one call arrives at once; of several calls some would be seen by themselves.
    for _ in 0..200 {
        client.write_all(GET.repeat(16).as_bytes()).unwrap();
        assert_eq!(client.read(&mut buffer).unwrap(), 16 * length);
    }
    // In order, also when there are more of them than one send takes.
    let mut client = Client::new(address);
    let requests: String = (0..3_000)
        .map(|number| {
            let method = if number % 3 == 0 { "HEAD" } else { "GET" };
            format!("{method} /{number} HTTP/1.1\r\nHost: here\r\n\r\n")
        })
        .collect();
    let mut sender = client.reader.get_ref().try_clone().unwrap();
    let sending = std::thread::spawn(move || sender.write_all(requests.as_bytes()).unwrap());
    for number in 0..3_000 {
        let answer = client.head();
        assert_eq!(answer.status, 200);
        if number % 3 != 0 {
            let mut body = [0; 12];
            client.reader.read_exact(&mut body).unwrap();
            assert_eq!(body, HELLO);
        }
    }
    sending.join().unwrap();
}

#[test]
fn a_request_may_come_in_any_pieces() {
    let (_server, address) = web(&[]);
    let mut client = Client::new(address);
    client.reader.get_ref().set_nodelay(true).unwrap();
    for byte in GET.as_bytes() {
        client.send([*byte]);
    }
    assert_eq!(client.answer().body, HELLO);
    // The end of one and the beginning of the next in one piece.
    client.send(&GET[..10]);
    client.send(format!("{}{}", &GET[10..], &GET[..20]));
    assert_eq!(client.answer().body, HELLO);
    client.send(&GET[20..]);
    assert_eq!(client.answer().body, HELLO);
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
        // The other way round is how an answer that comes too early would be seen.
        client.send(&request);
        let answer = if head_only { client.head() } else { client.answer() };
        assert_eq!(answer.status, 200, "{request}");
        // Exactly one answer, and then that of the next request.
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
    // Without a body as well, as Python does.
    client.send(format!("GET / HTTP/1.1\r\nHost: here\r\n{expect}\r\n"));
    assert_eq!(client.answer().status, 100);
    assert_eq!(client.answer().body, HELLO);
    // HTTP/1.0 does not know it.
    assert_eq!(client.ask(format!("GET / HTTP/1.0\r\n{expect}\r\n")).body, HELLO);
    client.assert_closed();
    // Who is refused is not told to send.
    let mut client = Client::new(address);
    let answer = client
        .ask(format!("GET / HTTP/1.1\r\nHost: here\r\nContent-Length: 65537\r\n{expect}\r\n"));
    assert_eq!(answer.status, 413);
    client.assert_closed();
}

/// Fails unless it is answered by this status, and by nothing after it.
#[track_caller]
fn assert_refused(address: SocketAddr, request: impl AsRef<[u8]>, status: u16) -> Answer {
    let mut client = Client::new(address);
    let request = request.as_ref();
    let answer = client.ask(request);
    let shown = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
    assert_eq!(answer.status, status, "{shown}");
    assert_eq!(answer.header("Connection"), Some("close"), "{shown}");
    client.assert_closed();
    answer
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
        // Trimmed: the line ends with a lone newline, and the headers with the next.
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
    // None, two, and one that hides behind a served or an unserved method.
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

fn get_raw(address: SocketAddr, request: &str) -> Answer {
    Client::new(address).ask(request)
}

/// RFC 9112, 6.3: where the body ends is settled before anything else is said of a request.
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
    // What is clear, and only too large or not wanted, is told by what the method is.
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
        // Trimmed.
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
    // Bytes of Latin-1.
    let mut client = Client::new(address);
    assert_eq!(client.ask(b"GET / HTTP/1.1\r\nHost: here\r\nA: caf\xe9\r\n\r\n").body, HELLO);
}

#[test]
fn a_request_that_ends_in_its_middle_is_told_so() {
    let (_server, address) = web(&[]);
    for half in [
        "G",
        "GET / HTTP/1.1\r\nHost",
        "GET / HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n12",
    ] {
        let mut client = Client::new(address);
        client.send(half);
        client.reader.get_ref().shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.answer().status, 400);
        client.assert_closed();
    }
    // An end between two requests is none of that.
    let mut client = Client::new(address);
    client.assert_open();
    client.reader.get_ref().shutdown(Shutdown::Write).unwrap();
    client.assert_closed();
}

#[test]
fn a_request_that_takes_too_long_is_told_so() {
    let (_server, address) = web(&["--header-timeout", "0.3"]);
    // A silent one takes the place of another, and is not worth a word.
    Client::new(address).assert_closed();
    for beginning in [
        "GET / HTTP/1.1\r\nHost: here\r\nA: ",
        "GET / HTTP/1.1\r\nHost: here\r\nContent-Length: 60000\r\n\r\n",
    ] {
        // Silent, after a request that came in time.
        let mut client = Client::new(address);
        client.assert_open();
        assert_eq!(client.ask(beginning).status, 408);
        client.assert_closed();
        // And with a byte now and then, which does not extend the time.
        let mut client = Client::new(address);
        let mut sender = client.reader.get_ref().try_clone().unwrap();
        client.send(beginning);
        let sending = std::thread::spawn(move || {
            while sender.write_all(b"a").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        assert_eq!(client.answer().status, 408);
        client.assert_closed();
        drop(client);
        sending.join().unwrap();
    }
}

#[test]
fn silence_between_requests_ends_quietly() {
    // Long enough for the client to speak in time, also on a busy machine.
    let (server, address) = web(&["--idle-timeout", "3"]);
    let mut client = Client::new(address);
    client.assert_open();
    client.assert_closed();
    Client::new(address).assert_closed();
    server.send_signal(libc::SIGTERM);
    let ended = server.end();
    assert_ends(&ended, 0);
    assert_eq!(ended.err, "");
}

#[test]
fn a_silent_client_gives_way_where_others_wait() {
    for (mixin, workers) in [("inline", 1), ("pool", 4), ("forking", 40)] {
        let (_server, address) = web(&["--mixin", mixin, "--max-per-peer", "100"]);
        // More than there are workers, and all of them stay.
        let mut silent: Vec<Client> = (0..workers + 2).map(|_| Client::new(address)).collect();
        let mut client = Client::new(address);
        assert_eq!(client.get("/", "").body, HELLO, "{mixin}");
        silent.iter_mut().for_each(Client::assert_closed);
    }
}

#[test]
fn an_idle_connection_does_not_delay_the_end() {
    for mixin in ["threading", "forking"] {
        let (server, address) = web(&["--mixin", mixin, "--grace", "600"]);
        let mut client = Client::new(address);
        client.assert_open();
        server.send_signal(libc::SIGTERM);
        client.assert_closed();
        let ended = server.end();
        assert_ends(&ended, 0);
        assert_eq!(ended.err, "");
    }
}

#[test]
fn a_request_that_has_begun_is_answered_before_the_end() {
    let (server, address) = web(&["--grace", "600"]);
    let mut idle = Client::new(address);
    let mut busy = Client::new(address);
    idle.assert_open();
    busy.send("GET / HTTP/1.1\r\nHost: here\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(busy.answer().status, 100);
    server.send_signal(libc::SIGTERM);
    // The drain has begun.
    idle.assert_closed();
    let answer = busy.ask("x");
    assert_eq!((&answer.body[..], answer.header("Connection")), (HELLO, Some("close")));
    busy.assert_closed();
    assert_ends(&server.end(), 0);
}

#[test]
fn the_log_is_one_line_for_each_request_whatever_is_in_it() {
    let (server, address) = web(&["--log"]);
    get(address, "/a\\b\u{9b}31m\"", "");
    let line = server.line();
    assert!(line.ends_with(r#" GMT] "GET /a\\b\xc2\x9b31m\" HTTP/1.1" 200 12"#), "{line}");
    assert!(line.starts_with("127.0.0.1:"), "{line}");
    // Also what is no request, and not all of it.
    let evil = format!("GET /\x1b[31m\0\r{} HTTP/1.1\r\nHost: here\r\n\r\n", "a".repeat(1_000));
    assert_refused(address, evil, 400);
    let line = server.line();
    assert!(line.contains(r#" "GET /\x1b[31m\x00\x0daaa"#) && line.len() < 400, "{line}");
    assert!(line.contains("aaa\" 400 "), "{line}");
}

#[test]
fn an_answer_that_is_broken_off_is_in_the_log() {
    const SIZE: u64 = 64 * 1024 * 1024;
    let folder = test_support::folder();
    std::fs::File::create(folder.path().join("large")).unwrap().set_len(SIZE).unwrap();
    let (server, address) = web(&["--log", "--dir", folder.path().to_str().unwrap()]);
    let mut client = Client::new(address);
    client.send("GET /large HTTP/1.1\r\nHost: here\r\n\r\n");
    assert_eq!(client.head().status, 200);
    // What is not read makes a reset of it.
    drop(client);
    let line = server.line();
    let sent = line.rsplit(' ').next().unwrap();
    assert!(line.contains("\"GET /large HTTP/1.1\" 200 "), "{line}");
    assert!(sent.parse::<u64>().unwrap() < SIZE, "{line}");
}

#[test]
fn a_log_that_nobody_reads_keeps_nobody_waiting() {
    for mixin in ["inline", "threading", "forking"] {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = WEB.command(&["serve", "--bind", "127.0.0.1:0"]);
        command.args(["--log", "--mixin", mixin]).stdout(writer);
        let server = Process::start(&mut command);
        drop(command);
        let mut reader = BufReader::new(reader);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
        // Ten times as much as a pipe and the queue hold.
        let target = "/".repeat(3_000);
        let mut client = Client::new(address);
        for _ in 0..1_000 {
            assert_eq!(client.get(&target, "").status, 200, "{mixin}");
        }
        // The reader is back, and is told what it has missed.
        drop(client);
        let mut told = String::new();
        // As many lines as there can be: those that were not lost, and one for each request from here on.
        for _ in 0..1_000 {
            get(address, "/", "");
            told.clear();
            reader.read_line(&mut told).unwrap();
            if told.contains(" lost") {
                break;
            }
        }
        assert!(told.contains(" lost"), "{mixin}: nothing is said of what was lost");
        server.send_signal(libc::SIGTERM);
        drop(reader);
        assert_ends(&server.end(), 0);
    }
}

#[test]
fn wrong_use_is_told() {
    for args in [
        &["connect"][..],
        &["serve", "--header-timeout", "-1"],
        &["serve", "--header-timeout", "1e18"],
        &["serve", "--dir"],
        &[],
    ] {
        assert_ends(&WEB.run(args), 2);
    }
    let datagrams = WEB.run(&["serve", "--bind", "udp:127.0.0.1:0"]);
    assert_fails_in_one_line(&datagrams, 2, &["udp:127.0.0.1:0"]);
    for dir in ["/no/such/folder", "/etc/passwd"] {
        let ended = WEB.run(&["serve", "--bind", "127.0.0.1:0", "--dir", dir]);
        assert_fails_in_one_line(&ended, 1, &[dir, "--dir"]);
    }
}

#[test]
fn who_is_beyond_this_machine_is_told_what_can_be_read() {
    for (options, says) in
        [(&[][..], "greeted"), (&["--dir", "/proc/self"], "read all files in /proc/")]
    {
        let (server, _) = WEB.serve(&["0.0.0.0:0"], options);
        let said = server.err_line();
        assert!(said.contains("can be reached") && said.contains(says), "{said}");
    }
}

#[test]
fn a_server_whose_words_reach_nobody_serves() {
    let mut command = std::process::Command::new("sh");
    let script = "exec \"$0\" serve --bind 0.0.0.0:0 --log 2>/dev/full";
    command.args(["-c", script]).arg(WEB.path()).stdout(std::process::Stdio::piped());
    let server = Process::start(&mut command);
    let address: SocketAddr = listening(&server).parse().unwrap();
    assert_eq!(get(([127, 0, 0, 1], address.port()).into(), "/", "").status, 200);
    server.send_signal(libc::SIGTERM);
    assert_ends(&server.end(), 0);
}
