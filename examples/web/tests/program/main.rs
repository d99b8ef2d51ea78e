//! The web program: its protocol as any client sees it, and what all groups of its tests share.

mod attacks;
mod browser;
mod clients;
mod codec;
mod connections;
mod files;
mod health;
mod log;
mod requests;
mod status;
mod tls;

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

/// Starts a web server on TCP, and returns its address as well.
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

/// A client's connection, whose answers are read one by one.
struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        Self { reader: BufReader::new(connect(address)) }
    }

    /// Connects from an address that no other client has.
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

    /// Fails unless the server closes the connection, and has sent nothing after the last answer.
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

/// Makes one request over a connection of its own.
fn get(address: SocketAddr, target: &str, headers: &str) -> Answer {
    Client::new(address).get(target, headers)
}

/// Fails unless the request is answered with this status, and nothing comes after this answer.
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

fn get_raw(address: SocketAddr, request: &str) -> Answer {
    Client::new(address).ask(request)
}

const HELLO: &[u8] = b"Hello, World";
const GET: &str = "GET / HTTP/1.1\r\nHost: here\r\n\r\n";

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
    let unclear = WEB.run(&["serve", "--bind", "nonsense"]);
    assert_ends(&unclear, 2);
    assert!(unclear.err.contains("write HOST:PORT or unix:PATH\n"), "{unclear:?}");
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
