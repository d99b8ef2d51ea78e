//! Limits on time: idle, read, write, request, drain and the lingering close.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::mixin::Mixin;
use socketserver::monitor::CloseReason;
use socketserver::request::{TimedOut, Timeout};
use socketserver::{
    HandlerResult, Inline, Limits, Pool, StreamRequest, TcpServer, Threading, ThreadingTcpServer,
    stream_fn,
};

use super::{Broken, HOUR, MOMENT, Told, change, echo, failing, holding, patient};
use crate::handlers::OneLine;
use crate::support::{SOON, connect, eventually, exchange, inet, read_line, read_to_end};

#[test]
fn idle_ends_new_connections_quietly_and_running_ones_keep_theirs() {
    let (server, failures, told) = failing(echo);
    let mut old = connect(inet(&*server));
    assert_eq!(exchange(&mut old, "hello"), "hello\n");
    change(&server, |limits| limits.idle = MOMENT);
    for _ in 0..2 {
        let began = Instant::now();
        assert!(read_to_end(&mut connect(inet(&*server))).is_empty());
        assert!(began.elapsed() >= MOMENT);
    }
    eventually("their ends are told", || told.ended(CloseReason::Idle) == 2);
    assert!(failures.try_recv().is_err(), "handle_error is not told");
    // The old connection has been silent for longer than the new limit by now.
    assert_eq!(exchange(&mut old, "still here"), "still here\n");
}

/// Echoes lines until nothing comes, says so, and tries again.
fn echo_and_say_when_idle(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    loop {
        match request.next_line(&mut line) {
            Ok(Some(text)) => request.write_all(format!("{text}\n").as_bytes())?,
            Ok(None) => return Ok(()),
            Err(error) => {
                assert_eq!(TimedOut::find(&error).map(TimedOut::which), Some(Timeout::Idle));
                request.write_all(b"too quiet\n")?;
                let again = request.next_line(&mut line).unwrap_err();
                assert_eq!(TimedOut::find(&again).map(TimedOut::which), Some(Timeout::Idle));
                return Err(error.into());
            }
        }
    }
}

/// Asserts that an idle limit of eight seconds holds. One thread watches all limits of this length, under mixins that
/// allow the server a thread.
fn a_long_idle_limit_is_kept(mixin: impl Mixin + 'static) {
    const LONG: Duration = Duration::from_secs(8);
    let told = Told::default();
    let server = TcpServer::builder()
        .mixin(mixin)
        .limits(patient().idle(LONG))
        .observer(told.observer())
        .bind("127.0.0.1:0", stream_fn(echo_and_say_when_idle))
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let mut silent = connect(inet(&*server));
    silent.set_read_timeout(Some(LONG + SOON)).unwrap();
    let began = Instant::now();
    assert_eq!(exchange(&mut silent, "hello"), "hello\n");
    assert_eq!(read_line(&mut silent), "too quiet\n", "though its handler may still write");
    assert!(began.elapsed() >= LONG);
    assert!(read_to_end(&mut silent).is_empty());
    eventually("its end is told", || told.ended(CloseReason::Idle) == 1);
    assert!(server.stop().unwrap().is_clean());
}

/// Asserts that a limit of eight seconds holds although it was longer before: another client still has the longer limit,
/// for which the watch would sleep for minutes.
fn a_long_idle_limit_that_was_longer_is_kept() {
    let told = Told::default();
    let server = ThreadingTcpServer::builder()
        .limits(patient())
        .observer(told.observer())
        .bind("127.0.0.1:0", stream_fn(echo))
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let mut old = connect(inet(&*server));
    assert_eq!(exchange(&mut old, "hello"), "hello\n");
    // This is long enough for the first check of the watch, after which the next check is far away.
    thread::sleep(Duration::from_millis(1_500));
    change(&server, |limits| limits.idle = Duration::from_secs(8));
    let mut new = connect(inet(&*server));
    new.set_read_timeout(Some(2 * SOON)).unwrap();
    assert!(read_to_end(&mut new).is_empty());
    eventually("its end is told", || told.ended(CloseReason::Idle) == 1);
    assert_eq!(exchange(&mut old, "still here"), "still here\n");
}

/// A long idle limit does not end a client that goes on sending.
fn a_long_idle_limit_spares_who_talks() {
    let told = Told::default();
    let server = ThreadingTcpServer::builder()
        .limits(patient().idle(Duration::from_secs(8)))
        .observer(told.observer())
        .bind("127.0.0.1:0", stream_fn(echo))
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let (mut talking, mut silent) = (connect(inet(&*server)), connect(inet(&*server)));
    silent.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    while silent.read(&mut [0]).is_err() {
        assert_eq!(exchange(&mut talking, "hello"), "hello\n");
    }
    assert_eq!(exchange(&mut talking, "still here"), "still here\n");
    eventually("one end is told", || told.ended(CloseReason::Idle) == 1);
}

/// All mixins are tried at once, because each takes as long as the limit.
#[test]
fn a_long_idle_limit_is_kept_under_every_mixin_and_spares_who_talks() {
    thread::scope(|scope| {
        scope.spawn(|| a_long_idle_limit_is_kept(Inline));
        scope.spawn(|| a_long_idle_limit_is_kept(Threading::new()));
        scope.spawn(|| a_long_idle_limit_is_kept(Pool::new(2)));
        scope.spawn(a_long_idle_limit_that_was_longer_is_kept);
        scope.spawn(a_long_idle_limit_spares_who_talks);
    });
}

#[test]
fn read_write_and_request_hold_from_the_next_request_on() {
    /// Reads more than is sent, or writes more than is taken.
    fn stall(request: &mut StreamRequest) -> HandlerResult {
        let mut word = [0];
        request.read_exact(&mut word)?;
        request.write_all(b"!")?;
        if word == *b"r" {
            return Ok(request.read_exact(&mut [0; 100])?);
        }
        let block = vec![b'x'; 1_000_000];
        loop {
            request.write_all(&block)?;
        }
    }

    let (server, failures, told) = failing(stall);
    let begin = |word: &[u8]| {
        let mut client = connect(inet(&*server));
        client.write_all(word).unwrap();
        client.read_exact(&mut [0]).unwrap();
        client
    };
    let old = [begin(b"r10"), begin(b"w")];
    let limited = |timeout: Timeout, word: &[u8], set: &dyn Fn(&mut Limits)| {
        let before = server.limits();
        change(&server, set);
        let _client = begin(word);
        assert_eq!(failures.recv_timeout(SOON).unwrap(), Broken::Time(timeout, MOMENT));
        server.context().set_limits(before);
    };
    limited(Timeout::Read, b"r10", &|limits| limits.read = MOMENT);
    limited(Timeout::Write, b"w", &|limits| limits.write = MOMENT);
    limited(Timeout::Request, b"r10", &|limits| limits.request = Some(MOMENT));
    limited(Timeout::Request, b"w", &|limits| limits.request = Some(MOMENT));
    eventually("their ends are told", || told.ended(CloseReason::TimedOut) == 4);
    assert_eq!(server.context().live_count(), old.len(), "those from before go on");
    drop(old);
}

#[test]
fn drain_is_the_grace_of_a_close_when_it_begins() {
    let (server, holder, _told) = holding(Threading::new(), patient().drain(HOUR));
    let _client = connect(inet(&*server));
    holder.started.recv_timeout(SOON).unwrap();
    change(&server, |limits| limits.drain = 2 * MOMENT);
    let report = server.server_close();
    assert_eq!((report.grace, report.forced.len()), (2 * MOMENT, 1), "{report}");
    assert!(report.took >= 2 * MOMENT, "{report}");
    drop(holder);
}

#[test]
fn linger_is_that_of_the_moment_when_a_request_begins() {
    let told = Told::default();
    let server = TcpServer::builder()
        .limits(patient().linger(HOUR).linger_bytes(usize::MAX))
        .observer(told.observer())
        .bind("127.0.0.1:0", || OneLine)
        .unwrap();
    let server = server.serve_in_background().unwrap();
    // How much the server takes from a client that never stops, up to 64 MiB.
    let taken = || {
        let mut client = connect(inet(&*server));
        client.write_all(b"x\nand more").unwrap();
        let mut sent = 0;
        while sent < 64 * 1024 * 1024 {
            match client.write(&[b'x'; 64 * 1024]) {
                Ok(count) => sent += count,
                Err(_) => return sent,
            }
        }
        sent
    };
    let whole = 64 * 1024 * 1024;
    assert_eq!(taken(), whole);
    change(&server, |limits| limits.linger_bytes = 16 * 1024 * 1024);
    let some = taken();
    assert!((16 * 1024 * 1024..whole).contains(&some), "{some}");
    change(&server, |limits| limits.linger = Duration::ZERO);
    assert!(taken() < whole);
    change(&server, |limits| {
        limits.linger = HOUR;
        limits.linger_bytes = 0;
    });
    assert!(taken() < whole);
    eventually("all have completed", || told.ended(CloseReason::Completed) == 4);
}
