//! Every limit holds, and a change on a live server holds from the next request on.

mod live;
mod rates;
mod sizes;
mod times;

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use socketserver::hooks::Failure;
use socketserver::mixin::Mixin;
use socketserver::monitor::{CloseReason, Limit, ServerEvent};
use socketserver::request::{LineTooLong, TimedOut, Timeout};
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, Forking, HandlerResult, Limits, Pool, ServerHooks, SocketOptions,
    StreamRequest, TcpServer, Threading, ThreadingTcpServer, stream_fn,
};

use crate::handlers::{Diary, Held, Holder, held};

const HOUR: Duration = Duration::from_secs(3_600);

const MOMENT: Duration = Duration::from_millis(50);

/// Limits that do not end a test before its own patience does.
fn patient() -> Limits {
    Limits::default().idle(HOUR).read(HOUR).write(HOUR)
}

/// How often each limit was reached, and how requests have ended.
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
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn every_default_is_the_documented_one() {
    // The unit tests ensure that no limit is missing here.
    let documented = Limits::default()
        .live(10_000)
        .per_peer(10_000)
        .accept_rate(None)
        .peer_rate(None)
        .line_bytes(64 * 1024)
        .outbox_bytes(64 * 1024)
        .idle(Duration::from_secs(60))
        .read(Duration::from_secs(60))
        .write(Duration::from_secs(60))
        .request(None)
        .handshake(Duration::from_secs(10))
        .handshakes(1_000)
        .proxy_header(Duration::from_secs(5))
        .linger(Duration::from_secs(2))
        .linger_bytes(16 * 1024 * 1024)
        .drain(Duration::from_secs(10))
        .lame_duck(Duration::ZERO)
        .first_read(Duration::from_secs(1));
    assert_eq!(Limits::default(), documented);
    let server = TcpServer::bind("127.0.0.1:0", stream_fn(|_request| Ok(()))).unwrap();
    assert_eq!(server.limits(), documented);

    // Types with private fields are compared as text.
    let options = "SocketOptions { allow_reuse_address: true, allow_reuse_port: false, \
                   request_queue_size: 2147483647, only_v6: None, keepalive: None, \
                   recv_buffer_bytes: None, send_buffer_bytes: None, max_packet_size: 65535, \
                   unix_mode: None, replace_stale: true, unlink_on_close: false }";
    assert_eq!(format!("{:?}", SocketOptions::default()), options);
    assert_shows(&Threading::new(), &["gate: None", "when_full: Wait", "stack_bytes: None"]);
    let threads = format!("max: {}", usize::MAX);
    assert_shows(&Threading::new(), &[&threads, "keep: 5s"]);
    assert_shows(&Threading::new(), &["block_on_close: true", "daemon_threads: false"]);
    // Three requests may run, and 1,024 may wait.
    assert_shows(&Pool::new(3), &["count: 3", "size: Fixed(3)", "max: 1027", "when_full: Wait"]);
    assert_shows(&Pool::new(3), &["stack_bytes: None", "block_on_close: true"]);
    assert_shows(&Forking::new(), &["max_children: 40", "block_on_close: true"]);
}

fn assert_shows(mixin: &dyn std::fmt::Debug, fields: &[&str]) {
    let shown = format!("{mixin:?}");
    for field in fields {
        let ends = [",", " }"].map(|end| format!("{field}{end}"));
        assert!(ends.iter().any(|end| shown.contains(end)), "no {field} in {shown}");
    }
}

/// The limit that a failure was about.
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
