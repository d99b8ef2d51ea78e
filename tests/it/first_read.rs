//! A connection that has sent nothing yet when its server begins to stop gets a part of the grace period.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::handler::MakeHandler;
use socketserver::mixin::Mixin;
use socketserver::monitor::{CloseReason, DrainReport, ServerEvent};
use socketserver::transport::{Bind, Tcp, Transport, UnixStream};
use socketserver::{
    BackgroundServer, Builder, HandlerError, HandlerResult, Inline, Limits, Pool, ServerHooks,
    StreamRequest, TcpServer, Threading, stream_fn,
};

use crate::support::{
    SOON, StopOnPanic, connect, connect_any, eventually, exchange, folder, inet, read_line,
    read_to_end,
};

/// Longer than any test runs.
const HOUR: Duration = Duration::from_secs(3_600);

fn limits(first_read: Duration) -> Limits {
    Limits::default().idle(HOUR).read(HOUR).write(HOUR).drain(HOUR).first_read(first_read)
}

fn bind<T: Bind<Request = StreamRequest>, M: Mixin + 'static>(
    address: &str,
    mixin: M,
    first_read: Duration,
    handler: impl MakeHandler<StreamRequest>,
) -> BackgroundServer<T, M> {
    let builder = Builder::<T, _>::new(mixin).limits(limits(first_read));
    builder.bind(address, handler).unwrap().serve_in_background().unwrap()
}

fn echo(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        writeln!(request, "{text}")?;
    }
    Ok(())
}

/// Closes a server, and calls `meanwhile` once the drain has begun.
fn while_it_closes<T: Transport, M: Mixin + 'static>(
    server: &BackgroundServer<T, M>,
    meanwhile: impl FnOnce(),
) -> DrainReport {
    thread::scope(|scope| {
        let closing = scope.spawn(|| server.server_close());
        let _stop = StopOnPanic(&**server);
        eventually("it drains", || server.context().is_stopping());
        meanwhile();
        closing.join().unwrap()
    })
}

fn is_answered<T: Bind<Request = StreamRequest>>(address: &str, mixin: impl Mixin + 'static) {
    let server = bind::<T, _>(address, mixin, HOUR, stream_fn(echo));
    let mut client = connect_any(&server.server_address());
    eventually("it is accepted", || server.context().live_count() == 1);
    let report = while_it_closes(&server, || {
        assert_eq!(exchange(&mut *client, "late"), "late\n");
        assert!(read_to_end(&mut *client).is_empty(), "and then it ends at once");
    });
    assert_eq!((report.open_at_start, report.stopped, report.unheard), (1, 1, 0));
    let text = report.to_string();
    assert!(text.ends_with("1 request was open; 1 was ended between two requests"), "{text}");
}

#[test]
fn a_first_request_that_comes_in_the_drain_is_answered_threading() {
    is_answered::<Tcp>("127.0.0.1:0", Threading::new());
}

#[test]
fn a_first_request_that_comes_in_the_drain_is_answered_pool() {
    is_answered::<Tcp>("127.0.0.1:0", Pool::new(2));
}

#[test]
fn a_first_request_that_comes_in_the_drain_is_answered_inline() {
    is_answered::<Tcp>("127.0.0.1:0", Inline);
}

#[test]
fn a_first_request_that_comes_in_the_drain_is_answered_unix() {
    let folder = folder();
    let path = folder.path().join("s");
    is_answered::<UnixStream>(path.to_str().unwrap(), Threading::new());
}

#[test]
fn a_connection_that_stays_silent_is_ended_when_its_time_is_over_and_counted_apart() {
    let first_read = Duration::from_millis(200);
    let server = bind::<Tcp, _>("127.0.0.1:0", Threading::new(), first_read, stream_fn(echo));
    let mut silent = connect(inet(&*server));
    let mut idle = connect(inet(&*server));
    assert_eq!(exchange(&mut idle, "one"), "one\n");
    eventually("both are accepted", || server.context().live_count() == 2);
    let report = server.server_close();
    assert!(report.took >= first_read, "{report}");
    assert!(report.is_clean());
    assert_eq!((report.open_at_start, report.stopped, report.unheard), (2, 2, 1));
    let text = report.to_string();
    let end =
        "2 requests were open; 1 was ended between two requests; 1 was ended that had sent nothing";
    assert!(text.ends_with(end), "{text}");
    assert!(read_to_end(&mut silent).is_empty() && read_to_end(&mut idle).is_empty());
    let counts = server.context().counts();
    assert_eq!((counts.stopped, counts.unheard), (2, 1));
}

#[test]
fn one_that_waits_for_a_next_request_has_no_time_for_it() {
    let server = bind::<Tcp, _>("127.0.0.1:0", Threading::new(), HOUR, stream_fn(echo));
    let mut client = connect(inet(&*server));
    assert_eq!(exchange(&mut client, "one"), "one\n");
    let report = server.server_close();
    assert_eq!((report.stopped, report.unheard), (1, 0), "{report}");
    assert!(read_to_end(&mut client).is_empty());
}

#[test]
fn the_drain_bounds_the_time_for_a_first_read() {
    let server = bind::<Tcp, _>("127.0.0.1:0", Threading::new(), HOUR, stream_fn(echo));
    let mut client = connect(inet(&*server));
    eventually("it is accepted", || server.context().live_count() == 1);
    let report = server.server_close_within(Duration::from_millis(100));
    assert_eq!((report.stopped, report.unheard, report.forced.len()), (1, 1, 0), "{report}");
    assert!(read_to_end(&mut client).is_empty());
}

/// The pool's only worker is busy with another request; the handler of the second has not begun to read.
#[test]
fn one_that_waited_for_a_worker_has_its_time_as_well() {
    let server = bind::<Tcp, _>("127.0.0.1:0", Pool::new(1), HOUR, stream_fn(echo));
    let mut first = connect(inet(&*server));
    let mut second = connect(inet(&*server));
    eventually("both are accepted", || server.context().live_count() == 2);
    let report = while_it_closes(&server, || {
        assert_eq!(exchange(&mut first, "one"), "one\n");
        assert_eq!(exchange(&mut second, "two"), "two\n");
    });
    assert_eq!((report.open_at_start, report.stopped, report.unheard), (2, 2, 0), "{report}");
}

/// The time for the first read ends also when no close is waiting.
#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn a_close_that_waits_for_nobody_ends_first_reads_as_well() {
    let first_read = Duration::from_millis(100);
    let mixin = Threading::new().block_on_close(false);
    let server = bind::<Tcp, _>("127.0.0.1:0", mixin, first_read, stream_fn(echo));
    let mut silent = connect(inet(&*server));
    let mut late = connect(inet(&*server));
    eventually("both are accepted", || server.context().live_count() == 2);
    let report = server.server_close();
    assert_eq!(report.left_running.len(), 2, "{report}");
    assert_eq!(exchange(&mut late, "late"), "late\n");
    assert!(read_to_end(&mut silent).is_empty());
    eventually("both have ended", || server.context().counts().stopped == 2);
    assert_eq!(server.context().counts().unheard, 1);
}

/// Hooks that read a line before the first request, as a proxy sends one as soon as it has connected.
struct Proxied;

impl ServerHooks<StreamRequest> for Proxied {
    fn wrap_request(&self, request: &mut StreamRequest) -> Result<(), HandlerError> {
        request.next_line(&mut String::new())?;
        Ok(())
    }
}

#[test]
fn what_comes_before_the_first_request_is_none() {
    let builder = TcpServer::builder().mixin(Threading::new()).hooks(Proxied).limits(limits(HOUR));
    let server = builder.bind("127.0.0.1:0", stream_fn(echo)).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    client.write_all(b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n").unwrap();
    let waits = |live: &socketserver::monitor::LiveRequest| {
        live.activity == socketserver::monitor::Activity::Idle
    };
    let heard = |live: &socketserver::monitor::LiveRequest| live.bytes_in > 0;
    let all = || server.context().live();
    eventually("it waits", || all().iter().any(|live| waits(live) && heard(live)));
    let report = while_it_closes(&server, || assert_eq!(exchange(&mut client, "late"), "late\n"));
    assert_eq!((report.stopped, report.unheard), (1, 0), "{report}");
}

/// A handler may turn `Stopping` into success, and the request still counts as stopped.
#[test]
fn a_request_that_a_drain_ended_is_not_completed() {
    let reasons = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let told = Arc::clone(&reasons);
    let says_goodbye = |request: &mut StreamRequest| {
        let mut line = String::new();
        while request.next_line(&mut line).is_ok_and(|line| line.is_some()) {
            writeln!(request, "{line}")?;
        }
        writeln!(request, "goodbye")?;
        Ok(())
    };
    let builder = TcpServer::builder().mixin(Threading::new()).limits(limits(HOUR));
    let builder = builder.observer(move |event| {
        if let ServerEvent::RequestEnded { reason, .. } = event {
            told.lock().push(*reason);
        }
    });
    let server = builder.bind("127.0.0.1:0", stream_fn(says_goodbye)).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut leaves = connect(inet(&*server));
    leaves.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut leaves), b"goodbye\n");
    let mut stays = connect(inet(&*server));
    assert_eq!(exchange(&mut stays, "one"), "one\n");
    let report = server.server_close();
    assert_eq!(read_line(&mut stays), "goodbye\n");
    assert_eq!(report.stopped, 1, "{report}");
    let expected = [CloseReason::Completed, CloseReason::Stopped];
    eventually("both are told", || *reasons.lock() == expected);
}

#[test]
fn a_request_that_was_forced_or_closed_is_not_completed() {
    let finishing = Arc::new(AtomicBool::new(false));
    let may = Arc::clone(&finishing);
    let never_fails = move |request: &mut StreamRequest| {
        let _ = request.read_exact(&mut [0; 100]);
        let began = Instant::now();
        while !may.load(Ordering::SeqCst) && began.elapsed() < SOON {
            thread::yield_now();
        }
        Ok(())
    };
    let handler = stream_fn(never_fails);
    let server = bind::<Tcp, _>("127.0.0.1:0", Threading::new(), HOUR, handler);
    let mut clients = [connect(inet(&*server)), connect(inet(&*server))];
    for client in &mut clients {
        client.write_all(b"half").unwrap();
    }
    let begun = || server.context().live().iter().filter(|live| live.bytes_in == 4).count();
    eventually("both have begun", || begun() == 2);
    let id = server.context().live()[0].id;
    assert!(server.context().close_live(id));
    let report = server.server_close_within(Duration::from_millis(50));
    finishing.store(true, Ordering::SeqCst);
    assert!(!report.is_clean(), "{report}");
    eventually("both have ended", || server.context().counts().ended() == 2);
    let counts = server.context().counts();
    assert_eq!((counts.closed_here + counts.forced, counts.completed), (2, 0), "{counts:?}");
    for client in &mut clients {
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
}
