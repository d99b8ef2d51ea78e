//! TLS under `Forking`: a handshake in each child, tickets that every child can read, and new files by the parent.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use socketserver::tls::rustls::HandshakeKind;
use test_support::{exchange, read_to_end};

use crate::client::{Client, VERSIONS, pem};
use crate::support::{SOON, Server};

tests![
    tls_children_speak_and_resume_each_others_sessions,
    tls_files_are_read_by_the_parent_and_later_children_have_them,
    tls_silence_is_one_childs_concern,
];

/// The rows of servers over TCP, for clients that speak TLS: nothing that they expect is different.
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

/// Those that are about something else.
const PLAIN_ALONE: &[&str] = &[
    // Their clients speak before they are accepted, or stand in the queue: no handshake is made with them meanwhile.
    "row_073_the_forty_first_client_waits_until_one_of_forty_children_has_ended",
    "row_074_never_more_than_max_children",
    "row_078_a_loop_that_always_finds_clients_reaps_as_well",
    "a_child_that_has_crashed_is_not_taken_for_one_that_was_closed",
    "without_pidfds_a_server_at_its_maximum_goes_on_when_a_child_ends",
    "the_queue_of_a_server_that_stops_is_served_by_children_as_there_is_room",
    // The parent refuses these, and makes no handshake.
    "an_outbox_in_the_parent_starts_no_thread",
    "row_082_a_fork_that_fails_is_handled_and_the_server_lives",
    // They count bytes on the wire, or end the output: TLS sends more, and has a farewell to send after a cut.
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
