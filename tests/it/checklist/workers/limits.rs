//! Rows 64 and 65: the number of threads, and the queue of a pool.

use std::collections::HashSet;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use socketserver::mixin::{Mixin, Refused, WhenFull};
use socketserver::monitor::{AcceptOutcome, Activity};
use socketserver::{
    HandlerResult, Pool, ServerHooks, StreamRequest, TcpServer, Threading, stream_fn,
};

use crate::handlers::{Diary, held};
use crate::support::{SOON, StopOnPanic, connect, eventually, exchange, inet, read_to_end};

/// Counts the requests that are being handled, and keeps the largest number.
#[derive(Default)]
struct Peak {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Peak {
    fn inside<R>(&self, run: impl FnOnce() -> R) -> R {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let result = run();
        self.now.fetch_sub(1, Ordering::SeqCst);
        result
    }
}

/// Sends requests from six threads, and returns the largest number that were handled at once.
fn peak_under_load<M: Mixin + 'static>(mixin: M) -> usize {
    const CLIENTS: usize = 6;
    const EACH: usize = 40;

    let peak = Arc::new(Peak::default());
    let inside = Arc::clone(&peak);
    let handler = stream_fn(move |request| {
        inside.inside(|| {
            let mut line = String::new();
            request.next_line(&mut line)?;
            Ok(writeln!(request, "{line}")?)
        })
    });
    let server = TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    assert_eq!(exchange(&mut connect(inet(&*server)), "load"), "load\n");
                }
            });
        }
    });
    eventually("all are counted", || {
        server.context().counts().completed == (CLIENTS * EACH) as u64
    });
    server.stop().unwrap();
    peak.most.load(Ordering::SeqCst)
}

#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn row_064_never_more_than_the_maximum_run_at_once() {
    assert_eq!(peak_under_load(Threading::new().max_threads(1)), 1);
    assert!(peak_under_load(Threading::new().max_threads(2)) <= 2);
    assert!(peak_under_load(Pool::new(2)) <= 2);
}

/// Asserts that a server with two blocked requests has no room for a third.
fn third_has_to_wait<M: Mixin + 'static>(mixin: M) {
    let (held, holder) = held();
    let server = TcpServer::builder()
        .mixin(mixin)
        .timeout(Duration::from_millis(20))
        .bind("127.0.0.1:0", move || held.clone())
        .unwrap();
    let mut clients: Vec<TcpStream> = (0..3).map(|_| connect(inet(&server))).collect();
    let next_is_taken = || server.handle_request().unwrap() == AcceptOutcome::Handled;
    eventually("the first is taken", next_is_taken);
    eventually("the second is taken", next_is_taken);
    // The third client has connected, and stays in the kernel's queue.
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::TimedOut);
    assert_eq!(server.context().counts().accepted, 2);
    holder.release.send(()).unwrap();
    eventually("the third is taken", next_is_taken);
    drop(holder);
    for client in &mut clients {
        assert_eq!(read_to_end(client), b"released\n");
    }
    assert!(server.server_close_within(SOON).is_clean());
}

#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn row_064_at_the_maximum_nothing_more_is_accepted() {
    third_has_to_wait(Threading::new().max_threads(2));
    third_has_to_wait(Threading::new().max_threads(2).when_full(WhenFull::Wait));
    third_has_to_wait(Pool::new(2).queue(0));
    // One runs, one waits.
    third_has_to_wait(Pool::new(1).queue(1));
}

#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn row_064_at_the_maximum_a_request_may_be_refused_with_a_word() {
    struct Busy;

    impl ServerHooks<StreamRequest> for Busy {
        fn overflow(&self, request: &mut StreamRequest, why: &Refused) -> HandlerResult {
            assert!(matches!(why, Refused::Busy));
            Ok(writeln!(request, "busy")?)
        }
    }

    fn check<M: Mixin + 'static>(mixin: M) {
        let (held, holder) = held();
        let server = TcpServer::builder()
            .mixin(mixin)
            .hooks(Busy)
            .bind("127.0.0.1:0", move || held.clone())
            .unwrap();
        let server = server.serve_in_background().unwrap();
        let mut clients: Vec<TcpStream> = (0..2).map(|_| connect(inet(&*server))).collect();
        for _ in 0..2 {
            holder.started.recv_timeout(SOON).unwrap();
        }
        for _ in 0..3 {
            assert_eq!(read_to_end(&mut connect(inet(&*server))), b"busy\n");
        }
        assert_eq!(server.context().counts().refused, 3);
        drop(holder);
        for client in &mut clients {
            assert_eq!(read_to_end(client), b"released\n");
        }
        // A place is free a little after the client has seen the end.
        eventually("there is room again", || {
            read_to_end(&mut connect(inet(&*server))) == b"released\n"
        });
        server.stop().unwrap();
    }

    check(Threading::new().max_threads(2).when_full(WhenFull::Refuse));
    check(Pool::new(2).queue(0).when_full(WhenFull::Refuse));
}

#[test]
fn row_065_a_pool_has_its_number_of_threads_and_no_more() {
    let (held, holder) = held();
    let server =
        TcpServer::builder().mixin(Pool::new(3)).bind("127.0.0.1:0", move || held.clone()).unwrap();
    assert_eq!(server.mixin().workers(), 3);
    let server = server.serve_in_background().unwrap();
    let mut clients: Vec<TcpStream> = (0..7).map(|_| connect(inet(&*server))).collect();
    let mut threads: HashSet<ThreadId> =
        (0..3).map(|_| holder.started.recv_timeout(SOON).unwrap()).collect();
    assert_eq!(threads.len(), 3);
    eventually("four wait", || {
        let live = server.context().live();
        live.iter().filter(|request| request.activity == Activity::Queued).count() == 4
    });
    assert!(holder.started.try_recv().is_err(), "nobody runs but those three");
    for _ in 0..4 {
        holder.release.send(()).unwrap();
        threads.insert(holder.started.recv_timeout(SOON).unwrap());
    }
    assert_eq!(threads.len(), 3);
    drop(holder);
    for client in &mut clients {
        assert_eq!(read_to_end(client), b"released\n");
    }
}

#[test]
fn row_065_a_pool_serves_first_come_first_served() {
    let diary = Diary::default();
    let noted = diary.clone();
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let handler = stream_fn(move |request| {
        let mut line = String::new();
        let number = request.next_line(&mut line)?.unwrap_or_default().to_owned();
        if number == "0" {
            let _ = released.lock().unwrap().recv();
        }
        noted.note(number);
        Ok(())
    });
    let server = TcpServer::builder().mixin(Pool::new(1)).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut clients = Vec::new();
    for number in 0..10 {
        let mut client = connect(inet(&*server));
        writeln!(client, "{number}").unwrap();
        clients.push(client);
    }
    eventually("all are in the queue", || server.context().live_count() == 10);
    drop(release);
    for client in &mut clients {
        assert_eq!(read_to_end(client), b"");
    }
    assert_eq!(diary.text(), "0 1 2 3 4 5 6 7 8 9");
}

#[test]
fn row_065_a_pool_is_drained_on_close() {
    let (held, holder) = held();
    let server =
        TcpServer::builder().mixin(Pool::new(2)).bind("127.0.0.1:0", move || held.clone()).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut clients: Vec<TcpStream> = (0..5).map(|_| connect(inet(&*server))).collect();
    eventually("all are taken", || server.context().live_count() == 5);
    let report = thread::scope(|scope| {
        let closing = scope.spawn(|| server.server_close_within(SOON));
        let _stop = StopOnPanic(&*server);
        eventually("the close has begun", || server.context().is_stopping());
        drop(holder);
        closing.join().unwrap()
    });
    assert!(report.is_clean(), "{report}");
    for client in &mut clients {
        assert_eq!(read_to_end(client), b"released\n");
    }
    assert_eq!(server.context().counts().completed, 5);
}
