//! Facts in the event at the end of a request: why it was refused, which limit has fired, and where its time has gone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net as unix;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::hooks::Fault;
use socketserver::mixin::{Mixin, Refused, WhenFull};
use socketserver::monitor::{CloseReason, RequestTimes, ServerEvent};
use socketserver::request::Timeout;
use socketserver::transport::{Tcp, UnixStream};
use socketserver::{
    Builder, HandlerResult, Inline, Limits, Pool, Rate, Server, ServerHooks, StreamRequest,
    TcpServer, Threading, stream_fn,
};

use crate::handlers::{Echo, Held, Silent, held};
use crate::support::{SOON, connect, eventually, exchange, folder, inet, read_to_end};

const HOUR: Duration = Duration::from_secs(3_600);
const MOMENT: Duration = Duration::from_millis(60);

/// The end of a request, as the observer received it.
#[derive(Debug)]
struct End {
    reason: CloseReason,
    refused: Option<&'static str>,
    limit: Option<Timeout>,
    age: Duration,
    times: RequestTimes,
    text: String,
}

/// Settings with an observer, and the ends that it receives.
fn observed<T: socketserver::transport::Transport, M: Mixin>(
    builder: Builder<T, M>,
) -> (Builder<T, M>, Receiver<End>) {
    let (sender, ends) = channel();
    let builder = builder.observer(move |event| {
        if let ServerEvent::RequestEnded { reason, refused, limit, age, times, .. } = event {
            let end = End {
                reason: *reason,
                refused: refused.map(Refused::name),
                limit: *limit,
                age: *age,
                times: *times,
                text: event.to_string(),
            };
            let _ = sender.send(end);
        }
    });
    (builder, ends)
}

fn next(ends: &Receiver<End>) -> End {
    ends.recv_timeout(SOON).expect("a request ends")
}

fn patient() -> Limits {
    Limits::default().idle(HOUR).read(HOUR).write(HOUR)
}

/// Keeps its hook `wrap_request` busy for a moment, or fails in it.
struct SlowHandshake {
    fails: bool,
}

impl ServerHooks<StreamRequest> for SlowHandshake {
    fn wrap_request(&self, _request: &mut StreamRequest) -> HandlerResult {
        thread::sleep(MOMENT);
        if self.fails { Err("no handshake".into()) } else { Ok(()) }
    }

    fn handle_error(&self, _failure: &socketserver::hooks::Failure<'_>) {}
}

#[test]
fn the_time_in_the_queue_and_that_in_the_handler_are_told_apart() {
    let (handler, holder) = held();
    let builder = TcpServer::builder().mixin(Pool::new(1)).limits(patient());
    let (builder, ends) = observed(builder);
    let server = builder.bind("127.0.0.1:0", move || Held::clone(&handler)).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut first = connect(inet(&*server));
    holder.started.recv_timeout(SOON).unwrap();
    let mut second = connect(inet(&*server));
    eventually("both are live", || server.context().live_count() == 2);
    let queued_at = Instant::now();
    thread::sleep(MOMENT);
    let queued = queued_at.elapsed();
    holder.release.send(()).unwrap();
    assert_eq!(read_to_end(&mut first), b"released\n");
    holder.release.send(()).unwrap();
    assert_eq!(read_to_end(&mut second), b"released\n");
    let (first, second) = (next(&ends), next(&ends));
    let handler = first.times.handler.unwrap();
    assert!(handler >= queued, "it held its worker while the other one waited: {first:?}");
    let in_queue = second.times.in_queue.unwrap();
    assert!(in_queue >= queued, "{second:?}");
    for end in [first, second] {
        let RequestTimes { in_queue, handler, handshake, in_accept_queue, .. } = end.times;
        assert!(in_queue.unwrap() + handler.unwrap() <= end.age, "{end:?}");
        assert_eq!((handshake, in_accept_queue), (None, None), "{end:?}");
    }
}

#[test]
fn the_time_before_the_handler_is_the_handshakes() {
    for fails in [false, true] {
        let builder = TcpServer::builder().mixin(Threading::new()).hooks(SlowHandshake { fails });
        let (builder, ends) = observed(builder);
        let server = builder.bind("127.0.0.1:0", || Silent).unwrap();
        let server = server.serve_in_background().unwrap();
        assert!(read_to_end(&mut connect(inet(&*server))).is_empty());
        let end = next(&ends);
        let RequestTimes { in_queue, handshake, handler, .. } = end.times;
        assert!(handshake.unwrap() >= MOMENT, "{end:?}");
        assert!(in_queue.unwrap() + handshake.unwrap() + handler.unwrap_or_default() <= end.age);
        assert_eq!(handler.is_none(), fails, "{end:?}");
    }
}

/// Connects a client to a server that does not accept yet, waits, and serves it.
fn accepted_late<T>(builder: Builder<T, Inline>, path: &str, client: impl FnOnce(&str)) -> End
where
    T: socketserver::transport::Bind<Request = StreamRequest>,
{
    let (builder, ends) = observed(builder);
    let server: Server<T, Inline> = builder.bind(path, || Silent).unwrap();
    client(&server.server_address().to_string());
    thread::sleep(MOMENT);
    server.handle_request().unwrap();
    next(&ends)
}

#[test]
fn the_time_in_the_accept_queue_is_told_to_those_who_ask_for_it() {
    // The kernel counts in ticks of 10 ms at most, and rounds.
    let at_least = MOMENT - Duration::from_millis(20);
    let mut clients = Vec::new();
    let mut tcp = |address: &str| {
        let mut client = TcpStream::connect(address).unwrap();
        // Bytes that come later do not begin the time anew.
        thread::sleep(MOMENT);
        client.write_all(b"x").unwrap();
        clients.push(client);
    };
    let builder = || Builder::<Tcp, _>::new(Inline);
    let end = accepted_late(builder().time_accept_queue(true), "127.0.0.1:0", &mut tcp);
    if cfg!(target_os = "linux") {
        let waited = end.times.in_accept_queue.expect("the kernel tells it");
        assert!(waited >= MOMENT + at_least && waited < HOUR, "{end:?}");
        assert!(end.age < waited, "the age begins with the acceptance: {end:?}");
    }
    let end = accepted_late(builder(), "127.0.0.1:0", &mut tcp);
    assert_eq!(end.times.in_accept_queue, None, "nobody has asked");

    let folder = folder();
    let path = folder.path().join("s").to_str().unwrap().to_owned();
    let mut client = None;
    let builder = Builder::<UnixStream, _>::new(Inline).time_accept_queue(true);
    let end = accepted_late(builder, &path, |_| {
        client = Some(unix::UnixStream::connect(&path).unwrap());
    });
    assert_eq!(end.times.in_accept_queue, None, "a Unix socket has no such time");
}

#[test]
fn a_request_that_is_not_run_has_no_times_of_a_worker() {
    struct Nobody;
    impl ServerHooks<StreamRequest> for Nobody {
        fn verify_request(
            &self,
            _incoming: &socketserver::hooks::Incoming<'_>,
        ) -> Result<bool, socketserver::HandlerError> {
            Ok(false)
        }
    }
    let (sender, texts) = channel();
    let (builder, ends) = observed(TcpServer::builder().hooks(Nobody));
    let builder = builder.observer(move |event| {
        if let ServerEvent::RequestStarted { .. } = event {
            let _ = sender.send(event.to_string());
        }
    });
    let server = builder.bind("127.0.0.1:0", || Silent).unwrap().serve_in_background().unwrap();
    assert!(read_to_end(&mut connect(inet(&*server))).is_empty());
    let end = next(&ends);
    assert_eq!((end.reason, end.times), (CloseReason::Rejected, RequestTimes::default()));
    let begun = texts.recv_timeout(SOON).unwrap();
    assert!(begun.contains("has come: ") && !begun.contains("started"), "{begun}");
}

/// The end of the next request that is refused.
fn refusal(ends: &Receiver<End>) -> End {
    loop {
        let end = next(ends);
        if end.reason == CloseReason::Refused {
            return end;
        }
    }
}

/// Lets `keep` clients keep their requests, and one more come. Returns the end of the one that is refused.
fn one_too_many(
    mixin: impl Mixin + 'static,
    limits: Limits,
    keep: usize,
    act: impl FnOnce(SocketAddr),
) -> End {
    let (builder, ends) = observed(TcpServer::builder().mixin(mixin).limits(limits));
    let server = builder.bind("127.0.0.1:0", || Echo).unwrap().serve_in_background().unwrap();
    let mut kept: Vec<_> = (0..keep).map(|_| connect(inet(&*server))).collect();
    for client in &mut kept {
        assert_eq!(exchange(client, "hello"), "hello\n");
    }
    act(inet(&*server));
    refusal(&ends)
}

/// A refused client may see its end as a reset.
fn refused(address: SocketAddr) {
    let _ = connect(address).read(&mut [0; 8]);
}

#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn a_request_that_no_thread_is_free_for_says_so() {
    let full = Threading::new().max_threads(1).when_full(WhenFull::Refuse);
    let end = one_too_many(full, patient(), 1, refused);
    assert_eq!(end.refused, Some("busy"));
    assert!(end.text.contains("it was refused (the server is busy), 0."), "{}", end.text);
}

#[test]
fn a_refused_request_says_why() {
    let end = one_too_many(Threading::new(), patient().per_peer(2), 2, refused);
    assert_eq!(end.refused, Some("too_many_from_peer"));
    let slow = patient().peer_rate(Rate::per_second(1).burst(1));
    let end = one_too_many(Threading::new(), slow, 1, refused);
    assert_eq!(end.refused, Some("too_fast_from_peer"));
    assert_eq!(end.times, RequestTimes::default());
}

#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn a_request_without_a_worker_says_why() {
    let (builder, ends) =
        observed(TcpServer::builder().mixin(Threading::new().on_thread_start(|| {
            panic!("no database");
        })));
    let builder = builder.hooks(SlowHandshake { fails: true });
    let server = builder.bind("127.0.0.1:0", || Echo).unwrap().serve_in_background().unwrap();
    let _ = connect(inet(&*server)).read(&mut [0; 8]);
    assert_eq!(refusal(&ends).refused, Some("cannot_start"));
}

#[test]
fn a_limit_that_has_passed_says_which() {
    let half = stream_fn(|request: &mut StreamRequest| Ok(request.read_exact(&mut [0; 100])?));
    let line = stream_fn(|request: &mut StreamRequest| {
        request.next_line(&mut Vec::new())?;
        Ok(())
    });
    let late = stream_fn(|request: &mut StreamRequest| {
        request.deadline_in(MOMENT);
        Ok(request.read_exact(&mut [0; 100])?)
    });
    let handled = stream_fn(|request: &mut StreamRequest| {
        // The handler copes with the limit, and ends well.
        let _ = request.read_exact(&mut [0; 100]);
        Ok(())
    });
    let ends_by = |handler: Box<dyn socketserver::handler::MakeHandler<StreamRequest>>,
                   limits: Limits| {
        let (builder, ends) = observed(TcpServer::builder().mixin(Threading::new()).limits(limits));
        let server = builder.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
        let mut client = connect(inet(&*server));
        client.write_all(b"xx").unwrap();
        // The end may be a reset: not all was read.
        while client.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
        let end = next(&ends);
        (end.reason, end.limit, end.text)
    };
    let (reason, limit, text) = ends_by(Box::new(half), patient().read(MOMENT));
    assert_eq!((reason, limit), (CloseReason::TimedOut, Some(Timeout::Read)));
    assert!(text.contains("it took too long (read timeout), 0."), "{text}");
    let whole = patient().request(Some(MOMENT));
    let (reason, limit, _) = ends_by(Box::new(line), whole);
    assert_eq!((reason, limit), (CloseReason::TimedOut, Some(Timeout::Request)));
    let (reason, limit, _) = ends_by(Box::new(late), patient());
    assert_eq!((reason, limit), (CloseReason::TimedOut, Some(Timeout::Deadline)));
    let (reason, limit, _) = ends_by(Box::new(handled), patient().read(MOMENT));
    assert_eq!((reason, limit), (CloseReason::Completed, None));

    let (builder, ends) = observed(TcpServer::builder().limits(patient().idle(MOMENT)));
    let server = builder.bind("127.0.0.1:0", || Echo).unwrap().serve_in_background().unwrap();
    assert!(read_to_end(&mut connect(inet(&*server))).is_empty());
    let end = next(&ends);
    assert_eq!((end.reason, end.limit), (CloseReason::Idle, Some(Timeout::Idle)));
}

#[test]
fn each_end_is_somebodys_fault_or_nobodys() {
    use CloseReason as Reason;
    let peers = [
        Reason::Disconnected,
        Reason::Garbled,
        Reason::Idle,
        Reason::TimedOut,
        Reason::LineTooLong,
    ];
    let handlers = [Reason::Failed, Reason::Panicked, Reason::Fatal, Reason::Killed];
    let servers = [Reason::Refused, Reason::Forced];
    let nobodys = [
        Reason::Completed,
        Reason::Stopped,
        Reason::ClosedHere,
        Reason::Rejected,
        Reason::Released,
    ];
    let all = [
        (Some(Fault::Peer), &peers[..]),
        (Some(Fault::Handler), &handlers),
        (Some(Fault::Server), &servers),
        (None, &nobodys),
    ];
    for (fault, reasons) in all {
        assert!(reasons.iter().all(|reason| reason.fault() == fault), "{fault:?}");
    }
}
