//! Rows 55, 56, 62 and 63: failures in threads, and threads that cannot be started.

use std::io::Write;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use socketserver::hooks::{Failure, Fault, Phase};
use socketserver::mixin::{Job, Mixin};
use socketserver::{
    Builder, Fatal, Pool, ServerHooks, StreamRequest, TcpServer, Threading, stream_fn,
};

use super::super::requests::{Noted, ended_by};
use crate::handlers::{Diary, Echo, OneLine};
use crate::reports::reports;
use crate::support::{SOON, connect, eventually, exchange, inet, read_to_end};

/// A stack that no machine has the addresses for: no thread can be started with it.
const NO_SUCH_STACK: usize = 1 << 47;

#[test]
fn row_055_an_error_in_a_thread_is_reported_there_and_then_the_request_is_closed() {
    struct Notes {
        diary: Diary,
    }

    impl ServerHooks<StreamRequest> for Notes {
        fn handle_error(&self, failure: &Failure<'_>) {
            self.diary.note(format!("{:?} handle_error", thread::current().id()));
            assert_eq!(failure.phase(), Phase::Handle);
        }
    }

    let diary = Diary::default();
    let noted = diary.clone();
    let handler = stream_fn(move |_request| {
        noted.note(format!("{:?} handle", thread::current().id()));
        Err("not today".into())
    });
    let server = Builder::<Noted, _>::new(Threading::new())
        .hooks(Notes { diary: diary.clone() })
        .with_transport(Noted::new(&diary), handler)
        .unwrap();
    let server = server.serve_in_background().unwrap();
    assert_eq!(read_to_end(&mut connect(inet(&*server))), b"");
    eventually("the request is closed", || server.context().live_count() == 0);
    let lines = diary.lines();
    let [get, handle, report, shutdown, close] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!([get, shutdown, close], ["get_request", "shutdown_request", "close_request"]);
    let worker = handle.strip_suffix(" handle").unwrap();
    assert_eq!(report, &format!("{worker} handle_error"));
    assert_ne!(worker, format!("{:?}", thread::current().id()));
}

#[test]
fn row_055_the_server_outlives_errors_and_panics_of_its_threads() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let (reports, reported) = reports();
        let handler = stream_fn(|request| {
            let mut line = String::new();
            match request.next_line(&mut line)? {
                Some("fail") => Err("as asked".into()),
                Some("panic") => panic!("as asked"),
                _ => Ok(writeln!(request, "fine")?),
            }
        });
        let server =
            TcpServer::builder().mixin(mixin).hooks(reports).bind("127.0.0.1:0", handler).unwrap();
        let server = server.serve_in_background().unwrap();
        for _ in 0..4 {
            assert_eq!(exchange(&mut connect(inet(&*server)), "fail"), "");
            assert_eq!(reported.recv_timeout(SOON).unwrap().error, "as asked");
            assert_eq!(exchange(&mut connect(inet(&*server)), "panic"), "");
            assert_eq!(reported.recv_timeout(SOON).unwrap().panic.as_deref(), Some("as asked"));
        }
        assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "fine\n");
        eventually("the last one is counted", || server.context().counts().completed == 1);
        let counts = server.context().counts();
        assert_eq!((counts.failed, counts.panicked), (4, 4));
        assert!(server.stop().unwrap().is_clean());
    }

    check(Threading::new());
    check(Pool::new(2));
}

#[test]
fn row_056_a_fatal_in_a_thread_stops_the_server_with_it() {
    let fatal = || Fatal::new("the disk is full").into();
    let threaded = ended_by(Threading::new(), fatal);
    assert_eq!(threaded.as_fatal().unwrap().to_string(), "the disk is full");
    let pooled = ended_by(Pool::new(2), fatal);
    assert_eq!(pooled.as_fatal().unwrap().to_string(), "the disk is full");
}

/// A mixin that cannot start threads for the first requests, and can for later ones.
struct Recovering {
    failures: usize,
    seen: AtomicUsize,
    bad: Threading,
    good: Threading,
}

impl Mixin for Recovering {
    fn process_request(&self, job: Job) {
        let bad = self.seen.fetch_add(1, Ordering::SeqCst) < self.failures;
        if bad { &self.bad } else { &self.good }.process_request(job);
    }

    fn server_close(&self, deadline: std::time::Instant) {
        self.bad.server_close(deadline);
        self.good.server_close(deadline);
    }
}

#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn row_062_a_thread_that_cannot_be_started_is_reported_and_the_request_is_closed_in_order() {
    let (reports, reported) = reports();
    let diary = Diary::default();
    let mixin = Recovering {
        failures: 3,
        seen: AtomicUsize::new(0),
        bad: Threading::new().stack_size(NO_SUCH_STACK),
        good: Threading::new(),
    };
    let server = Builder::<Noted, _>::new(mixin)
        .hooks(reports)
        .with_transport(Noted::new(&diary), || OneLine)
        .unwrap();
    let server = server.serve_in_background().unwrap();
    for refused in 1..=3 {
        let mut client = connect(inet(&*server));
        assert_eq!(read_to_end(&mut client), b"", "an orderly end");
        let report = reported.recv_timeout(SOON).unwrap();
        assert_eq!((report.phase, report.fault), (Phase::Start, Fault::Resource));
        assert_eq!(report.client_address, client.local_addr().unwrap().into());
        assert!(report.error.starts_with("cannot start a worker for 127.0.0.1:"), "{report:?}");
        eventually("it is closed", || server.context().live_count() == 0);
        assert_eq!(diary.count("shutdown_request"), refused);
        assert_eq!(diary.count("close_request"), refused);
    }
    assert_eq!(server.context().counts().refused, 3);
    assert_eq!(exchange(&mut connect(inet(&*server)), "recovered"), "recovered\n");
    server.stop().unwrap();
}

/// A mixin without `check`. So a thread that cannot be started fails the first requests and not `bind`, as if the
/// resources for it had been lost after the bind.
struct Unchecked<M>(M);

impl<M: Mixin> Mixin for Unchecked<M> {
    fn process_request(&self, job: Job) {
        self.0.process_request(job);
    }

    fn ready(&self) -> bool {
        self.0.ready()
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.event_fd()
    }

    fn service_actions(&self) {
        self.0.service_actions();
    }

    fn server_close(&self, deadline: std::time::Instant) {
        self.0.server_close(deadline);
    }
}

#[test]
fn row_062_a_pool_that_cannot_start_reports_it_as_well() {
    let (reports, reported) = reports();
    let mixin = Unchecked(Pool::new(2).stack_size(NO_SUCH_STACK));
    let server =
        TcpServer::builder().mixin(mixin).hooks(reports).bind("127.0.0.1:0", || Echo).unwrap();
    let server = server.serve_in_background().unwrap();
    for _ in 0..3 {
        assert_eq!(read_to_end(&mut connect(inet(&*server))), b"");
        assert_eq!(reported.recv_timeout(SOON).unwrap().phase, Phase::Start);
    }
    assert!(server.stop().unwrap().is_clean());
}

#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn row_063_server_close_works_after_a_thread_could_not_be_started() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let (reports, reported) = reports();
        let server =
            TcpServer::builder().mixin(mixin).hooks(reports).bind("127.0.0.1:0", || Echo).unwrap();
        let server = server.serve_in_background().unwrap();
        assert_eq!(read_to_end(&mut connect(inet(&*server))), b"");
        reported.recv_timeout(SOON).unwrap();
        // Python would want to join the thread that never was.
        let report = server.server_close_within(SOON);
        assert!(report.is_clean(), "{report}");
        assert!(report.took < SOON, "there is nobody to wait for");
        server.stop().unwrap();
    }

    check(Unchecked(Threading::new().stack_size(NO_SUCH_STACK)));
    check(Unchecked(Pool::new(2).stack_size(NO_SUCH_STACK)));
}
