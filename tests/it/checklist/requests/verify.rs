//! Rows 20 to 23: requests that are turned away, and hooks that fail.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, ThreadId};

use socketserver::hooks::{Failure, Incoming, Phase};
use socketserver::mixin::Mixin;
use socketserver::monitor::AcceptOutcome;
use socketserver::{
    Address, HandlerError, Inline, Pool, ServerHooks, StreamRequest, TcpServer, Threading,
    stream_fn,
};

use super::life;
use crate::handlers::{Echo, OneLine, Steps};
use crate::reports::{Reports, reports};
use crate::support::{SOON, connect, eventually, exchange, inet, read_to_end};

#[test]
fn row_020_a_rejected_request_is_closed_once_and_never_processed() {
    let (diary, turn) = life(false, |diary| Steps { diary, fail_in: &[] });
    assert_eq!(turn, AcceptOutcome::Rejected);
    assert_eq!(diary.text(), "get_request verify_request shutdown_request close_request");
}

#[test]
fn row_020_a_rejected_request_is_counted_and_the_next_one_is_served() {
    struct EveryOther {
        asked: AtomicUsize,
    }

    impl ServerHooks<StreamRequest> for EveryOther {
        fn verify_request(&self, _incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
            Ok(self.asked.fetch_add(1, Ordering::SeqCst) % 2 == 1)
        }
    }

    let hooks = EveryOther { asked: AtomicUsize::new(0) };
    let server = TcpServer::builder().hooks(hooks).bind("127.0.0.1:0", || OneLine).unwrap();
    let server = server.serve_in_background().unwrap();
    assert_eq!(read_to_end(&mut connect(inet(&*server))), b"");
    assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
    eventually("the counts", || server.context().counts().completed == 1);
    let counts = server.context().counts();
    assert_eq!((counts.accepted, counts.rejected), (2, 1));
}

#[test]
#[cfg_attr(under_green, ignore = "the loop is a coroutine of a worker")]
fn row_021_verify_request_runs_in_the_loop_and_not_in_the_worker() {
    struct Where {
        verified_in: Sender<(ThreadId, Address, bool)>,
    }

    impl ServerHooks<StreamRequest> for Where {
        fn verify_request(&self, incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
            let client = incoming.client_address().clone();
            let has_fd = incoming.fileno().is_some();
            let _ = self.verified_in.send((thread::current().id(), client, has_fd));
            Ok(true)
        }
    }

    fn check<M: Mixin>(mixin: M) {
        let (verified_in, verified) = channel();
        let (handled_in, handled) = channel();
        let handler = stream_fn(move |_request: &mut StreamRequest| {
            let _ = handled_in.send(thread::current().id());
            Ok(())
        });
        let server = TcpServer::builder()
            .mixin(mixin)
            .hooks(Where { verified_in })
            .timeout(SOON)
            .bind("127.0.0.1:0", handler)
            .unwrap();
        let client = connect(inet(&server));
        assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
        let here = thread::current().id();
        let me = client.local_addr().unwrap().into();
        assert_eq!(verified.recv_timeout(SOON).unwrap(), (here, me, true));
        assert_ne!(handled.recv_timeout(SOON).unwrap(), here);
    }

    check(Threading::new());
    check(Pool::new(1));
}

#[test]
fn row_022_a_failure_of_verify_request_is_reported_and_the_loop_lives() {
    struct Doubtful {
        asked: AtomicUsize,
        reports: Reports,
    }

    impl ServerHooks<StreamRequest> for Doubtful {
        fn verify_request(&self, _incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
            match self.asked.fetch_add(1, Ordering::SeqCst) {
                0 => Err("no verdict".into()),
                1 => panic!("no verdict at all"),
                _ => Ok(true),
            }
        }

        fn handle_error(&self, failure: &Failure<'_>) {
            self.reports.send(failure);
        }
    }

    let (reports, reported) = reports();
    let hooks = Doubtful { asked: AtomicUsize::new(0), reports };
    let server = TcpServer::builder().hooks(hooks).bind("127.0.0.1:0", || Echo).unwrap();
    let server = server.serve_in_background().unwrap();

    assert_eq!(read_to_end(&mut connect(inet(&*server))), b"");
    let first = reported.recv_timeout(SOON).unwrap();
    assert_eq!((first.phase, first.error.as_str()), (Phase::Verify, "no verdict"));

    assert_eq!(read_to_end(&mut connect(inet(&*server))), b"");
    let second = reported.recv_timeout(SOON).unwrap();
    assert_eq!(second.phase, Phase::Verify);
    assert_eq!(second.panic.as_deref(), Some("no verdict at all"));

    assert_eq!(exchange(&mut connect(inet(&*server)), "still here"), "still here\n");
}

#[test]
fn row_023_a_panic_of_handle_error_leaves_the_request_closed_and_the_server_alive() {
    struct Clumsy;

    impl<R> ServerHooks<R> for Clumsy {
        fn handle_error(&self, failure: &Failure<'_>) {
            panic!("while reporting {}", failure.error());
        }
    }

    fn check<M: Mixin + 'static>(mixin: M) {
        let handler = stream_fn(|request| {
            let mut line = String::new();
            match request.next_line(&mut line)? {
                Some("fail") => Err("asked to".into()),
                Some(text) => Ok(writeln!(request, "{text}")?),
                None => Ok(()),
            }
        });
        let server =
            TcpServer::builder().mixin(mixin).hooks(Clumsy).bind("127.0.0.1:0", handler).unwrap();
        let server = server.serve_in_background().unwrap();
        for _ in 0..3 {
            assert_eq!(exchange(&mut connect(inet(&*server)), "fail"), "", "closed");
        }
        assert_eq!(exchange(&mut connect(inet(&*server)), "fine"), "fine\n");
        eventually("all are closed", || server.context().live_count() == 0);
        assert!(server.stop().unwrap().is_clean());
    }

    check(Inline);
    check(Threading::new());
    check(Pool::new(1));
}
