//! Every bound in time is the one that is documented: what counts as progress, which of two bounds holds, and what
//! the largest and the smallest of them mean.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::{
    BackgroundServer, Builder, HandlerResult, Limits, ServerHooks, Stream, StreamRequest, Tcp,
    Threading, TimedOut, Timeout, stream_fn,
};

use crate::support::{SOON, connect, inet};

/// The ways that bytes go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plain,
    /// Through a stream that stands before the socket.
    Wrapped,
    /// Behind what others send.
    Outbox,
}

const WAYS: [Way; 3] = [Way::Plain, Way::Wrapped, Way::Outbox];

/// A stream that hands everything on.
struct Through(Box<dyn Stream>);

impl Read for Through {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Through {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Stream for Through {
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.0.set_deadline(deadline);
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }

    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        self.0.fileno()
    }
}

struct WrapIf(Way);

impl ServerHooks<StreamRequest> for WrapIf {
    fn wrap_request(&self, request: &mut StreamRequest) -> HandlerResult {
        if self.0 == Way::Wrapped {
            request.wrap_stream(|inner| Ok(Box::new(Through(inner))))?;
        }
        Ok(())
    }

    /// The test sees it by other means.
    fn handle_error(&self, _failure: &socketserver::Failure<'_>) {}
}

fn serve(
    way: Way,
    limits: Limits,
    handle: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
) -> BackgroundServer<Tcp, Threading> {
    let handle = move |request: &mut StreamRequest| {
        if way == Way::Outbox {
            request.outbox()?;
        }
        handle(request)
    };
    let server = Builder::<Tcp, _>::new(Threading::new()).hooks(WrapIf(way)).limits(limits);
    server.bind("127.0.0.1:0", stream_fn(handle)).unwrap().serve_in_background().unwrap()
}

/// More than the buffers of both ends take.
fn much() -> Vec<u8> {
    vec![b'x'; 64 << 20]
}

/// How a write has ended, and after how long.
type Ended = (Option<Timeout>, Duration);

/// A server whose handler writes more than its peer takes, and how that has ended.
fn write_much(way: Way, limits: Limits) -> (BackgroundServer<Tcp, Threading>, Receiver<Ended>) {
    let (tell, told) = channel();
    let server = serve(way, limits, move |request| {
        let began = Instant::now();
        let error = request.write_all(&much()).expect_err("more than it takes");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let _ = tell.send((TimedOut::find(&error).map(TimedOut::which), began.elapsed()));
        Ok(())
    });
    (server, told)
}

/// A client that takes so much, at most, every now and then, until its connection is over.
fn take(mut client: TcpStream, at_once: usize) {
    thread::spawn(move || {
        let mut bytes = vec![0; at_once];
        while client.read(&mut bytes).is_ok_and(|count| count > 0) {
            thread::sleep(Duration::from_millis(50));
        }
    });
}

/// Runs a test for each way at the same time, because each waits for real limits.
fn for_each_way(test: impl Fn(Way) + Sync) {
    thread::scope(|scope| {
        let started: Vec<_> = WAYS
            .map(|way| {
                scope.spawn({
                    let test = &test;
                    move || test(way)
                })
            })
            .into_iter()
            .collect();
        started.into_iter().for_each(|test| test.join().unwrap());
    });
}

/// Long beside what a busy machine needs to notice it.
const LIMIT: Duration = Duration::from_secs(3);

#[test]
fn the_limit_of_a_write_begins_with_the_last_progress_and_with_nothing_else() {
    for_each_way(|way| {
        // A peer that takes a byte now and then makes its system acknowledge nothing.
        for at_once in [None, Some(1)] {
            let (server, told) = write_much(way, Limits { write: LIMIT, ..Limits::default() });
            let client = connect(inet(&*server));
            let kept = client.try_clone().unwrap();
            if let Some(at_once) = at_once {
                take(client, at_once);
            }
            let (which, took) = told.recv_timeout(SOON).unwrap();
            assert_eq!(which, Some(Timeout::Write), "{way:?}");
            assert!(took >= LIMIT, "{way:?}: {took:?}");
            assert!(took < LIMIT * 2, "{way:?}: {took:?} and not {LIMIT:?}");
            drop(kept);
        }
    });
}

#[test]
fn a_slow_peer_has_until_the_bound_of_the_whole_and_not_longer() {
    for_each_way(|way| {
        let whole = LIMIT + LIMIT / 3;
        let limits = Limits { write: LIMIT, request: Some(whole), ..Limits::default() };
        let (server, told) = write_much(way, limits);
        // Slow, and more than a system's buffers hide for as long as the limit.
        take(connect(inet(&*server)), 256 << 10);
        let (which, took) = told.recv_timeout(SOON).unwrap();
        assert_eq!(which, Some(Timeout::Request), "{way:?}");
        assert!(took < whole * 2, "{way:?}: {took:?} and not {whole:?}");
    });
}
