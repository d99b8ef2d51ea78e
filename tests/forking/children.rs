//! Children are counted, bounded, waited for and collected: rows 72 to 80.

use std::net::TcpListener;

use crate::support::{Server, eventually, state};

tests![
    row_072_a_foreign_child_keeps_its_status,
    row_074_never_more_than_max_children,
    row_075_at_the_maximum_a_stop_is_prompt,
    row_076_a_close_waits_for_children,
    row_076_without_block_on_close_it_does_not,
    row_077_a_child_that_somebody_else_has_reaped_is_no_error,
    row_078_no_zombie_is_left_without_a_poll,
    row_078_a_loop_that_always_finds_clients_reaps_as_well,
    row_079_handle_request_reaps_as_well,
    row_080_a_child_does_not_hold_the_port,
    ten_thousand_short_connections_leave_nothing_behind,
];

fn row_072_a_foreign_child_keeps_its_status() {
    // The server is once below its maximum of children, and once at it, where CPython takes the status of the foreign child.
    for max in ["max=5", "max=1"] {
        let mut server = Server::tcp(&["foreign-child", max]);
        for _ in 0..3 {
            assert_eq!(server.connect().ask("echo hi"), "hi");
        }
        server.stop();
        assert_eq!(server.told("foreign: "), "foreign: Some(72)");
    }
}

fn row_074_never_more_than_max_children() {
    let server = Server::tcp(&["max=2"]);
    let mut waiting: Vec<_> = (0..12).map(|_| server.connect()).collect();
    for client in &mut waiting {
        client.send("echo served");
    }
    // Each client is served when those before it have gone.
    for mut client in waiting {
        assert_eq!(client.receive(), "served");
        assert!(server.children().len() <= 2, "{:?}", server.children());
    }
}

fn row_075_at_the_maximum_a_stop_is_prompt() {
    let mut server = Server::tcp(&["max=1"]);
    let mut busy = server.connect();
    assert_eq!(busy.ask("echo hi"), "hi");
    let _in_the_queue = server.connect();
    // The child waits for its next line, and so the drain ends it; the client in the queue does not keep the loop from ending.
    server.stop();
    assert_eq!(busy.receive(), "");
}

fn row_076_a_close_waits_for_children() {
    a_close_waits_for_children(&[]);
}

/// Asserts that a server that is stopped while a child is in the middle of a request ends after the child.
pub(crate) fn a_close_waits_for_children(options: &[&str]) {
    let mut server = Server::tcp(options);
    let mut client = server.connect();
    assert_eq!(client.ask("upload 4"), "ready");
    server.signal(libc::SIGTERM);
    client.send_bytes(b"half");
    assert_eq!(client.receive(), "got 4");
    assert!(server.wait().success());
    assert_eq!(server.told("children: "), "children: 0");
}

fn row_076_without_block_on_close_it_does_not() {
    let mut server = Server::tcp(&["no-block"]);
    let mut client = server.connect();
    assert_eq!(client.ask("upload 4"), "ready");
    server.signal(libc::SIGTERM);
    assert!(server.wait().success());
    // The child goes on without its parent.
    client.send_bytes(b"half");
    assert_eq!(client.receive(), "got 4");
}

fn row_077_a_child_that_somebody_else_has_reaped_is_no_error() {
    // A parent that ignores SIGCHLD has its children reaped by the kernel.
    let mut server = Server::tcp(&["ignore-sigchld-later", "max=2"]);
    for _ in 0..6 {
        assert_eq!(server.connect().ask("echo hi"), "hi");
    }
    server.stop();
    assert_eq!(server.told("children: "), "children: 0");
}

fn row_078_no_zombie_is_left_without_a_poll() {
    let server = Server::tcp(&[]);
    for _ in 0..5 {
        assert_eq!(server.connect().ask("echo hi"), "hi");
    }
    // No client connects any more: the ends of the children wake the loop.
    eventually("no child is left", || server.children().is_empty());
}

fn row_078_a_loop_that_always_finds_clients_reaps_as_well() {
    // Three cases: the server has only its own children; it also has a foreign child that has ended and has not been
    // reaped; the kernel reaps the children.
    let cases =
        [("", "completed"), ("foreign-child", "completed"), ("ignore-sigchld-later", "released")];
    for (option, end) in cases {
        let mut server = Server::tcp(&[option, "max=7"]);
        let foreign = usize::from(option == "foreign-child");
        let have_ended = |(_, state): &(u32, char)| *state == 'Z';
        let zombies = || server.children().iter().filter(|child| have_ended(child)).count();
        eventually("the foreign one has ended", || zombies() == foreign);
        server.signal(libc::SIGSTOP);
        eventually("it stands still", || state(server.pid()) == Some('T'));
        let mut waiting: Vec<_> = (0..60).map(|_| server.connect()).collect();
        for client in &mut waiting {
            client.send("refuse");
        }
        // All clients are in the accept queue: the loop does not wait for a client before it has accepted the last.
        server.signal(libc::SIGCONT);
        for client in &mut waiting {
            assert_eq!(client.receive(), "no, thank you");
        }
        eventually("ours are reaped", || server.children().len() == foreign);
        server.stop();
        let counts = server.told("counts: ");
        assert!(counts.contains(&format!("{end}: 60")), "{counts}");
        if foreign > 0 {
            assert_eq!(server.told("foreign: "), "foreign: Some(72)");
        }
    }
}

fn row_079_handle_request_reaps_as_well() {
    let server = Server::tcp(&["one-by-one", "turns=1000", "max=3"]);
    for _ in 0..45 {
        assert_eq!(server.connect().ask("echo hi"), "hi");
        assert!(server.children().len() <= 3, "{:?}", server.children());
    }
}

fn row_080_a_child_does_not_hold_the_port() {
    let mut server = Server::tcp(&[]);
    let mut client = server.connect();
    assert_eq!(client.ask("fds"), "0");
    server.signal(libc::SIGKILL);
    server.wait();
    // The child lives, and the port is free.
    assert_eq!(client.ask("echo alive"), "alive");
    let again = TcpListener::bind(&server.address);
    assert!(again.is_ok(), "{again:?}");
    drop(client);
}

fn ten_thousand_short_connections_leave_nothing_behind() {
    let mut server = Server::tcp(&[]);
    let descriptors = || {
        let pid = server.pid();
        std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    };
    let rounds = |count: usize| {
        for _ in 0..count {
            assert_eq!(server.connect().ask("echo hi"), "hi");
            assert!(server.children().len() <= 40);
        }
        eventually("all are reaped", || server.children().is_empty());
    };
    rounds(200);
    let (fds, memory) = (descriptors(), resident(server.pid()));
    rounds(9_800);
    assert_eq!(descriptors(), fds);
    let grown = resident(server.pid()).saturating_sub(memory);
    assert!(grown < 1_024, "{grown} KiB more");
    server.stop();
    assert!(server.told("counts: ").contains("completed: 10000"));
}

/// Resident memory in KiB.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
