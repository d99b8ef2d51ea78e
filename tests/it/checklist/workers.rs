//! Threads and pools of them: rows 54 to 67.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use socketserver::{
    Activity, Builder, DrainReport, Failure, Fatal, Fault, HandlerResult, Inline, Job, Mixin,
    Phase, Pool, Refused, Server, ServerHooks, StreamRequest, StreamRequestHandler, Tcp, TcpServer,
    Threading, ThreadingTcpServer, ThreadingUdpServer, Turn, WhenFull, datagram_fn, stream_fn,
};

use super::requests::{Noted, child, ended_by, is_child, reports, waited};
use crate::handlers::{Diary, Echo, OneLine, held};
use crate::support::{SOON, connect, eventually, exchange, inet, read_line, read_to_end};

/// A stack that no machine has the addresses for: no thread can be started with it.
const NO_SUCH_STACK: usize = 1 << 47;

/// Says why a test cannot run here, which is an error where nothing may be left out.
fn skipped(why: &str) {
    assert!(std::env::var_os("SOCKETSERVER_NO_SKIP").is_none_or(|set| set != "1"), "{why}");
    println!("skipped: {why}");
}

/// The thread in which a request was handled.
fn thread_of_a_request<M: Mixin + 'static>(
    server: &Server<Tcp, M>,
    threads: &Mutex<HashMap<String, ThreadId>>,
) -> ThreadId {
    let mut client = connect(inet(server));
    let me = client.local_addr().unwrap().to_string();
    assert_eq!(read_to_end(&mut client), b"done\n");
    threads.lock().unwrap()[&me]
}

#[test]
fn row_054_each_live_request_has_a_thread_of_its_own() {
    let (held, holder) = held();
    let server = ThreadingTcpServer::bind("127.0.0.1:0", move || held.clone()).unwrap();
    let server = server.serve_in_background().unwrap();
    // Each is accepted while those before it are still at it.
    let mut clients: Vec<TcpStream> = (0..5).map(|_| connect(inet(&*server))).collect();
    let threads: HashSet<ThreadId> =
        (0..5).map(|_| holder.started.recv_timeout(SOON).unwrap()).collect();
    assert_eq!(threads.len(), 5);
    assert!(!threads.contains(&thread::current().id()));
    drop(holder);
    for client in &mut clients {
        assert_eq!(read_line(client), "released\n");
    }
}

#[test]
fn row_054_the_loop_serves_others_while_a_handler_is_slow() {
    let server = ThreadingTcpServer::bind("127.0.0.1:0", || Echo).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut slow = connect(inet(&*server));
    assert_eq!(exchange(&mut slow, "first"), "first\n");
    for _ in 0..20 {
        assert_eq!(exchange(&mut connect(inet(&*server)), "quick"), "quick\n");
    }
    assert_eq!(exchange(&mut slow, "last"), "last\n");
}

#[test]
fn row_054_a_thread_is_kept_for_the_next_request() {
    let threads = Arc::new(Mutex::new(HashMap::new()));
    let noted = Arc::clone(&threads);
    let handler = stream_fn(move |request| {
        let client = request.client_address().to_string();
        noted.lock().unwrap().insert(client, thread::current().id());
        Ok(writeln!(request, "done")?)
    });
    let mixin = Threading::new().keep(SOON);
    let server = TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut seen = HashSet::new();
    // The thread takes its place among the free ones after the client has seen the end; so not
    // necessarily the very next request gets it.
    let seen = &Mutex::new(&mut seen);
    eventually("a thread serves a second request", || {
        let id = thread_of_a_request(&server, &threads);
        !seen.lock().unwrap().insert(id)
    });
}

#[test]
fn row_055_an_error_in_a_thread_is_reported_there_and_then_the_request_is_closed() {
    struct Notes {
        diary: Diary,
    }

    impl ServerHooks<StreamRequest> for Notes {
        fn handle_error(&self, failure: &Failure<'_>) {
            self.diary.note(format!("{:?} handle_error", thread::current().id()));
            assert_eq!(failure.phase(), Phase::Handle);
        }
    }

    let diary = Diary::default();
    let noted = diary.clone();
    let handler = stream_fn(move |_request| {
        noted.note(format!("{:?} handle", thread::current().id()));
        Err("not today".into())
    });
    let server = Builder::<Noted, _>::new(Threading::new())
        .hooks(Notes { diary: diary.clone() })
        .with_transport(Noted::new(&diary), handler)
        .unwrap();
    let server = server.serve_in_background().unwrap();
    assert_eq!(read_to_end(&mut connect(inet(&*server))), b"");
    eventually("the request is closed", || server.context().live_count() == 0);
    let lines = diary.lines();
    let [get, handle, report, shutdown, close] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!([get, shutdown, close], ["get_request", "shutdown_request", "close_request"]);
    let worker = handle.strip_suffix(" handle").unwrap();
    assert_eq!(report, &format!("{worker} handle_error"));
    assert_ne!(worker, format!("{:?}", thread::current().id()));
}

#[test]
fn row_055_the_server_outlives_errors_and_panics_of_its_threads() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let (reports, reported) = reports();
        let handler = stream_fn(|request| {
            let mut line = String::new();
            match request.next_line(&mut line)? {
                Some("fail") => Err("as asked".into()),
                Some("panic") => panic!("as asked"),
                _ => Ok(writeln!(request, "fine")?),
            }
        });
        let server =
            TcpServer::builder().mixin(mixin).hooks(reports).bind("127.0.0.1:0", handler).unwrap();
        let server = server.serve_in_background().unwrap();
        for _ in 0..4 {
            assert_eq!(exchange(&mut connect(inet(&*server)), "fail"), "");
            assert_eq!(reported.recv_timeout(SOON).unwrap().error, "as asked");
            assert_eq!(exchange(&mut connect(inet(&*server)), "panic"), "");
            assert_eq!(reported.recv_timeout(SOON).unwrap().panic.as_deref(), Some("as asked"));
        }
        assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "fine\n");
        eventually("the last one is counted", || server.context().counts().completed == 1);
        let counts = server.context().counts();
        assert_eq!((counts.failed, counts.panicked), (4, 4));
        assert!(server.stop().unwrap().is_clean());
    }

    check(Threading::new());
    check(Pool::new(2));
}

#[test]
fn row_056_a_fatal_in_a_thread_stops_the_server_with_it() {
    let fatal = || Fatal::new("the disk is full").into();
    let threaded = ended_by(Threading::new(), fatal);
    assert_eq!(threaded.as_fatal().unwrap().to_string(), "the disk is full");
    let pooled = ended_by(Pool::new(2), fatal);
    assert_eq!(pooled.as_fatal().unwrap().to_string(), "the disk is full");
}

/// Closes a server whose two requests are held until the close has returned; gives the report and what
/// the clients read.
fn closed_with_two_held(mixin: impl Mixin + 'static) -> (DrainReport, Vec<String>) {
    let (held, holder) = held();
    let server =
        TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", move || held.clone()).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut clients: Vec<TcpStream> = (0..2).map(|_| connect(inet(&*server))).collect();
    for _ in 0..2 {
        holder.started.recv_timeout(SOON).unwrap();
    }
    let report = server.server_close_within(SOON);
    drop(holder);
    (report, clients.iter_mut().map(read_line).collect())
}

#[test]
fn row_057_server_close_waits_for_all_threads() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let (held, holder) = held();
        let server =
            TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", move || held.clone()).unwrap();
        let server = server.serve_in_background().unwrap();
        let mut clients: Vec<TcpStream> = (0..2).map(|_| connect(inet(&*server))).collect();
        for _ in 0..2 {
            holder.started.recv_timeout(SOON).unwrap();
        }
        let report = thread::scope(|scope| {
            let closing = scope.spawn(|| server.server_close_within(SOON));
            eventually("the close has begun", || server.context().is_stopping());
            // Nothing announces that it waits. One that does not would be over by then.
            thread::sleep(Duration::from_millis(50));
            assert!(!closing.is_finished());
            drop(holder);
            closing.join().unwrap()
        });
        assert_eq!(server.context().counts().completed, 2);
        assert!(report.is_clean(), "nobody is left when it returns: {report}");
        for client in &mut clients {
            assert_eq!(read_to_end(client), b"released\n");
        }
    }

    check(Threading::new());
    check(Threading::new().block_on_close(true).keep(Duration::ZERO));
    check(Pool::new(2));
}

#[test]
fn row_058_without_block_on_close_server_close_does_not_wait() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let (report, replies) = closed_with_two_held(mixin);
        assert_eq!((report.open_at_start, report.left_running.len()), (2, 2), "{report}");
        assert_eq!(report.forced.len(), 0, "and it forces nobody");
        assert_eq!(replies, ["released\n", "released\n"]);
    }

    check(Threading::new().block_on_close(false));
    check(Pool::new(2).block_on_close(false));
}

#[test]
fn row_059_daemon_threads_are_not_waited_for_by_server_close() {
    // Also with block_on_close, as in Python.
    let mixin = Threading::new().block_on_close(true).daemon_threads(true);
    let (report, replies) = closed_with_two_held(mixin);
    assert_eq!(report.left_running.len(), 2, "{report}");
    assert_eq!(replies, ["released\n", "released\n"]);
}

#[test]
fn row_059_daemon_threads_are_not_waited_for_at_exit() {
    if is_child() {
        let (begun, begins) = channel();
        let handler = stream_fn(move |_request| {
            let _ = begun.send(());
            loop {
                thread::park();
            }
        });
        let mixin = Threading::new().daemon_threads(true);
        let server = TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", handler).unwrap();
        let server = server.serve_in_background().unwrap();
        let _client = connect(inet(&*server));
        begins.recv_timeout(SOON).unwrap();
        return;
    }
    let mut command = child(module_path!(), "row_059_daemon_threads_are_not_waited_for_at_exit");
    assert!(waited(command.spawn().unwrap(), SOON).success());
}

#[test]
fn row_060_server_close_without_any_request_is_fine() {
    fn check<M: Mixin + 'static>(make: impl Fn() -> M) {
        let bind = || TcpServer::builder().mixin(make()).bind("127.0.0.1:0", || Echo).unwrap();
        let never_served = bind();
        assert!(never_served.server_close().is_clean());
        assert!(never_served.server_close().is_clean(), "once more");
        let idle = bind().serve_in_background().unwrap();
        let report = idle.stop().unwrap();
        assert_eq!(report.open_at_start, 0);
        assert!(report.is_clean());
    }

    check(Threading::new);
    check(|| Threading::new().max_threads(2));
    check(|| Pool::new(2));
    check(|| Inline);
}

/// How many threads this process has.
fn threads_alive() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// How many datagrams are under way at once.
const AT_ONCE: usize = 10;

/// Sends datagrams, a few at a time, and waits for the answers to them.
fn exchange_datagrams(server: &Server<socketserver::Udp, Threading>, count: usize) {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.connect(inet(server)).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    let mut answer = [0; 16];
    for _ in 0..count / AT_ONCE {
        for _ in 0..AT_ONCE {
            client.send(b"count me").unwrap();
        }
        for _ in 0..AT_ONCE {
            assert_eq!(client.recv(&mut answer).unwrap(), 8);
        }
    }
}

fn threading_udp(mixin: Threading) -> Server<socketserver::Udp, Threading> {
    ThreadingUdpServer::builder()
        .mixin(mixin)
        .bind(
            "127.0.0.1:0",
            datagram_fn(|request| {
                request.reply(request.packet())?;
                Ok(())
            }),
        )
        .unwrap()
}

#[test]
fn row_061_finished_threads_are_forgotten() {
    if is_child() {
        let kept = threading_udp(Threading::new()).serve_in_background().unwrap();
        let before = threads_alive();
        exchange_datagrams(&kept, 10);
        let after_ten = threads_alive();
        exchange_datagrams(&kept, 99_990);
        let after_all = threads_alive();
        assert_eq!(kept.context().counts().accepted, 100_000);
        // As many as are under way at once; some more, because a thread is free only a little after the
        // answer. A thread for each request would be thousands.
        assert!(after_ten <= before + AT_ONCE, "{before} threads, then {after_ten}");
        assert!(after_all <= before + 20 * AT_ONCE, "{before} threads, then {after_all}");
        kept.stop().unwrap();

        let fleeting = threading_udp(Threading::new().keep(Duration::ZERO));
        let fleeting = fleeting.serve_in_background().unwrap();
        let before = threads_alive();
        exchange_datagrams(&fleeting, 2_000);
        eventually("every thread has ended", || threads_alive() <= before);
        assert!(fleeting.stop().unwrap().is_clean());
        return;
    }
    if !std::path::Path::new("/proc/self/task").exists() {
        return skipped("there is no /proc to count threads in");
    }
    let mut command = child(module_path!(), "row_061_finished_threads_are_forgotten");
    assert!(waited(command.spawn().unwrap(), 10 * SOON).success());
}

/// Threads that cannot be started for the first requests, and can for those after them.
struct Recovering {
    failures: usize,
    seen: AtomicUsize,
    bad: Threading,
    good: Threading,
}

impl Mixin for Recovering {
    fn process_request(&self, job: Job) {
        let bad = self.seen.fetch_add(1, Ordering::SeqCst) < self.failures;
        if bad { &self.bad } else { &self.good }.process_request(job);
    }

    fn server_close(&self, deadline: std::time::Instant) {
        self.bad.server_close(deadline);
        self.good.server_close(deadline);
    }
}

#[test]
fn row_062_a_thread_that_cannot_be_started_is_reported_and_the_request_is_closed_in_order() {
    let (reports, reported) = reports();
    let diary = Diary::default();
    let mixin = Recovering {
        failures: 3,
        seen: AtomicUsize::new(0),
        bad: Threading::new().stack_size(NO_SUCH_STACK),
        good: Threading::new(),
    };
    let server = Builder::<Noted, _>::new(mixin)
        .hooks(reports)
        .with_transport(Noted::new(&diary), || OneLine)
        .unwrap();
    let server = server.serve_in_background().unwrap();
    for refused in 1..=3 {
        let mut client = connect(inet(&*server));
        assert_eq!(read_to_end(&mut client), b"", "an orderly end");
        let report = reported.recv_timeout(SOON).unwrap();
        assert_eq!((report.phase, report.fault), (Phase::Start, Fault::Resource));
        assert_eq!(report.client_address, client.local_addr().unwrap().into());
        assert!(report.error.starts_with("cannot start a worker for 127.0.0.1:"), "{report:?}");
        eventually("it is closed", || server.context().live_count() == 0);
        assert_eq!(diary.count("shutdown_request"), refused);
        assert_eq!(diary.count("close_request"), refused);
    }
    assert_eq!(server.context().counts().refused, 3);
    assert_eq!(exchange(&mut connect(inet(&*server)), "recovered"), "recovered\n");
    server.stop().unwrap();
}

/// A mixin whose settings nobody looks at before it is used: as if what it needs had been there when the server was made,
/// and has gone since.
struct Unchecked<M>(M);

impl<M: Mixin> Mixin for Unchecked<M> {
    fn process_request(&self, job: Job) {
        self.0.process_request(job);
    }

    fn ready(&self) -> bool {
        self.0.ready()
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.event_fd()
    }

    fn service_actions(&self) {
        self.0.service_actions();
    }

    fn server_close(&self, deadline: std::time::Instant) {
        self.0.server_close(deadline);
    }
}

#[test]
fn row_062_a_pool_that_cannot_start_reports_it_as_well() {
    let (reports, reported) = reports();
    let mixin = Unchecked(Pool::new(2).stack_size(NO_SUCH_STACK));
    let server =
        TcpServer::builder().mixin(mixin).hooks(reports).bind("127.0.0.1:0", || Echo).unwrap();
    let server = server.serve_in_background().unwrap();
    for _ in 0..3 {
        assert_eq!(read_to_end(&mut connect(inet(&*server))), b"");
        assert_eq!(reported.recv_timeout(SOON).unwrap().phase, Phase::Start);
    }
    assert!(server.stop().unwrap().is_clean());
}

#[test]
fn row_063_server_close_works_after_a_thread_could_not_be_started() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let (reports, reported) = reports();
        let server =
            TcpServer::builder().mixin(mixin).hooks(reports).bind("127.0.0.1:0", || Echo).unwrap();
        let server = server.serve_in_background().unwrap();
        assert_eq!(read_to_end(&mut connect(inet(&*server))), b"");
        reported.recv_timeout(SOON).unwrap();
        // Python would want to join the thread that never was.
        let report = server.server_close_within(SOON);
        assert!(report.is_clean(), "{report}");
        assert!(report.took < SOON, "there is nobody to wait for");
        server.stop().unwrap();
    }

    check(Unchecked(Threading::new().stack_size(NO_SUCH_STACK)));
    check(Unchecked(Pool::new(2).stack_size(NO_SUCH_STACK)));
}

/// How many are inside at once, at the most.
#[derive(Default)]
struct Peak {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Peak {
    fn inside<R>(&self, run: impl FnOnce() -> R) -> R {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let result = run();
        self.now.fetch_sub(1, Ordering::SeqCst);
        result
    }
}

/// Hurls requests at the server from six threads, and says how many were handled at once at the most.
fn peak_under_load<M: Mixin + 'static>(mixin: M) -> usize {
    const CLIENTS: usize = 6;
    const EACH: usize = 40;

    let peak = Arc::new(Peak::default());
    let inside = Arc::clone(&peak);
    let handler = stream_fn(move |request| {
        inside.inside(|| {
            let mut line = String::new();
            request.next_line(&mut line)?;
            Ok(writeln!(request, "{line}")?)
        })
    });
    let server = TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    assert_eq!(exchange(&mut connect(inet(&*server)), "load"), "load\n");
                }
            });
        }
    });
    eventually("all are counted", || {
        server.context().counts().completed == (CLIENTS * EACH) as u64
    });
    server.stop().unwrap();
    peak.most.load(Ordering::SeqCst)
}

#[test]
fn row_064_never_more_than_the_maximum_run_at_once() {
    assert_eq!(peak_under_load(Threading::new().max_threads(1)), 1);
    assert!(peak_under_load(Threading::new().max_threads(2)) <= 2);
    assert!(peak_under_load(Pool::new(2)) <= 2);
}

/// A server without room for a third request, whose two clients are held.
fn third_has_to_wait<M: Mixin + 'static>(mixin: M) {
    let (held, holder) = held();
    let server = TcpServer::builder()
        .mixin(mixin)
        .timeout(Duration::from_millis(20))
        .bind("127.0.0.1:0", move || held.clone())
        .unwrap();
    let mut clients: Vec<TcpStream> = (0..3).map(|_| connect(inet(&server))).collect();
    let next_is_taken = || server.handle_request().unwrap() == Turn::Handled;
    eventually("the first is taken", next_is_taken);
    eventually("the second is taken", next_is_taken);
    // The third is there, and stays in the kernel's queue.
    assert_eq!(server.handle_request().unwrap(), Turn::TimedOut);
    assert_eq!(server.context().counts().accepted, 2);
    holder.release.send(()).unwrap();
    eventually("the third is taken", next_is_taken);
    drop(holder);
    for client in &mut clients {
        assert_eq!(read_to_end(client), b"released\n");
    }
    assert!(server.server_close_within(SOON).is_clean());
}

#[test]
fn row_064_at_the_maximum_nothing_more_is_accepted() {
    third_has_to_wait(Threading::new().max_threads(2));
    third_has_to_wait(Threading::new().max_threads(2).when_full(WhenFull::Wait));
    third_has_to_wait(Pool::new(2).queue(0));
    // One runs, one waits.
    third_has_to_wait(Pool::new(1).queue(1));
}

#[test]
fn row_064_at_the_maximum_a_request_may_be_refused_with_a_word() {
    struct Busy;

    impl ServerHooks<StreamRequest> for Busy {
        fn overflow(&self, request: &mut StreamRequest, why: &Refused) -> HandlerResult {
            assert!(matches!(why, Refused::Busy));
            Ok(writeln!(request, "busy")?)
        }
    }

    fn check<M: Mixin + 'static>(mixin: M) {
        let (held, holder) = held();
        let server = TcpServer::builder()
            .mixin(mixin)
            .hooks(Busy)
            .bind("127.0.0.1:0", move || held.clone())
            .unwrap();
        let server = server.serve_in_background().unwrap();
        let mut clients: Vec<TcpStream> = (0..2).map(|_| connect(inet(&*server))).collect();
        for _ in 0..2 {
            holder.started.recv_timeout(SOON).unwrap();
        }
        for _ in 0..3 {
            assert_eq!(read_to_end(&mut connect(inet(&*server))), b"busy\n");
        }
        assert_eq!(server.context().counts().refused, 3);
        drop(holder);
        for client in &mut clients {
            assert_eq!(read_to_end(client), b"released\n");
        }
        // A place is free a little after the client has seen the end.
        eventually("there is room again", || {
            read_to_end(&mut connect(inet(&*server))) == b"released\n"
        });
        server.stop().unwrap();
    }

    check(Threading::new().max_threads(2).when_full(WhenFull::Refuse));
    check(Pool::new(2).queue(0).when_full(WhenFull::Refuse));
}

#[test]
fn row_065_a_pool_has_its_number_of_threads_and_no_more() {
    let (held, holder) = held();
    let server =
        TcpServer::builder().mixin(Pool::new(3)).bind("127.0.0.1:0", move || held.clone()).unwrap();
    assert_eq!(server.mixin().workers(), 3);
    let server = server.serve_in_background().unwrap();
    let mut clients: Vec<TcpStream> = (0..7).map(|_| connect(inet(&*server))).collect();
    let mut threads: HashSet<ThreadId> =
        (0..3).map(|_| holder.started.recv_timeout(SOON).unwrap()).collect();
    assert_eq!(threads.len(), 3);
    eventually("four wait", || {
        let live = server.context().live();
        live.iter().filter(|request| request.activity == Activity::Queued).count() == 4
    });
    assert!(holder.started.try_recv().is_err(), "nobody runs but those three");
    for _ in 0..4 {
        holder.release.send(()).unwrap();
        threads.insert(holder.started.recv_timeout(SOON).unwrap());
    }
    assert_eq!(threads.len(), 3);
    drop(holder);
    for client in &mut clients {
        assert_eq!(read_to_end(client), b"released\n");
    }
}

#[test]
fn row_065_a_pool_serves_first_come_first_served() {
    let diary = Diary::default();
    let noted = diary.clone();
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let handler = stream_fn(move |request| {
        let mut line = String::new();
        let number = request.next_line(&mut line)?.unwrap_or_default().to_owned();
        if number == "0" {
            let _ = released.lock().unwrap().recv();
        }
        noted.note(number);
        Ok(())
    });
    let server = TcpServer::builder().mixin(Pool::new(1)).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut clients = Vec::new();
    for number in 0..10 {
        let mut client = connect(inet(&*server));
        writeln!(client, "{number}").unwrap();
        clients.push(client);
    }
    eventually("all are in the queue", || server.context().live_count() == 10);
    drop(release);
    for client in &mut clients {
        assert_eq!(read_to_end(client), b"");
    }
    assert_eq!(diary.text(), "0 1 2 3 4 5 6 7 8 9");
}

#[test]
fn row_065_a_pool_is_drained_on_close() {
    let (held, holder) = held();
    let server =
        TcpServer::builder().mixin(Pool::new(2)).bind("127.0.0.1:0", move || held.clone()).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut clients: Vec<TcpStream> = (0..5).map(|_| connect(inet(&*server))).collect();
    eventually("all are taken", || server.context().live_count() == 5);
    let report = thread::scope(|scope| {
        let closing = scope.spawn(|| server.server_close_within(SOON));
        eventually("the close has begun", || server.context().is_stopping());
        drop(holder);
        closing.join().unwrap()
    });
    assert!(report.is_clean(), "{report}");
    for client in &mut clients {
        assert_eq!(read_to_end(client), b"released\n");
    }
    assert_eq!(server.context().counts().completed, 5);
}

/// Tells its client the name of the thread that it runs in.
struct Called;

impl StreamRequestHandler for Called {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let name = thread::current().name().unwrap_or("nobody").to_owned();
        Ok(writeln!(request, "{name}")?)
    }
}

/// The names of the threads of three requests, one after the other.
fn names<M: Mixin + 'static>(mixin: M) -> Vec<String> {
    let server = TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", || Called).unwrap();
    let server = server.serve_in_background().unwrap();
    (0..3).map(|_| read_line(&mut connect(inet(&*server))).trim_end().to_owned()).collect()
}

#[test]
fn row_067_threads_have_names() {
    let new_for_each = || Threading::new().keep(Duration::ZERO);
    assert_eq!(names(new_for_each()), ["Called-1", "Called-2", "Called-3"]);
    assert_eq!(names(new_for_each().thread_name("web")), ["web-1", "web-2", "web-3"]);
    assert_eq!(names(Pool::new(1)), ["Called-1"; 3]);
    assert_eq!(names(Pool::new(1).thread_name("db")), ["db-1"; 3]);
}

#[test]
fn row_067_hooks_run_in_each_thread_before_its_first_and_after_its_last_request() {
    fn note(diary: &Diary, what: &'static str) -> impl Fn() + Send + Sync + 'static {
        let diary = diary.clone();
        move || diary.note(format!("{:?} {what}", thread::current().id()))
    }

    fn check<M: Mixin + 'static>(make: impl Fn(&Diary) -> M) {
        let diary = Diary::default();
        let handled = note(&diary, "handle");
        let handler = stream_fn(move |request| {
            handled();
            Ok(writeln!(request, "done")?)
        });
        let server = TcpServer::builder().mixin(make(&diary)).bind("127.0.0.1:0", handler).unwrap();
        let server = server.serve_in_background().unwrap();
        for _ in 0..6 {
            assert_eq!(read_to_end(&mut connect(inet(&*server))), b"done\n");
        }
        assert!(server.stop().unwrap().is_clean());

        let mut threads: HashMap<String, Vec<String>> = HashMap::new();
        for line in diary.lines() {
            let (thread, what) = line.split_once(' ').unwrap();
            threads.entry(thread.to_owned()).or_default().push(what.to_owned());
        }
        let mut handled = 0;
        for (thread, lines) in &threads {
            let [first, requests @ .., last] = &lines[..] else { panic!("{thread}: {lines:?}") };
            assert_eq!((first.as_str(), last.as_str()), ("start", "stop"), "{thread}: {lines:?}");
            assert!(requests.iter().all(|line| line == "handle"), "{thread}: {lines:?}");
            handled += requests.len();
        }
        assert_eq!(handled, 6);
    }

    check(|diary| {
        let mixin = Threading::new();
        mixin.on_thread_start(note(diary, "start")).on_thread_stop(note(diary, "stop"))
    });
    check(|diary| {
        let mixin = Threading::new().keep(Duration::ZERO);
        mixin.on_thread_start(note(diary, "start")).on_thread_stop(note(diary, "stop"))
    });
    check(|diary| {
        let mixin = Pool::new(3);
        mixin.on_thread_start(note(diary, "start")).on_thread_stop(note(diary, "stop"))
    });
}
