//! Signals and drains, and how they reach children.

use std::os::unix::process::ExitStatusExt;

use crate::support::{Server, eventually, insist, is_pending, kill, kill_twice, state};

tests![
    a_lame_duck_is_kept_by_the_loop_and_its_clients_are_served,
    a_shutdown_in_a_child_ends_a_lame_duck,
    a_reload_runs_in_the_parent_and_leaves_children_alone,
    a_fatal_in_the_drain_is_what_the_run_ends_with,
    a_drain_ends_idle_children_at_once_and_lets_the_others_finish,
    a_child_that_has_heard_nothing_yet_answers_what_comes_in_the_drain,
    a_child_that_hears_nothing_in_the_drain_is_ended_and_counted,
    a_child_that_computes_hears_of_a_drain,
    the_queue_of_a_server_that_stops_is_served_by_children_as_there_is_room,
    a_child_that_does_not_end_is_killed_at_the_deadline_and_named,
    ctrl_c_in_a_terminal_reaches_children_and_lets_them_finish,
    a_second_ctrl_c_ends_a_child_at_once,
    a_ctrl_c_that_comes_twice_at_once_lets_a_child_finish,
    children_take_sigterm_as_a_drain_though_their_parent_dies_of_it,
    children_of_a_parent_that_dies_of_ctrl_c_die_of_it_as_well,
];

fn a_lame_duck_is_kept_by_the_loop_and_its_clients_are_served() {
    let began = std::time::Instant::now();
    let mut server = Server::tcp(&["phases", "lame-duck=500"]);
    server.told("phase: ready");
    server.signal(libc::SIGTERM);
    server.told("phase: lame duck");
    let mut client = server.connect();
    assert_eq!(client.ask("echo late"), "late");
    drop(client);
    for phase in ["closed to new clients", "draining", "ended"] {
        server.told(&format!("phase: {phase}"));
    }
    assert!(began.elapsed().as_millis() >= 500);
    assert!(server.wait().success());
}

fn a_shutdown_in_a_child_ends_a_lame_duck() {
    let mut server = Server::tcp(&["phases", "lame-duck=3600000"]);
    server.told("phase: ready");
    server.signal(libc::SIGTERM);
    server.told("phase: lame duck");
    server.connect().send("stop");
    server.told("phase: ended");
    assert!(server.wait().success());
    // The second signal ends the process, as without a lame duck.
    let mut server = Server::tcp(&["phases", "lame-duck=3600000"]);
    server.told("phase: ready");
    server.signal(libc::SIGTERM);
    server.told("phase: lame duck");
    insist(server.pid(), libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(128 + libc::SIGTERM));
}

fn a_reload_runs_in_the_parent_and_leaves_children_alone() {
    let mut server = Server::tcp(&["phases"]);
    server.told("phase: ready");
    server.signal(libc::SIGHUP);
    server.told(&format!("reload in {}", server.pid()));
    server.told("reloaded: false");
    let mut client = server.connect();
    assert_eq!(client.ask("echo before"), "before");
    kill(server.children()[0].0, libc::SIGHUP);
    server.signal(libc::SIGHUP);
    server.told(&format!("reload in {}", server.pid()));
    server.told("reloaded: true");
    assert_eq!(client.ask("echo after"), "after");
    server.stop();
}

fn a_fatal_in_the_drain_is_what_the_run_ends_with() {
    let mut server = Server::tcp(&[]);
    assert_eq!(server.connect().ask("fatal-late"), "here");
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(1));
    let ended = server.told("ended: ");
    assert!(ended.contains("said in the drain"), "{ended}");
}

fn a_drain_ends_idle_children_at_once_and_lets_the_others_finish() {
    let mut server = Server::tcp(&["grace=20000"]);
    let mut idle = server.connect();
    assert_eq!(idle.ask("echo hi"), "hi");
    let mut busy = server.connect();
    assert_eq!(busy.ask("upload 4"), "ready");
    server.signal(libc::SIGINT);
    assert_eq!(idle.receive(), "");
    busy.send_bytes(b"half");
    assert_eq!(busy.receive(), "got 4");
    assert!(server.wait().success());
    assert!(
        server.told("report: ").contains("2 requests were open; 2 were ended between two requests")
    );
}

fn a_child_that_has_heard_nothing_yet_answers_what_comes_in_the_drain() {
    let mut server = Server::tcp(&[]);
    let mut client = server.connect();
    eventually("it is forked", || server.children().len() == 1);
    let child = server.children()[0].0;
    // This is the signal of the parent to all children, which a supervisor sends as well.
    kill(child, libc::SIGTERM);
    eventually("it has been taken", || !is_pending(child, libc::SIGTERM));
    assert_eq!(client.ask("echo late"), "late");
    assert_eq!(client.receive(), "");
    server.stop();
}

fn a_child_that_hears_nothing_in_the_drain_is_ended_and_counted() {
    let mut server = Server::tcp(&["grace=60000"]);
    let mut silent = server.connect();
    eventually("it is forked", || server.children().len() == 1);
    server.stop();
    assert_eq!(silent.receive(), "");
    let report = server.told("report: ");
    assert!(report.ends_with("1 request was open; 1 was ended that had sent nothing"), "{report}");
}

fn a_child_that_computes_hears_of_a_drain() {
    let mut server = Server::tcp(&["grace=60000"]);
    let mut client = server.connect();
    assert_eq!(client.ask("compute"), "computing");
    server.signal(libc::SIGTERM);
    assert_eq!(client.receive(), "told: true");
    assert!(server.wait().success());
    assert!(server.told("report: ").ends_with("1 request was open and ended by itself"));
}

fn the_queue_of_a_server_that_stops_is_served_by_children_as_there_is_room() {
    let mut server = Server::tcp(&["max=1", "grace=60000"]);
    let mut idle = server.connect();
    assert_eq!(idle.ask("echo hi"), "hi");
    let mut queue: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for client in &mut queue {
        client.send("echo queued");
    }
    server.signal(libc::SIGTERM);
    // The end of the idle child makes room, and so does the end of each of the others when it has answered.
    assert_eq!(idle.receive(), "");
    for client in &mut queue {
        assert_eq!(client.receive(), "queued");
        assert_eq!(client.receive(), "");
    }
    assert!(server.wait().success());
}

fn a_child_that_does_not_end_is_killed_at_the_deadline_and_named() {
    let mut server = Server::tcp(&["grace=300"]);
    let mut stubborn = server.connect();
    let pid: u32 = stubborn.ask("pid").parse().unwrap();
    assert_eq!(stubborn.ask("stubborn"), "here");
    server.signal(libc::SIGTERM);
    assert!(server.wait().success());
    assert_eq!(state(pid), None);
    assert!(server.told("report: ").contains("did not end within 0.3 s"));
    assert!(server.told("  127.0.0.1:").contains("Obey"));
}

fn ctrl_c_in_a_terminal_reaches_children_and_lets_them_finish() {
    let mut server = Server::tcp(&["grace=20000"]);
    let mut busy = server.connect();
    let child: u32 = busy.ask("pid").parse().unwrap();
    assert_eq!(busy.ask("upload 4"), "ready");
    // A terminal signals the whole group: also the child, which the parent then signals again.
    kill(child, libc::SIGINT);
    server.signal(libc::SIGINT);
    busy.send_bytes(b"half");
    assert_eq!(busy.receive(), "got 4");
    assert!(server.wait().success());
}

fn a_second_ctrl_c_ends_a_child_at_once() {
    let mut server = Server::tcp(&[]);
    let mut busy = server.connect();
    let child: u32 = busy.ask("pid").parse().unwrap();
    assert_eq!(busy.ask("upload 4"), "ready");
    kill(child, libc::SIGINT);
    insist(child, libc::SIGINT);
    assert_eq!(busy.receive(), "");
    eventually("it is reaped", || state(child).is_none());
    server.stop();
}

fn a_ctrl_c_that_comes_twice_at_once_lets_a_child_finish() {
    let mut server = Server::tcp(&["grace=20000"]);
    let mut busy = server.connect();
    let child: u32 = busy.ask("pid").parse().unwrap();
    assert_eq!(busy.ask("upload 4"), "ready");
    // A terminal signals the group, and a wrapper in it forwards what it has got.
    for process in [child, server.pid()] {
        kill_twice(process, libc::SIGINT);
        eventually("it goes on", || state(process) != Some('T'));
    }
    busy.send_bytes(b"half");
    assert_eq!(busy.receive(), "got 4");
    assert!(server.wait().success());
}

fn children_take_sigterm_as_a_drain_though_their_parent_dies_of_it() {
    // This server takes no signals: it serves by `serve_forever`.
    let mut server = Server::tcp(&["twice"]);
    let mut idle = server.connect();
    let (idle_child, mut busy) = (idle.ask("pid"), server.connect());
    let busy_child: u32 = busy.ask("pid").parse().unwrap();
    assert_eq!(busy.ask("upload 4"), "ready");
    kill(idle_child.parse().unwrap(), libc::SIGTERM);
    kill(busy_child, libc::SIGTERM);
    assert_eq!(idle.receive(), "");
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().signal(), Some(libc::SIGTERM));
    busy.send_bytes(b"half");
    assert_eq!(busy.receive(), "got 4");
}

fn children_of_a_parent_that_dies_of_ctrl_c_die_of_it_as_well() {
    let mut server = Server::tcp(&["twice"]);
    let mut busy = server.connect();
    let child: u32 = busy.ask("pid").parse().unwrap();
    assert_eq!(busy.ask("upload 4"), "ready");
    kill(child, libc::SIGINT);
    assert_eq!(busy.receive(), "");
    server.signal(libc::SIGINT);
    assert_eq!(server.wait().signal(), Some(libc::SIGINT));
}
