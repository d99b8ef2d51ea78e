//! The small examples, run as processes, as a user runs them.

#[path = "examples/relay.rs"]
mod relay;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use test_support::process::{Ended, Process};
use test_support::program::{
    Program, assert_ends, assert_fails_in_one_line, built, connect_from, listening,
};
use test_support::{SOON, connect, exchange, folder, read_line, read_to_end, system};

const ADDRESS: &str = "127.0.0.1:0";

/// The executable of an example. `cargo test` builds the examples beside the tests: target/PROFILE/examples/NAME, as this
/// binary is target/PROFILE/deps/examples-HASH. `cargo test --test examples` does not build them.
fn example(name: &str) -> PathBuf {
    system::undo_ignored_signals();
    built(&Path::new("examples").join(name), "cargo build --examples")
}

/// A server, and the address that it prints.
struct Server {
    process: Process,
    address: String,
}

impl Server {
    fn start(name: &str, args: &[&str]) -> Self {
        let path = example(name);
        let process = Process::start(&mut Program(path.to_str().unwrap()).command(args));
        let address = listening(&process);
        Self { process, address }
    }

    fn inet(&self) -> SocketAddr {
        self.address.parse().unwrap()
    }

    fn connect(&self) -> TcpStream {
        connect(self.inet())
    }

    /// Connects from 127.0.0.2. All of 127.0.0.0/8 is this machine, on Linux.
    fn connect_from_2(&self) -> TcpStream {
        connect_from([127, 0, 0, 2], self.inet())
    }

    /// Stops it as a service manager does.
    fn stop(self) -> Ended {
        self.process.send_signal(libc::SIGTERM);
        let ended = self.process.end();
        assert_ends(&ended, 0);
        ended
    }
}

/// Sends a line and reads what comes up to the end.
fn last_exchange(stream: &mut TcpStream, line: &str) -> String {
    stream.write_all(line.as_bytes()).unwrap();
    String::from_utf8(read_to_end(stream)).unwrap()
}

#[test]
fn each_is_short_says_how_to_try_it_and_is_tested() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let list = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        count += 1;
        let name = path.file_stem().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        // The relay may be longer, because it parses a protocol.
        let most = if name == "relay" { 100 } else { 40 };
        assert!(text.lines().count() <= most, "{name} has {} lines", text.lines().count());
        let comment = text.lines().take_while(|line| line.starts_with("//!"));
        let comment = comment.collect::<Vec<_>>().join("\n");
        assert!(comment.contains("Try it") && comment.contains("`nc "), "{name}: {comment}");
        assert!(list.contains(&format!("]({name}.rs)")), "{name} is not in examples/README.md");
        let started = format!("Server::start(\"{name}\"");
        let tests = [include_str!("examples.rs"), include_str!("examples/relay.rs")];
        assert!(tests.iter().any(|tests| tests.contains(&started)), "{name} has no test");
    }
    assert!(count >= 13, "{count} examples");
}

#[test]
fn hello_sends_each_line_back() {
    let server = Server::start("hello", &[ADDRESS]);
    let (mut first, mut second) = (server.connect(), server.connect());
    assert_eq!(exchange(&mut second, "a thread each"), "a thread each\n");
    assert_eq!(exchange(&mut first, "hello"), "hello\n");
    assert_eq!(exchange(&mut first, "again"), "again\n");
    server.stop();
}

#[test]
fn datagram_answers_in_capitals() {
    let server = Server::start("datagram", &[ADDRESS]);
    let client = UdpSocket::bind(ADDRESS).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.connect(server.inet()).unwrap();
    client.send("grüß dich".as_bytes()).unwrap();
    let mut answer = [0; 100];
    let count = client.recv(&mut answer).unwrap();
    assert_eq!(&answer[..count], "GRÜSS DICH".as_bytes());
    server.stop();
}

#[test]
fn shared_state_counts_visitors() {
    let server = Server::start("shared_state", &[ADDRESS]);
    for number in 1..=3 {
        let greeting = String::from_utf8(read_to_end(&mut server.connect())).unwrap();
        assert_eq!(greeting, format!("you are visitor {number}\n"));
    }
    server.stop();
}

#[test]
fn function_adds() {
    let server = Server::start("function", &[ADDRESS]);
    let mut client = server.connect();
    assert_eq!(exchange(&mut client, "1.5 2 -4"), "-0.5\n");
    assert_eq!(exchange(&mut client, "one"), "not a number: invalid float literal\n");
    assert_eq!(exchange(&mut client, "3 4"), "7\n");
    server.stop();
}

#[test]
fn control_lists_ends_limits_and_stops() {
    let folder = folder();
    let path = folder.path().join("c");
    let server = Server::start("control", &[ADDRESS, path.to_str().unwrap()]);
    let mut client = server.connect();
    assert_eq!(exchange(&mut client, "hello"), "hello\n");
    let mut operator = UnixStream::connect(&path).unwrap();
    operator.set_read_timeout(Some(SOON)).unwrap();
    let live = exchange(&mut operator, "live");
    assert!(live.contains(": request 1, ") && live.ends_with(" bytes out\n"), "{live}");
    assert_eq!(exchange(&mut operator, "close 99"), "closed: false\n");
    assert_eq!(exchange(&mut operator, "close 1"), "closed: true\n");
    assert_eq!(read_to_end(&mut client), b"");
    assert_eq!(exchange(&mut operator, "limit idle 5m"), "changed\n");
    let error = exchange(&mut operator, "limit idle soon");
    assert!(error.contains("the limit idle cannot be \"soon\""), "{error}");
    assert_eq!(exchange(&mut operator, "limits"), "live 10000\n");
    let rest = (0..).map(|_| read_line(&mut operator)).find(|line| line.starts_with("idle"));
    assert_eq!(rest.unwrap(), "idle 300s\n");
    operator.write_all(b"drain\n").unwrap();
    let ended = server.process.end();
    assert_ends(&ended, 0);
    assert!(!path.exists());
}

#[test]
fn unix_socket_knows_its_client_and_removes_its_file() {
    let folder = folder();
    let path = folder.path().join("s");
    let server = Server::start("unix_socket", &[path.to_str().unwrap()]);
    assert_eq!(server.address, path.to_str().unwrap());
    let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    let me = rustix::process::geteuid().as_raw();
    assert_eq!(read_to_end(&mut client), format!("you are user {me}\n").into_bytes());
    server.stop();
    assert!(!path.exists());
}

#[test]
fn busy_answers_the_third_client_and_serves_it_later() {
    let server = Server::start("busy", &[ADDRESS]);
    let (mut first, mut second) = (server.connect(), server.connect());
    assert_eq!(exchange(&mut first, "hello"), "hello\n");
    assert_eq!(exchange(&mut second, "hello"), "hello\n");
    let busy = String::from_utf8(read_to_end(&mut server.connect())).unwrap();
    assert_eq!(busy, "the server is busy; please come again in a minute\n");
    drop(first);
    test_support::eventually("the thread is free again", || {
        let mut third = server.connect();
        third.write_all(b"hello\n").is_ok() && {
            let mut answer = [0; 6];
            third.read_exact(&mut answer).is_ok() && &answer == b"hello\n"
        }
    });
    let ended = server.stop();
    assert!(ended.err.contains("ended: it was refused"), "{ended:?}");
}

#[test]
fn hooks_turn_away_tick_and_report_in_their_own_words() {
    let server = Server::start("hooks", &[ADDRESS]);
    assert_eq!(read_to_end(&mut server.connect_from_2()), b"");
    let mut client = server.connect();
    let peer = client.local_addr().unwrap();
    assert_eq!(last_exchange(&mut client, "fly\n"), "");
    // The last request's own tick is the first one after its end; the next one comes by itself.
    let mut told = String::new();
    let mut ticks_after_the_end = 0;
    while ticks_after_the_end < 3 {
        let line = server.process.err_line();
        if told.contains("its handler failed") && line == "tick" {
            ticks_after_the_end += 1;
        }
        told += &format!("{line}\n");
    }
    let address = server.address.clone();
    told += &server.stop().err;
    for words in [
        "from 127.0.0.2:",
        "ended: it was rejected",
        "ended: its handler failed",
        &format!("Handler failed in handle for {peer}: it cannot be done: fly\n"),
        &format!("stopping at {address}"),
        &format!("{address}: closed after"),
    ] {
        assert!(told.contains(words), "{words:?} is not in {told}");
    }
}

#[test]
fn drain_reports_who_did_not_end() {
    let server = Server::start("drain", &[ADDRESS]);
    let (mut silent, mut works, mut hangs) = (server.connect(), server.connect(), server.connect());
    assert_eq!(exchange(&mut works, "work"), "begun\n");
    assert_eq!(exchange(&mut hangs, "hang"), "begun\n");
    let ended = server.stop();
    assert_eq!(read_line(&mut works), "the server is stopping; the work so far is kept\n");
    assert_eq!((read_to_end(&mut silent), read_to_end(&mut works)), (vec![], vec![]));
    assert!(ended.out.contains("3 requests were open"), "{ended:?}");
    assert!(ended.out.contains("1 did not end within 2.0 s"), "{ended:?}");
    assert!(ended.out.contains(&hangs.local_addr().unwrap().to_string()), "{ended:?}");
}

#[test]
fn outbox_sends_what_one_types_to_the_others() {
    let server = Server::start("outbox", &[ADDRESS]);
    let mut members = [server.connect(), server.connect(), server.connect()];
    // A member is in the room once a line of another member reaches it; nothing else shows that.
    let (first, others) = members.split_first_mut().unwrap();
    for other in others {
        let said = format!("{}: hello\n", first.local_addr().unwrap());
        other.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
        let mut answer = vec![0; said.len()];
        while other.read_exact(&mut answer).is_err() {
            first.write_all(b"hello\n").unwrap();
        }
        assert_eq!(String::from_utf8(answer).unwrap(), said);
    }
    server.stop();
}

#[test]
fn own_mixin_keeps_a_lane_free() {
    let server = Server::start("own_mixin", &[ADDRESS]);
    let mut first = server.connect();
    assert_eq!(exchange(&mut first, "hello"), "common-1: hello\n");
    assert_eq!(read_to_end(&mut server.connect()), b"");
    let mut reserved = server.connect_from_2();
    assert_eq!(exchange(&mut reserved, "hello"), "reserved-1: hello\n");
    assert_eq!(exchange(&mut first, "still here"), "common-1: still here\n");
    server.process.send_signal(libc::SIGTERM);
    assert_eq!((read_to_end(&mut first), read_to_end(&mut reserved)), (vec![], vec![]));
    let ended = server.process.end();
    assert_ends(&ended, 0);
    let report = "2 requests were open; 2 were ended between two requests";
    assert!(ended.err.contains(report), "{ended:?}");
}

#[test]
fn every_mixin_serves_with_the_same_handler() {
    for (mixin, same_process, thread) in [
        ("inline", true, "main"),
        ("threading", true, "where_am_i"),
        ("pool", true, "where_am_i"),
        ("forking", false, "main"),
        ("green", true, "green-"),
    ] {
        let server = Server::start("every_mixin", &[mixin, ADDRESS]);
        let answer = exchange(&mut server.connect(), "hello");
        let server_itself = format!("process {},", server.process.id());
        assert_eq!(answer.starts_with(&server_itself), same_process, "{mixin}: {answer}");
        assert!(answer.contains(thread) && answer.ends_with(": hello\n"), "{mixin}: {answer}");
        server.stop();
    }
}

#[test]
fn an_address_that_is_taken_is_said_in_one_line() {
    let taken = std::net::TcpListener::bind(ADDRESS).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for name in ["hello", "hooks", "own_mixin"] {
        let path = example(name);
        let ended = Program(path.to_str().unwrap()).run(&[&address]);
        assert_fails_in_one_line(&ended, 1, &["Error: ", &address]);
    }
}

#[test]
fn handover_gives_its_port_to_the_next_process() {
    let folder = folder();
    let path = folder.path().join("h");
    let args = [ADDRESS, path.to_str().unwrap()];
    let first = Server::start("handover", &args);
    let answer = |server: &Server| read_line(&mut server.connect());
    assert_eq!(answer(&first), format!("process {}\n", first.process.id()));
    let second = Server::start("handover", &args);
    assert_eq!(second.address, first.address);
    let ended = first.process.end();
    assert_ends(&ended, 0);
    assert!(ended.out.contains("nothing was open"), "{ended:?}");
    assert_eq!(answer(&second), format!("process {}\n", second.process.id()));
    second.process.send_signal(libc::SIGTERM);
    assert_ends(&second.process.end(), 0);
    assert!(!path.exists());
}
