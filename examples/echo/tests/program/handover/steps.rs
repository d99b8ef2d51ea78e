//! Each step of a handover, with a successor that breaks the protocol, ends or is late.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use test_support::process::Process;
use test_support::program::{MIXINS, assert_ends, assert_fails_in_one_line};
use test_support::{SOON, connect, eventually, exchange, passed, read_to_end};

use super::line::{Client, Line};

/// The messages of the protocol, as `src/server/handover/message.rs` documents them.
const HELLO: [u8; 8] = *b"skho\x01\x01\0\0";
const SOCKETS: u8 = 2;
const RELEASE: u8 = 4;
const REFUSE: u8 = 5;

/// The message by which a successor is ready and takes the socket of this number.
fn ready(number: u8) -> Vec<u8> {
    [&b"skho\x01\x03\x08\0"[..], &[1, 0, 0, 0], &[1, 0], &[number, 0]].concat()
}

/// A server with one socket, and its address.
fn server(line: &Line) -> (Process, String) {
    let server = line.start(&["--handover-within", "0.3"]);
    let address = line.listening(&server).remove(0);
    (server, address)
}

/// Connects as a successor.
fn ask(line: &Line) -> UnixStream {
    let stream = UnixStream::connect(line.file("h")).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// The kind of the next message, and its payload.
fn message(stream: &mut UnixStream) -> (u8, Vec<u8>) {
    let (kind, payload, _) = message_and_sockets(stream);
    (kind, payload)
}

/// The kind of the next message, its payload, and the sockets that come with it.
fn message_and_sockets(stream: &mut UnixStream) -> (u8, Vec<u8>, Vec<OwnedFd>) {
    let mut header = [0; 8];
    let sockets = passed::receive(&mut *stream, &mut header);
    assert_eq!(header[..5], *b"skho\x01");
    let mut payload = vec![0; usize::from(u16::from_le_bytes([header[6], header[7]]))];
    stream.read_exact(&mut payload).unwrap();
    (header[5], payload, sockets)
}

/// Connects as a successor that has been passed the sockets and is not ready yet.
fn passed_sockets(line: &Line) -> (UnixStream, Vec<OwnedFd>) {
    let mut successor = ask(line);
    successor.write_all(&HELLO).unwrap();
    let (kind, _, sockets) = message_and_sockets(&mut successor);
    assert_eq!(kind, SOCKETS);
    (successor, sockets)
}

/// Fails unless the server says why there is no handover, and goes on, and the next attempt succeeds.
fn goes_on(line: &Line, first: Process, address: &str, why: &str) {
    let said = first.err_line();
    assert!(said.contains("no handover") && said.contains(why), "{said:?}, not {why:?}");
    assert!(said.ends_with("this server goes on"), "{said}");
    Client::of(address).asks("after");
    let second = line.start(&[]);
    assert_eq!(line.listening(&second), [address]);
    assert_ends(&first.end(), 0);
    Client::of(address).asks("after");
    line.stop();
}

#[test]
fn a_successor_that_says_something_else_is_told_so_and_the_server_goes_on() {
    let nonsense = "no message of a handover";
    for (bytes, why) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], nonsense),
        (&[0; 100], nonsense),
        (b"skho\x02\x01\0\0", "version 2"),
        (b"skho\x01\x09\0\0", "cannot be understood"),
        (b"skho\x01\x01\x01\0x", "cannot be understood"),
        // The last two come in the wrong order: the successor has not asked for anything yet.
        (&ready(0), "wrong order"),
        (b"skho\x01\x04\0\0", "wrong order"),
    ] {
        let line = Line::at(&["127.0.0.1:0"]);
        let (first, address) = server(&line);
        let mut successor = ask(&line);
        successor.write_all(bytes).unwrap();
        let (kind, reason) = message(&mut successor);
        assert_eq!(kind, REFUSE);
        assert!(String::from_utf8(reason).unwrap().contains(why), "{why}");
        goes_on(&line, first, &address, why);
    }
}

#[test]
fn a_successor_that_has_the_sockets_and_says_something_else_is_told_so() {
    for (bytes, why) in [
        (HELLO.to_vec(), "wrong order"),
        (ready(9), "was not passed"),
        (vec![7; 100_000], "no message"),
    ] {
        let line = Line::at(&["127.0.0.1:0"]);
        let (first, address) = server(&line);
        let (mut successor, _) = passed_sockets(&line);
        // The server may give up before it has read everything.
        let _ = successor.write_all(&bytes);
        drop(successor);
        goes_on(&line, first, &address, why);
    }
}

#[test]
fn a_successor_that_ends_at_any_step_leaves_the_server_as_it_was() {
    for sent in [&[][..], &HELLO[..3], &HELLO, &[&HELLO[..], &ready(0)[..5]].concat()] {
        let line = Line::at(&["127.0.0.1:0"]);
        let (first, address) = server(&line);
        let mut successor = ask(&line);
        successor.write_all(sent).unwrap();
        if sent.len() >= HELLO.len() {
            assert_eq!(message(&mut successor).0, SOCKETS);
        }
        drop(successor);
        goes_on(&line, first, &address, "ended before it was ready");
    }
}

#[test]
fn a_successor_that_is_late_is_not_waited_for() {
    let line = Line::at(&["127.0.0.1:0"]);
    let (first, address) = server(&line);
    let (mut successor, _) = passed_sockets(&line);
    // While the server waits for the successor, clients are served.
    Client::of(&address).asks("meanwhile");
    let (kind, reason) = message(&mut successor);
    assert_eq!(kind, REFUSE);
    assert!(String::from_utf8(reason).unwrap().contains("not ready within 0.3 s"));
    // The successor is ready too late.
    let _ = successor.write_all(&ready(0));
    goes_on(&line, first, &address, "not ready within 0.3 s");
}

#[test]
fn a_stop_in_the_middle_leaves_the_sockets_to_a_successor_that_others_have_started() {
    let line = Line::at(&["127.0.0.1:0"]);
    let (first, _) = server(&line);
    let (mut successor, sockets) = passed_sockets(&line);
    first.send_signal(libc::SIGTERM);
    assert_eq!(message(&mut successor).0, RELEASE);
    drop(successor);
    assert_ends(&first.end(), 0);
    assert!(line.file("h").exists(), "the file is the successor's");
    drop(sockets);
}

#[test]
fn a_stop_in_the_middle_removes_the_files_of_a_successor_that_has_ended_as_well() {
    let line = Line::at(&["unix:FOLDER/s"]);
    let (first, _) = server(&line);
    let (mut successor, sockets) = passed_sockets(&line);
    first.send_signal(libc::SIGTERM);
    // The first server has closed its sockets by now.
    assert_eq!(message(&mut successor).0, RELEASE);
    drop((successor, sockets));
    assert_ends(&first.end(), 0);
    assert!(!line.file("s").exists() && !line.file("h").exists());
}

#[test]
fn stopped_together_at_any_moment_two_servers_leave_no_file() {
    for (mixin, millis) in MIXINS.into_iter().cycle().zip((0..120).step_by(8)) {
        // A server that forks has one address.
        let count = if mixin == "forking" { 1 } else { 2 };
        let line = Line::at(&["unix:FOLDER/s", "unixgram:FOLDER/g"][..count]);
        let control = format!("unix:{}", line.file("c").display());
        let options = ["--mixin", mixin, "--control", &control];
        let first = line.start(&options);
        line.listening(&first);
        let second = (millis % 16 == 0).then(|| line.start(&options));
        if second.is_none() {
            first.send_signal(libc::SIGUSR2);
        }
        std::thread::sleep(Duration::from_millis(millis));
        first.send_signal(libc::SIGTERM);
        // A successor that had not begun to serve is killed by the signal, and may leave the files that it has bound
        // itself.
        let is_killed = second.is_some_and(|second| {
            second.send_signal(libc::SIGTERM);
            second.end().status.signal().is_some()
        });
        // A server that has handed over and is about to exit does not handle the signal any more, which may then kill
        // it.
        let ended = first.ended_before_its_output();
        let is_over = ended.status.signal() == Some(libc::SIGTERM);
        assert!(ended.status.success() || is_over, "{mixin}, {millis} ms: {ended:?}");
        line.stop();
        let files = ["s", "g", "h", "c"];
        let left: Vec<_> = files.iter().filter(|name| line.file(name).exists()).collect();
        assert!(left.is_empty() || is_killed, "{mixin}, {millis} ms: {left:?}");
    }
}

#[test]
fn one_successor_after_the_other_gets_its_turn() {
    let line = Line::at(&["127.0.0.1:0"]);
    let (first, address) = server(&line);
    let (_successor, _) = passed_sockets(&line);
    // The second successor has to wait: the first one may be ready in the next moment.
    let second = line.start(&[]);
    goes_past(&first, "not ready");
    assert_eq!(line.listening(&second), [&*address]);
    assert_ends(&first.end(), 0);
    Client::of(&address).asks("after");
    line.stop();
}

/// Fails unless the next line on stderr contains `why`.
fn goes_past(server: &Process, why: &str) {
    let said = server.err_line();
    assert!(said.contains(why), "{said}");
}

#[test]
fn of_successors_that_start_at_once_one_is_left() {
    let line = Line::at(&["127.0.0.1:0", "unix:FOLDER/s"]);
    let first = line.start(&[]);
    let addresses = line.listening(&first);
    let others: Vec<_> = (0..4).map(|_| line.start(&[])).collect();
    for other in &others {
        assert_eq!(line.listening(other), addresses);
    }
    eventually("one is left", || {
        first.has_ended() && others.iter().filter(|other| !other.has_ended()).count() == 1
    });
    for address in &addresses {
        Client::of(address).asks("after");
    }
    line.stop();
    assert!(!line.file("s").exists() && !line.file("h").exists());
}

#[test]
fn servers_that_start_at_once_where_there_is_none_become_a_line() {
    let line = Line::at(&["unix:FOLDER/s"]);
    let all: Vec<_> = (0..4).map(|_| line.start(&[])).collect();
    for server in &all {
        line.listening(server);
    }
    eventually("one is left", || all.iter().filter(|server| !server.has_ended()).count() == 1);
    Client::of(&format!("unix:{}", line.file("s").display())).asks("after");
    line.stop();
}

#[test]
fn killed_at_any_moment_a_server_leaves_its_address_to_the_next_one() {
    for millis in (0..40).step_by(4) {
        let line = Line::at(&["unix:FOLDER/s"]);
        let address = format!("unix:{}", line.file("s").display());
        let first = line.start(&[]);
        line.listening(&first);
        let second = line.start(&[]);
        std::thread::sleep(Duration::from_millis(millis));
        first.send_signal(libc::SIGKILL);
        line.listening(&second);
        Client::of(&address).asks("after");
        line.stop();
        assert!(!line.file("s").exists() && !line.file("h").exists(), "{millis}");
    }
}

#[test]
fn killed_at_any_moment_a_successor_leaves_the_service_to_others() {
    for millis in (0..40).step_by(4) {
        let line = Line::at(&["unix:FOLDER/s"]);
        let address = format!("unix:{}", line.file("s").display());
        let first = line.start(&[]);
        line.listening(&first);
        let second = line.start(&[]);
        std::thread::sleep(Duration::from_millis(millis));
        second.send_signal(libc::SIGKILL);
        eventually("it is dead", || second.has_ended());
        // If the second one was ready, the first one has ended, or ends; otherwise the first one hands over again.
        let third = line.start(&[]);
        line.listening(&third);
        Client::of(&address).asks("after");
        assert_ends(&first.end(), 0);
        line.stop();
        assert!(!line.file("s").exists() && !line.file("h").exists(), "{millis}");
    }
}

#[test]
fn files_of_a_killed_server_are_replaced() {
    let line = Line::at(&["unix:FOLDER/s", "unixgram:FOLDER/g"]);
    let first = line.start(&[]);
    let addresses = line.listening(&first);
    drop(first);
    assert!(line.file("h").exists() && line.file("s").exists());
    let second = line.start(&[]);
    assert_eq!(line.listening(&second), addresses);
    Client::of(&addresses[0]).asks("after");
    line.stop();
}

#[test]
fn a_child_of_a_killed_server_does_not_stand_at_the_path_in_its_place() {
    let line = Line::at(&["127.0.0.1:0"]);
    let options = ["--mixin", "forking", "--mode", "line"];
    let first = line.start(&options);
    let address = line.listening(&first).remove(0);
    let mut client = connect(address.parse().unwrap());
    client.write_all(b"half").unwrap();
    eventually("a child waits for the other half", || line.processes().len() == 2);
    let mut other = connect(address.parse().unwrap());
    // When this client is answered, the first child has done everything at its beginning.
    assert_eq!(exchange(&mut other, "hello"), "hello\n");
    first.send_signal(libc::SIGKILL);
    // The second server does not wait for an answer of a predecessor: nobody is at the path.
    let second = line.start(&options);
    line.listening(&second);
    client.write_all(b" and half\n").unwrap();
    assert_eq!(read_to_end(&mut client), b"half and half\n");
    line.stop();
}

#[test]
fn a_socket_that_is_not_taken_closes_also_if_the_predecessor_is_killed_in_the_middle() {
    let line = Line::at(&["127.0.0.1:0"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let path = UnixListener::bind(line.file("h")).unwrap();
    let successor = line.start(&[]);
    let (mut server, _) = path.accept().unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    server.read_exact(&mut [0; HELLO.len()]).unwrap();
    drop(path);
    let text = address.to_string();
    let inet = [&[b'i', text.len() as u8, 0], text.as_bytes()].concat();
    let payload = [&[0, 1, 0, 1, 0][..], &[0; 16], &inet, &inet, b"n\0\0"].concat();
    let message = [&b"skho\x01\x02"[..], &[payload.len() as u8, 0], &payload].concat();
    passed::send(&server, &message, &[listener.as_fd()]);
    drop((server, listener));
    line.listening(&successor);
    eventually("nobody has it", || TcpStream::connect(address).is_err());
    line.stop();
}

#[test]
fn something_else_at_the_path_is_left_alone() {
    let line = Line::at(&["127.0.0.1:0"]);
    std::fs::write(line.file("h"), "precious").unwrap();
    let began = Instant::now();
    let failed = line.start(&[]).end();
    // This fails at once: only a path that another server is about to free is tried for five seconds.
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_fails_in_one_line(
        &failed,
        1,
        &["--handover", "/h: ", "no socket", "choose another path"],
    );
    assert!(!failed.err.contains("--bind"), "{}", failed.err);
    assert_eq!(std::fs::read(line.file("h")).unwrap(), b"precious");
}
