//! Observing a server: a beginning and an end of every request, counts that add up, and the live
//! list.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::hooks::{Failure, Incoming};
use socketserver::mixin::{Job, Mixin, Refused, WhenFull};
use socketserver::monitor::{Activity, CloseReason, Counts, ServerEvent};
use socketserver::transport::{Tcp, Udp};
use socketserver::{
    BackgroundServer, Builder, Fatal, HandlerError, HandlerResult, Inline, Limits, Pool,
    ServerHooks, StreamRequest, StreamRequestHandler, TcpServer, Threading, ThreadingTcpServer,
    stream_fn,
};

use crate::handlers::{Echo, Held, held};
use crate::support::{
    SOON, connect, eventually, exchange, inet, read_line, read_to_end, receive, udp_client,
};

const HOUR: Duration = Duration::from_secs(3_600);
const MOMENT: Duration = Duration::from_millis(50);

fn patient() -> Limits {
    Limits::default().idle(HOUR).read(HOUR).write(HOUR)
}

/// One event, as the observer received it.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Started { id: u64, peer: String, handler: &'static str },
    Ended { id: u64, peer: String, handler: &'static str, end: End },
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct End {
    reason: CloseReason,
    age: Duration,
    bytes_in: u64,
    bytes_out: u64,
}

/// Writes down the beginnings and ends of requests.
#[derive(Clone, Default)]
struct Log {
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Log {
    fn observer(&self) -> impl Fn(&ServerEvent<'_>) + Send + Sync + 'static {
        let log = self.clone();
        move |event| {
            let seen = match event {
                ServerEvent::RequestStarted { id, client_address, handler } => {
                    Seen::Started { id: *id, peer: client_address.to_string(), handler }
                }
                ServerEvent::RequestEnded {
                    id,
                    client_address,
                    proxy_address: _,
                    handler,
                    reason,
                    age,
                    bytes_in,
                    bytes_out,
                    ..
                } => {
                    let end = End {
                        reason: *reason,
                        age: *age,
                        bytes_in: *bytes_in,
                        bytes_out: *bytes_out,
                    };
                    Seen::Ended { id: *id, peer: client_address.to_string(), handler, end }
                }
                _ => return,
            };
            log.seen.lock().unwrap().push(seen);
        }
    }

    fn ends(&self) -> Vec<End> {
        let seen = self.seen.lock().unwrap();
        let end = |seen: &Seen| match seen {
            Seen::Ended { end, .. } => Some(*end),
            Seen::Started { .. } => None,
        };
        seen.iter().filter_map(end).collect()
    }

    /// How many requests have ended in each way. Each must have begun once, before its end, with the same number, peer
    /// and handler; and none may be left over.
    fn tally(&self) -> HashMap<CloseReason, u64> {
        let mut begun = HashMap::new();
        let mut tally = HashMap::new();
        for seen in &*self.seen.lock().unwrap() {
            match seen {
                Seen::Started { id, peer, handler } => {
                    let before = begun.insert(*id, Some((peer.clone(), *handler)));
                    assert!(before.is_none(), "{id} began twice");
                }
                Seen::Ended { id, peer, handler, end } => {
                    let beginning = begun.get_mut(id).and_then(Option::take);
                    assert_eq!(beginning, Some((peer.clone(), *handler)), "the beginning of {id}");
                    *tally.entry(end.reason).or_default() += 1;
                }
            }
        }
        let open = begun.values().flatten().count();
        assert_eq!(open, 0, "some have not ended");
        tally
    }
}

/// The counts of all ends, by reason.
fn counted(counts: &Counts) -> HashMap<CloseReason, u64> {
    let all = [
        (CloseReason::Completed, counts.completed),
        (CloseReason::Failed, counts.failed),
        (CloseReason::Panicked, counts.panicked),
        (CloseReason::Fatal, counts.fatal),
        (CloseReason::Disconnected, counts.disconnected),
        (CloseReason::Idle, counts.idle),
        (CloseReason::TimedOut, counts.timed_out),
        (CloseReason::BadProxyHeader, counts.bad_proxy_header),
        (CloseReason::LineTooLong, counts.line_too_long),
        (CloseReason::Stopped, counts.stopped),
        (CloseReason::Forced, counts.forced),
        (CloseReason::ClosedHere, counts.closed_here),
        (CloseReason::Rejected, counts.rejected),
        (CloseReason::Refused, counts.refused),
        (CloseReason::Released, counts.released),
        (CloseReason::Killed, counts.killed),
    ];
    all.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// Hooks that accept all requests or none, answer refused ones, and print nothing.
struct Quiet {
    admits: bool,
}

impl<R: Write> ServerHooks<R> for Quiet {
    fn verify_request(&self, _incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
        Ok(self.admits)
    }

    fn overflow(&self, request: &mut R, _why: &Refused) -> HandlerResult {
        Ok(request.write_all(b"busy\n")?)
    }

    fn handle_error(&self, _failure: &Failure<'_>) {}
}

/// Obeys its client, one line at a time.
fn obey(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        match text {
            "fail" => return Err("told to fail".into()),
            "panic" => panic!("told to panic"),
            "fatal" => return Err(Fatal::new("told to end it all").into()),
            "half" => {
                writeln!(request, "go on")?;
                request.read_exact(&mut [0; 100])?;
            }
            _ => writeln!(request, "{text}")?,
        }
    }
    Ok(())
}

fn obeying<M: Mixin + 'static>(
    mixin: M,
    limits: Limits,
    admits: bool,
) -> (BackgroundServer<Tcp, M>, Log) {
    let log = Log::default();
    let server = TcpServer::builder()
        .mixin(mixin)
        .limits(limits)
        .hooks(Quiet { admits })
        .observer(log.observer())
        .bind("127.0.0.1:0", stream_fn(obey))
        .unwrap();
    (server.serve_in_background().unwrap(), log)
}

/// Serves one client, and asserts that its request ends once, for this reason, when the client has done its part.
fn ends_as<M: Mixin + 'static>(
    reason: CloseReason,
    mixin: M,
    limits: Limits,
    act: impl FnOnce(&mut TcpStream, &BackgroundServer<Tcp, M>),
) {
    let (server, log) = obeying(mixin, limits, reason != CloseReason::Rejected);
    let mut client = connect(inet(&*server));
    act(&mut client, &server);
    drop(client);
    eventually("its end is told", || !log.ends().is_empty());
    assert_eq!(log.tally(), HashMap::from([(reason, 1)]));
    assert_eq!(counted(&server.context().counts()), HashMap::from([(reason, 1)]));
    assert_eq!(server.context().counts().accepted, 1);
    assert_eq!(server.context().live_count(), 0, "the event comes when it has left");
}

/// Sends a line, and waits until the server has ended the connection.
fn say<M: Mixin>(line: &'static str) -> impl FnOnce(&mut TcpStream, &BackgroundServer<Tcp, M>) {
    move |client, _server| {
        client.write_all(line.as_bytes()).unwrap();
        // A panic or a line that is too long may leave something unread, and the end is then a reset.
        while client.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
    }
}

#[test]
fn completed() {
    ends_as(CloseReason::Completed, Threading::new(), patient(), |client, _| {
        assert_eq!(exchange(client, "hello"), "hello\n");
        client.shutdown(Shutdown::Write).unwrap();
        assert!(read_to_end(client).is_empty());
    });
}

#[test]
fn failed() {
    ends_as(CloseReason::Failed, Threading::new(), patient(), say("fail\n"));
}

#[test]
fn panicked() {
    ends_as(CloseReason::Panicked, Threading::new(), patient(), say("panic\n"));
}

#[test]
fn fatal() {
    ends_as(CloseReason::Fatal, Threading::new(), patient(), say("fatal\n"));
}

#[test]
fn disconnected() {
    ends_as(CloseReason::Disconnected, Threading::new(), patient(), |client, _| {
        assert_eq!(exchange(client, "half"), "go on\n");
        // The client closes with a reset, in the middle of a request.
        socket2::SockRef::from(&*client).set_linger(Some(Duration::ZERO)).unwrap();
    });
}

#[test]
fn disconnected_by_an_end_in_the_middle() {
    ends_as(CloseReason::Disconnected, Threading::new(), patient(), |client, _| {
        assert_eq!(exchange(client, "half"), "go on\n");
        // An orderly end after half of the announced bytes.
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(read_to_end(client).is_empty());
    });
}

#[test]
fn idle() {
    let limits = patient().idle(MOMENT);
    ends_as(CloseReason::Idle, Threading::new(), limits, say(""));
}

#[test]
fn timed_out() {
    let limits = patient().read(MOMENT);
    ends_as(CloseReason::TimedOut, Threading::new(), limits, say("half\nof what was announced"));
}

#[test]
fn line_too_long() {
    let limits = patient().line_bytes(10);
    ends_as(CloseReason::LineTooLong, Threading::new(), limits, say("eleven bytes\n"));
}

#[test]
fn stopped() {
    ends_as(CloseReason::Stopped, Threading::new(), patient(), |client, server| {
        assert_eq!(exchange(client, "hello"), "hello\n");
        let report = server.server_close_within(SOON);
        assert!(report.is_clean(), "{report}");
    });
}

#[test]
fn forced() {
    ends_as(CloseReason::Forced, Threading::new(), patient(), |client, server| {
        assert_eq!(exchange(client, "half"), "go on\n");
        let report = server.server_close_within(MOMENT);
        assert_eq!(report.forced.len(), 1, "{report}");
    });
}

#[test]
fn closed_here() {
    ends_as(CloseReason::ClosedHere, Threading::new(), patient(), |client, server| {
        assert_eq!(exchange(client, "hello"), "hello\n");
        let [live] = &server.context().live()[..] else { panic!("it is live") };
        assert!(server.context().close_live(live.id));
        assert!(read_to_end(client).is_empty());
    });
}

#[test]
fn rejected() {
    ends_as(CloseReason::Rejected, Threading::new(), patient(), say(""));
}

/// A mixin that is always full.
struct Full;

impl Mixin for Full {
    fn process_request(&self, job: Job) {
        job.refuse(socketserver::mixin::Refused::Busy);
    }
}

#[test]
fn refused() {
    ends_as(CloseReason::Refused, Full, patient(), |client, _| {
        assert_eq!(read_to_end(client), b"busy\n");
    });
}

#[test]
fn released() {
    /// Releases every request, as if another process served it.
    struct Lets;
    impl Mixin for Lets {
        fn process_request(&self, job: Job) {
            drop(job);
        }
    }
    ends_as(CloseReason::Released, Lets, patient(), say(""));
}

fn counts_add_up(mixin: impl Mixin + 'static) {
    let limits = patient().line_bytes(100).read(SOON);
    let (server, log) = obeying(mixin, limits, true);
    let address = inet(&*server);
    let clients = (0..8).map(|number: usize| {
        thread::spawn(move || {
            for round in 0..40 {
                let mut client = connect(address);
                // A refused client may notice its refusal in any of these writes.
                let _ = match (number + round) % 6 {
                    0 => client.write_all(b"fail\n"),
                    1 => client.write_all(b"panic\n"),
                    2 => client.write_all(&[b'x'; 200]),
                    3 => {
                        let _ = client.write_all(b"half\n");
                        let _ = client.read(&mut [0; 6]);
                        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO))
                    }
                    4 => Ok(()),
                    _ => client.write_all(b"hello\n"),
                };
                let _ = client.shutdown(Shutdown::Write);
                if (number + round) % 6 != 3 {
                    while client.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.join().unwrap();
    }
    eventually("all have been accepted", || server.context().counts().accepted == 8 * 40);
    assert!(server.server_close_within(SOON).is_clean());
    let counts = server.context().counts();
    assert_eq!(server.context().live_count(), 0);
    assert_eq!(counts.accepted, counts.ended());
    assert_eq!(counted(&counts), log.tally());
    assert!(counted(&counts).len() >= 4, "of all kinds: {counts:?}");
}

#[test]
fn counts_add_up_under_load_inline() {
    counts_add_up(Inline);
}

#[test]
fn counts_add_up_under_load_threading() {
    counts_add_up(Threading::new());
}

#[test]
fn counts_add_up_under_load_with_refusals() {
    counts_add_up(Threading::new().max_threads(3).when_full(WhenFull::Refuse));
}

#[test]
fn counts_add_up_under_load_pool() {
    counts_add_up(Pool::new(4));
}

#[test]
fn counts_of_datagrams_add_up() {
    let log = Log::default();
    let server = Builder::<Udp, _>::new(Pool::new(2))
        .observer(log.observer())
        .bind("127.0.0.1:0", || Echo)
        .unwrap()
        .serve_in_background()
        .unwrap();
    let client = udp_client();
    for _ in 0..50 {
        client.send_to(b"hello", inet(&*server)).unwrap();
        assert_eq!(receive(&client).len(), 5);
    }
    assert!(server.server_close_within(SOON).is_clean());
    assert_eq!(log.tally(), HashMap::from([(CloseReason::Completed, 50)]));
    assert!(log.ends().iter().all(|end| (end.bytes_in, end.bytes_out) == (5, 5)));
}

#[test]
fn bytes_are_counted_both_ways_whoever_sends_them() {
    let log = Log::default();
    let handler = stream_fn(|request| {
        let mut line = String::new();
        // Text, a large block, held-back output, and bytes through an outbox.
        request.next_line(&mut line)?;
        writeln!(request, "{line}")?;
        request.write_all(&vec![b'x'; 3_000_000])?;
        request.set_wbufsize(1_000)?;
        request.write_all(b"held back")?;
        request.set_wbufsize(0)?;
        let outbox = request.outbox()?;
        outbox.send([b'y'; 10_000])?;
        request.write_all(b"the end")?;
        Ok(())
    });
    let server = ThreadingTcpServer::builder()
        .limits(patient())
        .observer(log.observer())
        .bind("127.0.0.1:0", handler)
        .unwrap()
        .serve_in_background()
        .unwrap();
    let mut client = connect(inet(&*server));
    let began = Instant::now();
    client.write_all(b"12345\n").unwrap();
    let received = read_to_end(&mut client);
    eventually("its end is told", || log.ends().len() == 1);
    let [end] = log.ends()[..] else { unreachable!() };
    assert_eq!(received.len(), 6 + 3_000_000 + 9 + 10_000 + 7);
    assert_eq!((end.bytes_in, end.bytes_out), (6, received.len() as u64));
    assert!(end.age <= began.elapsed() + SOON);
}

#[test]
fn the_bytes_of_a_refusal_are_counted() {
    let (server, log) = obeying(Full, patient(), true);
    assert_eq!(read_to_end(&mut connect(inet(&*server))), b"busy\n");
    eventually("its end is told", || log.ends().len() == 1);
    assert_eq!((log.ends()[0].bytes_in, log.ends()[0].bytes_out), (0, 5));
}

#[test]
fn the_live_list_says_who_and_since_when_and_doing_what() {
    let (handler, holder) = held();
    let server = TcpServer::builder()
        .mixin(Pool::new(1))
        .bind("127.0.0.1:0", move || Held::clone(&handler))
        .unwrap()
        .serve_in_background()
        .unwrap();
    let mut running = connect(inet(&*server));
    holder.started.recv_timeout(SOON).unwrap();
    let mut queued = connect(inet(&*server));
    eventually("both are live", || server.context().live_count() == 2);
    let of = |client: &TcpStream| {
        let peer = client.local_addr().unwrap().into();
        let live = server.context().live();
        let mut found = live.into_iter().filter(|request| request.client_address == peer);
        let one = found.next().expect("it is live");
        assert!(found.next().is_none());
        one
    };
    assert_eq!(of(&running).activity, Activity::Running);
    assert_eq!(of(&queued).activity, Activity::Queued);
    assert_ne!(of(&running).id, of(&queued).id);
    assert!(of(&running).handler.ends_with("Held"), "{}", of(&running).handler);
    let (first, now) = (of(&running), Instant::now());
    thread::sleep(Duration::from_millis(5));
    let passed = now.elapsed();
    let second = of(&running);
    assert_eq!(first.id, second.id);
    assert!(second.age >= first.age + passed, "{first} and then {second}");
    assert!(of(&running).age >= of(&queued).age, "it was there before");
    holder.release.send(()).unwrap();
    holder.release.send(()).unwrap();
    assert_eq!(read_to_end(&mut running), b"released\n");
    assert_eq!(read_to_end(&mut queued), b"released\n");
    eventually("none is live", || server.context().live().is_empty());
}

#[test]
fn the_live_list_follows_the_bytes_of_a_connection() {
    let (server, _log) = obeying(Threading::new(), patient(), true);
    let mut client = connect(inet(&*server));
    assert_eq!(exchange(&mut client, "hello"), "hello\n");
    assert_eq!(exchange(&mut client, "again"), "again\n");
    eventually("it waits for its peer", || {
        let live = server.context().live();
        let [one] = &live[..] else { return false };
        (one.activity, one.bytes_in, one.bytes_out) == (Activity::Idle, 12, 12)
    });
}

#[test]
fn close_live_ends_that_one_and_no_other() {
    let (server, log) = obeying(Threading::new(), patient(), true);
    let mut clients: Vec<TcpStream> = (0..5).map(|_| connect(inet(&*server))).collect();
    for client in &mut clients {
        assert_eq!(exchange(client, "hello"), "hello\n");
    }
    let victim = clients[2].local_addr().unwrap().into();
    let live = server.context().live();
    let id = live.iter().find(|request| request.client_address == victim).unwrap().id;
    assert!(server.context().close_live(id));
    assert!(read_to_end(&mut clients.remove(2)).is_empty());
    eventually("it has left", || server.context().live_count() == 4);
    assert!(!server.context().close_live(id), "it has ended already");
    assert!(!server.context().close_live(id + 1_000), "there never was one");
    for client in &mut clients {
        assert_eq!(exchange(client, "still here"), "still here\n");
    }
    assert_eq!(log.ends().len(), 1);
}

#[test]
fn close_live_ends_one_that_waits_for_a_worker() {
    let (handler, holder) = held();
    let log = Log::default();
    let server = TcpServer::builder()
        .mixin(Pool::new(1))
        .observer(log.observer())
        .bind("127.0.0.1:0", move || Held::clone(&handler))
        .unwrap()
        .serve_in_background()
        .unwrap();
    let mut running = connect(inet(&*server));
    holder.started.recv_timeout(SOON).unwrap();
    let mut queued = connect(inet(&*server));
    eventually("both are live", || server.context().live_count() == 2);
    let live = server.context().live();
    let id = live.iter().find(|request| request.activity == Activity::Queued).unwrap().id;
    assert!(server.context().close_live(id));
    assert!(read_to_end(&mut queued).is_empty());
    drop(holder);
    assert_eq!(read_to_end(&mut running), b"released\n");
    eventually("both ends are told", || log.ends().len() == 2);
    let tally = log.tally();
    assert_eq!(tally[&CloseReason::Completed], 1, "{tally:?}");
    assert_eq!(tally[&CloseReason::ClosedHere], 1, "{tally:?}");
}

fn an_observer_that_panics_harms_nobody<M: Mixin + 'static>(mixin: M) {
    let told = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&told);
    let server = TcpServer::builder()
        .mixin(mixin)
        .limits(patient().live(1))
        .observer(move |_event: &ServerEvent<'_>| {
            counting.fetch_add(1, Ordering::SeqCst);
            panic!("the observer");
        })
        .bind("127.0.0.1:0", || Echo)
        .unwrap()
        .serve_in_background()
        .unwrap();
    for _ in 0..3 {
        let mut client = connect(inet(&*server));
        assert_eq!(exchange(&mut client, "hello"), "hello\n");
    }
    assert!(server.server_close_within(SOON).is_clean());
    assert!(told.load(Ordering::SeqCst) >= 6);
    let counts = server.context().counts();
    assert_eq!((counts.accepted, counts.ended()), (3, 3), "{counts:?}");
    server.stop().unwrap();
}

#[test]
fn an_observer_that_panics_harms_nobody_inline() {
    an_observer_that_panics_harms_nobody(Inline);
}

#[test]
fn an_observer_that_panics_harms_nobody_threading() {
    an_observer_that_panics_harms_nobody(Threading::new());
}

#[test]
fn an_observer_that_panics_harms_nobody_pool() {
    an_observer_that_panics_harms_nobody(Pool::new(1));
}

#[test]
fn an_end_is_told_when_the_connection_is_closed_and_its_handler_is_gone() {
    /// Notes its drop.
    struct Leaves {
        order: Arc<Mutex<Vec<&'static str>>>,
    }
    impl StreamRequestHandler for Leaves {
        fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
            Ok(writeln!(request, "bye")?)
        }
    }
    impl Drop for Leaves {
        fn drop(&mut self) {
            self.order.lock().unwrap().push("dropped");
        }
    }
    let order: Arc<Mutex<Vec<&'static str>>> = Arc::default();
    let (told, dropped) = (Arc::clone(&order), Arc::clone(&order));
    let server = TcpServer::builder()
        .observer(move |event: &ServerEvent<'_>| {
            told.lock().unwrap().push(match event {
                ServerEvent::RequestStarted { .. } => "started",
                ServerEvent::RequestEnded { .. } => "ended",
                _ => return,
            });
        })
        .bind("127.0.0.1:0", move || Leaves { order: Arc::clone(&dropped) })
        .unwrap()
        .serve_in_background()
        .unwrap();
    assert_eq!(read_line(&mut connect(inet(&*server))), "bye\n");
    server.stop().unwrap();
    assert_eq!(*order.lock().unwrap(), ["started", "dropped", "ended"]);
}
