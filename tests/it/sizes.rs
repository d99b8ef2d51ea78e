//! Every size, count and duration that a user can set is tried at zero, at one, at its largest value and at powers of two
//! between: over each transport a server is bound with it and serves one request, or `bind` fails and names the setting.
//!
//! The last test finds settings that are not swept here.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::net as unix;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use socket2::SockRef;
use socketserver::handler::MakeHandler;
use socketserver::hooks::Failure;
use socketserver::mixin::Mixin;
use socketserver::monitor::{AcceptOutcome, CloseReason, ServerEvent};
use socketserver::request::{Deadline, Request, Timeout};
use socketserver::transport::{Bind, Tcp, Udp, UnixDatagram, UnixStream};
use socketserver::{
    Address, Builder, DatagramRequest, HandlerResult, Inline, Limits, Pool, Rate, ServerHooks,
    SocketOptions, StreamRequest, TcpServer, Threading, datagram_fn, stream_fn,
};

use crate::support::{
    SOON, connect, connect_any, eventually, folder, inet, receive_text, udp_client,
};

/// A number that is set.
#[derive(Clone, Copy, Debug)]
enum Value {
    Count(usize),
    Time(Duration),
}

impl Value {
    fn count(self) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Time(time) => panic!("{time:?} is no count"),
        }
    }

    fn u32(self) -> u32 {
        u32::try_from(self.count()).unwrap_or(u32::MAX)
    }

    fn time(self) -> Duration {
        match self {
            Self::Time(time) => time,
            Self::Count(count) => panic!("{count} is no time"),
        }
    }
}

/// As an error writes it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Time(time) => write!(f, "{time:?}"),
        }
    }
}

fn counts(most: usize) -> Vec<Value> {
    let powers = (0..usize::BITS).map(|bit| 1 << bit);
    let ends = [0, u32::MAX as usize, isize::MAX as usize, usize::MAX];
    let all = powers.chain(ends).filter(|count| *count <= most);
    all.map(Value::Count).collect()
}

fn times() -> Vec<Value> {
    let nanos = (0..63).map(|bit| Duration::from_nanos(1 << bit));
    let secs = (0..64).map(|bit| Duration::from_secs(1 << bit));
    let all = [Duration::ZERO, Duration::MAX].into_iter().chain(nanos).chain(secs);
    all.map(Value::Time).collect()
}

/// All settings of a server and its handler.
struct Settings {
    limits: Limits,
    options: SocketOptions,
    mixin: Box<dyn Mixin>,
    timeout: Option<Duration>,
    poll_interval: Option<Duration>,
    idle_limit: Option<Duration>,
    handler: Handler,
    /// Whether one long datagram is sent as well.
    long: bool,
    /// Whether nothing is printed for operators.
    quiet: bool,
}

/// The settings that a connection's handler makes on its request.
#[derive(Clone, Copy, Default)]
struct Handler {
    rbufsize: Option<usize>,
    wbufsize: usize,
    timeout: Option<Duration>,
    deadline: Option<Duration>,
    by_outbox: bool,
}

impl Settings {
    fn new(datagrams: bool) -> Self {
        let mixin: Box<dyn Mixin> =
            if datagrams { Box::new(Inline) } else { Box::new(Threading::new()) };
        Self {
            limits: Limits::default(),
            options: SocketOptions::default(),
            mixin,
            timeout: None,
            poll_interval: None,
            idle_limit: None,
            handler: Handler::default(),
            long: false,
            quiet: false,
        }
    }
}

/// One number: its name, its values, and how it is set. `or` is the result that is allowed besides an answer.
struct Knob {
    name: &'static str,
    values: Vec<Value>,
    set: fn(&mut Settings, Value),
    or: Or,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Or {
    /// No other result.
    Nothing,
    /// `bind` fails, and names the knob and its value.
    Error,
    /// A limit: with a value below this one the request may end for one of these reasons.
    Reached(Value, &'static [CloseReason]),
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Count(one), Self::Count(other)) => one == other,
            (Self::Time(one), Self::Time(other)) => one == other,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl Or {
    /// The reasons for which a request may end if the limit has this value; none if it cannot be reached.
    fn may_be_reached(self, value: Value) -> &'static [CloseReason] {
        match (self, value) {
            (Self::Reached(Value::Count(below), reasons), Value::Count(count)) if count < below => {
                reasons
            }
            (Self::Reached(Value::Time(below), reasons), Value::Time(time)) if time < below => {
                reasons
            }
            _ => &[],
        }
    }
}

/// A time limit that a busy machine may reach, if it is shorter than the tests' patience.
const LATE: Or = Or::Reached(
    Value::Time(SOON),
    &[CloseReason::TimedOut, CloseReason::Idle, CloseReason::Failed, CloseReason::Stopped],
);

macro_rules! knobs {
    ($($name:literal, $values:expr, $or:expr, |$settings:ident, $value:ident| $set:expr;)*) => {
        vec![$(Knob {
            name: $name,
            values: $values,
            set: |$settings, $value| $set,
            or: $or,
        },)*]
    };
}

fn knobs() -> Vec<Knob> {
    let all = || counts(usize::MAX);
    // A test starts at most 64 workers; larger numbers are tested only where they are refused.
    let workers = || {
        let is_tried = |value: &Value| value.count() <= 64 || value.count() > 65_536;
        all().into_iter().filter(is_tried).collect::<Vec<_>>()
    };
    // A shorter time may end the server before its client comes.
    let patient = || times().into_iter().filter(|value| value.time() >= SOON).collect::<Vec<_>>();
    let little = |below| Or::Reached(Value::Count(below), &[CloseReason::LineTooLong]);
    let knobs = knobs! {
        "live", all(), Or::Nothing, |it, value| it.limits.live = value.count();
        "per_peer", all(), Or::Nothing, |it, value| it.limits.per_peer = value.count();
        "per_second", counts(u32::MAX as usize), Or::Nothing, |it, value| {
            it.limits.accept_rate = Some(Rate::per_second(value.u32()).burst(1));
            it.limits.peer_rate = it.limits.accept_rate;
        };
        "burst", counts(u32::MAX as usize), Or::Nothing, |it, value| {
            it.limits.accept_rate = Some(Rate::per_second(1).burst(value.u32()));
            it.limits.peer_rate = it.limits.accept_rate;
        };
        "line_bytes", all(), little(2), |it, value| it.limits.line_bytes = value.count();
        "outbox_bytes", all(), Or::Reached(Value::Count(3), &[CloseReason::Failed]), |it, value| {
            it.limits.outbox_bytes = value.count();
            it.handler.by_outbox = true;
        };
        "idle", times(), LATE, |it, value| it.limits.idle = value.time();
        "read", times(), LATE, |it, value| it.limits.read = value.time();
        "write", times(), LATE, |it, value| it.limits.write = value.time();
        "request", times(), LATE, |it, value| it.limits.request = Some(value.time());
        "handshake", times(), LATE, |it, value| it.limits.handshake = value.time();
        "handshakes", all(), Or::Nothing, |it, value| it.limits.handshakes = value.count();
        "proxy_header", times(), LATE, |it, value| it.limits.proxy_header = value.time();
        "first_read", times(), LATE, |it, value| it.limits.first_read = value.time();
        "linger", times(), Or::Nothing, |it, value| it.limits.linger = value.time();
        "linger_bytes", all(), Or::Nothing, |it, value| it.limits.linger_bytes = value.count();
        "drain", times(), Or::Nothing, |it, value| it.limits.drain = value.time();
        "lame_duck", times(), Or::Nothing, |it, value| it.limits.lame_duck = value.time();
        "request_queue_size", all(), Or::Nothing, |it, value| {
            it.options.request_queue_size = value.count() as i32;
        };
        "keepalive", times(), Or::Nothing, |it, value| it.options.keepalive = Some(value.time());
        "recv_buffer_bytes", all(), Or::Nothing, |it, value| {
            it.options.recv_buffer_bytes = Some(value.count());
        };
        "send_buffer_bytes", all(), Or::Nothing, |it, value| {
            it.options.send_buffer_bytes = Some(value.count());
        };
        "max_packet_size", all(), Or::Nothing, |it, value| {
            it.options.max_packet_size = value.count();
            it.long = true;
        };
        "unix_mode", counts(u32::MAX as usize), Or::Error, |it, value| {
            it.options.unix_mode = Some(value.u32());
        };
        "stop_when_idle", patient(), Or::Nothing, |it, value| it.idle_limit = Some(value.time());
        "timeout", times(), Or::Nothing, |it, value| it.timeout = Some(value.time());
        "poll_interval", times(), Or::Nothing, |it, value| it.poll_interval = Some(value.time());
        "Pool::new", workers(), Or::Error, |it, value| {
            it.mixin = Box::new(Pool::new(value.count()));
        };
        "queue", all(), Or::Nothing, |it, value| {
            it.mixin = Box::new(Pool::new(1).queue(value.count()));
        };
        "max_threads", all(), Or::Nothing, |it, value| {
            it.mixin = Box::new(Threading::new().max_threads(value.count()));
        };
        "keep", times(), Or::Nothing, |it, value| {
            it.mixin = Box::new(Threading::new().keep(value.time()));
        };
        "stack_size", all(), Or::Error, |it, value| {
            it.mixin = Box::new(Threading::new().stack_size(value.count()));
        };
        "set_rbufsize", all(), Or::Nothing, |it, value| it.handler.rbufsize = Some(value.count());
        "set_wbufsize", all(), Or::Nothing, |it, value| it.handler.wbufsize = value.count();
        "set_timeout", times(), LATE, |it, value| it.handler.timeout = Some(value.time());
        "deadline_in", times(), LATE, |it, value| it.handler.deadline = Some(value.time());
    };
    #[cfg(has_green)]
    let stacks = || {
        let is_tried = |value: &Value| value.count() < 65_536 || value.count() >= 256 << 10;
        all().into_iter().filter(is_tried).collect::<Vec<_>>()
    };
    #[cfg(has_green)]
    let knobs = [
        knobs,
        knobs! {
            "workers", workers(), Or::Error, |it, value| {
                it.mixin = Box::new(socketserver::Green::new().workers(value.count()));
            };
            // A handler of a debug build needs more than the smallest stack.
            "stack_bytes", stacks(), Or::Error, |it, value| {
                it.mixin = Box::new(socketserver::Green::new().stack_bytes(value.count()));
            };
            "watchdog", times(), Or::Nothing, |it, value| {
                it.mixin = Box::new(socketserver::Green::new().watchdog(value.time()));
            };
        },
    ]
    .into_iter()
    .flatten()
    .collect();
    knobs
}

/// Answers the first line of a connection, and leaves the second one unread, so that the close lingers.
fn answer_line(request: &mut StreamRequest, handler: Handler) -> HandlerResult {
    if let Some(bytes) = handler.rbufsize {
        request.set_rbufsize(bytes);
    }
    request.set_wbufsize(handler.wbufsize)?;
    request.set_timeout(handler.timeout);
    request.deadline_in(handler.deadline);
    let mut line = String::new();
    let Some(text) = request.next_line(&mut line)? else { return Err("no line".into()) };
    if handler.by_outbox {
        request.outbox()?.send(format!("{text}\n"))?;
        return Ok(());
    }
    Ok(writeln!(request, "{text}")?)
}

fn answer_length(request: &mut DatagramRequest) -> HandlerResult {
    request.reply(request.packet().len().to_string().as_bytes())?;
    Ok(())
}

struct Quiet;

impl<R: Request> ServerHooks<R> for Quiet {
    fn warning(&self, _text: &str) {}
    fn handle_error(&self, _failure: &Failure<'_>) {}
}

type Stop = Box<dyn FnOnce() -> socketserver::Result<()>>;

/// Binds a server, and serves.
fn serve<T: Bind, H: MakeHandler<T::Request>>(
    settings: Settings,
    address: String,
    handler: H,
    ends: Sender<CloseReason>,
) -> socketserver::Result<(Address, Stop)> {
    let observe = move |event: &ServerEvent<'_>| {
        if let ServerEvent::RequestEnded { reason, .. } = event {
            // The server is stopped, and no request comes any more.
            let _ = ends.send(*reason);
        }
    };
    let mut builder = Builder::<T, _>::new(settings.mixin)
        .limits(settings.limits)
        .socket_options(settings.options)
        .observer(observe);
    if settings.quiet {
        builder = builder.hooks(Quiet);
    }
    if let Some(timeout) = settings.timeout {
        builder = builder.timeout(timeout);
    }
    if let Some(interval) = settings.poll_interval {
        builder = builder.poll_interval(interval);
    }
    if let Some(time) = settings.idle_limit {
        builder = builder.stop_when_idle(time);
    }
    let server = builder.bind(address, handler)?.serve_in_background()?;
    let address = server.server_address();
    let stop = move || {
        // Without this a lame duck would last its whole time, which may be for ever.
        server.shutdown();
        server.stop().map(drop)
    };
    Ok((address, Box::new(stop)))
}

/// One way to serve and to ask, in a folder.
struct Way {
    serve: fn(Settings, &Path, Sender<CloseReason>) -> socketserver::Result<(Address, Stop)>,
    /// Sends a datagram of this length, and returns the answer; over a connection, two lines.
    ask: fn(&Address, &Path, usize) -> String,
    /// The longest datagram that a client can send; `None` over a connection.
    longest: Option<usize>,
}

/// Binds a server with each value, asks it, and returns all errors.
fn sweep(way: &Way) -> Vec<String> {
    let folder = folder();
    let mut wrong = Vec::new();
    for knob in knobs() {
        for value in knob.values {
            let mut settings = Settings::new(way.longest.is_some());
            (knob.set)(&mut settings, value);
            settings.quiet = knob.or != Or::Nothing || knob.name == "live";
            let mode = settings.options.unix_mode;
            if mode.is_some_and(|mode| mode & 0o200 == 0) && !rustix::process::geteuid().is_root() {
                // Nobody but root can connect to such a socket.
                continue;
            }
            let (most, is_long) = (settings.options.max_packet_size.max(1), settings.long);
            let (ends, ended) = channel();
            let _ = std::fs::remove_file(folder.path().join("server"));
            let (address, stop) = match (way.serve)(settings, folder.path(), ends) {
                Ok(running) => running,
                Err(error) => {
                    let text = error.to_string();
                    let octal = format!("{:#o}", mode.unwrap_or(0));
                    let names = text.contains(&value.to_string()) || text.contains(&octal);
                    if knob.or != Or::Error || !text.contains(knob.name) || !names {
                        wrong.push(format!("{} = {value}: {text}", knob.name));
                    }
                    continue;
                }
            };
            let long = way.longest.filter(|_| is_long);
            for length in [2].into_iter().chain(long) {
                let answer = (way.ask)(&address, folder.path(), length);
                let reason = ended.recv_timeout(SOON).expect("the request ends");
                let expected = match way.longest {
                    Some(_) => length.min(most).to_string(),
                    None => "hi\n".to_owned(),
                };
                let is_well = answer == expected && reason == CloseReason::Completed;
                if !is_well && !knob.or.may_be_reached(value).contains(&reason) {
                    wrong.push(format!("{} = {value}: {answer:?}, {reason:?}", knob.name));
                }
            }
            if let Err(error) = stop() {
                wrong.push(format!("{} = {value}: the stop: {error}", knob.name));
            }
        }
    }
    wrong
}

#[track_caller]
fn assert_none(wrong: &[String]) {
    assert!(
        wrong.is_empty(),
        "neither served nor refused as it should be:\n  {}",
        wrong.join("\n  ")
    );
}

fn talk(mut connection: impl Read + Write) -> String {
    // The server may have ended the connection already.
    let _ = connection.write_all(b"hi\nmore\n");
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn over_tcp() {
    assert_none(&sweep(&Way {
        serve: |settings, _folder, ends| {
            let handler = settings.handler;
            let handler = stream_fn(move |request| answer_line(request, handler));
            serve::<Tcp, _>(settings, "127.0.0.1:0".into(), handler, ends)
        },
        ask: |address, _folder, _length| talk(connect(address.as_inet().unwrap())),
        longest: None,
    }));
}

#[test]
fn over_unix_streams() {
    assert_none(&sweep(&Way {
        serve: |settings, folder, ends| {
            let handler = settings.handler;
            let handler = stream_fn(move |request| answer_line(request, handler));
            let path = folder.join("server").into_os_string().into_string().unwrap();
            serve::<UnixStream, _>(settings, path, handler, ends)
        },
        ask: |address, _folder, _length| talk(connect_any(address)),
        longest: None,
    }));
}

#[test]
fn over_udp() {
    assert_none(&sweep(&Way {
        serve: |settings, _folder, ends| {
            serve::<Udp, _>(settings, "127.0.0.1:0".into(), datagram_fn(answer_length), ends)
        },
        ask: |address, _folder, length| {
            let client = udp_client();
            client.send_to(&vec![7; length], address.as_inet().unwrap()).unwrap();
            receive_text(&client)
        },
        longest: Some(65_507),
    }));
}

#[test]
fn over_unix_datagrams() {
    assert_none(&sweep(&Way {
        serve: |settings, folder, ends| {
            let path = folder.join("server").into_os_string().into_string().unwrap();
            serve::<UnixDatagram, _>(settings, path, datagram_fn(answer_length), ends)
        },
        ask: |address, folder, length| {
            let path = folder.join("client");
            let _ = std::fs::remove_file(&path);
            let client = unix::UnixDatagram::bind(path).unwrap();
            client.set_read_timeout(Some(SOON)).unwrap();
            client.send_to(&vec![7; length], address.as_path().unwrap()).unwrap();
            receive_text(&client)
        },
        // This is larger than packets that are received in batches of 64.
        longest: Some(150_000),
    }));
}

#[test]
fn a_buffer_is_as_large_as_the_kernel_has_it_and_never_wraps_around() {
    type Set = fn(&mut SocketOptions, usize);
    type Get = fn(&SockRef<'_>) -> std::io::Result<usize>;
    let buffers: [(Set, Get); 2] = [
        (|options, bytes| options.recv_buffer_bytes = Some(bytes), |it| it.recv_buffer_size()),
        (|options, bytes| options.send_buffer_bytes = Some(bytes), |it| it.send_buffer_size()),
    ];
    for (set, get) in buffers {
        let mut before = 0;
        let mut values: Vec<usize> = counts(usize::MAX).into_iter().map(Value::count).collect();
        values.sort_unstable();
        for bytes in values {
            let mut options = SocketOptions::default();
            set(&mut options, bytes);
            let server = TcpServer::builder()
                .socket_options(options)
                .bind("127.0.0.1:0", stream_fn(|_request| Ok(())))
                .unwrap();
            let has = get(&SockRef::from(&server.fileno().unwrap())).unwrap();
            assert!(
                has >= before,
                "of {bytes} bytes the kernel has {has}, of fewer it had {before}"
            );
            before = has;
        }
    }
}

#[test]
fn a_keepalive_is_the_nearest_that_the_kernel_counts() {
    for (asked, has) in [
        (Duration::ZERO, 1),
        (Duration::from_millis(500), 1),
        (Duration::from_millis(1_001), 2),
        (Duration::from_secs(3_600), 3_600),
        (Duration::from_secs(86_400), 32_767),
        (Duration::MAX, 32_767),
    ] {
        let handler = stream_fn(|_request| Ok(()));
        let server = TcpServer::builder()
            .socket_options(SocketOptions::default().keepalive(asked))
            .bind("127.0.0.1:0", handler)
            .unwrap();
        let silence = SockRef::from(&server.fileno().unwrap()).tcp_keepalive_time().unwrap();
        assert_eq!(silence, Duration::from_secs(has), "{asked:?}");
    }
}

#[test]
fn a_wait_of_any_length_ends_with_what_it_waits_for() {
    for value in times() {
        let time = value.time();
        let (hand_out, tokens) = channel();
        let handler = stream_fn(move |request| {
            let outbox = request.outbox()?;
            let has_room = outbox.wait_for_room(0, time) && outbox.wait_for_room(usize::MAX, time);
            hand_out.send((request.stop_token()?, outbox, has_room))?;
            Ok(request.write_all(b"hi")?)
        });
        let server = TcpServer::builder().timeout(time).bind("127.0.0.1:0", handler).unwrap();
        let mut client = connect(inet(&server));
        assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled, "{value}");
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "hi", "{value}");
        eventually("the request is over", || server.context().live_count() == 0);
        let (token, outbox, has_room) = tokens.recv().unwrap();
        assert!(has_room && outbox.wait_for_room(0, time), "{value}");
        assert!(token.wait(Some(time)) && token.wait_closed(Some(time)), "{value}");
        assert!(server.shutdown_handle().wait_timeout(time), "{value}: nothing is accepted");
        assert!(server.server_close_within(time).is_clean(), "{value}");
        assert!(Deadline::after(Timeout::Request, time).is_none_or(|bound| bound.after == time));
    }
}

#[test]
fn limits_of_a_live_server_take_any_value() {
    let server = TcpServer::builder().mixin(Threading::new()).hooks(Quiet);
    let handler = Handler::default();
    let handler = stream_fn(move |request| answer_line(request, handler));
    let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
    for knob in knobs() {
        for value in [knob.values[0], *knob.values.last().unwrap()] {
            let mut settings = Settings::new(false);
            (knob.set)(&mut settings, value);
            // Each limit begins with fresh counts.
            server.context().set_limits(Limits::default());
            eventually("the request before has ended", || server.context().live_count() == 0);
            server.context().set_limits(settings.limits);
            let answer = talk(connect(inet(&*server)));
            let is_short = matches!(knob.or, Or::Reached(..));
            assert!(answer == "hi\n" || is_short, "{} = {value}: {answer:?}", knob.name);
        }
    }
    server.context().set_limits(Limits::default());
    assert_eq!(talk(connect(inet(&*server))), "hi\n");
    server.stop().unwrap();
}

/// Public numbers that a user gives and that are not among the knobs, because they are swept by a test of their own.
const ELSEWHERE: [&str; 21] = [
    // `a_wait_of_any_length_..` tests these; `run_all` hands its grace to `server_close_within`.
    "server_close_within",
    "run_all",
    "wait_for_room",
    "after",
    "wait",
    "wait_closed",
    "wait_timeout",
    // Each is two knobs, the parts of a `Rate`.
    "accept_rate",
    "peer_rate",
    "per_second",
    "burst",
    // A forking server has a process of its own: tests/forking.
    "max_children",
    // The value of a `Slot` and the count of a gate are their user's own.
    "set",
    "set_max",
    // A wait of the caller's own thread, which nothing ends earlier.
    "sleep",
    // The number of a request, or of a socket, is only looked up.
    "close_live",
    "activated_number",
    // A time for another server: `tests/it/talking`.
    "connect",
    // How long a successor may take: the tests of the program `echo`.
    "within",
    // The size of a pool is a knob above; those of a gate and of a figure are their user's own.
    "new",
    // The tests of its own file try its smallest and largest values.
    "read_small_file",
];

/// Reads the source: a new number of the public API has to be swept, or to be named above with the reason.
#[test]
#[cfg_attr(under_green, ignore = "it runs no server")]
fn every_number_that_a_user_gives_is_swept() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![root];
    let mut unknown = BTreeSet::new();
    let names: Vec<&str> = knobs().iter().map(|knob| knob.name).collect();
    let mut found = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let settings = path.ends_with("limits.rs") || path.ends_with("socket_options.rs");
        let mut lines = text.lines().map(str::trim).peekable();
        while let Some(line) = lines.next() {
            let line = line.replacen("pub const fn ", "pub fn ", 1);
            let name = match line.strip_prefix("pub fn ") {
                Some(function) => {
                    // The arguments of a function may stand on lines of their own.
                    let mut whole = function.to_owned();
                    while !whole.contains(')') {
                        whole += lines.next().expect("the end of the arguments");
                    }
                    let (name, rest) = whole.split_once('(').unwrap();
                    let arguments = rest.split(") ").next().unwrap();
                    is_number(arguments).then(|| name.to_owned())
                }
                None if settings => line
                    .strip_prefix("pub ")
                    .and_then(|field| field.split_once(": "))
                    .filter(|(_, kind)| is_number(kind))
                    .map(|(name, _)| name.to_owned()),
                None => None,
            };
            let Some(name) = name else { continue };
            found += 1;
            let is_swept = names.iter().any(|knob| knob.rsplit("::").next() == Some(&name));
            if !is_swept && !ELSEWHERE.contains(&&*name) {
                unknown.insert(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(found > 30, "the source was not understood: {found}");
    assert!(unknown.is_empty(), "numbers that are not swept: {unknown:#?}");
}

fn is_number(kind: &str) -> bool {
    let words = kind.split(|c: char| !c.is_alphanumeric());
    words.into_iter().any(|word| ["usize", "u32", "i32", "u64", "Duration", "Rate"].contains(&word))
}
