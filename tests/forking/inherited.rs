//! A server's inheritance from the process that started it: ignored or blocked signals, and closed descriptors.

use crate::support::{Server, kill};

tests![
    signals_that_were_blocked_at_the_start_stop_a_server_that_runs,
    a_signal_that_has_come_before_the_run_stops_it_in_order,
    children_hear_of_a_drain_though_their_parent_blocks_the_signal,
    a_sigint_that_was_ignored_at_the_start_stays_ignored,
    the_server_of_a_script_in_the_background_ignores_sigint,
    an_ignored_sigchld_hides_no_end_from_a_server_that_runs,
    a_blocked_sigchld_is_not_handed_on_to_programs_of_handlers,
    closed_standard_descriptors_become_no_sockets,
];

fn signals_that_were_blocked_at_the_start_stop_a_server_that_runs() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        for mixin in ["forked-inline", "forked-threading", "forked-pool", "tcp"] {
            // With these options a program of `forked.rs` forks no child, and the parent itself serves.
            let options = ["block-signals", "children=0", "parent-serves"];
            let mut server = Server::start(mixin, "127.0.0.1:0", &options);
            assert_eq!(server.connect().ask("echo hi").split(' ').next_back(), Some("hi"));
            server.signal(signal);
            assert!(server.wait().success(), "{mixin}");
        }
    }
}

fn a_signal_that_has_come_before_the_run_stops_it_in_order() {
    let mut server = Server::tcp(&["block-signals", "term-before-run"]);
    assert!(server.wait().success());
    server.told("report: ");
}

fn children_hear_of_a_drain_though_their_parent_blocks_the_signal() {
    // The server serves one request by `handle_request`, without signals, and then closes.
    let options = ["block-signals", "one-by-one", "turns=1", "grace=600000"];
    let mut server = Server::tcp(&options);
    let mut client = server.connect();
    assert_eq!(client.ask("echo hi"), "hi");
    assert_eq!(client.receive(), "", "it is idle, and ends with its server");
    assert!(server.wait().success());
}

fn assert_ignores_sigint(server: &mut Server) {
    let mut client = server.connect();
    let child: u32 = client.ask("pid").parse().unwrap();
    for process in [server.pid(), child, server.pid()] {
        kill(process, libc::SIGINT);
        assert_eq!(client.ask("echo still here"), "still here");
        assert_eq!(server.connect().ask("echo and new"), "and new");
    }
    // An idle child that had taken the signal for a drain would have ended.
    assert_eq!(client.ask("echo still here"), "still here");
    server.stop();
    assert_eq!(client.receive(), "");
}

fn a_sigint_that_was_ignored_at_the_start_stays_ignored() {
    assert_ignores_sigint(&mut Server::tcp(&["ignore-sigint"]));
}

fn the_server_of_a_script_in_the_background_ignores_sigint() {
    // A shell without job control ignores SIGINT in the same way for programs that it starts by `&`.
    let script = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"];
    assert_ignores_sigint(&mut Server::start_by(&script, "tcp", "127.0.0.1:0", &[]));
}

fn an_ignored_sigchld_hides_no_end_from_a_server_that_runs() {
    let script = ["perl", "-e", "$SIG{CHLD} = 'IGNORE'; exec @ARGV"];
    let by: &[&str] = if has_perl() { &script } else { &[] };
    let mut server = Server::start_by(by, "tcp", "127.0.0.1:0", &["ignore-sigchld"]);
    assert_eq!(server.connect().ask("fail"), "");
    assert_eq!(
        server.connect().ask("orphan"),
        "left",
        "the status of a handler's program is known"
    );
    assert_eq!(server.connect().ask("fatal of days"), "");
    assert_eq!(server.wait().code(), Some(1));
    assert!(server.told("counts: ").contains("failed: 1"));
    assert!(server.told("ended: ").contains("of days"));
}

fn a_blocked_sigchld_is_not_handed_on_to_programs_of_handlers() {
    let mut server = Server::tcp(&["block-sigchld"]);
    let blocked = u64::from_str_radix(&server.connect().ask("blocked"), 16).unwrap();
    assert_eq!(blocked >> (libc::SIGCHLD - 1) & 1, 0, "{blocked:x}");
    server.stop();
}

fn has_perl() -> bool {
    std::process::Command::new("perl")
        .args(["-e", "1"])
        .status()
        .is_ok_and(|status| status.success())
}

fn closed_standard_descriptors_become_no_sockets() {
    let none = "/dev/null /dev/null /dev/null";
    let mut server = Server::tcp(&["closed-at-bind"]);
    assert_eq!(server.told("at bind: "), format!("at bind: {none}"));
    // An answer shows that the server takes signals.
    assert_eq!(server.connect().ask("echo hi"), "hi");
    server.stop();
    // A daemon closes its standard descriptors when it has bound.
    let server = Server::tcp(&["closed-before-run"]);
    let mut client = server.connect();
    assert_eq!(client.ask("standard"), none);
    client.send("print what stdout is to get");
    assert_eq!(client.ask("echo and nothing else"), "and nothing else");
}
