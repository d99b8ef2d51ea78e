//! Every time limit works as documented: what counts as progress, which of two limits holds, and the meaning of the
//! largest and the smallest values.

use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::request::{Deadline, Request, Stream, TimedOut, Timeout};
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, Builder, HandlerResult, Limits, ServerHooks, StreamRequest, Threading,
    stream_fn,
};

use crate::over_tcp::leave_to_inner_stream;
use crate::support::{SOON, connect, inet, read_to_end, uninterrupted};

/// The ways that bytes go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plain,
    /// Through a stream that stands before the socket.
    Wrapped,
    /// Through a wrapper that accepts all bytes before it sends them, as TLS sessions do.
    Session,
    /// Behind bytes that others have sent through the outbox.
    Outbox,
}

const WAYS: [Way; 4] = [Way::Plain, Way::Wrapped, Way::Session, Way::Outbox];

/// How much a session takes at once.
const RECORD: usize = 1 << 20;

/// A stream that hands everything on; a session does so in whole records.
struct Through {
    inner: Box<dyn Stream>,
    way: Way,
}

impl Read for Through {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

impl Write for Through {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.way == Way::Wrapped {
            return self.inner.write(buf);
        }
        let record = &buf[..buf.len().min(RECORD)];
        self.inner.write_all(record)?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Stream for Through {
    leave_to_inner_stream!();
}

struct WrapIf(Way);

impl ServerHooks<StreamRequest> for WrapIf {
    fn wrap_request(&self, request: &mut StreamRequest) -> HandlerResult {
        let way = self.0;
        if matches!(way, Way::Wrapped | Way::Session) {
            request.wrap_stream(|inner| Ok(Box::new(Through { inner, way })))?;
        }
        Ok(())
    }

    /// The test learns of failures in another way.
    fn handle_error(&self, _failure: &socketserver::hooks::Failure<'_>) {}
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
fn much() -> &'static [u8] {
    static MUCH: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    MUCH.get_or_init(|| vec![b'x'; 64 << 20])
}

/// How a write has ended, and after how long.
type Ended = (Option<Timeout>, Duration);

/// A server whose handler writes more than its peer takes, and the result of that write.
fn write_much(way: Way, limits: Limits) -> (BackgroundServer<Tcp, Threading>, Receiver<Ended>) {
    let (tell, told) = channel();
    let server = serve(way, limits, move |request| {
        let began = Instant::now();
        let error = request.write_all(much()).expect_err("more than it takes");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let _ = tell.send((TimedOut::find(&error).map(TimedOut::which), began.elapsed()));
        Ok(())
    });
    (server, told)
}

/// Reads at most `at_once` bytes every now and then, until the connection is over.
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

/// Long compared with the delays of a busy machine.
const LIMIT: Duration = Duration::from_secs(3);

#[test]
fn the_limit_of_a_write_begins_with_the_last_progress_and_with_nothing_else() {
    for_each_way(|way| {
        // A peer that takes a byte now and then makes its system acknowledge nothing.
        for at_once in [None, Some(1)] {
            let (server, told) = write_much(way, Limits::default().write(LIMIT));
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
        let limits = Limits::default().write(LIMIT).request(whole);
        let (server, told) = write_much(way, limits);
        // The client is slow, but within each limit it takes more bytes than the system's buffers hold.
        take(connect(inet(&*server)), 256 << 10);
        let (which, took) = told.recv_timeout(SOON).unwrap();
        assert_eq!(which, Some(Timeout::Request), "{way:?}");
        assert!(took < whole * 2, "{way:?}: {took:?} and not {whole:?}");
    });
}

/// The limit that a timeout names, and its duration.
fn told(error: &io::Error) -> Option<(Timeout, Duration)> {
    TimedOut::find(error).map(|found| (found.which(), found.after()))
}

const MOMENT: Duration = Duration::from_millis(50);
const HOUR: Duration = Duration::from_secs(3_600);

/// Serves a request whose handler calls `prepare` and then reads bytes that never come. Returns the limit of that read.
fn read_in_vain(
    limits: Limits,
    prepare: impl Fn(&mut StreamRequest) + Send + Sync + 'static,
) -> Option<(Timeout, Duration)> {
    let (tell, ended) = channel();
    let server = serve(Way::Plain, limits, move |request| {
        prepare(request);
        let error = request.read_exact(&mut [0]).expect_err("nothing comes");
        let _ = tell.send(told(&error));
        Ok(())
    });
    let _client = connect(inet(&*server));
    ended.recv_timeout(SOON).unwrap()
}

#[test]
fn a_handler_brings_the_end_of_its_request_nearer_and_does_not_put_it_off() {
    let limits = Limits::default().request(MOMENT);
    let servers = Some((Timeout::Request, MOMENT));
    assert_eq!(read_in_vain(limits, |_request| ()), servers);
    assert_eq!(read_in_vain(limits, |request| request.set_deadline(None)), servers);
    assert_eq!(read_in_vain(limits, |request| request.deadline_in(None)), servers);
    assert_eq!(read_in_vain(limits, |request| request.deadline_in(HOUR)), servers);
    assert_eq!(read_in_vain(limits, |request| request.deadline_in(Duration::MAX)), servers);
    assert_eq!(read_in_vain(limits, |request| request.set_timeout(Some(HOUR))), servers);

    let limits = Limits::default().request(HOUR);
    let own = Some((Timeout::Deadline, MOMENT));
    assert_eq!(read_in_vain(limits, |request| request.deadline_in(MOMENT)), own);
    assert_eq!(read_in_vain(Limits::default(), |request| request.deadline_in(MOMENT)), own);
    let nothing = Some((Timeout::Deadline, Duration::ZERO));
    assert_eq!(read_in_vain(limits, |request| request.deadline_in(Duration::ZERO)), nothing);

    // The handler may lift the limit on the request; the limit on a silence remains.
    let limits = Limits::default().request(MOMENT).idle(3 * MOMENT);
    let lift = |request: &mut StreamRequest| request.set_server_deadline(None);
    assert_eq!(read_in_vain(limits, lift), Some((Timeout::Idle, 3 * MOMENT)));
}

#[test]
fn a_bound_of_a_whole_counts_all_reads_and_writes_together() {
    let whole = 8 * MOMENT;
    let (tell, ended) = channel();
    let server = serve(Way::Plain, Limits::default(), move |request| {
        let began = Instant::now();
        request.deadline_in(whole);
        let mut line = String::new();
        let error = loop {
            match request.next_line(&mut line) {
                Ok(_) => request.write_all(b"and\n")?,
                Err(error) => break error,
            }
        };
        let _ = tell.send((told(&error), began.elapsed()));
        // Bytes that fit into the buffer are still sent, and the usual limits hold again afterwards.
        request.write_all(b"too late\n")?;
        request.deadline_in(None);
        request.next_line(&mut line)?;
        Ok(request.write_all(b"bye\n")?)
    });
    let mut client = connect(inet(&*server));
    let (which, took) = loop {
        client.write_all(b"again\n").unwrap();
        if let Ok(ended) = ended.recv_timeout(MOMENT) {
            break ended;
        }
    };
    assert_eq!(which, Some((Timeout::Deadline, whole)));
    assert!(took >= whole, "{took:?}");
    client.write_all(b"last\n").unwrap();
    let heard = String::from_utf8(read_to_end(&mut client)).unwrap();
    assert!(heard.ends_with("too late\nbye\n"), "{heard:?}");
}

#[test]
fn a_handshake_has_the_time_of_the_whole_request_at_most_and_leaves_no_bound_behind() {
    struct Slow {
        waits: bool,
        tell: std::sync::Mutex<Sender<Option<(Timeout, Duration)>>>,
    }

    impl ServerHooks<StreamRequest> for Slow {
        fn wrap_request(&self, request: &mut StreamRequest) -> HandlerResult {
            request.deadline_in(if self.waits { HOUR } else { Duration::ZERO });
            if self.waits {
                let error = request.read_exact(&mut [0]).expect_err("nothing comes");
                let _ = self.tell.lock().unwrap().send(told(&error));
            }
            Ok(())
        }
    }

    for waits in [true, false] {
        let (tell, ended) = channel();
        let hooks = Slow { waits, tell: tell.clone().into() };
        let handler = stream_fn(move |request| {
            let error = request.read_exact(&mut [0]).expect_err("nothing comes");
            let _ = tell.send(told(&error));
            Ok(())
        });
        let limits = Limits::default().request(MOMENT).handshake(HOUR);
        let server = Builder::<Tcp, _>::new(Threading::new()).hooks(hooks).limits(limits);
        let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
        let _client = connect(inet(&*server));
        for _ in 0..1 + u8::from(waits) {
            let whole = Some((Timeout::Request, MOMENT));
            assert_eq!(ended.recv_timeout(SOON).unwrap(), whole, "waits: {waits}");
        }
    }
}

/// How others send to a member that only listens.
#[derive(Clone, Copy, Debug)]
enum Feed {
    Outbox,
    /// A duplicate of the descriptor, as in the other half of a tunnel.
    Copy,
}

/// A server whose handler waits for a line while others send to its client, and the result of that wait.
fn fed(
    feed: Feed,
    idle: Duration,
    times: u32,
) -> (BackgroundServer<Tcp, Threading>, Receiver<Ended>) {
    let (tell, told) = channel();
    let server = serve(Way::Plain, Limits::default().idle(idle), move |request| {
        let mut send: Box<dyn FnMut() -> bool + Send> = match feed {
            Feed::Outbox => {
                let outbox = request.outbox()?;
                Box::new(move || outbox.send("x").is_ok())
            }
            Feed::Copy => {
                let copy = request.fileno().expect("a socket").try_clone_to_owned()?;
                let mut copy = TcpStream::from(copy);
                Box::new(move || copy.write_all(b"x").is_ok())
            }
        };
        let began = Instant::now();
        let feeder = thread::spawn(move || {
            (0..times).for_each(|_| {
                assert!(send(), "the listener is dropped");
                thread::sleep(MOMENT);
            });
        });
        let error = request.next_line(&mut String::new()).expect_err("it only listens");
        let took = began.elapsed();
        feeder.join().expect("it was listened to until the last");
        let _ = tell.send((TimedOut::find(&error).map(TimedOut::which), took));
        Ok(())
    });
    (server, told)
}

#[test]
fn a_peer_that_only_listens_is_not_idle_while_it_is_sent_to() {
    let idle = LIMIT / 2;
    let times = 3 * u32::try_from(idle.as_millis() / MOMENT.as_millis()).unwrap();
    thread::scope(|scope| {
        for feed in [Feed::Outbox, Feed::Copy] {
            scope.spawn(move || {
                let (server, told) = fed(feed, idle, times);
                let mut client = connect(inet(&*server));
                let heard = read_to_end(&mut client);
                assert_eq!(heard.len(), times as usize, "{feed:?}");
                let (which, took) = told.recv_timeout(SOON).unwrap();
                assert_eq!(which, Some(Timeout::Idle), "{feed:?}");
                assert!(took >= MOMENT * times + idle / 2, "{feed:?}: {took:?}");
            });
        }
    });
}

#[test]
fn a_peer_that_still_takes_its_last_answer_is_not_idle() {
    let idle = LIMIT / 3;
    let size = 4 << 20;
    let server = serve(Way::Plain, Limits::default().idle(idle), move |request| {
        let mut line = String::new();
        while request.next_line(&mut line)?.is_some() {
            request.write_all(&vec![b'x'; size])?;
        }
        Ok(())
    });
    let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    // The client's receive buffer is small, so that most bytes of an answer stay in the server's system until the client
    // takes them.
    client.set_recv_buffer_size(64 << 10).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.connect(&inet(&*server).into()).unwrap();
    let mut client = TcpStream::from(client);
    for _ in 0..2 {
        client.write_all(b"more\n").unwrap();
        let (began, mut taken) = (Instant::now(), 0);
        let mut bytes = vec![0; 64 << 10];
        while taken < size {
            let count = uninterrupted(|| client.read(&mut bytes)).unwrap();
            assert!(count > 0, "it was cut off after {taken} bytes");
            taken += count;
            let due = (3 * idle).mul_f64(taken as f64 / size as f64);
            thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
}

/// The processor time of this thread, in the system's unit: hundredths of a second.
fn ticks_of_this_thread() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
fn what_the_owner_of_a_copy_sets_lifts_no_limit_and_costs_no_spin() {
    let changes: [fn(&TcpStream) -> io::Result<()>; 4] = [
        |copy| copy.set_nonblocking(true),
        |copy| copy.set_read_timeout(Some(Duration::from_millis(1))),
        |copy| copy.set_read_timeout(None),
        |copy| copy.set_write_timeout(Some(Duration::from_millis(1))),
    ];
    for change in changes {
        let (tell, told) = channel();
        let server = serve(Way::Plain, Limits::default().idle(HOUR), move |request| {
            // The request reads before the copy is made, and after.
            request.set_timeout(Some(MOMENT));
            let before = request.read(&mut [0]).expect_err("nothing comes");
            let fd = request.fileno().expect("a socket").try_clone_to_owned()?;
            let copy = TcpStream::from(fd);
            change(&copy)?;
            let (began, ticks) = (Instant::now(), ticks_of_this_thread());
            request.set_timeout(Some(8 * MOMENT));
            let after = request.read(&mut [0]).expect_err("nothing comes");
            let (took, ticks) = (began.elapsed(), ticks_of_this_thread() - ticks);
            assert_eq!([before.kind(), after.kind()], [io::ErrorKind::TimedOut; 2]);
            assert!(took >= 8 * MOMENT, "{took:?}");
            // A wait without a time limit neither ends early nor spins.
            request.set_timeout(None);
            let mut line = String::new();
            writeln!(request, "say")?;
            let began = ticks_of_this_thread();
            assert_eq!(request.next_line(&mut line)?, Some("said"));
            let _ = tell.send((ticks, ticks_of_this_thread() - began));
            // A write without room waits.
            request.write_all(&much()[..16 << 20])?;
            Ok(())
        });
        let mut client = connect(inet(&*server));
        assert_eq!(crate::support::read_line(&mut client), "say\n");
        thread::sleep(8 * MOMENT);
        client.write_all(b"said\n").unwrap();
        // Each wait is 400 ms: a spin would be up to 40 ticks.
        let (bounded, unbounded) = told.recv_timeout(SOON).unwrap();
        assert!(bounded < 10 && unbounded < 10, "{bounded} and {unbounded} ticks");
        assert_eq!(read_to_end(&mut client).len(), 16 << 20);
    }
}

#[test]
fn no_limit_of_the_request_ends_the_reads_and_writes_of_a_copy() {
    let (tell, told) = channel();
    let server = serve(Way::Plain, Limits::default(), move |request| {
        let in_vain = |request: &mut StreamRequest| {
            request.set_timeout(Some(MOMENT));
            let error = request.read(&mut [0]).expect_err("nothing comes");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        };
        // The first read sets a timeout on the socket. It is removed when the copy is made, and the second read sets no new
        // one.
        in_vain(request);
        let copy = request.fileno().expect("a socket").try_clone_to_owned()?;
        let mut copy = TcpStream::from(copy);
        in_vain(request);
        assert_eq!((copy.read_timeout()?, copy.write_timeout()?), (None, None));
        let _ = tell.send(());
        let mut byte = [0];
        copy.read_exact(&mut byte)?;
        Ok(request.write_all(&byte)?)
    });
    let mut client = connect(inet(&*server));
    told.recv_timeout(SOON).unwrap();
    thread::sleep(4 * MOMENT);
    client.write_all(b"x").unwrap();
    assert_eq!(read_to_end(&mut client), b"x");
}

#[test]
fn a_copy_that_a_hook_makes_before_the_handler_runs_is_a_copy_as_well() {
    struct Meddler(std::sync::Mutex<Vec<TcpStream>>);

    impl ServerHooks<StreamRequest> for Meddler {
        fn verify_request(
            &self,
            incoming: &socketserver::hooks::Incoming<'_>,
        ) -> Result<bool, socketserver::HandlerError> {
            let copy = TcpStream::from(incoming.fileno().expect("a socket").try_clone_to_owned()?);
            copy.set_nonblocking(true)?;
            self.0.lock().unwrap().push(copy);
            Ok(true)
        }
    }

    let (tell, ended) = channel();
    let handler = stream_fn(move |request: &mut StreamRequest| {
        request.set_timeout(Some(8 * MOMENT));
        let began = Instant::now();
        let error = request.read(&mut [0]).expect_err("nothing comes");
        let _ = tell.send((told(&error), began.elapsed()));
        Ok(())
    });
    let server = Builder::<Tcp, _>::new(Threading::new()).hooks(Meddler(Vec::new().into()));
    let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    let (which, took) = ended.recv_timeout(SOON).unwrap();
    assert_eq!(which, Some((Timeout::Read, 8 * MOMENT)));
    assert!(took >= 8 * MOMENT, "{took:?}");
    assert_eq!(read_to_end(&mut client), b"", "and the end, though there is a copy");
}

#[test]
fn what_has_no_time_takes_and_sends_what_can_be_at_once() {
    fn no_timeout(request: &mut StreamRequest) {
        request.set_timeout(Some(Duration::ZERO));
    }

    fn no_time(request: &mut StreamRequest) {
        request.deadline_in(Duration::ZERO);
    }

    fn in_the_past(request: &mut StreamRequest) {
        let at = Instant::now().checked_sub(MOMENT).expect("a machine that is up for longer");
        let limit = Timeout::Deadline;
        request.set_deadline(Some(Deadline::new(at, limit, Duration::ZERO)));
    }

    let bounds: [fn(&mut StreamRequest); 3] = [no_timeout, no_time, in_the_past];
    for way in WAYS {
        for bound in bounds {
            let (tell, told) = channel();
            let server = serve(way, Limits::default(), move |request| {
                let mut line = String::new();
                // All lines of the client arrive together.
                request.fill_buf()?;
                bound(request);
                while request.next_line(&mut line)? != Some("last") {}
                let read = request.next_line(&mut line).expect_err("there is no more");
                let write = (request.write_all(b"and\n").err(), request.write_all(much()).err());
                let kinds = [Some(read), write.1].map(|error| error.map(|error| error.kind()));
                let _ = tell.send((kinds, write.0.map(|error| error.kind())));
                Ok(())
            });
            let mut client = connect(inet(&*server));
            client.write_all(b"first\nlast\n").unwrap();
            let (in_vain, at_once) = told.recv_timeout(SOON).unwrap();
            assert_eq!(in_vain, [Some(io::ErrorKind::TimedOut); 2], "{way:?}");
            assert_eq!(at_once, None, "{way:?}");
            assert_eq!(crate::support::read_line(&mut client), "and\n", "{way:?}");
        }
    }
}

#[test]
fn never_is_a_wait_that_neither_ends_nor_spins() {
    let never = Duration::MAX;
    let limits = Limits::default()
        .idle(never)
        .read(never)
        .write(never)
        .request(never)
        .handshake(never)
        .first_read(never)
        .linger(never)
        .drain(never);
    // The shortest time that counts as no limit, and the longest that is passed to the kernel.
    let longest = Duration::from_secs(i32::MAX as u64);
    let times = [None, Some(never), Some(longest), Some(longest - Duration::from_secs(1))];
    for (way, timeout) in WAYS.iter().flat_map(|way| times.map(|time| (*way, time))) {
        let (tell, told) = channel();
        let server = serve(way, limits, move |request| {
            request.set_timeout(timeout);
            request.deadline_in(timeout);
            let (began, mut line) = (ticks_of_this_thread(), String::new());
            assert_eq!(request.next_line(&mut line)?, Some("said"));
            let _ = tell.send(ticks_of_this_thread() - began);
            Ok(request.write_all(&much()[..16 << 20])?)
        });
        let mut client = connect(inet(&*server));
        client.write_all(b"sa").unwrap();
        thread::sleep(4 * MOMENT);
        client.write_all(b"id\n").unwrap();
        let ticks = told.recv_timeout(SOON).unwrap();
        assert!(ticks < 10, "{way:?}, {timeout:?}: {ticks} ticks");
        assert_eq!(read_to_end(&mut client).len(), 16 << 20, "{way:?}, {timeout:?}");
        assert!(server.stop().unwrap().is_clean());
    }
}
