//! Runs and closes that spun, waited for themselves, or cut a request off.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::hooks::{Failure, Phase};
use socketserver::mixin::Mixin;
use socketserver::monitor::ServerEvent;
use socketserver::transport::Tcp;
use socketserver::{
    Builder, HandlerResult, Pool, PoolTcpServer, Server, ServerHooks, StreamRequest, TcpServer,
    Threading, ThreadingTcpServer, ThreadingUnixStreamServer, stream_fn,
};

use super::patient;
use crate::handlers::{Echo, Silent};
use crate::support::system::{lock_file, own_status, processor_seconds};
use crate::support::{
    SOON, alone, connect, eventually, exchange, folder, inet, process, read_to_end, serve,
};

/// Whether this process, which has nothing to do, takes a quarter of a processor or more.
pub fn is_spinning() -> bool {
    let (began, before) = (Instant::now(), processor_seconds());
    thread::sleep(Duration::from_millis(400));
    processor_seconds() - before > began.elapsed().as_secs_f64() / 4.0
}

#[test]
fn more_live_requests_than_the_mixin_has_room_for_do_not_make_the_loop_spin() {
    alone(
        "regressions::runs::more_live_requests_than_the_mixin_has_room_for_do_not_make_the_loop_spin",
        || {
            let limits = patient().live(1);
            let server = TcpServer::builder()
                .mixin(Threading::new().max_threads(1))
                .limits(limits)
                .bind("127.0.0.1:0", || Echo);
            let server = server.unwrap().serve_in_background().unwrap();
            let mut client = connect(inet(&*server));
            assert_eq!(exchange(&mut client, "hello"), "hello\n");
            server.context().set_limits(limits.live(100));
            assert!(!is_spinning(), "when the limit has been raised");
            drop(client);
            let mut next = connect(inet(&*server));
            assert_eq!(exchange(&mut next, "hello"), "hello\n");
            assert!(!is_spinning(), "when the next one is in");
        },
    );
}

#[test]
fn a_shutdown_that_crosses_the_end_of_a_run_leaves_no_spinning_run() {
    alone(
        "regressions::runs::a_shutdown_that_crosses_the_end_of_a_run_leaves_no_spinning_run",
        || {
            let server = Arc::new(TcpServer::bind("127.0.0.1:0", || Silent).unwrap());
            let handle = server.shutdown_handle();
            for _ in 0..4 {
                let crossing = Arc::new(AtomicBool::new(true));
                let crossers: Vec<_> = (0..2)
                    .map(|_| {
                        let (crossing, handle) = (Arc::clone(&crossing), handle.clone());
                        thread::spawn(move || {
                            while crossing.load(Ordering::SeqCst) {
                                handle.shutdown();
                            }
                        })
                    })
                    .collect();
                let over = Arc::new(AtomicBool::new(false));
                let (serving, no_more) = (Arc::clone(&server), Arc::clone(&over));
                let runs = thread::spawn(move || {
                    while !no_more.load(Ordering::SeqCst) {
                        serving.serve_forever().unwrap();
                    }
                });
                thread::sleep(Duration::from_millis(60));
                crossing.store(false, Ordering::SeqCst);
                for crosser in crossers {
                    crosser.join().unwrap();
                }
                assert!(!is_spinning());
                over.store(true, Ordering::SeqCst);
                // A second run does not see an earlier stop, so the stop is repeated.
                eventually("the last run ends", || {
                    handle.shutdown();
                    runs.is_finished()
                });
                runs.join().unwrap();
            }
        },
    );
}

#[test]
fn a_pool_server_that_is_dropped_ends_its_threads() {
    alone("regressions::runs::a_pool_server_that_is_dropped_ends_its_threads", || {
        let before = own_status("Threads");
        for _ in 0..3 {
            let server = PoolTcpServer::bind("127.0.0.1:0", || Silent).unwrap();
            let mut client = connect(inet(&server));
            server.handle_request().unwrap();
            assert!(read_to_end(&mut client).is_empty());
            assert!(own_status("Threads") > before);
            drop(server);
            eventually("its threads have ended", || own_status("Threads") == before);
        }
    });
}

/// Closes its own server in its handler, and then answers.
fn a_handler_closes_its_server(mixin: impl Mixin + 'static) {
    type Itself<M> = Arc<OnceLock<Arc<Server<Tcp, M>>>>;
    fn closing<M: Mixin + 'static>(mixin: M) -> (Itself<M>, Arc<Server<Tcp, M>>) {
        let itself = Itself::<M>::default();
        let inside = Arc::clone(&itself);
        let server = Builder::<Tcp, _>::new(mixin).limits(patient()).bind(
            "127.0.0.1:0",
            stream_fn(move |request| {
                inside.get().ok_or("too early")?.server_close();
                request.write_all(&[b'x'; 100_000])?;
                writeln!(request)?;
                Ok(())
            }),
        );
        (itself, Arc::new(server.unwrap()))
    }
    let (itself, server) = closing(mixin);
    assert!(itself.set(Arc::clone(&server)).is_ok());
    let mut client = connect(inet(&*server));
    let result = serve(&server);
    assert_eq!(read_to_end(&mut client).len(), 100_001);
    result.recv_timeout(SOON).expect("the run ends").unwrap();
}

#[test]
fn a_handler_in_a_thread_that_closes_its_server_does_not_wait_for_itself() {
    a_handler_closes_its_server(Threading::new());
}

#[test]
fn a_handler_in_a_pool_that_closes_its_server_does_not_wait_for_itself() {
    a_handler_closes_its_server(Pool::new(2));
}

/// How many descriptors of this process are sockets.
fn open_sockets() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

#[test]
fn a_connection_is_closed_when_its_end_is_told() {
    alone("regressions::runs::a_connection_is_closed_when_its_end_is_told", || {
        let (told, counts) = channel();
        let server = ThreadingTcpServer::builder()
            .observer(move |event| {
                if let ServerEvent::RequestEnded { .. } = event {
                    // The test may be over already.
                    let _ = told.send(open_sockets());
                }
            })
            .bind("127.0.0.1:0", || Silent);
        let server = server.unwrap().serve_in_background().unwrap();
        let open_at_end_of_next = || {
            // The client's own socket is open until the end is reported.
            let _client = connect(inet(&*server));
            counts.recv_timeout(SOON).expect("it is told")
        };
        // The first request makes the server create everything that all requests share.
        let first = open_at_end_of_next();
        assert!(first <= open_sockets() + 1, "a connection is open after its end");
        for _ in 0..5 {
            assert_eq!(open_at_end_of_next(), first);
        }
    });
}

/// Answers requests of two bytes, which come one by one.
fn in_two_halves(request: &mut StreamRequest, cut: &AtomicUsize) -> HandlerResult {
    let mut byte = [0];
    loop {
        request.between_requests();
        if request.read(&mut byte)? == 0 {
            return Ok(());
        }
        if let Err(error) = request.read_exact(&mut byte) {
            cut.fetch_add(1, Ordering::SeqCst);
            return Err(error.into());
        }
        writeln!(request, "ok")?;
    }
}

/// Asks until the server takes no more. Fails if an answer that the server has begun is not complete.
fn ask_in_two_halves(address: SocketAddr, after: Duration) {
    let mut stream = connect(address);
    stream.set_nodelay(true).unwrap();
    thread::sleep(after);
    loop {
        if stream.write_all(b"a").is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
        if stream.write_all(b"b").is_err() {
            return;
        }
        let mut answer = [0; 3];
        match stream.read(&mut answer) {
            Ok(3) => assert_eq!(&answer, b"ok\n"),
            Ok(0) => return,
            Ok(count) => panic!("a part of an answer: {count} bytes"),
            Err(error) => {
                assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "no end in time");
                return;
            }
        }
    }
}

#[test]
fn a_drain_cuts_no_request_whose_first_bytes_have_been_read() {
    for _ in 0..12 {
        let cut = Arc::new(AtomicUsize::new(0));
        let inside = Arc::clone(&cut);
        let server = ThreadingTcpServer::builder()
            .limits(patient())
            .bind("127.0.0.1:0", stream_fn(move |request| in_two_halves(request, &inside)));
        let server = server.unwrap().serve_in_background().unwrap();
        let address = inet(&*server);
        let clients: Vec<_> = (0..60)
            .map(|number| {
                let after = Duration::from_micros(number * 37);
                thread::spawn(move || ask_in_two_halves(address, after))
            })
            .collect();
        eventually("all are connected", || server.context().live_count() == 60);
        thread::sleep(Duration::from_millis(30));
        let report = server.server_close_within(SOON);
        assert!(report.is_clean(), "{report}");
        for client in clients {
            client.join().unwrap();
        }
        assert_eq!(cut.load(Ordering::SeqCst), 0, "requests that were cut in the middle");
    }
}

#[test]
fn after_a_run_sigterm_ends_the_process_again() {
    const NAME: &str = "regressions::runs::after_a_run_sigterm_ends_the_process_again";
    if process::is_child(NAME) {
        let server = ThreadingTcpServer::bind("127.0.0.1:0", || Silent).unwrap();
        server.shutdown_handle().shutdown();
        server.run().unwrap();
        process::answer("the run is over");
        thread::sleep(SOON * 2);
        return;
    }
    let child = process::child(NAME);
    assert_eq!(child.answer(), "the run is over");
    child.send_signal(libc::SIGTERM);
    let status = child.end().status;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGTERM));
}

/// Tells the test in which phase something has failed.
pub struct Phases {
    pub to: Sender<Phase>,
}

impl<R> ServerHooks<R> for Phases {
    fn handle_error(&self, failure: &Failure<'_>) {
        // The test may be over already.
        let _ = self.to.send(failure.phase());
    }
}

#[test]
fn a_pool_whose_workers_have_all_failed_to_start_refuses_and_says_so() {
    let (to, phases) = channel();
    let server = TcpServer::builder()
        .mixin(Pool::new(2).on_thread_start(|| panic!("no database")))
        .hooks(Phases { to })
        .bind("127.0.0.1:0", || Echo);
    let server = server.unwrap().serve_in_background().unwrap();
    // A request that comes before the last worker has failed is released without an answer.
    let began = Instant::now();
    let phase = loop {
        assert!(read_to_end(&mut connect(inet(&*server))).is_empty());
        if let Ok(phase) = phases.recv_timeout(Duration::from_millis(20)) {
            break phase;
        }
        assert!(began.elapsed() < SOON, "nobody is told");
    };
    assert_eq!(phase, Phase::Start);
    assert!(server.context().counts().refused > 0);
    // From here on every request fails like this.
    for _ in 0..3 {
        assert!(read_to_end(&mut connect(inet(&*server))).is_empty());
        assert_eq!(phases.recv_timeout(SOON).expect("it is told"), Phase::Start);
    }
}

#[test]
fn somebody_else_s_lock_on_the_folder_keeps_no_unix_server_from_starting() {
    let folder = folder();
    let _held = lock_file(folder.path());
    let path = folder.path().join("server");
    let server = ThreadingUnixStreamServer::bind(path, || Echo).expect("it starts all the same");
    let server = server.serve_in_background().unwrap();
    let mut client = crate::support::connect_any(&server.server_address());
    assert_eq!(exchange(&mut *client, "hello"), "hello\n");
}
