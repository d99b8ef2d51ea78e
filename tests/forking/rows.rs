//! Rows of the checklist about forking: what a child does and how it fails.

use std::io;
use std::net::UdpSocket;
use std::time::Instant;

use test_support::receive_text;

use crate::support::{SOON, Server, eventually, kill, state};

tests![
    row_068_the_handler_runs_in_another_process_and_changes_nothing_here,
    row_069_the_child_answers_in_full_though_the_parent_has_closed_its_copy,
    row_070_errors_are_handled_in_the_child_and_counted_in_the_parent,
    row_070_a_fatal_stops_the_parent_with_its_words,
    an_error_that_panics_ends_the_child_that_met_it_and_nothing_else,
    what_no_one_catches_in_a_child_does_not_reach_what_is_its_parents,
    an_outbox_in_the_parent_starts_no_thread,
    row_070_a_shutdown_in_the_child_stops_the_parent,
    a_close_in_a_child_stops_the_parent_and_keeps_no_other_child_from_it,
    row_071_what_stood_in_the_buffer_is_printed_once,
    row_081_a_process_with_threads_is_refused_and_the_threads_are_named,
    row_082_a_fork_that_fails_is_handled_and_the_server_lives,
    a_child_killed_in_the_middle_harms_only_its_own_request,
    a_second_run_serves_again,
    row_028_a_client_that_is_still_sending_gets_its_reply,
    row_028_a_client_that_never_stops_is_cut_off,
    what_the_parent_replies_to_datagrams_arrives_once,
];

fn row_068_the_handler_runs_in_another_process_and_changes_nothing_here() {
    let server = Server::tcp(&[]);
    let mut one = server.connect();
    let pid: u32 = one.ask("pid").parse().unwrap();
    assert_ne!(pid, server.pid());
    assert_eq!(one.ask("change it"), "1");
    assert_eq!(one.ask("change it"), "2");
    // The next child is a copy of the parent, in which nothing has changed.
    assert_eq!(server.connect().ask("change it"), "1");
}

fn row_069_the_child_answers_in_full_though_the_parent_has_closed_its_copy() {
    let server = Server::tcp(&[]);
    let mut client = server.connect();
    let long = "x".repeat(60_000);
    for _ in 0..20 {
        assert_eq!(client.ask(&format!("echo {long}")), long);
    }
    let ends_with_child = {
        let mut other = server.connect();
        other.ask("exit 0")
    };
    // The client sees the end: the parent holds no copy that would keep the connection open.
    assert_eq!(ends_with_child, "");
}

fn row_070_errors_are_handled_in_the_child_and_counted_in_the_parent() {
    let mut server = Server::tcp(&[]);
    assert_eq!(server.connect().ask("fail"), "");
    let line = server.told("handle_error in ");
    assert!(!line.contains(&format!("in {}:", server.pid())), "{line}");
    assert_eq!(server.connect().ask("panic"), "");
    drop(server.connect().ask("echo fine"));
    eventually("all are reaped", || server.children().is_empty());
    server.stop();
    let counts = server.told("counts: ");
    assert!(counts.contains("failed: 1") && counts.contains("panicked: 1"), "{counts}");
    assert!(counts.contains("completed: 1"), "{counts}");
}

fn row_070_a_fatal_stops_the_parent_with_its_words() {
    let mut server = Server::tcp(&[]);
    assert_eq!(server.connect().ask("fatal of days"), "");
    assert_eq!(server.wait().code(), Some(1));
    let ended = server.told("ended: ");
    assert!(ended.contains("the end: of days"), "{ended}");
}

fn an_error_that_panics_ends_the_child_that_met_it_and_nothing_else() {
    let mut server = Server::tcp(&[]);
    assert_eq!(server.connect().ask("bad-drop"), "");
    assert_eq!(server.connect().ask("bad-cause"), "");
    assert_is_parent_alone(&mut server);
}

fn what_no_one_catches_in_a_child_does_not_reach_what_is_its_parents() {
    let mut server = Server::start("tcp-bad-close", "127.0.0.1:0", &[]);
    for _ in 0..2 {
        assert_eq!(server.connect().receive(), "");
    }
    assert_is_parent_alone(&mut server);
}

/// Fails unless two children have panicked, and neither has run a destructor that is its parent's.
fn assert_is_parent_alone(server: &mut Server) {
    eventually("both are reaped", || server.children().is_empty());
    server.stop();
    let told = server.all_told("");
    let left: Vec<_> = told.iter().filter(|line| line.starts_with("left in ")).collect();
    assert_eq!(left, [&format!("left in {}", server.pid())]);
    let counts = told.iter().find(|line| line.starts_with("counts: ")).expect("they are shown");
    assert!(counts.contains("accepted: 2,") && counts.contains("panicked: 2"), "{counts}");
}

fn an_outbox_in_the_parent_starts_no_thread() {
    let mut server = Server::tcp(&["per-peer=1"]);
    let mut one = server.connect();
    assert_eq!(one.ask("echo hi"), "hi");
    // The parent refuses the second client, and says so by an outbox.
    assert_eq!(server.connect().receive(), "too many");
    drop(one);
    eventually("it is reaped", || server.children().is_empty());
    assert_eq!(server.connect().ask("echo still here"), "still here");
    server.stop();
}

fn row_070_a_shutdown_in_the_child_stops_the_parent() {
    let mut server = Server::tcp(&[]);
    let mut client = server.connect();
    client.send("stop");
    drop(client);
    assert!(server.wait().success());
}

fn a_close_in_a_child_stops_the_parent_and_keeps_no_other_child_from_it() {
    let mut server = Server::tcp(&["grace=60000"]);
    let mut brief = server.connect();
    let pid: u32 = brief.ask("pid").parse().unwrap();
    let mut client = server.connect();
    assert_eq!(client.ask("echo hi"), "hi");
    // The other child has ended, and has not been collected yet.
    server.signal(libc::SIGSTOP);
    drop(brief);
    eventually("it has ended", || state(pid) == Some('Z'));
    assert_eq!(client.ask("close"), "");
    server.signal(libc::SIGCONT);
    assert!(server.wait().success());
    assert!(server.told("children: ").ends_with(": 0"));
}

fn row_071_what_stood_in_the_buffer_is_printed_once() {
    let mut server = Server::tcp(&["partial-line"]);
    for word in ["a", "b"] {
        let mut client = server.connect();
        client.send(&format!("print {word}"));
        client.ask("echo done");
        drop(client);
        // The child prints when it leaves.
        eventually("it is reaped", || server.children().is_empty());
    }
    server.stop();
    assert_eq!(server.printed().concat().trim_end(), "once a b");
}

fn row_081_a_process_with_threads_is_refused_and_the_threads_are_named() {
    let mut server = Server::tcp(&["thread"]);
    assert_eq!(server.wait().code(), Some(1));
    let ended = server.told("ended: ");
    assert!(ended.contains("bystander"), "{ended}");
    // The error also says what to do instead.
    for way in ["service_actions", "another process", "Threading"] {
        assert!(ended.contains(way), "{ended}");
    }
}

fn row_082_a_fork_that_fails_is_handled_and_the_server_lives() {
    if !is_root() {
        assert!(std::env::var_os("SOCKETSERVER_NO_SKIP").is_none(), "this test needs root");
        println!("skipped: only root can become another user");
        return;
    }
    let server = Server::tcp(&["unprivileged"]);
    for _ in 0..2 {
        assert_eq!(server.connect().ask("echo hi"), "");
        let line = server.told("handle_error in ");
        assert!(line.contains(&format!("in {}:", server.pid())), "{line}");
        assert!(line.contains("no worker for 127.0.0.1:"), "{line}");
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|of| std::os::unix::fs::MetadataExt::uid(&of) == 0)
}

fn a_child_killed_in_the_middle_harms_only_its_own_request() {
    let mut server = Server::tcp(&[]);
    let mut victim = server.connect();
    let pid: u32 = victim.ask("pid").parse().unwrap();
    let mut other = server.connect();
    assert_eq!(other.ask("echo hi"), "hi");
    kill(pid, libc::SIGKILL);
    assert_eq!(victim.receive(), "");
    eventually("it is reaped", || state(pid).is_none());
    assert_eq!(other.ask("echo still here"), "still here");
    assert_eq!(server.connect().ask("echo and new"), "and new");
    drop(other);
    eventually("all are reaped", || server.children().is_empty());
    server.stop();
    assert!(server.told("counts: ").contains("killed: 1"));
}

fn a_second_run_serves_again() {
    let server = Server::tcp(&["twice"]);
    let mut client = server.connect();
    client.send("stop");
    drop(client);
    assert_eq!(server.connect().ask("echo again"), "again");
}

fn row_028_a_client_that_is_still_sending_gets_its_reply() {
    let server = Server::tcp(&["linger=20000"]);
    let mut upload = b"refuse\n".to_vec();
    upload.resize(4 * 1024 * 1024, b'x');
    for _ in 0..50 {
        let mut client = server.connect();
        client.send_bytes(&upload);
        assert_eq!(client.receive(), "no, thank you");
        assert_eq!(client.receive(), "");
    }
}

fn row_028_a_client_that_never_stops_is_cut_off() {
    let server = Server::tcp(&["linger=300"]);
    let mut client = server.connect();
    client.send("refuse");
    let began = Instant::now();
    while client.try_send_bytes(&[b'x'; 64 * 1024]) {
        assert!(began.elapsed() < SOON, "it is not cut off");
    }
    eventually("its child has ended", || server.children().is_empty());
}

fn what_the_parent_replies_to_datagrams_arrives_once() {
    let server = Server::start("udp", "127.0.0.1:0", &["per-peer=1"]);
    let from = |ip: &str| {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.connect(&server.address).unwrap();
        socket
    };
    let (one, other) = (from("127.0.0.1"), from("127.0.0.2"));
    one.send(b"stubborn").unwrap();
    assert_eq!(receive_text(&one), "here");
    // All of these datagrams arrive at once: the parent answers some, and forks for the last.
    server.signal(libc::SIGSTOP);
    eventually("it stands still", || state(server.pid()) == Some('T'));
    for _ in 0..3 {
        one.send(b"one more").unwrap();
    }
    other.send(b"pid").unwrap();
    server.signal(libc::SIGCONT);
    assert_ne!(receive_text(&other), server.pid().to_string());
    for _ in 0..3 {
        assert_eq!(receive_text(&one), "too many");
    }
    eventually("the last child has ended", || server.children().len() == 1);
    one.set_nonblocking(true).unwrap();
    assert_eq!(one.recv(&mut [0; 64]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}
