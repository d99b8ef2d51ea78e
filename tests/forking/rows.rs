//! The rows of the checklist that are about forking.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

use crate::support::{SOON, Server, eventually, is_pending, kill, state};

pub fn all() -> Vec<(&'static str, fn())> {
    macro_rules! tests {
        ($($name:ident,)*) => { vec![$((stringify!($name), $name as fn()),)*] };
    }
    tests![
        row_068_the_handler_runs_in_another_process_and_changes_nothing_here,
        row_069_the_child_answers_in_full_though_the_parent_has_closed_its_copy,
        row_070_errors_are_handled_in_the_child_and_counted_in_the_parent,
        row_070_a_fatal_stops_the_parent_with_its_words,
        a_fatal_in_the_drain_is_what_the_run_ends_with,
        an_error_that_panics_ends_the_child_that_met_it_and_nothing_else,
        what_no_one_catches_in_a_child_does_not_reach_what_is_its_parents,
        an_outbox_in_the_parent_starts_no_thread,
        row_070_a_shutdown_in_the_child_stops_the_parent,
        a_close_in_a_child_stops_the_parent_and_keeps_no_other_child_from_it,
        row_071_what_stood_in_the_buffer_is_printed_once,
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
        row_081_a_process_with_threads_is_refused_and_the_threads_are_named,
        row_082_a_fork_that_fails_is_handled_and_the_server_lives,
        a_child_killed_in_the_middle_harms_only_its_own_request,
        a_drain_ends_idle_children_at_once_and_lets_the_others_finish,
        a_child_that_has_heard_nothing_yet_answers_what_comes_in_the_drain,
        a_child_that_hears_nothing_in_the_drain_is_ended_and_counted,
        a_child_that_computes_hears_of_a_drain,
        the_queue_of_a_server_that_stops_is_served_by_children_as_there_is_room,
        a_child_that_does_not_end_is_killed_at_the_deadline_and_named,
        ctrl_c_in_a_terminal_reaches_children_and_lets_them_finish,
        a_second_ctrl_c_ends_a_child_at_once,
        children_take_sigterm_as_a_drain_though_their_parent_dies_of_it,
        children_of_a_parent_that_dies_of_ctrl_c_die_of_it_as_well,
        a_second_run_serves_again,
        ten_thousand_short_connections_leave_nothing_behind,
        row_028_a_client_that_is_still_sending_gets_its_reply,
        row_028_a_client_that_never_stops_is_cut_off,
        the_parent_tells_of_each_request_once_when_it_starts_and_when_it_ends,
        what_a_child_does_stands_in_the_live_list_and_can_be_ended_from_there,
        a_report_says_how_far_a_child_was,
        a_child_says_of_its_end_what_a_thread_would,
        what_the_parent_replies_to_datagrams_arrives_once,
    ]
}

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
    // The end is seen: the parent holds no copy that would keep the connection open.
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

fn a_fatal_in_the_drain_is_what_the_run_ends_with() {
    let mut server = Server::tcp(&[]);
    assert_eq!(server.connect().ask("fatal-late"), "here");
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(1));
    let ended = server.told("ended: ");
    assert!(ended.contains("said in the drain"), "{ended}");
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

/// Two children have panicked, and none has run a destructor that is its parent's.
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
    // The parent refuses it, and says so by its outbox.
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
    // The end of the other child is there to be heard of, and nobody has listened yet.
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
        // It prints when it leaves.
        eventually("it is reaped", || server.children().is_empty());
    }
    server.stop();
    assert_eq!(server.printed().concat().trim_end(), "once a b");
}

fn row_072_a_foreign_child_keeps_its_status() {
    // Below the maximum, and at it, where CPython steals it.
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
    // Each is served when those before it have gone.
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
    // The child waits for its next line, and so is told to end; the queue does not keep the loop.
    server.stop();
    assert_eq!(busy.receive(), "");
}

fn row_076_a_close_waits_for_children() {
    let mut server = Server::tcp(&[]);
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
    // Nobody connects any more: the loop hears of the ends by themselves.
    eventually("no child is left", || server.children().is_empty());
}

fn row_078_a_loop_that_always_finds_clients_reaps_as_well() {
    // By itself; beside a foreign child that has ended and that nobody has waited for; and with children that
    // the kernel reaps.
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
        // All of them stand in the queue: the loop has no reason to wait for a client before it has met the last.
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

fn row_081_a_process_with_threads_is_refused_and_the_threads_are_named() {
    let mut server = Server::tcp(&["thread"]);
    assert_eq!(server.wait().code(), Some(1));
    let ended = server.told("ended: ");
    assert!(ended.contains("bystander"), "{ended}");
    // And what to do in their place.
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
    // What the parent says to all of them, and a supervisor as well.
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
    // It makes room, and each of the others when it has been answered.
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
    // A terminal sends it to the whole group: to the child as well, which the parent then tells again.
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
    eventually("the first one has been taken", || !is_pending(child, libc::SIGINT));
    kill(child, libc::SIGINT);
    assert_eq!(busy.receive(), "");
    eventually("it is reaped", || state(child).is_none());
    server.stop();
}

fn children_take_sigterm_as_a_drain_though_their_parent_dies_of_it() {
    // This one takes no signals: it serves by `serve_forever`.
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

fn a_second_run_serves_again() {
    let server = Server::tcp(&["twice"]);
    let mut client = server.connect();
    client.send("stop");
    drop(client);
    assert_eq!(server.connect().ask("echo again"), "again");
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

fn the_parent_tells_of_each_request_once_when_it_starts_and_when_it_ends() {
    let mut server = Server::tcp(&["events"]);
    let mut expected = Vec::new();
    let mut client = |line: &str| {
        let mut client = server.connect();
        let answer = client.ask(line);
        expected.push(client.address());
        (client, answer)
    };
    drop(client("echo hi"));
    client("fail");
    client("panic");
    client("exit 0");
    client("exit 7");
    let (mut victim, pid) = client("pid");
    kill(pid.parse().unwrap(), libc::SIGKILL);
    assert_eq!(victim.receive(), "");
    let (mut idle, _) = client("echo hi");
    eventually("all others have ended", || server.children().len() == 1);
    server.stop();
    assert_eq!(idle.receive(), "");

    let ends = ["Completed", "Failed", "Panicked", "Completed", "Failed", "Killed", "Stopped"];
    let told = server.all_told("event in ");
    for (id, (peer, end)) in expected.iter().zip(ends).enumerate() {
        let of_this = format!("event in {}: {} of {peer} ", server.pid(), id + 1);
        let lines: Vec<_> = told.iter().filter_map(|line| line.strip_prefix(&of_this)).collect();
        assert_eq!(lines, ["started", &format!("ended {end}")], "{told:#?}");
    }
    assert_eq!(told.len(), 2 * ends.len(), "{told:#?}");
}

fn a_child_says_of_its_end_what_a_thread_would() {
    let mut server = Server::tcp(&["events", "idle=300"]);
    let mut silent = server.connect();
    assert_eq!(silent.ask("echo hi"), "hi");
    assert_eq!(silent.receive(), "");
    let mut long = server.connect();
    long.try_send_bytes(&[b'a'; 100_000]);
    assert_eq!(long.receive(), "");
    let mut gone = server.connect();
    assert_eq!(gone.ask("upload 9"), "ready");
    drop(gone);
    let mut late = server.connect();
    assert_eq!(late.ask("hurry 9"), "ready");
    assert_eq!(late.receive(), "");
    eventually("all have ended", || server.children().is_empty());
    server.stop();
    let told = server.all_told("event in ").join("\n");
    for (id, end) in (1..).zip(["Idle", "LineTooLong", "Disconnected", "TimedOut"]) {
        let line = told
            .lines()
            .find(|line| line.contains(&format!(": {id} of ")) && line.contains("ended"));
        assert!(line.is_some_and(|line| line.ends_with(&format!("ended {end}"))), "{end}: {told}");
    }
}

fn what_a_child_does_stands_in_the_live_list_and_can_be_ended_from_there() {
    let mut server = Server::tcp(&["events", "admin"]);
    let mut client = server.connect();
    assert_eq!(client.ask("echo hello"), "hello");
    let pid: u32 = client.ask("pid").parse().unwrap();
    // It may not wait for its peer yet when the next client comes.
    eventually("it is closed", || {
        server.connect().ask("echo next");
        state(pid).is_none()
    });
    assert_eq!(client.receive(), "");
    let (bytes_in, bytes_out) = ("echo hello\npid\n".len(), format!("hello\n{pid}\n").len());
    let line = server.told(&format!("admin: {}: ", client.address()));
    let bytes = format!("{bytes_in} bytes in, {bytes_out} bytes out, process {pid}; closed: true");
    assert!(
        line.contains("waiting for its peer's next request") && line.ends_with(&bytes),
        "{line}"
    );
    server.stop();
    let told = server.all_told("");
    let ended = format!("event in {}: 1 of {} ended ClosedHere", server.pid(), client.address());
    assert!(told.contains(&ended), "{told:#?}");
    assert!(told.contains(&format!("bytes of 1: {bytes_in} in, {bytes_out} out")), "{told:#?}");
}

fn a_report_says_how_far_a_child_was() {
    let mut server = Server::tcp(&["grace=0"]);
    let mut client = server.connect();
    assert_eq!(client.ask("echo hi"), "hi");
    assert_eq!(client.ask("stubborn"), "here");
    server.signal(libc::SIGINT);
    assert!(server.wait().success());
    let report = server.all_told("").join("\n");
    // What has been sent is counted after it has gone: the last answer may be here before.
    let counted = |bytes_out| format!("17 bytes in, {bytes_out} bytes out, process ");
    assert!(report.contains(&counted(3)) || report.contains(&counted(8)), "{report}");
}

fn what_the_parent_replies_to_datagrams_arrives_once() {
    let server = Server::start("udp", "127.0.0.1:0", &["per-peer=1"]);
    let from = |ip: &str| {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.connect(&server.address).unwrap();
        socket
    };
    let receive = |socket: &UdpSocket| {
        let mut buffer = [0; 64];
        let count = socket.recv(&mut buffer).expect("a reply in time");
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    let (one, other) = (from("127.0.0.1"), from("127.0.0.2"));
    one.send(b"stubborn").unwrap();
    assert_eq!(receive(&one), "here");
    // All of these come at once: the parent answers some, and forks for the last.
    server.signal(libc::SIGSTOP);
    eventually("it stands still", || state(server.pid()) == Some('T'));
    for _ in 0..3 {
        one.send(b"one more").unwrap();
    }
    other.send(b"pid").unwrap();
    server.signal(libc::SIGCONT);
    assert_ne!(receive(&other), server.pid().to_string());
    for _ in 0..3 {
        assert_eq!(receive(&one), "too many");
    }
    eventually("the last child has ended", || server.children().len() == 1);
    one.set_nonblocking(true).unwrap();
    assert_eq!(one.recv(&mut [0; 64]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

/// Resident memory in KiB.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
