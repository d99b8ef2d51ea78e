//! A forking server's process beside its children: other servers, orphans that it adopts, and, for the first process of a
//! container, signals that do not end it.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;

use crate::support::{Server, eventually, kill, state};

tests![
    a_child_holds_no_socket_of_another_server_of_its_process,
    orphans_that_come_to_a_server_are_waited_for_and_foreign_children_are_not,
    the_first_process_of_a_container_waits_for_orphans,
    the_first_process_of_a_container_ignores_signals_that_it_does_not_take,
    the_first_process_of_a_container_stops_in_order_when_it_runs,
];

fn a_child_holds_no_socket_of_another_server_of_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let option = format!("siblings={}", folder.path().display());
    let mut server = Server::tcp(&[&option]);
    let told = server.told("siblings: ");
    let addresses: Vec<&str> = told["siblings: ".len()..].split(' ').collect();
    let [tcp, udp] = addresses[..] else { panic!("{told}") };
    let mut client = server.connect();
    assert_eq!(client.ask("fds"), "0");
    server.signal(libc::SIGKILL);
    server.wait();
    // The child lives, and each of the others' addresses is free.
    assert_eq!(client.ask("echo alive"), "alive");
    TcpListener::bind(tcp).expect("its port");
    UdpSocket::bind(udp).expect("its port");
    let refused = Some(libc::ECONNREFUSED);
    let error = UnixStream::connect(folder.path().join("stream")).unwrap_err();
    assert_eq!(error.raw_os_error(), refused);
    let socket = UnixDatagram::unbound().unwrap();
    let error = socket.connect(folder.path().join("datagram")).unwrap_err();
    assert_eq!(error.raw_os_error(), refused);
    assert_eq!(client.ask("echo still alive"), "still alive");
}

fn orphans_that_come_to_a_server_are_waited_for_and_foreign_children_are_not() {
    // Orphans are waited for whether foreign children hide them or not, and by pidfds as well as by signals.
    for options in [&["subreaper"][..], &["subreaper", "no-pidfds=EPERM"], &["subreaper", "max=1"]]
    {
        let foreign = [options, &["foreign-child"]].concat();
        for (options, left) in [(options, 0), (&foreign[..], 1)] {
            let mut server = Server::tcp(options);
            for _ in 0..3 {
                assert_eq!(server.connect().ask("orphan"), "left");
            }
            // No client connects any more: the ends of the orphans wake the loop.
            eventually("all are waited for", || server.children().len() == left);
            server.stop();
            if left > 0 {
                assert_eq!(server.told("foreign: "), "foreign: Some(72)");
            }
        }
    }
}

/// A server that is the first process of a namespace of its own, and its number outside of that. `None` if this machine
/// does not allow it.
fn first_process(options: &[&str]) -> Option<(Server, u32)> {
    let unshare = ["unshare", "--pid", "--fork", "--mount-proc"];
    let can = Command::new(unshare[0]).args(&unshare[1..]).arg("true").output();
    if !can.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("SOCKETSERVER_NO_SKIP").is_none(), "this test needs namespaces");
        println!("skipped: only root can make a namespace of processes, and unshare does it");
        return None;
    }
    let server = Server::start_by(&unshare, "tcp", "127.0.0.1:0", options);
    let first = server.children()[0].0;
    Some((server, first))
}

fn children_of(process: u32) -> usize {
    let listed = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    listed.map_or(0, |listed| listed.split_whitespace().count())
}

fn the_first_process_of_a_container_waits_for_orphans() {
    let Some((server, first)) = first_process(&["foreign-child"]) else { return };
    for _ in 0..3 {
        assert_eq!(server.connect().ask("orphan"), "left");
    }
    eventually("only the foreign one is left", || children_of(first) == 1);
    kill(first, libc::SIGTERM);
    assert_eq!(server.told("foreign: "), "foreign: Some(72)");
}

fn the_first_process_of_a_container_ignores_signals_that_it_does_not_take() {
    // This server serves by `serve_forever`, and takes signals only in its children.
    let Some((server, first)) = first_process(&["twice"]) else { return };
    assert_eq!(server.connect().ask("echo hi"), "hi");
    for signal in [libc::SIGTERM, libc::SIGINT] {
        kill(first, signal);
        assert_eq!(server.connect().ask("echo still here"), "still here");
    }
    kill(first, libc::SIGKILL);
    eventually("it has ended", || state(first).is_none_or(|state| state == 'Z'));
}

fn the_first_process_of_a_container_stops_in_order_when_it_runs() {
    let Some((mut server, first)) = first_process(&[]) else { return };
    assert_eq!(server.connect().ask("echo hi"), "hi");
    kill(first, libc::SIGTERM);
    assert!(server.wait().success());
}
