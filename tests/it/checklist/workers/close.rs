//! Rows 57 to 60: whether a close waits for the threads.

use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use socketserver::mixin::Mixin;
use socketserver::monitor::DrainReport;
use socketserver::transport::Tcp;
use socketserver::{BackgroundServer, Inline, Pool, TcpServer, Threading, stream_fn};

use crate::child::{child, is_child, waited};
use crate::handlers::{Echo, Holder, held};
use crate::support::{SOON, StopOnPanic, connect, eventually, inet, read_line, read_to_end};

/// A server with two blocked requests, the test's hold on them, and their clients.
fn with_two_held<M: Mixin + 'static>(
    mixin: M,
) -> (BackgroundServer<Tcp, M>, Holder, Vec<TcpStream>) {
    let (held, holder) = held();
    let server =
        TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", move || held.clone()).unwrap();
    let server = server.serve_in_background().unwrap();
    let clients: Vec<TcpStream> = (0..2).map(|_| connect(inet(&*server))).collect();
    for _ in 0..2 {
        holder.started.recv_timeout(SOON).unwrap();
    }
    (server, holder, clients)
}

/// Closes a server whose two requests block until the close has returned. Returns the report, and the answers.
fn closed_with_two_held(mixin: impl Mixin + 'static) -> (DrainReport, Vec<String>) {
    let (server, holder, mut clients) = with_two_held(mixin);
    let report = server.server_close_within(SOON);
    drop(holder);
    (report, clients.iter_mut().map(read_line).collect())
}

#[test]
fn row_057_server_close_waits_for_all_threads() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let (server, holder, mut clients) = with_two_held(mixin);
        let report = thread::scope(|scope| {
            let closing = scope.spawn(|| server.server_close_within(SOON));
            let _stop = StopOnPanic(&*server);
            eventually("the close has begun", || server.context().is_stopping());
            // Nothing announces that a close waits. A close that does not wait would be over by then.
            thread::sleep(Duration::from_millis(50));
            assert!(!closing.is_finished());
            drop(holder);
            closing.join().unwrap()
        });
        assert_eq!(server.context().counts().completed, 2);
        assert!(report.is_clean(), "nobody is left when it returns: {report}");
        for client in &mut clients {
            assert_eq!(read_to_end(client), b"released\n");
        }
    }

    check(Threading::new());
    check(Threading::new().block_on_close(true).keep(Duration::ZERO));
    check(Pool::new(2));
}

#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn row_058_without_block_on_close_server_close_does_not_wait() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let (report, replies) = closed_with_two_held(mixin);
        assert_eq!((report.open_at_start, report.left_running.len()), (2, 2), "{report}");
        assert_eq!(report.forced.len(), 0, "and it forces nobody");
        assert_eq!(replies, ["released\n", "released\n"]);
    }

    check(Threading::new().block_on_close(false));
    check(Pool::new(2).block_on_close(false));
}

#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn row_059_daemon_threads_are_not_waited_for_by_server_close() {
    // This holds also with block_on_close, as in Python.
    let mixin = Threading::new().block_on_close(true).daemon_threads(true);
    let (report, replies) = closed_with_two_held(mixin);
    assert_eq!(report.left_running.len(), 2, "{report}");
    assert_eq!(replies, ["released\n", "released\n"]);
}

#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn row_059_daemon_threads_are_not_waited_for_at_exit() {
    if is_child() {
        let (begun, begins) = channel();
        let handler = stream_fn(move |_request| {
            let _ = begun.send(());
            loop {
                thread::park();
            }
        });
        let mixin = Threading::new().daemon_threads(true);
        let server = TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", handler).unwrap();
        let server = server.serve_in_background().unwrap();
        let _client = connect(inet(&*server));
        begins.recv_timeout(SOON).unwrap();
        return;
    }
    let mut command = child(module_path!(), "row_059_daemon_threads_are_not_waited_for_at_exit");
    assert!(waited(command.spawn().unwrap(), SOON).success());
}

#[test]
fn row_060_server_close_without_any_request_is_fine() {
    fn check<M: Mixin + 'static>(make: impl Fn() -> M) {
        let bind = || TcpServer::builder().mixin(make()).bind("127.0.0.1:0", || Echo).unwrap();
        let never_served = bind();
        assert!(never_served.server_close().is_clean());
        assert!(never_served.server_close().is_clean(), "once more");
        let idle = bind().serve_in_background().unwrap();
        let report = idle.stop().unwrap();
        assert_eq!(report.open_at_start, 0);
        assert!(report.is_clean());
    }

    check(Threading::new);
    check(|| Threading::new().max_threads(2));
    check(|| Pool::new(2));
    check(|| Inline);
}
