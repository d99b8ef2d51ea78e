//! The ends of children on systems without pidfds: before Linux 5.3, in a container whose filter refuses the call, and
//! when descriptors run out.

use crate::children::a_close_waits_for_children;
use crate::support::{Server, eventually};

tests![
    without_pidfds_a_server_at_its_maximum_goes_on_when_a_child_ends,
    without_pidfds_a_close_ends_when_the_last_child_does,
    without_pidfds_no_zombie_is_left_in_a_server_that_sleeps,
    without_pidfds_handle_request_reaps_and_goes_on_at_the_maximum,
    without_pidfds_a_foreign_child_keeps_its_status_and_its_handler,
];

/// Runs a test for each reason why there are no pidfds, and each state of SIGCHLD.
fn each(test: impl Fn(&[&str])) {
    for errno in ["no-pidfds=EPERM", "no-pidfds=ENOSYS", "no-pidfds=EMFILE"] {
        for state in ["", "ignore-sigchld-later", "block-sigchld", "foreign-child"] {
            test(&[errno, state]);
        }
    }
}

fn with<'a>(options: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [options, more].concat()
}

/// How many children the server itself has forked.
fn ours(server: &Server, options: &[&str]) -> usize {
    server.children().len() - usize::from(options.contains(&"foreign-child"))
}

fn without_pidfds_a_server_at_its_maximum_goes_on_when_a_child_ends() {
    each(|options| {
        let mut server = Server::tcp(&with(options, &["max=2"]));
        let mut clients = vec![server.connect(), server.connect()];
        for client in &mut clients {
            assert_eq!(client.ask("echo hi"), "hi");
        }
        for _ in 0..3 {
            let mut next = server.connect();
            next.send("echo my turn");
            eventually("it waits", || server.sleeps());
            drop(clients.remove(0));
            assert_eq!(next.receive(), "my turn");
            clients.push(next);
        }
        server.stop();
    });
}

fn without_pidfds_a_close_ends_when_the_last_child_does() {
    each(|options| {
        // The grace is much longer than the test's own wait.
        a_close_waits_for_children(&with(options, &["grace=600000"]));
    });
}

fn without_pidfds_no_zombie_is_left_in_a_server_that_sleeps() {
    each(|options| {
        let server = Server::tcp(options);
        for _ in 0..3 {
            assert_eq!(server.connect().ask("echo hi"), "hi");
        }
        eventually("no child is left", || ours(&server, options) == 0);
    });
}

fn without_pidfds_handle_request_reaps_and_goes_on_at_the_maximum() {
    each(|options| {
        let server = Server::tcp(&with(options, &["one-by-one", "turns=1000", "max=1"]));
        for _ in 0..5 {
            assert_eq!(server.connect().ask("echo hi"), "hi");
        }
    });
}

fn without_pidfds_a_foreign_child_keeps_its_status_and_its_handler() {
    let mut server = Server::tcp(&["no-pidfds=EPERM", "foreign-child", "own-sigchld", "max=1"]);
    for _ in 0..3 {
        assert_eq!(server.connect().ask("echo hi"), "hi");
    }
    server.stop();
    assert_eq!(server.told("foreign: "), "foreign: Some(72)");
    let calls: u32 = server.told("own SIGCHLD: ")["own SIGCHLD: ".len()..].parse().unwrap();
    assert!(calls > 0, "the program's own handler is called as before");
}
