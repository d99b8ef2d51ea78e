//! The life of one request, from the listener's queue to the close: rows 15 to 32.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use socketserver::{
    AcceptAction, AcceptFailure, Activity, Address, BackgroundServer, Bind, Builder, Failure,
    Fatal, Fault, HandlerError, HandlerResult, Incoming, Inline, Job, Limits, LineTooLong, Mixin,
    Panicked, Phase, Pool, Server, ServerHooks, SocketOptions, StreamRequest, StreamRequestHandler,
    Tcp, TcpServer, Threading, ThreadingTcpServer, TimedOut, Timeout, Transport, Turn,
    accept_action, stream_fn,
};

use socket2::{Domain, Socket, Type};

use crate::handlers::{Diary, Echo, OneLine, Silent, Steps};
use crate::over_tcp::{leave_connections_to_tcp, leave_to_tcp};
use crate::support::{SOON, connect, eventually, exchange, inet, read_line, read_to_end};

/// A failure, as `handle_error` was told of it.
#[derive(Clone, Debug)]
pub struct Report {
    pub phase: Phase,
    pub fault: Fault,
    pub error: String,
    pub client_address: Address,
    pub handler: &'static str,
    pub is_disconnect: bool,
    pub panic: Option<String>,
    pub timeout: Option<(Timeout, Duration)>,
    pub line_limit: Option<usize>,
    pub errno: Option<i32>,
}

/// The system's number, which may stand anywhere along the chain.
fn errno_of(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let number = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    number.or_else(|| error.source().and_then(errno_of))
}

/// Hooks that hand every failure to the test.
pub struct Reports {
    to: Sender<Report>,
}

pub fn reports() -> (Reports, Receiver<Report>) {
    let (to, from) = channel();
    (Reports { to }, from)
}

impl Reports {
    pub fn send(&self, failure: &Failure<'_>) {
        let error = failure.error();
        // The test may be over already.
        let _ = self.to.send(Report {
            phase: failure.phase(),
            fault: failure.fault(),
            error: error.to_string(),
            client_address: failure.client_address().clone(),
            handler: failure.handler(),
            is_disconnect: failure.is_disconnect(),
            panic: error.downcast_ref::<Panicked>().map(|panic| panic.message().to_owned()),
            timeout: TimedOut::find(error).map(|timeout| (timeout.which(), timeout.after())),
            line_limit: LineTooLong::find(error).map(LineTooLong::limit_bytes),
            errno: errno_of(error),
        });
    }
}

impl<R> ServerHooks<R> for Reports {
    fn handle_error(&self, failure: &Failure<'_>) {
        self.send(failure);
    }
}

/// Errors that a transport is told to meet.
#[derive(Clone, Default)]
pub struct Injected {
    queue: Arc<Mutex<VecDeque<i32>>>,
    /// An error for every call, until it is set back to zero.
    always: Arc<AtomicI32>,
    calls: Arc<AtomicUsize>,
}

impl Injected {
    fn next(&self) -> io::Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let queued = self.queue.lock().unwrap().pop_front();
        match queued.unwrap_or(self.always.load(Ordering::SeqCst)) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// TCP that notes its steps, meets the errors it is told to, and keeps requests open if it is told to.
pub struct Noted {
    inner: Tcp,
    pub diary: Diary,
    injected: Injected,
    kept: Option<Arc<Mutex<Vec<StreamRequest>>>>,
}

impl Noted {
    pub fn new(diary: &Diary) -> Self {
        let inner = Tcp::unbound(&"127.0.0.1:0".into(), &SocketOptions::default()).unwrap();
        Self { inner, diary: diary.clone(), injected: Injected::default(), kept: None }
    }

    fn with_errors(injected: &Injected) -> Self {
        Self { injected: injected.clone(), ..Self::new(&Diary::default()) }
    }
}

impl Transport for Noted {
    leave_to_tcp!();
    leave_connections_to_tcp!();

    fn get_request(&self) -> io::Result<(Self::Raw, Address)> {
        self.injected.next()?;
        let request = self.inner.get_request()?;
        self.diary.note("get_request");
        Ok(request)
    }

    /// It has nothing in reserve to shed clients with, and says that it has shed three.
    fn shed(&self) -> usize {
        3
    }

    fn shutdown_request(&self, request: &mut StreamRequest) {
        self.diary.note("shutdown_request");
        self.inner.shutdown_request(request);
    }

    fn close_request(&self, request: StreamRequest) {
        self.diary.note("close_request");
        match &self.kept {
            Some(kept) => kept.lock().unwrap().push(request),
            None => self.inner.close_request(request),
        }
    }
}

/// Hooks that note what is asked of them.
struct NotedHooks {
    diary: Diary,
    wanted: bool,
}

impl ServerHooks<StreamRequest> for NotedHooks {
    fn verify_request(&self, _incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
        self.diary.note("verify_request");
        Ok(self.wanted)
    }

    fn handle_error(&self, failure: &Failure<'_>) {
        self.diary.note(format!("handle_error({}: {})", failure.phase(), failure.error()));
    }
}

/// `Inline`, with a note.
struct NotedMixin {
    diary: Diary,
}

impl Mixin for NotedMixin {
    fn process_request(&self, job: Job) {
        self.diary.note("process_request");
        job.run();
    }
}

/// Everything that happens to one request, in order.
fn life<H: StreamRequestHandler + 'static>(
    wanted: bool,
    make: impl Fn(Diary) -> H + Send + Sync + 'static,
) -> (Diary, Turn) {
    let diary = Diary::default();
    let making = diary.clone();
    let server = Builder::<Noted, _>::new(NotedMixin { diary: diary.clone() })
        .hooks(NotedHooks { diary: diary.clone(), wanted })
        .timeout(SOON)
        .with_transport(Noted::new(&diary), move || {
            making.note("finish_request");
            make(making.clone())
        })
        .unwrap();
    let mut client = connect(inet(&server));
    let turn = server.handle_request().unwrap();
    assert_eq!(read_to_end(&mut client), b"", "an orderly end");
    assert_eq!(server.context().live_count(), 0);
    (diary, turn)
}

/// The same, for a handler that fails in some of its steps.
fn life_that_fails_in(fail_in: &'static [&'static str]) -> String {
    let (diary, turn) = life(true, move |diary| Steps { diary, fail_in });
    assert_eq!(turn, Turn::Handled);
    let text = diary.text();
    let begin = "get_request verify_request process_request finish_request ";
    text.strip_prefix(begin).expect("the same beginning for all").to_owned()
}

/// Starts the server and gives what `serve_forever` has returned by itself, in time.
pub fn joined<T: Transport, M: Mixin + 'static>(
    server: BackgroundServer<T, M>,
) -> socketserver::Result<()> {
    let (done, ended) = channel();
    thread::spawn(move || done.send(server.join()));
    ended.recv_timeout(SOON).expect("the run ends by itself")
}

const CHILD: &str = "SOCKETSERVER_TEST_CHILD";

/// Whether this process was started by [`child`].
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// A command that runs one test of this binary in a process of its own, where [`is_child`] is true.
pub fn child(module: &str, test: &str) -> Command {
    let (_crate, module) = module.split_once("::").unwrap();
    crate::support::system::undo_ignored_signals();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(format!("{module}::{test}")).args(["--exact", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, "1").stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Waits for a child, and ends it if it does not end by itself.
pub fn waited(mut child: Child, patience: Duration) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if began.elapsed() > patience {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the child did not end within {patience:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// What a child writes to stderr, each `write` of it by itself: its stderr is a socket that keeps the
/// bounds of what is sent.
pub fn writes_to_stderr(mut command: Command) -> (Output, Vec<String>) {
    let (mut ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    ours.set_read_timeout(Some(SOON)).unwrap();
    let child = command.stderr(OwnedFd::from(theirs)).spawn().unwrap();
    // With the command goes our copy of the child's end.
    drop(command);
    let reading = thread::spawn(move || {
        let mut writes = Vec::new();
        let mut buffer = vec![0; 65_536];
        loop {
            match ours.read(&mut buffer).expect("the child comes to its end") {
                0 => return writes,
                count => writes.push(String::from_utf8(buffer[..count].to_vec()).unwrap()),
            }
        }
    });
    let output = child.wait_with_output().unwrap();
    (output, reading.join().unwrap())
}

#[test]
fn row_015_the_steps_of_a_request_come_in_pythons_order() {
    let (diary, turn) = life(true, |diary| Steps { diary, fail_in: &[] });
    assert_eq!(turn, Turn::Handled);
    assert_eq!(
        diary.text(),
        "get_request verify_request process_request finish_request setup handle finish \
         shutdown_request close_request"
    );
}

/// Counts what it has served: always one, because every request has its own.
struct Tally {
    number: usize,
    served: usize,
}

impl StreamRequestHandler for Tally {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        self.served += 1;
        let (client, server) = (request.client_address(), request.server().server_address());
        let text = format!("{} {} {client} {server}", self.number, self.served);
        writeln!(request, "{text}")?;
        Ok(())
    }
}

#[test]
fn row_016_every_request_has_a_handler_of_its_own_which_sees_client_and_server() {
    let made = AtomicUsize::new(0);
    let make = move || Tally { number: made.fetch_add(1, Ordering::SeqCst) + 1, served: 0 };
    let server = TcpServer::bind("127.0.0.1:0", make).unwrap().serve_in_background().unwrap();
    for number in 1..=3 {
        let mut client = connect(inet(&*server));
        let me = client.local_addr().unwrap();
        let expected = format!("{number} 1 {me} {}\n", inet(&*server));
        assert_eq!(read_line(&mut client), expected);
    }
}

#[test]
fn row_017_finish_runs_after_a_failed_handle() {
    assert_eq!(
        life_that_fails_in(&["handle"]),
        "setup handle finish handle_error(handle: handle fails) shutdown_request close_request"
    );
}

/// Notes its steps and panics in `handle`.
struct PanicsInHandle {
    steps: Steps,
}

impl StreamRequestHandler for PanicsInHandle {
    fn setup(&mut self, request: &mut StreamRequest) -> HandlerResult {
        StreamRequestHandler::setup(&mut self.steps, request)
    }

    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        StreamRequestHandler::handle(&mut self.steps, request)?;
        panic!("out of tea")
    }

    fn finish(&mut self, request: &mut StreamRequest) -> HandlerResult {
        StreamRequestHandler::finish(&mut self.steps, request)
    }
}

#[test]
fn row_017_finish_runs_after_a_panic_in_handle_as_well() {
    let (diary, _turn) =
        life(true, |diary| PanicsInHandle { steps: Steps { diary, fail_in: &[] } });
    assert!(
        diary.text().ends_with(
            "setup handle finish handle_error(handle: a panic: out of tea) \
             shutdown_request close_request"
        ),
        "{}",
        diary.text()
    );
}

#[test]
fn row_018_finish_does_not_run_after_a_failed_setup() {
    assert_eq!(
        life_that_fails_in(&["setup"]),
        "setup handle_error(setup: setup fails) shutdown_request close_request"
    );
}

#[test]
fn row_019_an_error_of_finish_is_reported_and_the_request_is_closed() {
    assert_eq!(
        life_that_fails_in(&["finish"]),
        "setup handle finish handle_error(finish: finish fails) shutdown_request close_request"
    );
}

#[test]
fn row_019_of_two_errors_the_earlier_one_is_reported() {
    assert_eq!(
        life_that_fails_in(&["handle", "finish"]),
        "setup handle finish handle_error(handle: handle fails) shutdown_request close_request"
    );
}

#[test]
fn row_020_a_rejected_request_is_closed_once_and_never_processed() {
    let (diary, turn) = life(false, |diary| Steps { diary, fail_in: &[] });
    assert_eq!(turn, Turn::Rejected);
    assert_eq!(diary.text(), "get_request verify_request shutdown_request close_request");
}

#[test]
fn row_020_a_rejected_request_is_counted_and_the_next_one_is_served() {
    struct EveryOther {
        asked: AtomicUsize,
    }

    impl ServerHooks<StreamRequest> for EveryOther {
        fn verify_request(&self, _incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
            Ok(self.asked.fetch_add(1, Ordering::SeqCst) % 2 == 1)
        }
    }

    let hooks = EveryOther { asked: AtomicUsize::new(0) };
    let server = TcpServer::builder().hooks(hooks).bind("127.0.0.1:0", || OneLine).unwrap();
    let server = server.serve_in_background().unwrap();
    assert_eq!(read_to_end(&mut connect(inet(&*server))), b"");
    assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
    eventually("the counts", || server.context().counts().completed == 1);
    let counts = server.context().counts();
    assert_eq!((counts.accepted, counts.rejected), (2, 1));
}

#[test]
fn row_021_verify_request_runs_in_the_loop_and_not_in_the_worker() {
    struct Where {
        verified_in: Sender<(ThreadId, Address, bool)>,
    }

    impl ServerHooks<StreamRequest> for Where {
        fn verify_request(&self, incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
            let client = incoming.client_address().clone();
            let has_fd = incoming.fileno().is_some();
            let _ = self.verified_in.send((thread::current().id(), client, has_fd));
            Ok(true)
        }
    }

    fn check<M: Mixin>(mixin: M) {
        let (verified_in, verified) = channel();
        let (handled_in, handled) = channel();
        let handler = stream_fn(move |_request: &mut StreamRequest| {
            let _ = handled_in.send(thread::current().id());
            Ok(())
        });
        let server = TcpServer::builder()
            .mixin(mixin)
            .hooks(Where { verified_in })
            .timeout(SOON)
            .bind("127.0.0.1:0", handler)
            .unwrap();
        let client = connect(inet(&server));
        assert_eq!(server.handle_request().unwrap(), Turn::Handled);
        let here = thread::current().id();
        let me = client.local_addr().unwrap().into();
        assert_eq!(verified.recv_timeout(SOON).unwrap(), (here, me, true));
        assert_ne!(handled.recv_timeout(SOON).unwrap(), here);
    }

    check(Threading::new());
    check(Pool::new(1));
}

#[test]
fn row_022_a_failure_of_verify_request_is_reported_and_the_loop_lives() {
    struct Doubtful {
        asked: AtomicUsize,
        reports: Reports,
    }

    impl ServerHooks<StreamRequest> for Doubtful {
        fn verify_request(&self, _incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
            match self.asked.fetch_add(1, Ordering::SeqCst) {
                0 => Err("no verdict".into()),
                1 => panic!("no verdict at all"),
                _ => Ok(true),
            }
        }

        fn handle_error(&self, failure: &Failure<'_>) {
            self.reports.send(failure);
        }
    }

    let (reports, reported) = reports();
    let hooks = Doubtful { asked: AtomicUsize::new(0), reports };
    let server = TcpServer::builder().hooks(hooks).bind("127.0.0.1:0", || Echo).unwrap();
    let server = server.serve_in_background().unwrap();

    assert_eq!(read_to_end(&mut connect(inet(&*server))), b"");
    let first = reported.recv_timeout(SOON).unwrap();
    assert_eq!((first.phase, first.error.as_str()), (Phase::Verify, "no verdict"));

    assert_eq!(read_to_end(&mut connect(inet(&*server))), b"");
    let second = reported.recv_timeout(SOON).unwrap();
    assert_eq!(second.phase, Phase::Verify);
    assert_eq!(second.panic.as_deref(), Some("no verdict at all"));

    assert_eq!(exchange(&mut connect(inet(&*server)), "still here"), "still here\n");
}

#[test]
fn row_023_a_panic_of_handle_error_leaves_the_request_closed_and_the_server_alive() {
    struct Clumsy;

    impl<R> ServerHooks<R> for Clumsy {
        fn handle_error(&self, failure: &Failure<'_>) {
            panic!("while reporting {}", failure.error());
        }
    }

    fn check<M: Mixin + 'static>(mixin: M) {
        let handler = stream_fn(|request| {
            let mut line = String::new();
            match request.next_line(&mut line)? {
                Some("fail") => Err("asked to".into()),
                Some(text) => Ok(writeln!(request, "{text}")?),
                None => Ok(()),
            }
        });
        let server =
            TcpServer::builder().mixin(mixin).hooks(Clumsy).bind("127.0.0.1:0", handler).unwrap();
        let server = server.serve_in_background().unwrap();
        for _ in 0..3 {
            assert_eq!(exchange(&mut connect(inet(&*server)), "fail"), "", "closed");
        }
        assert_eq!(exchange(&mut connect(inet(&*server)), "fine"), "fine\n");
        eventually("all are closed", || server.context().live_count() == 0);
        assert!(server.stop().unwrap().is_clean());
    }

    check(Inline);
    check(Threading::new());
    check(Pool::new(1));
}

/// Every error that is one connection's own.
const SKIPPED: [i32; 12] = [
    libc::ECONNABORTED,
    libc::ECONNRESET,
    libc::ECONNREFUSED,
    libc::EPROTO,
    libc::ENETDOWN,
    libc::ENETUNREACH,
    libc::EHOSTDOWN,
    libc::EHOSTUNREACH,
    libc::ENOPROTOOPT,
    libc::EOPNOTSUPP,
    libc::ETIMEDOUT,
    libc::EPERM,
];

/// What `accept_error` was told: the error's number, what follows, how often, for how long, and whether it is to be
/// reported.
type Told = (i32, AcceptAction, u64, Duration, bool);

struct AcceptErrors {
    to: Sender<Told>,
}

impl ServerHooks<StreamRequest> for AcceptErrors {
    fn accept_error(&self, failure: &AcceptFailure<'_>) {
        let errno = failure.error().raw_os_error().unwrap_or(0);
        let due = failure.is_first_or_due();
        let _ = self.to.send((errno, failure.action(), failure.in_a_row(), failure.pause(), due));
    }
}

/// An inline echo server whose accept meets errors, and what its hook is told of them.
fn meets(injected: &Injected) -> (Server<Noted, Inline>, Receiver<Told>) {
    let (to, told) = channel();
    let server = Builder::<Noted, _>::new(Inline)
        .hooks(AcceptErrors { to })
        .timeout(SOON)
        .with_transport(Noted::with_errors(injected), || OneLine)
        .unwrap();
    (server, told)
}

#[test]
fn row_024_an_error_of_get_request_costs_one_turn_and_no_more() {
    let injected = Injected::default();
    injected.queue.lock().unwrap().extend(SKIPPED);
    let (server, told) = meets(&injected);
    let server = server.serve_in_background().unwrap();
    assert_eq!(exchange(&mut connect(inet(&*server)), "served"), "served\n");
    let told: Vec<Told> = told.try_iter().collect();
    let expected: Vec<Told> = SKIPPED
        .iter()
        .map(|errno| (*errno, AcceptAction::Skip, 0, Duration::ZERO, false))
        .collect();
    assert_eq!(told, expected);
    assert_eq!(server.context().counts().accept_errors, SKIPPED.len() as u64);
    server.stop().unwrap();
}

#[test]
fn row_025_the_table_says_what_follows_from_each_error() {
    use AcceptAction::{BackOff, Fatal, Retry, Shed, Skip, Wait};
    let action = |errno| accept_action(&io::Error::from_raw_os_error(errno));
    let mut table: Vec<(i32, AcceptAction)> = SKIPPED.map(|errno| (errno, Skip)).to_vec();
    table.extend([
        (libc::EAGAIN, Wait),
        (libc::EWOULDBLOCK, Wait),
        (libc::EINTR, Retry),
        (libc::EMFILE, Shed),
        (libc::ENFILE, BackOff),
        (libc::ENOBUFS, BackOff),
        (libc::ENOMEM, BackOff),
        (libc::EBADF, Fatal),
        (libc::ENOTSOCK, Fatal),
        (libc::EINVAL, Fatal),
        (libc::EFAULT, Fatal),
        // One that nobody has thought of: neither a spin nor the end.
        (libc::EXDEV, BackOff),
    ]);
    for (errno, expected) in table {
        assert_eq!(action(errno), expected, "{}", io::Error::from_raw_os_error(errno));
    }
    assert_eq!(accept_action(&io::Error::other("a transport's own")), BackOff);
    assert_eq!(accept_action(&io::ErrorKind::WouldBlock.into()), Wait);
}

#[test]
fn row_025_a_lack_of_descriptors_is_backed_off_from_and_gets_over() {
    for (errno, action) in
        [(libc::EMFILE, AcceptAction::Shed), (libc::ENFILE, AcceptAction::BackOff)]
    {
        let injected = Injected::default();
        injected.always.store(errno, Ordering::SeqCst);
        let (server, told) = meets(&injected);
        let server = server.serve_in_background().unwrap();
        for (in_a_row, millis) in [(1, 10), (2, 20), (3, 40)] {
            let pause = Duration::from_millis(millis);
            let expected = (errno, action, in_a_row, pause, in_a_row == 1);
            assert_eq!(told.recv_timeout(SOON).unwrap(), expected, "one of a row is reported");
        }
        let before = injected.calls.load(Ordering::SeqCst);
        // The row is about a rate, and a rate takes its time.
        thread::sleep(Duration::from_secs(1));
        let turns = injected.calls.load(Ordering::SeqCst) - before;
        assert!(turns < 100, "{turns} turns in a second");
        injected.always.store(0, Ordering::SeqCst);
        assert_eq!(exchange(&mut connect(inet(&*server)), "over"), "over\n");
        server.stop().unwrap();
    }
}

#[test]
fn row_025_only_a_lack_of_descriptors_of_its_own_makes_the_server_shed() {
    for (errno, shed) in [(libc::EMFILE, 3), (libc::ENFILE, 0), (libc::ECONNABORTED, 0)] {
        let injected = Injected::default();
        injected.queue.lock().unwrap().push_back(errno);
        let (server, _told) = meets(&injected);
        assert_eq!(server.handle_request().unwrap(), Turn::AcceptFailed);
        assert_eq!(server.context().counts().shed, shed);
    }
}

#[test]
fn row_025_a_broken_listener_ends_serve_forever_with_its_error() {
    for errno in [libc::EBADF, libc::ENOTSOCK, libc::EINVAL, libc::EFAULT] {
        let injected = Injected::default();
        injected.always.store(errno, Ordering::SeqCst);
        let (server, told) = meets(&injected);
        let address = server.server_address();
        let error = joined(server.serve_in_background().unwrap()).unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot accept at {address}: ")), "{error}");
        let cause = std::error::Error::source(&error).unwrap();
        let cause = cause.downcast_ref::<io::Error>().unwrap();
        assert_eq!(cause.raw_os_error(), Some(errno));
        assert_eq!(told.try_iter().count(), 0, "serve_forever's own error says it");
    }
}

#[test]
fn row_025_what_is_no_trouble_is_no_trouble_of_the_hook() {
    let injected = Injected::default();
    injected.queue.lock().unwrap().extend([libc::EINTR, libc::EINTR, libc::EAGAIN]);
    let (server, told) = meets(&injected);
    let mut client = connect(inet(&server));
    client.write_all(b"hello\n").unwrap();
    assert_eq!(server.handle_request().unwrap(), Turn::Handled);
    assert_eq!(read_line(&mut client), "hello\n");
    assert_eq!(told.try_iter().count(), 0);
    assert_eq!(server.context().counts().accept_errors, 0);
}

#[test]
fn row_025_a_panic_of_the_hook_does_not_end_the_loop() {
    struct Clumsy;

    impl<R> ServerHooks<R> for Clumsy {
        fn accept_error(&self, _failure: &AcceptFailure<'_>) {
            panic!("while telling of an error")
        }
    }

    let injected = Injected::default();
    injected.queue.lock().unwrap().push_back(libc::ECONNABORTED);
    let server = Builder::<Noted, _>::new(Inline)
        .hooks(Clumsy)
        .with_transport(Noted::with_errors(&injected), || OneLine)
        .unwrap();
    let server = server.serve_in_background().unwrap();
    assert_eq!(exchange(&mut connect(inet(&*server)), "alive"), "alive\n");
    server.stop().unwrap();
}

#[test]
fn row_026_shutdown_request_ends_the_servers_direction_only() {
    let kept = Arc::default();
    let transport = Noted { kept: Some(Arc::clone(&kept)), ..Noted::new(&Diary::default()) };
    let server = Builder::<Noted, _>::new(Inline)
        .timeout(SOON)
        .with_transport(transport, || Silent)
        .unwrap();
    let mut client = connect(inet(&server));
    assert_eq!(server.handle_request().unwrap(), Turn::Handled);
    // The request is not closed, and still the client sees its end, and is heard.
    assert_eq!(read_to_end(&mut client), b"");
    client.write_all(b"heard\n").unwrap();
    let mut request = kept.lock().unwrap().pop().expect("a request that is still open");
    let mut line = String::new();
    assert_eq!(request.next_line(&mut line).unwrap(), Some("heard"));
}

#[test]
fn row_026_an_error_of_the_shutdown_is_ignored() {
    let (reports, reported) = reports();
    let (begun, begins) = channel();
    // It returns without an error when the peer has gone, and leaves a socket that cannot be shut down.
    let handler = stream_fn(move |request| {
        let _ = begun.send(());
        let end = request.read(&mut [0]);
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let fd = request.fileno().unwrap();
        assert!(socket2::SockRef::from(&fd).shutdown(Shutdown::Write).is_err());
        Ok(())
    });
    let server = TcpServer::builder().hooks(reports).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    for _ in 0..2 {
        let client = connect(inet(&*server));
        begins.recv_timeout(SOON).unwrap();
        reset(client);
    }
    eventually("both are over", || server.context().counts().completed == 2);
    assert!(server.stop().unwrap().is_clean());
    assert!(reported.try_recv().is_err());
}

/// Closes a connection so that the peer sees a reset.
pub fn reset(client: std::net::TcpStream) {
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
}

#[test]
fn row_027_the_client_sees_the_end_even_if_a_clone_of_the_connection_lives() {
    let (clones, cloned) = channel();
    let handler = stream_fn(move |request| {
        writeln!(request, "that is all")?;
        let clone = request.fileno().unwrap().try_clone_to_owned()?;
        let _ = clones.send(clone);
        Ok(())
    });
    let server = TcpServer::bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    let clone: OwnedFd = cloned.recv_timeout(SOON).unwrap();
    assert_eq!(read_to_end(&mut client), b"that is all\n");
    let peer = socket2::SockRef::from(&clone).local_addr().unwrap();
    assert_eq!(peer.as_socket(), Some(client.peer_addr().unwrap()), "it was still open");
}

#[test]
fn row_029_a_handler_waits_whatever_the_mode_of_the_listener_is() {
    fn check(prepare: impl Fn(&TcpListener)) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        prepare(&listener);
        let (reports, reported) = reports();
        let handler = stream_fn(|request| {
            let mut line = String::new();
            // In the other mode a wait would be a spin.
            assert!(!socket2::SockRef::from(&request.fileno().unwrap()).nonblocking()?);
            request.next_line(&mut line)?;
            Ok(writeln!(request, "{line}")?)
        });
        let server = TcpServer::builder().hooks(reports).from_fd(listener, handler).unwrap();
        let server = server.serve_in_background().unwrap();
        let mut client = connect(inet(&*server));
        eventually("the handler waits for its line", || {
            server.context().live().iter().any(|request| request.activity == Activity::Idle)
        });
        assert_eq!(exchange(&mut client, "at last"), "at last\n");
        server.stop().unwrap();
        assert!(reported.try_recv().is_err());
    }

    check(|listener| listener.set_nonblocking(false).unwrap());
    check(|listener| listener.set_nonblocking(true).unwrap());
    // An inherited timeout must not become the connection's: it is the limits that say how long.
    check(|listener| {
        let socket = socket2::SockRef::from(listener);
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        socket.set_write_timeout(Some(Duration::from_millis(1))).unwrap();
    });
}

/// An error with a cause.
#[derive(Debug)]
struct Wrapped {
    cause: HandlerError,
}

impl std::fmt::Display for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("something failed")
    }
}

impl std::error::Error for Wrapped {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.cause)
    }
}

/// A server that is ended by what its only handler returns; gives the error it ends with.
pub fn ended_by<M: Mixin + 'static>(
    mixin: M,
    end: impl Fn() -> HandlerError + Send + Sync + 'static,
) -> socketserver::Error {
    let (reports, reported) = reports();
    let handler = stream_fn(move |request| {
        writeln!(request, "farewell")?;
        Err(end())
    });
    let server =
        TcpServer::builder().mixin(mixin).hooks(reports).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    assert_eq!(read_to_end(&mut client), b"farewell\n", "closed in order");
    let error = joined(server).unwrap_err();
    assert!(reported.try_recv().is_err(), "handle_error is not told");
    error
}

#[test]
fn row_030_a_fatal_of_an_inline_handler_ends_serve_forever_with_it() {
    let error = ended_by(Inline, || Fatal::new("out of paper").into());
    assert_eq!(error.as_fatal().unwrap().to_string(), "out of paper");
    assert_eq!(error.to_string(), "the handler stopped the server: out of paper");
}

#[test]
fn row_030_a_fatal_is_found_inside_other_errors() {
    let wrapped = || -> HandlerError {
        let fatal = io::Error::other(Fatal::new("out of ink"));
        Box::new(Wrapped { cause: Box::new(Wrapped { cause: Box::new(fatal) }) })
    };
    let error = ended_by(Inline, wrapped);
    assert_eq!(error.as_fatal().unwrap().to_string(), "out of ink");
}

#[test]
fn row_030_a_fatal_of_setup_and_of_finish_ends_the_server_as_well() {
    struct EndsIn {
        phase: Phase,
    }

    impl EndsIn {
        fn step(&self, phase: Phase) -> HandlerResult {
            if phase == self.phase { Err(Fatal::new(phase.to_string()).into()) } else { Ok(()) }
        }
    }

    impl StreamRequestHandler for EndsIn {
        fn setup(&mut self, _request: &mut StreamRequest) -> HandlerResult {
            self.step(Phase::Setup)
        }

        fn handle(&mut self, _request: &mut StreamRequest) -> HandlerResult {
            self.step(Phase::Handle)
        }

        fn finish(&mut self, _request: &mut StreamRequest) -> HandlerResult {
            self.step(Phase::Finish)
        }
    }

    for phase in [Phase::Setup, Phase::Handle, Phase::Finish] {
        let server = TcpServer::builder()
            .timeout(SOON)
            .bind("127.0.0.1:0", move || EndsIn { phase })
            .unwrap();
        let mut client = connect(inet(&server));
        let error = server.handle_request().unwrap_err();
        assert_eq!(error.as_fatal().unwrap().to_string(), phase.to_string());
        assert_eq!(read_to_end(&mut client), b"");
    }
}

/// Fails on "fail", answers everything else.
fn fail_or_echo(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    match request.next_line(&mut line)? {
        Some("fail") => Err("cannot \x1b[2J do that".into()),
        Some(text) => Ok(writeln!(request, "{text}")?),
        None => Ok(()),
    }
}

#[test]
fn row_031_the_default_report_is_one_block_that_names_the_client() {
    if is_child() {
        let server = ThreadingTcpServer::bind("127.0.0.1:0", stream_fn(fail_or_echo)).unwrap();
        let server = server.serve_in_background().unwrap();
        for _ in 0..2 {
            let mut client = connect(inet(&*server));
            println!("\nclient {}", client.local_addr().unwrap());
            assert_eq!(exchange(&mut client, "fail"), "");
        }
        // Serving continues.
        assert_eq!(exchange(&mut connect(inet(&*server)), "fine"), "fine\n");
        server.stop().unwrap();
        return;
    }
    let test = "row_031_the_default_report_is_one_block_that_names_the_client";
    let (output, writes) = writes_to_stderr(child(module_path!(), test));
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}\n{writes:?}");
    let clients: Vec<&str> =
        stdout.lines().filter_map(|line| line.strip_prefix("client ")).collect();
    assert_eq!(clients.len(), 2, "{stdout}");
    assert_eq!(writes.len(), 2, "each report is one write: {writes:?}");
    for (client, report) in clients.into_iter().zip(&writes) {
        let lines: Vec<&str> = report.lines().collect();
        let [rule, headline, cause, end] = lines[..] else { panic!("a block of four: {report}") };
        assert_eq!((rule, end), ("-".repeat(40).as_str(), rule));
        assert!(headline.starts_with(&format!("handle failed for {client} (handler ")));
        assert!(headline.contains("fail_or_echo"), "{headline}");
        assert_eq!(cause, "cannot \\u{1b}[2J do that", "no bytes that steer a terminal");
        assert!(report.ends_with('\n'));
    }
}

/// A handler's own error, with a value that a hook may want.
#[derive(Debug, PartialEq)]
struct OutOfStock {
    article: u32,
}

impl std::fmt::Display for OutOfStock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "article {} is out of stock", self.article)
    }
}

impl std::error::Error for OutOfStock {}

#[test]
fn row_032_handle_error_gets_the_handlers_own_error() {
    struct Stock {
        articles: Sender<(u32, Phase, Fault, bool)>,
    }

    impl<R> ServerHooks<R> for Stock {
        fn handle_error(&self, failure: &Failure<'_>) {
            let error = failure.error().downcast_ref::<OutOfStock>().expect("the very error");
            let about = (failure.phase(), failure.fault(), failure.is_disconnect());
            let _ = self.articles.send((error.article, about.0, about.1, about.2));
        }
    }

    let (articles, ordered) = channel();
    let handler = stream_fn(|_request| Err(OutOfStock { article: 7 }.into()));
    let server =
        TcpServer::builder().hooks(Stock { articles }).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let _client = connect(inet(&*server));
    let expected = (7, Phase::Handle, Fault::Handler, false);
    assert_eq!(ordered.recv_timeout(SOON).unwrap(), expected);
}

/// The report of one request, whose handler is `handle` and whose client is `client`.
fn reported_of(
    limits: Limits,
    handle: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
    client: impl FnOnce(std::net::TcpStream),
) -> Report {
    let (reports, reported) = reports();
    let server = TcpServer::builder()
        .hooks(reports)
        .limits(limits)
        .bind("127.0.0.1:0", stream_fn(handle))
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let stream = connect(inet(&*server));
    let me: Address = stream.local_addr().unwrap().into();
    client(stream);
    let report = reported.recv_timeout(SOON).unwrap();
    assert_eq!(report.client_address, me);
    assert!(report.handler.contains("row_032"), "{}", report.handler);
    report
}

#[test]
fn row_032_handle_error_knows_a_peer_that_went_away() {
    let limits = Limits::default();
    let report = reported_of(
        limits,
        |request| {
            let mut line = String::new();
            writeln!(request, "ready")?;
            while request.next_line(&mut line)?.is_some() {}
            Ok(())
        },
        |mut client| {
            assert_eq!(read_line(&mut client), "ready\n");
            reset(client);
        },
    );
    assert!(report.is_disconnect, "{report:?}");
    assert_eq!((report.phase, report.fault), (Phase::Handle, Fault::Peer));
    assert_eq!(report.errno, Some(libc::ECONNRESET));
}

#[test]
fn row_032_handle_error_knows_whose_fault_a_silence_or_a_line_without_end_is() {
    let limits =
        Limits { line_bytes: 16, read: Duration::from_millis(50), idle: SOON, ..Limits::default() };
    let read_lines = |request: &mut StreamRequest| {
        let mut line = String::new();
        while request.next_line(&mut line)?.is_some() {}
        Ok(())
    };

    let long = reported_of(
        limits,
        move |request| read_lines(request),
        |mut client| {
            client.write_all(&[b'a'; 17]).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap_or(0), 0, "closed");
        },
    );
    assert_eq!((long.fault, long.line_limit), (Fault::Peer, Some(16)));
    assert!(!long.is_disconnect);

    let slow = reported_of(
        limits,
        move |request| read_lines(request),
        |mut client| {
            client.write_all(b"half a").unwrap();
            assert_eq!(client.read(&mut [0]).unwrap_or(0), 0, "closed");
        },
    );
    assert_eq!((slow.fault, slow.timeout), (Fault::Peer, Some((Timeout::Read, limits.read))));
    assert!(!slow.is_disconnect);
}

#[test]
fn row_032_handle_error_knows_a_panic() {
    let report = reported_of(
        Limits::default(),
        |_request| panic!("at the disco"),
        |mut client| {
            assert_eq!(read_to_end(&mut client), b"");
        },
    );
    assert_eq!(report.panic.as_deref(), Some("at the disco"));
    assert_eq!((report.phase, report.fault), (Phase::Handle, Fault::Handler));
}

#[test]
fn row_032_handle_error_knows_an_error_of_wrap_request() {
    struct NoWrapper {
        reports: Reports,
    }

    impl ServerHooks<StreamRequest> for NoWrapper {
        fn wrap_request(&self, request: &mut StreamRequest) -> HandlerResult {
            request.wrap_stream(|_stream| Err(io::Error::other("no certificate")))?;
            Ok(())
        }

        fn handle_error(&self, failure: &Failure<'_>) {
            self.reports.send(failure);
        }
    }

    let (reports, reported) = reports();
    let server =
        TcpServer::builder().hooks(NoWrapper { reports }).bind("127.0.0.1:0", || Echo).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    assert_eq!(read_to_end(&mut client), b"");
    let report = reported.recv_timeout(SOON).unwrap();
    assert_eq!((report.phase, report.error.as_str()), (Phase::Wrap, "no certificate"));
}
