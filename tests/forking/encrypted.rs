//! TLS under `Forking`: a handshake in each child, tickets that every child can read, and certificate files that the parent
//! reads again.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use socketserver::tls::rustls::HandshakeKind;
use test_support::{exchange, read_to_end};

use crate::client::{Client, VERSIONS, pem};
use crate::support::{SOON, Server, eventually};

tests![
    tls_children_speak_and_resume_each_others_sessions,
    tls_files_are_read_by_the_parent_and_later_children_have_them,
    tls_silence_is_one_childs_concern,
    tls_failures_of_children_reach_the_parent_with_their_causes,
    tls_handshakes_of_children_make_room_and_the_oldest_goes_first,
    tls_silent_clients_leave_children_to_others,
    tls_silent_clients_leave_a_place_beside_requests_that_are_served,
    tls_failed_handshakes_leave_room_for_the_text_of_a_fatal,
    tls_refusals_send_nothing_in_the_clear,
];

/// The rows of servers over TCP, again with clients that speak TLS: they expect the same.
pub fn rows_again() -> impl Iterator<Item = (&'static str, fn())> {
    use crate::{children, ends, inherited, reported, rows, stopping, unwatched, wrapped};
    let all = [
        rows::all(),
        children::all(),
        stopping::all(),
        reported::all(),
        ends::all(),
        unwatched::all(),
        wrapped::all(),
        inherited::all(),
    ];
    all.into_iter().flatten().filter(|(name, _)| !PLAIN_ALONE.contains(name))
}

/// The rows that are not run over TLS, and why.
const PLAIN_ALONE: &[&str] = &[
    // Their clients speak before they are accepted, or stand in the queue: no handshake is made with them there.
    "row_073_the_forty_first_client_waits_until_one_of_forty_children_has_ended",
    "row_074_never_more_than_max_children",
    "row_078_a_loop_that_always_finds_clients_reaps_as_well",
    "a_child_that_has_crashed_is_not_taken_for_one_that_was_closed",
    "without_pidfds_a_server_at_its_maximum_goes_on_when_a_child_ends",
    "the_queue_of_a_server_that_stops_is_served_by_children_as_there_is_room",
    // The parent refuses these, and makes no handshake.
    "an_outbox_in_the_parent_starts_no_thread",
    "row_082_a_fork_that_fails_is_handled_and_the_server_lives",
    // They count bytes on the wire, or end the output: TLS sends more bytes, and close_notify after a cut.
    "what_a_child_does_stands_in_the_live_list_and_can_be_ended_from_there",
    "a_report_says_how_far_a_child_was",
    "a_stop_of_a_child_that_ends_in_whatever_way_reaches_the_parent",
    // Many thousands of connections: they measure what is left behind, and a handshake leaves nothing more.
    "ten_thousand_short_connections_leave_nothing_behind",
    "a_hundred_stops_under_load_lose_no_answer",
];

fn files(name: &str, folder: &Path) {
    for ending in ["pem", "key"] {
        fs::copy(pem(&format!("{name}.{ending}")), folder.join(format!("own.{ending}"))).unwrap();
    }
}

fn start(folder: &Path, more: &[&str]) -> (Server, SocketAddr) {
    files("server", folder);
    let option = format!("files={}", folder.display());
    let options: Vec<&str> = more.iter().copied().chain([&*option]).collect();
    let server = Server::start("tcp-tls", "127.0.0.1:0", &options);
    let address = server.address.parse().unwrap();
    (server, address)
}

fn tls_children_speak_and_resume_each_others_sessions() {
    let folder = test_support::folder();
    let (mut server, address) = start(folder.path(), &[]);
    for version in VERSIONS {
        let client = Client::speaking(&[version]);
        for round in 0..3 {
            let mut connection = client.connect(address);
            assert_eq!(exchange(&mut connection, "echo hello"), "hello\n");
            let is_resumed =
                connection.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
            assert_eq!(is_resumed, round > 0, "{version:?}");
            connection.end_output();
            assert!(read_to_end(&mut connection).is_empty(), "the child says that it ends");
        }
    }
    server.stop();
}

fn tls_files_are_read_by_the_parent_and_later_children_have_them() {
    let folder = test_support::folder();
    let (mut server, address) = start(folder.path(), &[]);
    let accepts = |name| Client::new().asking_for(name).connect(address).handshake().is_ok();
    let mut old = Client::new().connect(address);
    assert_eq!(exchange(&mut old, "echo hello"), "hello\n");
    assert!(accepts("localhost") && !accepts("other.example"));
    files("other", folder.path());
    server.signal(libc::SIGHUP);
    let began = Instant::now();
    while !accepts("other.example") {
        assert!(began.elapsed() < SOON, "it never reads them");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!accepts("localhost"));
    assert_eq!(exchange(&mut old, "echo as before"), "as before\n");
    old.end_output();
    server.stop();
}

fn tls_silence_is_one_childs_concern() {
    let folder = test_support::folder();
    let (mut server, address) = start(folder.path(), &["events"]);
    let silent = test_support::connect(address);
    let mut client = Client::new().connect(address);
    assert_eq!(exchange(&mut client, "echo hello"), "hello\n");
    client.end_output();
    drop(silent);
    server.stop();
}

fn tls_failures_of_children_reach_the_parent_with_their_causes() {
    let folder = test_support::folder();
    let (mut server, address) = start(folder.path(), &["events"]);
    // The clients come all at once: the parent may read the texts of several children together.
    let mut bad: Vec<TcpStream> = (0..12).map(|_| test_support::connect(address)).collect();
    for client in &mut bad {
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    }
    let mut stranger = Client::new().asking_for("other.example").connect(address);
    assert!(stranger.handshake().is_err(), "it does not accept this certificate, and says so");
    let mut good = Client::new().connect(address);
    assert_eq!(exchange(&mut good, "echo hello"), "hello\n");
    good.end_output();
    for mut client in bad {
        let _ = client.read_to_end(&mut Vec::new());
    }
    eventually("all have ended", || server.children().is_empty());
    server.stop();
    let told = server.all_told(&format!("event in {}: ", server.pid()));
    let failed: Vec<_> = told.iter().filter_map(|line| line.split_once(" failed: ")).collect();
    let garbled = failed.iter().filter(|(_, cause)| cause.contains("corrupt message")).count();
    assert_eq!(garbled, 12, "{told:#?}");
    let alerts = failed.iter().filter(|(_, cause)| cause.contains("received fatal alert")).count();
    assert_eq!((alerts, failed.len()), (1, 13), "{told:#?}");
    // Each failure comes just before the end of its request, and is its cause.
    for (whose, _) in failed {
        let at = told.iter().position(|line| line.starts_with(&format!("{whose} failed"))).unwrap();
        let end = told[at + 1].strip_prefix(&format!("{whose} ended "));
        assert!(matches!(end, Some("Garbled" | "HandshakeFailed")), "{told:#?}");
    }
}

fn tls_handshakes_of_children_make_room_and_the_oldest_goes_first() {
    let folder = test_support::folder();
    let (mut server, address) = start(folder.path(), &["events", "handshakes=2"]);
    let mut served = Client::new().connect(address);
    assert_eq!(exchange(&mut served, "echo one"), "one\n");
    let mut silent: Vec<TcpStream> = Vec::new();
    for number in 1..=6 {
        silent.push(test_support::connect(address));
        // The latest client is accepted, though its child may not wait for it yet.
        eventually("it has a child", || server.children().len() == 1 + number.min(2));
    }
    for mut gone in silent.drain(..4) {
        // Nothing is sent in the clear.
        let mut bytes = Vec::new();
        let _ = gone.read_to_end(&mut bytes);
        assert!(bytes.is_empty(), "{bytes:?}");
    }
    for waits in &silent {
        waits.set_nonblocking(true).unwrap();
        assert_eq!(waits.peek(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    // Another client makes its handshake; the client that has made its handshake before does not count.
    let mut other = Client::new().connect(address);
    assert_eq!(exchange(&mut other, "echo two"), "two\n");
    assert_eq!(exchange(&mut served, "echo three"), "three\n");
    drop(silent);
    other.end_output();
    served.end_output();
    eventually("all have ended", || server.children().is_empty());
    server.stop();
    let told = server.all_told("");
    let parent = format!("event in {}: ", server.pid());
    let count = |what: &str| told.iter().filter(|line| line.ends_with(what)).count();
    // Five are refused, and not four: the other client needed a place too.
    assert_eq!(count(&format!("{parent}Handshakes")), 5, "{told:#?}");
    assert_eq!(count(" ended Refused"), 5, "{told:#?}");
    assert_eq!(count(": TooManyHandshakes"), 5, "{told:#?}");
    for id in 2..=6 {
        let is_of = |line: &String| line.starts_with(&format!("{parent}{id} of "));
        let refused = told.iter().any(|line| is_of(line) && line.ends_with(" ended Refused"));
        assert!(refused, "the oldest go first: {told:#?}");
    }
}

fn tls_silent_clients_leave_children_to_others() {
    let folder = test_support::folder();
    // The limits are the default ones: each handshake has ten seconds, and there may be a thousand.
    let (mut server, address) = start(folder.path(), &["events", "max=4"]);
    let silent: Vec<TcpStream> = (0..12).map(|_| test_support::connect(address)).collect();
    for line in ["one", "two", "three"] {
        let mut client = Client::new().connect(address);
        assert_eq!(exchange(&mut client, &format!("echo {line}")), format!("{line}\n"));
        client.end_output();
    }
    drop(silent);
    eventually("all have ended", || server.children().is_empty());
    server.stop();
    let told = server.all_told("");
    let refused = told.iter().filter(|line| line.ends_with(": TooManyHandshakes")).count();
    // Three of the four children may make handshakes, so that at most three silent clients are left when the last client is
    // served.
    assert!((9..=12).contains(&refused), "{refused}: {told:#?}");
}

fn tls_silent_clients_leave_a_place_beside_requests_that_are_served() {
    for (places, served) in [(2, 0), (3, 0), (3, 1), (8, 2), (8, 6)] {
        let folder = test_support::folder();
        let (mut server, address) = start(folder.path(), &[&format!("max={places}")]);
        let inside: Vec<_> = (0..served)
            .map(|_| {
                let mut client = Client::new().connect(address);
                assert_eq!(exchange(&mut client, "echo in"), "in\n");
                client
            })
            .collect();
        let silent: Vec<TcpStream> = (0..12).map(|_| test_support::connect(address)).collect();
        // This client makes its handshake, for which it has less time than the silent clients had.
        let mut client = Client::new().connect(address);
        assert_eq!(exchange(&mut client, "echo one"), "one\n", "{places} {served}");
        client.end_output();
        drop((silent, inside));
        server.stop();
    }
}

fn tls_failed_handshakes_leave_room_for_the_text_of_a_fatal() {
    /// More texts than a socket's buffer has room for.
    const MANY: usize = 400;
    let folder = test_support::folder();
    let (mut server, address) = start(folder.path(), &["events", "max=900"]);
    let mut fatal = Client::new().connect(address);
    assert_eq!(exchange(&mut fatal, "echo one"), "one\n");
    let all: Vec<TcpStream> = (0..MANY).map(|_| test_support::connect(address)).collect();
    eventually("each has a child", || server.children().len() == 1 + MANY);
    server.signal(libc::SIGSTOP);
    for mut one in all {
        let _ = one.write_all(b"GET / HTTP/1.1\r\n\r\n");
    }
    let ended = || server.children().iter().filter(|(_, state)| *state == 'Z').count();
    eventually("their children have ended", || ended() == MANY);
    let _ = fatal.write_all(b"fatal of days\n");
    eventually("the last one has ended", || ended() == 1 + MANY);
    server.signal(libc::SIGCONT);
    assert_eq!(server.wait().code(), Some(1));
    let end = server.told("ended: ");
    assert!(end.contains("the end: of days"), "{end}");
}

fn tls_refusals_send_nothing_in_the_clear() {
    let folder = test_support::folder();
    let (mut server, address) = start(folder.path(), &["per-peer=1"]);
    let mut served = Client::new().connect(address);
    assert_eq!(exchange(&mut served, "echo one"), "one\n");
    for _ in 0..3 {
        let mut bytes = Vec::new();
        let _ = test_support::connect(address).read_to_end(&mut bytes);
        assert!(bytes.is_empty(), "{}", String::from_utf8_lossy(&bytes));
    }
    served.end_output();
    server.stop();
}
