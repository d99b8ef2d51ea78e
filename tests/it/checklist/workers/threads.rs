//! Rows 54, 61 and 67: the threads of a server, from their first request to their end.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use socketserver::mixin::Mixin;
use socketserver::transport::Tcp;
use socketserver::{
    HandlerResult, Pool, Server, StreamRequest, StreamRequestHandler, TcpServer, Threading,
    ThreadingTcpServer, ThreadingUdpServer, datagram_fn, stream_fn,
};

use super::skipped;
use crate::child::{child, is_child, waited};
use crate::handlers::{Diary, Echo, held};
use crate::support::{
    SOON, connect, eventually, exchange, inet, read_line, read_to_end, receive, udp_client,
};

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
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn row_054_each_live_request_has_a_thread_of_its_own() {
    let (held, holder) = held();
    let server = ThreadingTcpServer::bind("127.0.0.1:0", move || held.clone()).unwrap();
    let server = server.serve_in_background().unwrap();
    // Each client is accepted while those before it are still being served.
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
    // The thread takes its place among the free ones after the client has seen the end, so that the very next request
    // may still get another thread.
    let seen = &Mutex::new(&mut seen);
    eventually("a thread serves a second request", || {
        let id = thread_of_a_request(&server, &threads);
        !seen.lock().unwrap().insert(id)
    });
}

/// How many threads this process has.
fn threads_alive() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// How many datagrams are under way at once.
const AT_ONCE: usize = 10;

/// Sends datagrams, a few at a time, and waits for the answers to them.
fn exchange_datagrams(server: &Server<socketserver::transport::Udp, Threading>, count: usize) {
    let client = udp_client();
    client.connect(inet(server)).unwrap();
    for _ in 0..count / AT_ONCE {
        for _ in 0..AT_ONCE {
            client.send(b"count me").unwrap();
        }
        for _ in 0..AT_ONCE {
            assert_eq!(receive(&client).len(), 8);
        }
    }
}

fn threading_udp(mixin: Threading) -> Server<socketserver::transport::Udp, Threading> {
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
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn row_061_finished_threads_are_forgotten() {
    if is_child() {
        let kept = threading_udp(Threading::new()).serve_in_background().unwrap();
        let before = threads_alive();
        exchange_datagrams(&kept, 10);
        let after_ten = threads_alive();
        exchange_datagrams(&kept, 99_990);
        let after_all = threads_alive();
        assert_eq!(kept.context().counts().accepted, 100_000);
        // There are as many threads as datagrams under way at once, and some more, because a thread is free only a
        // little after the answer. A thread for each request would be thousands.
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
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn row_067_threads_have_names() {
    let new_for_each = || Threading::new().keep(Duration::ZERO);
    assert_eq!(names(new_for_each()), ["Called-1", "Called-2", "Called-3"]);
    assert_eq!(names(new_for_each().thread_name("web")), ["web-1", "web-2", "web-3"]);
    assert_eq!(names(Pool::new(1)), ["Called-1"; 3]);
    assert_eq!(names(Pool::new(1).thread_name("db")), ["db-1"; 3]);
}

#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
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
