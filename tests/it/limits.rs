//! Every limit holds, and holds from the next request on when it is changed on a live server.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::{
    Address, BackgroundServer, BaseServer, Bind, Builder, CloseReason, Failure, Forking,
    HandlerResult, Inline, Limit, Limits, LineTooLong, Mixin, Outbox, OutboxError, Pool, Rate,
    Refused, ServerEvent, ServerHooks, SocketOptions, StreamRequest, Tcp, TcpServer, Threading,
    ThreadingTcpServer, TimedOut, Timeout, Transport, stream_fn,
};

use crate::handlers::{Diary, Echo, Held, Holder, OneLine, held};
use crate::over_tcp::{leave_connections_to_tcp, leave_to_tcp};
use crate::support::system::{descriptor_limits, set_descriptor_limits};
use crate::support::{
    SOON, alone, connect, eventually, exchange, inet, read_line, read_to_end, serve,
};

const HOUR: Duration = Duration::from_secs(3_600);
const MOMENT: Duration = Duration::from_millis(50);

/// Limits that do not end a test before its own patience does.
fn patient() -> Limits {
    Limits { idle: HOUR, read: HOUR, write: HOUR, ..Limits::default() }
}

/// How often a limit has been told of, and how requests have ended.
#[derive(Clone, Default)]
struct Told {
    diary: Diary,
}

impl Told {
    fn observer(&self) -> impl Fn(&ServerEvent<'_>) + Send + Sync + 'static {
        let diary = self.diary.clone();
        move |event| match event {
            ServerEvent::LimitReached { limit } => diary.note(format!("{limit:?}")),
            ServerEvent::RequestEnded { reason, .. } => diary.note(format!("{reason:?}")),
            _ => {}
        }
    }

    fn reached(&self, limit: Limit) -> usize {
        self.diary.count(&format!("{limit:?}"))
    }

    fn ended(&self, reason: CloseReason) -> usize {
        self.diary.count(&format!("{reason:?}"))
    }
}

fn holding<M: Mixin + 'static>(
    mixin: M,
    limits: Limits,
) -> (BackgroundServer<Tcp, M>, Holder, Told) {
    let ((handler, holder), told) = (held(), Told::default());
    let server = TcpServer::builder()
        .mixin(mixin)
        .limits(limits)
        .observer(told.observer())
        .bind("127.0.0.1:0", move || Held::clone(&handler))
        .unwrap();
    (server.serve_in_background().unwrap(), holder, told)
}

fn change<M: Mixin>(server: &BackgroundServer<Tcp, M>, change: impl Fn(&mut Limits)) {
    let mut limits = server.limits();
    change(&mut limits);
    server.context().set_limits(limits);
    assert_eq!(server.limits(), limits);
}

#[test]
fn every_default_is_the_documented_one() {
    // Without `..`: a limit that is added has to be added here.
    let documented = Limits {
        live: 10_000,
        per_peer: 10_000,
        accept_rate: None,
        peer_rate: None,
        line_bytes: 64 * 1024,
        outbox_bytes: 64 * 1024,
        idle: Duration::from_secs(60),
        read: Duration::from_secs(60),
        write: Duration::from_secs(60),
        request: None,
        handshake: Duration::from_secs(10),
        linger: Duration::from_secs(2),
        linger_bytes: 16 * 1024 * 1024,
        drain: Duration::from_secs(10),
        first_read: Duration::from_secs(1),
    };
    assert_eq!(Limits::default(), documented);
    let server = TcpServer::bind("127.0.0.1:0", stream_fn(|_request| Ok(()))).unwrap();
    assert_eq!(server.limits(), documented);

    // What has private fields, or may get more, is whole only as text.
    let options = "SocketOptions { allow_reuse_address: true, allow_reuse_port: false, \
                   request_queue_size: 2147483647, only_v6: None, keepalive: None, \
                   recv_buffer_bytes: None, send_buffer_bytes: None, max_packet_size: 65535, \
                   unix_mode: None, replace_stale: true, unlink_on_close: false }";
    assert_eq!(format!("{:?}", SocketOptions::default()), options);
    assert_shows(&Threading::new(), &["gate: None", "when_full: Wait", "stack_bytes: None"]);
    assert_shows(&Threading::new(), &["keep: None", "detached: false", "daemon: false"]);
    assert_shows(&Pool::new(3), &["workers: 3", "queue: 1024", "max: 1027", "when_full: Wait"]);
    assert_shows(&Pool::new(3), &["stack_bytes: None", "detached: false"]);
    assert_shows(&Forking::new(), &["max_children: 40", "block_on_close: true"]);
}

fn assert_shows(mixin: &dyn std::fmt::Debug, fields: &[&str]) {
    let shown = format!("{mixin:?}");
    for field in fields {
        let ends = [",", " }"].map(|end| format!("{field}{end}"));
        assert!(ends.iter().any(|end| shown.contains(end)), "no {field} in {shown}");
    }
}

fn the_gate_of_live_holds(mixin: impl Mixin + 'static) {
    let (server, holder, told) = holding(mixin, Limits { live: 2, ..patient() });
    let clients: Vec<TcpStream> = (0..6).map(|_| connect(inet(&*server))).collect();
    let starts = |count: usize| {
        for _ in 0..count {
            holder.started.recv_timeout(SOON).unwrap();
        }
    };
    starts(2);
    eventually("it says that it is full", || told.reached(Limit::Live) == 1);
    assert_eq!(server.context().counts().accepted, 2);

    // One leaves, one enters: full again.
    holder.release.send(()).unwrap();
    starts(1);
    eventually("it says so again", || told.reached(Limit::Live) == 2);
    assert_eq!((server.context().counts().accepted, server.context().live_count()), (3, 2));

    // More at once, of the live server.
    change(&server, |limits| limits.live = 4);
    starts(2);
    eventually("it says so of the new limit", || told.reached(Limit::Live) == 3);
    assert_eq!((server.context().counts().accepted, server.context().live_count()), (5, 4));

    // Fewer: who is in stays in, and the next one enters when all but none have left.
    change(&server, |limits| limits.live = 1);
    for left in [3, 2, 1] {
        holder.release.send(()).unwrap();
        eventually("one has left", || server.context().live_count() == left);
        assert_eq!(server.context().counts().accepted, 5);
    }
    holder.release.send(()).unwrap();
    starts(1);
    eventually("it says so a last time", || told.reached(Limit::Live) == 4);
    holder.release.send(()).unwrap();
    for mut client in clients {
        assert_eq!(read_to_end(&mut client), b"released\n");
    }
    let last = told.reached(Limit::Live);
    assert!(last == 4, "told once in each episode, and not {last} times in four");
}

#[test]
fn live_holds_and_the_rest_is_served_later_threading() {
    the_gate_of_live_holds(Threading::new());
}

#[test]
fn live_holds_and_the_rest_is_served_later_pool() {
    the_gate_of_live_holds(Pool::new(6));
}

/// Says why a client is refused, to the client and to the test.
struct Why {
    to: Sender<bool>,
}

impl ServerHooks<StreamRequest> for Why {
    fn overflow(&self, request: &mut StreamRequest, why: &Refused) -> HandlerResult {
        self.to.send(matches!(why, Refused::TooManyFromPeer))?;
        Ok(writeln!(request, "{why}")?)
    }
}

const TOO_MANY: &[u8] = b"this client has too many requests at once\n";

/// Connects from an address of this machine.
fn connect_from(ip: [u8; 4], server: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::from(ip), 0)).into()).unwrap();
    socket.connect_timeout(&server.into(), SOON).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

#[test]
fn per_peer_refuses_one_more_from_an_address_and_nobody_else() {
    let ((handler, holder), told) = (held(), Told::default());
    let (to, why) = channel();
    let server = ThreadingTcpServer::builder()
        .limits(Limits { per_peer: 2, ..patient() })
        .hooks(Why { to })
        .observer(told.observer())
        .bind("127.0.0.1:0", move || Held::clone(&handler))
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let address = inet(&*server);
    let from = |last: u8| connect_from([127, 0, 0, last], address);
    let starts = || holder.started.recv_timeout(SOON).unwrap();
    let refused = |last: u8| {
        assert_eq!(read_to_end(&mut from(last)), TOO_MANY);
        assert!(why.recv_timeout(SOON).unwrap(), "the reason is TooManyFromPeer");
    };

    let mut inside = vec![from(1), from(1)];
    starts();
    starts();
    refused(1);
    assert_eq!(told.reached(Limit::PerPeer), 1);
    inside.push(from(2));
    starts();
    // Whoever was refused has left no trace in the count.
    refused(1);
    eventually("who was refused has left", || server.context().live_count() == 3);

    change(&server, |limits| limits.per_peer = 3);
    inside.push(from(1));
    starts();
    refused(1);

    // As many as may be alive at all: no limit of its own. Then one again, which counts those inside.
    change(&server, |limits| limits.per_peer = limits.live);
    inside.push(from(1));
    starts();
    change(&server, |limits| limits.per_peer = 1);
    refused(1);
    refused(2);
    inside.push(from(3));
    starts();

    // Once they have left there is room again.
    for _ in 0..inside.len() {
        holder.release.send(()).unwrap();
    }
    for client in &mut inside {
        assert_eq!(read_to_end(client), b"released\n");
    }
    eventually("all have left", || server.context().live_count() == 0);
    let mut again = from(1);
    starts();
    holder.release.send(()).unwrap();
    assert_eq!(read_to_end(&mut again), b"released\n");
    assert_eq!(server.context().counts().refused, 5);
    assert_eq!(told.ended(CloseReason::Refused), 5);
}

/// TCP whose peers seem to come from where the test says.
struct Disguised {
    inner: Tcp,
    from: Arc<Mutex<&'static str>>,
}

impl Transport for Disguised {
    leave_to_tcp!();
    leave_connections_to_tcp!();

    fn get_request(&self) -> io::Result<(Self::Raw, Address)> {
        let (raw, _) = self.inner.get_request()?;
        let from: SocketAddr = self.from.lock().unwrap().parse().unwrap();
        Ok((raw, from.into()))
    }

    fn shutdown_request(&self, request: &mut StreamRequest) {
        self.inner.shutdown_request(request);
    }

    fn close_request(&self, request: StreamRequest) {
        self.inner.close_request(request);
    }
}

#[test]
fn per_peer_takes_an_ipv6_network_of_64_bits_for_one_peer() {
    let (handler, holder) = held();
    let (to, why) = channel();
    let from = Arc::new(Mutex::new(""));
    let inner = Tcp::unbound(&"127.0.0.1:0".into(), &SocketOptions::default()).unwrap();
    let server = Builder::<Disguised, _>::new(Threading::new())
        .limits(Limits { per_peer: 2, ..patient() })
        .hooks(Why { to })
        .with_transport(Disguised { inner, from: Arc::clone(&from) }, move || handler.clone())
        .unwrap()
        .serve_in_background()
        .unwrap();
    let mut inside = Vec::new();
    for (address, served) in [
        ("[2001:db8:0:1::1]:1000", true),
        ("[2001:db8:0:1:ffff:ffff:ffff:ffff]:2000", true),
        ("[2001:db8:0:1:1234::]:3000", false),
        // Its neighbour, and somebody whose address ends alike.
        ("[2001:db8:0:2::1]:1000", true),
        ("[2001:db8:1:1::1]:1000", true),
        ("[2001:db8:0:1::1]:4000", false),
        // An IPv4 address is one, in whatever clothes.
        ("192.0.2.1:1000", true),
        ("[::ffff:192.0.2.1]:2000", true),
        ("192.0.2.1:3000", false),
        ("[::ffff:192.0.2.2]:1000", true),
    ] {
        *from.lock().unwrap() = address;
        let mut client = connect(inet(&*server));
        if served {
            holder.started.recv_timeout(SOON).unwrap_or_else(|_| panic!("{address} is refused"));
            inside.push(client);
        } else {
            assert_eq!(read_to_end(&mut client), TOO_MANY, "{address}");
            assert!(why.recv_timeout(SOON).unwrap());
        }
    }
    drop(holder);
}

/// Says to each client whether it comes too often.
struct TooFast;

impl ServerHooks<StreamRequest> for TooFast {
    fn overflow(&self, request: &mut StreamRequest, why: &Refused) -> HandlerResult {
        assert!(matches!(why, Refused::TooFastFromPeer), "{why}");
        Ok(writeln!(request, "{why}")?)
    }
}

#[test]
fn peer_rate_refuses_one_that_comes_too_often_and_nobody_else() {
    let told = Told::default();
    let limits =
        Limits { peer_rate: Some(Rate { per_second: 1, burst: 3 }), live: 1_000, ..patient() };
    let server = TcpServer::builder()
        .limits(limits)
        .hooks(TooFast)
        .observer(told.observer())
        .bind("127.0.0.1:0", stream_fn(|request| Ok(writeln!(request, "welcome")?)))
        .unwrap()
        .serve_in_background()
        .unwrap();
    let is_welcome = |last: u8| {
        let answer = read_to_end(&mut connect_from([127, 0, 0, last], inet(&*server)));
        let welcome = answer == b"welcome\n";
        assert!(welcome || answer == b"this client comes too often\n", "{answer:?}");
        welcome
    };
    let began = Instant::now();
    let mut burst = 0;
    while is_welcome(1) {
        burst += 1;
    }
    // As many as the burst has, and as many as have come back while they were used up, however long that took.
    assert!((3..=4 + began.elapsed().as_secs()).contains(&burst), "{burst}");
    assert!(is_welcome(2) && is_welcome(2) && is_welcome(2), "somebody else pays for it");
    assert_eq!(told.reached(Limit::PeerRate), 1);
    eventually("a token comes back", || is_welcome(1));

    change(&server, |limits| limits.peer_rate = None);
    assert!((0..20).all(|_| is_welcome(1)), "there is no rate any more");
}

#[test]
fn a_peer_that_is_turned_away_uses_up_no_rate_of_the_others() {
    let ((handler, holder), told) = (held(), Told::default());
    // A burst that one peer alone would use up many times, and a rate that would take minutes to give it back.
    let rate = Some(Rate { per_second: 1, burst: 10 });
    let server = ThreadingTcpServer::builder()
        .limits(Limits { per_peer: 1, accept_rate: rate, ..patient() })
        .observer(told.observer())
        .bind("127.0.0.1:0", move || Held::clone(&handler))
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let from = |last: u8| connect_from([127, 0, 0, last], inet(&*server));
    let _inside = from(1);
    holder.started.recv_timeout(SOON).unwrap();
    for _ in 0..200 {
        assert_eq!(read_to_end(&mut from(1)), b"");
    }
    let _other = from(2);
    holder.started.recv_timeout(SOON).unwrap();
    assert_eq!(told.reached(Limit::AcceptRate), 0, "nobody had to wait");
    drop(holder);
}

#[test]
fn accept_rate_lets_a_burst_pass_and_then_the_rate() {
    let rate = Rate { per_second: 50, burst: 5 };
    let least = Duration::from_secs(10) / 50;
    let told = Told::default();
    let fifteen = |server: &BackgroundServer<Tcp, Inline>| {
        for _ in 0..15 {
            let mut client = connect(inet(&**server));
            client.write_all(b"x\n").unwrap();
            assert_eq!(read_to_end(&mut client), b"x\n");
        }
    };

    let began = Instant::now();
    let server = TcpServer::builder()
        .limits(Limits { accept_rate: Some(rate), ..patient() })
        .observer(told.observer())
        .bind("127.0.0.1:0", || OneLine)
        .unwrap();
    let server = server.serve_in_background().unwrap();
    fifteen(&server);
    assert!(began.elapsed() >= least, "from the beginning: {:?}", began.elapsed());
    assert!(told.reached(Limit::AcceptRate) >= 1);

    // Without a limit nothing more is told of it; with one again, the burst is full again.
    change(&server, |limits| limits.accept_rate = None);
    fifteen(&server);
    let before = told.reached(Limit::AcceptRate);
    fifteen(&server);
    assert_eq!(told.reached(Limit::AcceptRate), before);
    let began = Instant::now();
    change(&server, |limits| limits.accept_rate = Some(rate));
    fifteen(&server);
    assert!(began.elapsed() >= least, "on a live server: {:?}", began.elapsed());
}

/// What a failure was, as far as limits go.
#[derive(Debug, PartialEq)]
enum Broken {
    Time(Timeout, Duration),
    Line(usize),
    Other(String),
}

struct Failures {
    to: Sender<Broken>,
}

impl<R> ServerHooks<R> for Failures {
    fn handle_error(&self, failure: &Failure<'_>) {
        let error = failure.error();
        let time = TimedOut::find(error).map(|limit| Broken::Time(limit.which(), limit.after()));
        let line = LineTooLong::find(error).map(|line| Broken::Line(line.limit_bytes()));
        // The test may be over already.
        let _ = self.to.send(time.or(line).unwrap_or_else(|| Broken::Other(error.to_string())));
    }
}

fn failing(
    handle: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
) -> (BackgroundServer<Tcp, Threading>, Receiver<Broken>, Told) {
    let ((to, failures), told) = (channel(), Told::default());
    let server = ThreadingTcpServer::builder()
        .limits(patient())
        .hooks(Failures { to })
        .observer(told.observer())
        .bind("127.0.0.1:0", stream_fn(handle))
        .unwrap();
    (server.serve_in_background().unwrap(), failures, told)
}

fn echo(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        writeln!(request, "{text}")?;
    }
    Ok(())
}

#[test]
fn line_bytes_holds_for_new_connections_and_running_ones_keep_theirs() {
    let (server, failures, told) = failing(echo);
    let line = "x".repeat(1_000);
    let mut old = connect(inet(&*server));
    assert_eq!(exchange(&mut old, &line), format!("{line}\n"));
    change(&server, |limits| limits.line_bytes = 999);
    let mut new = connect(inet(&*server));
    assert_eq!(exchange(&mut new, &line[1..]), format!("{}\n", &line[1..]));
    new.write_all(format!("{line}\n").as_bytes()).unwrap();
    assert!(read_to_end(&mut new).is_empty());
    assert_eq!(failures.recv_timeout(SOON).unwrap(), Broken::Line(999));
    eventually("its end is told", || told.ended(CloseReason::LineTooLong) == 1);
    assert_eq!(exchange(&mut old, &line), format!("{line}\n"));
}

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
    // It has been silent for longer than that by now.
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

/// Limits of eight seconds and more are kept by one thread for all, where the server may have one.
fn a_long_idle_limit_is_kept(mixin: impl Mixin + 'static) {
    const LONG: Duration = Duration::from_secs(8);
    let told = Told::default();
    let server = TcpServer::builder()
        .mixin(mixin)
        .limits(Limits { idle: LONG, ..patient() })
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

/// Also when it is shortened while others have a longer one, by which the watch would sleep for minutes.
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
    // Long enough for the first look, after which the next one is far away.
    thread::sleep(Duration::from_millis(1_500));
    change(&server, |limits| limits.idle = Duration::from_secs(8));
    let mut new = connect(inet(&*server));
    new.set_read_timeout(Some(2 * SOON)).unwrap();
    assert!(read_to_end(&mut new).is_empty());
    eventually("its end is told", || told.ended(CloseReason::Idle) == 1);
    assert_eq!(exchange(&mut old, "still here"), "still here\n");
}

/// And does not end who goes on talking.
fn a_long_idle_limit_spares_who_talks() {
    let told = Told::default();
    let server = ThreadingTcpServer::builder()
        .limits(Limits { idle: Duration::from_secs(8), ..patient() })
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

/// All at once, because each takes as long as the limit.
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
    /// Reads what is not all sent, or writes what is not taken.
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
    let (server, holder, _told) = holding(Threading::new(), Limits { drain: HOUR, ..patient() });
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
        .limits(Limits { linger: HOUR, linger_bytes: usize::MAX, ..patient() })
        .observer(told.observer())
        .bind("127.0.0.1:0", || OneLine)
        .unwrap();
    let server = server.serve_in_background().unwrap();
    // How much is taken of a client that never stops, 64 MiB at the most.
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

#[test]
fn outbox_bytes_is_what_a_new_outbox_holds() {
    let outboxes: Arc<Mutex<Vec<Outbox>>> = Arc::default();
    let inside = Arc::clone(&outboxes);
    let (server, _failures, _told) = failing(move |request| {
        let outbox = request.outbox()?;
        inside.lock().unwrap().push(outbox);
        writeln!(request, "in")?;
        echo(request)
    });
    let join = || {
        let mut client = connect(inet(&*server));
        assert_eq!(read_line(&mut client), "in\n");
        (client, outboxes.lock().unwrap().pop().unwrap())
    };
    let (_old_client, old) = join();
    change(&server, |limits| limits.outbox_bytes = 100);
    let (mut client, outbox) = join();
    assert_eq!(outbox.send([b'x'; 101]), Err(OutboxError::Full));
    assert_eq!(old.send([b'x'; 101]), Ok(()));
    assert_eq!(outbox.send([b'x'; 100]), Ok(()));
    client.read_exact(&mut [0; 100]).unwrap();
}

struct Warned {
    to: Sender<String>,
}

impl<R> ServerHooks<R> for Warned {
    fn warning(&self, text: &str) {
        let _ = self.to.send(text.to_owned());
    }
}

#[test]
fn there_are_never_more_live_requests_than_descriptors_for_them() {
    alone("limits::there_are_never_more_live_requests_than_descriptors_for_them", || {
        let (to, warnings) = channel();
        let (alive, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&most);
        let server = ThreadingTcpServer::builder()
            .limits(Limits { live: 5_000, ..patient() })
            .hooks(Warned { to })
            .observer(move |event: &ServerEvent<'_>| match event {
                ServerEvent::RequestStarted { .. } => {
                    seen.fetch_max(alive.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                }
                ServerEvent::RequestEnded { .. } => {
                    alive.fetch_sub(1, Ordering::SeqCst);
                }
                _ => {}
            })
            .bind("127.0.0.1:0", || OneLine)
            .unwrap();
        // They are in this process as well, and have their descriptors before the budget is made.
        let mut clients: Vec<TcpStream> = (0..60).map(|_| connect(inet(&server))).collect();
        let open = crate::support::open_descriptors() as u64;
        let limit = open + 120;
        set_descriptor_limits(limit, limit);
        let server = server.serve_in_background().unwrap();
        let warning = warnings.recv_timeout(SOON).unwrap();
        let number_before = |what: &str| -> u64 {
            let before = warning.split(what).next().unwrap_or_default().trim_end();
            before.rsplit(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{warning}"))
        };
        let allowed = number_before(" requests at once");
        assert!((1..50).contains(&allowed), "{warning}");
        assert!(warning.contains("not 5000"), "{warning}");
        assert_eq!(number_before(" descriptors"), limit, "{warning}");
        // Whoever reads it can reckon.
        let others = [" are open", " are kept", " for connections"].map(number_before);
        assert_eq!(limit - others.iter().sum::<u64>(), allowed, "{warning}");
        assert!(warning.contains("serve by `run`"), "{warning}");

        eventually("as many live as may", || server.context().live_count() as u64 == allowed);
        // Whatever the limits are changed to.
        change(&server, |limits| limits.live = 4_000);
        for client in &mut clients {
            client.write_all(b"x\n").unwrap();
            assert_eq!(read_to_end(client), b"x\n");
        }
        assert_eq!(most.load(Ordering::SeqCst) as u64, allowed);
        assert_eq!(server.context().counts().accept_errors, 0);
        server.stop().unwrap();
        assert!(warnings.try_recv().is_err(), "told once");
    });
}

#[test]
fn one_peer_has_its_part_of_the_requests_that_there_are_descriptors_for() {
    alone("limits::one_peer_has_its_part_of_the_requests_that_there_are_descriptors_for", || {
        let (to, warnings) = channel();
        let server = ThreadingTcpServer::builder()
            .limits(Limits { live: 5_000, per_peer: 500, ..patient() })
            .hooks(Warned { to })
            .bind("127.0.0.1:0", || OneLine)
            .unwrap();
        let limit = crate::support::open_descriptors() as u64 + 150;
        set_descriptor_limits(limit, limit);
        let address = inet(&server);
        let server = server.serve_in_background().unwrap();
        let warning = warnings.recv_timeout(SOON).unwrap();
        let word_after = |what: &str| -> usize {
            let after = warning.split(what).nth(1).unwrap_or_default();
            let number = after.split(|one: char| !one.is_ascii_digit()).next();
            number.unwrap_or_default().parse().unwrap_or_else(|_| panic!("{warning}"))
        };
        let (live, share) = (word_after("at most "), word_after("of one peer "));
        assert!(warning.contains(&format!("(of one peer {share}, not 500)")), "{warning}");
        assert_eq!(share, (live / 10).max(1), "{warning}");
        let turned_away = |within: usize| {
            let served: Vec<_> = (0..within).map(|_| connect(address)).collect();
            eventually("those that may are served", || server.context().live_count() == within);
            assert_eq!(read_to_end(&mut connect(address)), b"");
            drop(served);
            eventually("all have gone", || server.context().live_count() == 0);
        };
        turned_away(share);
        // The same holds of limits that come later, and one that all may have stays none.
        change(&server, |limits| limits.per_peer = 1_000);
        turned_away(live / 5);
        change(&server, |limits| limits.per_peer = 5_000);
        let served: Vec<_> = (0..=share).map(|_| connect(address)).collect();
        eventually("more than its part", || server.context().live_count() == share + 1);
        drop(served);
        server.stop().unwrap();
    });
}

#[test]
fn run_raises_the_limit_of_descriptors_as_far_as_it_may() {
    alone("limits::run_raises_the_limit_of_descriptors_as_far_as_it_may", || {
        set_descriptor_limits(100, 400);
        let (to, warnings) = channel();
        let server = ThreadingTcpServer::builder()
            .limits(Limits { live: 200, ..patient() })
            .hooks(Warned { to })
            .bind("127.0.0.1:0", || Echo)
            .unwrap();
        let server = Arc::new(server);
        let running = Arc::clone(&server);
        let run = thread::spawn(move || running.run());
        let mut client = connect(inet(&*server));
        assert_eq!(exchange(&mut client, "hello"), "hello\n");
        assert_eq!(descriptor_limits(), (400, 400));
        server.shutdown();
        assert!(run.join().unwrap().unwrap().is_clean());
        assert!(warnings.try_recv().is_err(), "what it may have suffices");
    });
}

#[test]
fn serve_forever_leaves_the_limit_of_descriptors_alone() {
    alone("limits::serve_forever_leaves_the_limit_of_descriptors_alone", || {
        set_descriptor_limits(100, 400);
        let limits = Limits { live: 10, ..patient() };
        let server = TcpServer::builder().limits(limits).bind("127.0.0.1:0", || OneLine);
        let server = Arc::new(server.unwrap());
        let ended = serve(&server);
        assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
        assert_eq!(descriptor_limits(), (100, 400));
        BaseServer::shutdown(&*server);
        ended.recv_timeout(SOON).unwrap().unwrap();
    });
}
