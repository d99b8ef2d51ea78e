//! The echo program. As the smallest program it also shows what all of them share.

mod activation;
mod control;
mod few_descriptors;
mod foreign_control;
mod handover;
mod haproxy;
mod named_files;
mod proxied;
mod stops;
mod tls;
mod unread;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use test_support::process::Process;
use test_support::program::*;
use test_support::promises::{self, SpeaksFirst, every_transport_under};
use test_support::{connect, eventually, exchange, folder, read_line, read_to_end};

const ECHO: Program<'_> = Program(env!("CARGO_BIN_EXE_echo"));

/// Starts an echo server on TCP, and returns its address as well.
fn echo(options: &[&str]) -> (Process, SocketAddr) {
    let (server, addresses) = ECHO.serve(&["127.0.0.1:0"], options);
    (server, addresses[0].parse().unwrap())
}

fn echoes(out: &str) {
    assert_eq!(out, "hello\nworld\n");
}

#[test]
fn echo_serves_every_transport_inline() {
    every_transport_under(ECHO, "inline", "hello\nworld\n", echoes);
}

#[test]
fn echo_serves_every_transport_in_threads() {
    every_transport_under(ECHO, "threading", "hello\nworld\n", echoes);
}

#[test]
fn echo_serves_every_transport_in_a_pool() {
    every_transport_under(ECHO, "pool", "hello\nworld\n", echoes);
}

#[test]
fn echo_serves_every_transport_in_processes() {
    every_transport_under(ECHO, "forking", "hello\nworld\n", echoes);
}

#[test]
fn a_forking_server_has_one_address() {
    let args = ["serve", "--mixin", "forking", "--bind", "127.0.0.1:0", "--bind", "[::1]:0"];
    assert_fails_in_one_line(&ECHO.run(&args), 2, &["one --bind"]);
}

#[test]
fn echo_sends_every_byte_back_as_it_comes() {
    let (_server, address) = echo(&[]);
    let mut client = connect(address);
    // The server waits for no newline, and the bytes need not be text.
    for bytes in [&b"a"[..], &[0, 255, 13], b"b\nc"] {
        client.write_all(bytes).unwrap();
        let mut back = vec![0; bytes.len()];
        client.read_exact(&mut back).unwrap();
        assert_eq!(back, bytes);
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), b"");
}

#[test]
fn echo_in_line_mode_answers_one_line_and_closes() {
    let (_server, address) = echo(&["--mode", "line"]);
    let mut client = connect(address);
    client.write_all(b"one\n").unwrap();
    assert_eq!(read_to_end(&mut client), b"one\n");
}

#[test]
fn echo_in_sink_mode_answers_the_count_at_the_end() {
    let (_server, address) = echo(&["--mode", "sink"]);
    let mut client = connect(address);
    client.write_all(&vec![7; 1_000_000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), b"1000000\n");
}

#[test]
fn echo_in_chat_mode_sends_a_line_to_all_the_others() {
    for mixin in ["threading", "pool"] {
        let (_server, address) = echo(&["--mode", "chat", "--mixin", mixin]);
        let mut members: Vec<TcpStream> = (0..3).map(|_| connect(address)).collect();
        // The first member speaks until all the others have received a line, which shows that they have joined.
        for number in 1..members.len() {
            wait_until_heard(&mut members, 0, number);
        }
        let [one, two, three] = &mut members[..] else { unreachable!() };
        two.write_all(b"from two\n").unwrap();
        assert_eq!(next_news(one), "from two\n");
        assert_eq!(next_news(three), "from two\n");
        // A speaker does not receive its own lines, so the next line is another member's.
        three.write_all(b"from three\n").unwrap();
        assert_eq!(next_news(two), "from three\n");
        // A member that leaves does not disturb the others.
        three.shutdown(Shutdown::Both).unwrap();
        one.write_all(b"still here\n").unwrap();
        assert_eq!(next_news(two), "still here\n");
    }
}

#[test]
fn a_room_has_members_at_all_of_its_addresses() {
    let addresses = ["127.0.0.1:0", "127.0.0.1:0"];
    let (_server, listening) = ECHO.serve(&addresses, &["--mode", "chat"]);
    // Each is the first client of its server, so their requests have the same number.
    let mut members: Vec<TcpStream> =
        listening.iter().map(|address| connect(address.parse().unwrap())).collect();
    wait_until_heard(&mut members, 0, 1);
    wait_until_heard(&mut members, 1, 0);
}

/// `speaker` speaks until `listener` has heard it.
fn wait_until_heard(members: &mut [TcpStream], speaker: usize, listener: usize) {
    members[listener].set_nonblocking(true).unwrap();
    let members = &*members;
    eventually("a member joins", || {
        (&members[speaker]).write_all(b"?\n").unwrap();
        matches!((&members[listener]).read(&mut [0; 2]), Ok(2))
    });
    members[listener].set_nonblocking(false).unwrap();
}

/// Reads the next line that is not a `?` of [`wait_until_heard`].
fn next_news(member: &mut TcpStream) -> String {
    loop {
        let line = read_line(member);
        if line != "?\n" {
            return line;
        }
    }
}

#[test]
fn chat_is_refused_where_only_one_can_be_served() {
    for mixin in ["inline", "forking"] {
        let args = ["serve", "--bind", "127.0.0.1:0", "--mode", "chat", "--mixin", mixin];
        assert_fails_in_one_line(&ECHO.run(&args), 2, &["--mixin threading"]);
    }
}

#[test]
fn a_closed_stdin_and_a_closed_stdout_do_not_end_the_server() {
    let folder = folder();
    let path = folder.path().join("s");
    let address = format!("unix:{}", path.display());
    let shell = |closed: &str| {
        let mut command = Command::new("sh");
        // With `exec` the process is the server and not the shell.
        command.args(["-c", &format!("exec \"$@\" {closed}"), "sh"]).arg(ECHO.path());
        command.args(["serve", "--bind", &address]).stdout(Stdio::piped());
        command
    };
    let mut pipe_without_reader = ECHO.command(&["serve", "--bind", &address]);
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(ours);
    pipe_without_reader.stdout(Stdio::from(std::os::fd::OwnedFd::from(theirs)));
    for mut command in [shell("<&-"), shell(">&-"), shell("<&- >&- 2>&-"), pipe_without_reader] {
        let server = Process::start(&mut command);
        eventually("the server listens", || UnixStream::connect(&path).is_ok());
        for text in ["one", "two"] {
            let mut client = UnixStream::connect(&path).unwrap();
            client.set_read_timeout(Some(test_support::SOON)).unwrap();
            assert_eq!(exchange(&mut client, text), format!("{text}\n"));
        }
        server.send_signal(libc::SIGTERM);
        assert_ends(&server.end(), 0);
        assert!(!path.exists());
    }
}

#[test]
fn a_used_port_is_told_with_what_to_do() {
    let (_server, address) = echo(&[]);
    let second = ECHO.run(&["serve", "--bind", &address.to_string()]);
    assert_fails_in_one_line(&second, 1, &[&address.to_string(), "choose another --bind"]);
    // If one of several addresses fails, those that were bound before it are released.
    let folder = folder();
    let path = folder.path().join("s");
    let unix = format!("unix:{}", path.display());
    let second = ECHO.run(&["serve", "--bind", &unix, "--bind", &address.to_string()]);
    assert_fails_in_one_line(&second, 1, &["choose another --bind"]);
    assert!(!path.exists());
}

#[test]
fn what_is_wrong_with_an_address_is_said() {
    for (address, says) in [
        (":9000", "name a host; 0.0.0.0 means all of IPv4"),
        ("127.0.0.1:99999", "the port is a number from 0 to 65535"),
        ("@x", "unix:@x"),
        ("nonsense", "write HOST:PORT, udp:HOST:PORT, unix:PATH or unixgram:PATH"),
        ("unix:127.0.0.1:9000", "./127.0.0.1:9000"),
    ] {
        let ended = ECHO.run(&["serve", "--bind", address]);
        assert_ends(&ended, 2);
        assert!(ended.err.contains(says), "{ended:?}");
    }
}

#[test]
fn a_file_in_the_place_of_a_socket_is_not_taken_for_a_server() {
    let folder = folder();
    let path = folder.path().join("file");
    std::fs::write(&path, "precious").unwrap();
    let ended = ECHO.run(&["serve", "--bind", &format!("unix:{}", path.display())]);
    assert_fails_in_one_line(&ended, 1, &["is no socket", "choose another --bind"]);
    assert!(!ended.err.contains("another server"), "{ended:?}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn wrong_use_ends_with_2() {
    promises::wrong_use_ends_with_2(ECHO);
}

#[test]
fn times_are_written_as_the_limits_of_the_library() {
    for grace in ["1e300", "inf", "1.9e19", "99999999999999999999", "-inf", "NaN", "-1", "5 s", ""]
    {
        let ended = ECHO.run(&["serve", "--bind", "127.0.0.1:0", &format!("--grace={grace}")]);
        assert_ends(&ended, 2);
        assert!(ended.err.contains("write a time: seconds (60, 0.5), or with a unit"), "{ended:?}");
    }
    for grace in ["0.5", "500ms", "90s", "5m", "2h", "none"] {
        let (server, _) = ECHO.serve(&["127.0.0.1:0"], &["--grace", grace]);
        server.send_signal(libc::SIGTERM);
        assert_ends(&server.end(), 0);
    }
}

#[test]
fn a_mixin_that_is_not_there_is_refused_with_the_list_of_those_that_are() {
    let ended = ECHO.run(&["serve", "--bind", "127.0.0.1:0", "--mixin", "prefork"]);
    assert_ends(&ended, 2);
    let all =
        format!("'prefork' for '--mixin <MIXIN>'\n  [possible values: {}]", MIXINS.join(", "));
    assert!(ended.err.contains(&all), "{ended:?}");
}

#[test]
fn workers_are_for_the_mixins_that_have_some() {
    for mixin in ["inline", "threading", "forking"] {
        let args = ["serve", "--bind", "127.0.0.1:0", "--mixin", mixin, "--workers", "2"];
        assert_fails_in_one_line(&ECHO.run(&args), 2, &["--workers", "green", mixin]);
    }
    let too_many = ["serve", "--bind", "127.0.0.1:0", "--mixin", "pool", "--workers", "70000"];
    assert_fails_in_one_line(&ECHO.run(&too_many), 1, &["70000", "65,536"]);
    let (_server, address) = echo(&["--mixin", "pool", "--workers", "1"]);
    let mut first = connect(address);
    assert_eq!(exchange(&mut first, "first"), "first\n");
    let mut second = connect(address);
    second.write_all(b"second\n").unwrap();
    drop(first);
    assert_eq!(read_line(&mut second), "second\n");
}

#[test]
fn a_datagram_address_is_refused_by_modes_that_need_a_stream() {
    let args = ["serve", "--bind", "udp:127.0.0.1:0", "--mode", "sink"];
    assert_fails_in_one_line(&ECHO.run(&args), 2, &["udp:127.0.0.1:0"]);
}

#[test]
fn connecting_to_nobody_says_so_in_one_line() {
    promises::connecting_to_nobody_says_so_in_one_line(ECHO);
}

#[test]
fn the_readme_names_every_option() {
    promises::the_readme_names_every_option(
        ECHO,
        &["serve", "connect"],
        include_str!("../../README.md"),
    );
}

#[test]
fn the_help_says_where_this_program_listens() {
    promises::the_help_says_where_it_listens(ECHO, "127.0.0.1:9999", true);
}

#[test]
fn a_client_whose_reader_has_had_enough_ends_without_a_word() {
    for address in ["tcp:127.0.0.1:0", "udp:127.0.0.1:0"] {
        promises::a_client_whose_reader_has_had_enough_ends_without_a_word(ECHO, address);
    }
}

#[test]
fn a_client_that_cannot_write_says_so_and_does_not_blame_the_connection() {
    for address in ["tcp:127.0.0.1:0", "udp:127.0.0.1:0"] {
        promises::a_client_that_cannot_write_says_so_and_does_not_blame_the_connection(
            ECHO, address,
        );
    }
}

#[test]
fn a_connection_that_breaks_is_told_with_its_server() {
    promises::a_connection_that_breaks_is_told_with_its_server(ECHO, SpeaksFirst::Client);
}

#[test]
fn a_server_that_others_can_reach_says_so_in_one_line() {
    let (server, addresses) = ECHO.serve(&["0.0.0.0:0", "127.0.0.1:0"], &[]);
    let said = server.err_line();
    assert!(said.starts_with(&format!("{} can be reached", addresses[0])), "{said}");
    let port = addresses[0].rsplit_once(':').unwrap().1.parse().unwrap();
    let local = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(exchange(&mut connect(local), "hello"), "hello\n");
    server.send_signal(libc::SIGTERM);
    // For the address that only this machine can reach there is no warning.
    let ended = server.end();
    assert_ends(&ended, 0);
    assert_eq!(ended.err, "");
}

#[test]
fn the_file_that_a_killed_server_leaves_does_not_stop_the_next_one() {
    for scheme in ["unix", "unixgram"] {
        let folder = folder();
        let path = folder.path().join("s");
        let address = format!("{scheme}:{}", path.display());
        let (server, _) = ECHO.serve(&[&address], &[]);
        server.send_signal(libc::SIGKILL);
        assert_eq!(server.end().status.code(), None);
        assert!(path.exists(), "a killed server cannot remove it");

        let (server, listening) = ECHO.serve(&[&address], &[]);
        assert_eq!(listening, [&*address]);
        let answer = ECHO.ask(&address, "hello\n");
        assert_ends(&answer, 0);
        assert_eq!(answer.out, "hello\n");
        // A socket that a living server uses is not replaced.
        assert_fails_in_one_line(&ECHO.run(&["serve", "--bind", &address]), 1, &["--bind"]);
        server.send_signal(libc::SIGINT);
        assert_ends(&server.end(), 0);
        assert!(!path.exists(), "a clean stop removes it");
    }
}

/// Connects from 127.0.0.`last`. Returns the connection if it is served.
fn is_served(address: SocketAddr, last: u8) -> Option<TcpStream> {
    let mut client = connect_from([127, 0, 0, last], address);
    // A client that is turned away sees the end or a reset, at the write or at the read.
    let sent = client.write_all(b"x");
    let mut answer = [0];
    (sent.is_ok() && matches!(client.read(&mut answer), Ok(1))).then_some(client)
}

#[test]
fn one_address_cannot_keep_the_others_out() {
    for (options, most) in [
        (&["--max-clients", "12", "--max-per-peer", "3"][..], 3),
        // A tenth of ten would be one, and a browser opens more connections.
        (&["--max-clients", "10"], 8),
        (&["--max-clients", "100"], 10),
        (&["--max-clients", "10", "--max-per-peer", "10"], 10),
        // Half of the forty children.
        (&["--mixin", "forking"], 20),
    ] {
        let (server, address) = echo(options);
        let inside: Vec<_> = (0..most).map_while(|_| is_served(address, 1)).collect();
        assert_eq!(inside.len(), most, "{options:?}");
        if !options.contains(&"10") || most < 10 {
            assert!(is_served(address, 1).is_none(), "{options:?}: one more is served");
            assert!(is_served(address, 2).is_some(), "{options:?}: somebody else is not");
        }
        drop(server);
    }
}

#[test]
fn an_address_that_comes_too_often_is_turned_away() {
    let (_server, address) = echo(&["--rate-per-peer", "1"]);
    let mut served = 0;
    while is_served(address, 1).is_some() {
        served += 1;
    }
    assert!(served >= 10, "ten at once, and not {served}");
    assert!(is_served(address, 2).is_some(), "somebody else pays for it");
}

#[test]
fn limits_that_are_none_are_refused() {
    for option in ["--max-clients", "--max-per-peer"] {
        let ended = ECHO.run(&["serve", option, "0"]);
        assert_ends(&ended, 2);
        assert!(ended.err.contains("at least 1"), "{ended:?}");
    }
}
