//! Servers that hand their sockets on: what an operator does, and what is in the way.

mod activated;
pub(crate) mod line;
mod lost;
mod programs;
mod steps;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use test_support::process::Process;
use test_support::program::{MIXINS, assert_ends, listening};
use test_support::{connect, eventually, exchange, read_to_end, receive_text};

use crate::ECHO;
use line::{Client, Line};

/// The addresses of every kind, with the paths in a folder of the line's own.
const ALL: [&str; 4] = ["127.0.0.1:0", "udp:127.0.0.1:0", "unix:FOLDER/s", "unixgram:FOLDER/g"];

#[test]
fn the_next_process_takes_over_every_socket_and_the_one_before_ends_by_itself() {
    let line = Line::at(&ALL);
    let first = line.start(&[]);
    let addresses = line.listening(&first);
    let mut clients: Vec<_> = addresses.iter().map(|address| Client::of(address)).collect();
    clients.iter_mut().for_each(|client| client.asks("before"));
    let second = line.start(&[]);
    assert_eq!(line.listening(&second), addresses, "the port that was chosen is kept");
    drop(clients);
    assert_ends(&first.end(), 0);
    for address in &addresses {
        Client::of(address).asks("after");
    }
    assert!(line.file("s").exists() && line.file("g").exists() && line.file("h").exists());
    second.send_signal(libc::SIGTERM);
    assert_ends(&second.end(), 0);
    assert!(!line.file("s").exists() && !line.file("g").exists() && !line.file("h").exists());
}

#[test]
fn a_signal_starts_the_next_process() {
    let line = Line::at(&ALL);
    let first = line.start(&[]);
    let addresses = line.listening(&first);
    first.send_signal(libc::SIGUSR2);
    // The successor prints to the stdout of the first one.
    assert_eq!(line.listening(&first), addresses);
    // The first process ends before its stdout does, because the successor has the same stdout.
    assert_ends(&first.ended_before_its_output(), 0);
    let successor = line.processes();
    assert_eq!(successor.len(), 1, "{successor:?}");
    for address in &addresses {
        Client::of(address).asks("after");
    }
    line.stop();
    assert!(!line.file("s").exists() && !line.file("h").exists());
}

/// The successor is started while the workers have threads, epoll sets and connections, and inherits none of them.
#[test]
fn a_signal_starts_the_next_process_while_coroutines_wait() {
    if !MIXINS.contains(&"green") {
        return;
    }
    let line = Line::at(&["127.0.0.1:0"]);
    let first = line.start(&["--mixin", "green", "--workers", "2", "--mode", "line"]);
    let addresses = line.listening(&first);
    let address: SocketAddr = addresses[0].parse().unwrap();
    let mut idle: Vec<_> = (0..20).map(|_| connect(address)).collect();
    let mut halfway: Vec<_> = (0..20).map(|_| connect(address)).collect();
    for client in &mut halfway {
        client.write_all(b"half").unwrap();
    }
    // Connections are accepted in their order: when this one is answered, all others have a coroutine.
    assert_eq!(exchange(&mut connect(address), "before"), "before\n");
    first.send_signal(libc::SIGUSR2);
    assert_eq!(line.listening(&first), addresses);
    // If the successor had these connections as well, they would not end.
    for client in &mut idle {
        assert!(read_to_end(client).is_empty());
    }
    for client in &mut halfway {
        client.write_all(b" and half\n").unwrap();
        assert_eq!(read_to_end(client), b"half and half\n");
    }
    assert_ends(&first.ended_before_its_output(), 0);
    let mut clients: Vec<_> = (0..20).map(|_| connect(address)).collect();
    for client in &mut clients {
        assert_eq!(exchange(client, "after"), "after\n");
    }
    line.stop();
}

#[test]
fn addresses_that_the_next_process_does_not_have_end_and_new_ones_begin() {
    let line = Line::at(&["127.0.0.1:0"]);
    let first = Process::start(
        line.command(&[])
            .args(["--bind", "127.0.0.1:0", "--bind"])
            .arg(format!("unix:{}", line.file("old").display())),
    );
    let (kept, dropped) = (listening(&first), listening(&first));
    listening(&first);
    let new = format!("unix:{}", line.file("new").display());
    let mut command = ECHO.command(&["serve", "--bind", &new, "--bind", &kept, "--handover"]);
    let second = Process::start(command.arg(line.file("h")));
    assert_eq!((listening(&second), listening(&second)), (new.clone(), kept.clone()));
    let warning = second.err_line();
    for address in [&dropped, line.file("old").to_str().unwrap()] {
        let says = "not served any more after the handover: ";
        assert!(warning.contains(says) && warning.contains(address), "{warning}");
    }
    assert_ends(&first.end(), 0);
    assert!(TcpStream::connect(&dropped).is_err() && !line.file("old").exists());
    Client::of(&new).asks("new");
    Client::of(&kept).asks("kept");
    line.stop();
}

#[test]
fn a_program_that_serves_none_of_its_addresses_takes_no_server_s_place() {
    for mixin in MIXINS {
        let line = Line::at(&["127.0.0.1:0"]);
        let first = line.start(&["--mixin", mixin]);
        let address = line.listening(&first).remove(0);
        // The operator's mistake is an address of the program's own with the handover path of another server.
        let new = format!("unix:{}", line.file("new").display());
        let mut command = ECHO.command(&["serve", "--mixin", mixin, "--bind", &new, "--handover"]);
        let output = Process::start(command.arg(line.file("h"))).end();
        let why = output.err;
        assert!(!output.status.success() && why.contains(&address), "{mixin}: {why}");
        assert!(why.contains("another path for its handover"), "{mixin}: {why}");
        Client::of(&address).asks("still here");
        assert!(!line.file("new").exists(), "{mixin}");
        line.stop();
    }
}

#[test]
fn the_control_socket_is_handed_over_under_every_mixin() {
    for mixin in MIXINS {
        let line = Line::at(&["127.0.0.1:0"]);
        let path = format!("unix:{}", line.file("c").display());
        let options = ["--control", &path, "--mixin", mixin];
        let first = line.start(&options);
        let address = line.listening(&first).remove(0);
        let second = line.start(&options);
        assert_eq!(line.listening(&second), [&*address]);
        assert_ends(&first.end(), 0);
        let asked = ECHO.run(&["control", &path, "live"]);
        assert!(asked.status.success(), "{mixin}: {asked:?}");
        line.stop();
        assert!(!line.file("c").exists(), "{mixin}");
    }
}

#[test]
fn a_request_in_progress_ends_where_it_began() {
    let line = Line::at(&["127.0.0.1:0"]);
    let first = line.start(&["--mode", "line"]);
    let address: SocketAddr = line.listening(&first)[0].parse().unwrap();
    let mut client = connect(address);
    client.write_all(b"half").unwrap();
    // When this client is answered, the first client has been accepted, and its bytes are there.
    assert_eq!(exchange(&mut connect(address), "hello"), "hello\n");
    let second = line.start(&["--mode", "echo"]);
    line.listening(&second);
    // The second server is recognised by its mode: it answers without a newline.
    eventually("the second one answers", || {
        let mut client = connect(address);
        client.write_all(b"x").unwrap();
        client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        client.read(&mut [0]).is_ok_and(|count| count == 1)
    });
    client.write_all(b" and half\n").unwrap();
    assert_eq!(read_to_end(&mut client), b"half and half\n");
    assert_ends(&first.end(), 0);
}

#[test]
fn a_service_manager_is_told_which_process_is_the_main_one() {
    let line = Line::at(&["127.0.0.1:0"]);
    let manager = UnixDatagram::bind(line.file("notify")).unwrap();
    manager.set_read_timeout(Some(test_support::SOON)).unwrap();
    let start = || Process::start(line.command(&[]).env("NOTIFY_SOCKET", line.file("notify")));
    let first = start();
    line.listening(&first);
    let second = start();
    line.listening(&second);
    let told = format!("MAINPID={}", second.id());
    // Other messages may come first.
    while !receive_text(&manager).lines().any(|line| line == told) {}
    assert_ends(&first.end(), 0);
    // With `NotifyAccess=all` the end of the first one would be taken for the end of both.
    manager.set_nonblocking(true).unwrap();
    let mut word = [0; 1_024];
    while let Ok(count) = manager.recv(&mut word) {
        let word = String::from_utf8_lossy(&word[..count]);
        assert!(!word.contains("STOPPING=1"), "{word}");
    }
    line.stop();
}
