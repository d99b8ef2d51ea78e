//! Defects that were found by using the crate, each shown by what a user saw of it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::{
    Builder, DatagramRequest, DatagramRequestHandler, Failure, HandlerResult, Inline, Limits,
    Mixin, Outbox, Phase, Pool, PoolTcpServer, Server, ServerEvent, ServerHooks, StreamRequest,
    Tcp, TcpServer, Threading, ThreadingTcpServer, ThreadingUnixStreamServer, Udp,
    UnixDatagramServer, datagram_fn, stream_fn,
};

use crate::handlers::{Diary, Echo, Silent};
use crate::support::system::{lock_file, own_status, processor_seconds};
use crate::support::{
    SOON, alone, connect, eventually, exchange, folder, inet, open_descriptors, process, read_line,
    read_to_end, serve, skip,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// Limits that do not end a test before its own patience does.
fn patient() -> Limits {
    Limits { idle: HOUR, read: HOUR, write: HOUR, drain: HOUR, ..Limits::default() }
}

/// Whether this process, which has nothing to do, takes a quarter of a processor or more.
fn is_spinning() -> bool {
    let (began, before) = (Instant::now(), processor_seconds());
    thread::sleep(Duration::from_millis(400));
    processor_seconds() - before > began.elapsed().as_secs_f64() / 4.0
}

/// Waits until a handler's write of many bytes waits for its peer.
fn waits_for_room(outbox: &Outbox) {
    let mut last = 0;
    let began = Instant::now();
    loop {
        let now = outbox.waiting_bytes();
        if now > 0 && now == last {
            return;
        }
        assert!(began.elapsed() < SOON, "the write never waits");
        last = now;
        thread::sleep(Duration::from_millis(50));
    }
}

/// Connects as a client that takes only so much before it reads.
fn connect_with_room(bytes: usize, server: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(bytes).unwrap();
    socket.connect_timeout(&server.into(), SOON).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// What an outbox of this server's only connection is found in.
type Place = Arc<Mutex<Option<Outbox>>>;

fn outbox_in(place: &Place) -> Outbox {
    eventually("it has an outbox", || place.lock().unwrap().is_some());
    place.lock().unwrap().clone().unwrap()
}

#[test]
fn what_others_send_while_the_handler_writes_needs_no_further_help() {
    const OWN: usize = 300_000;
    const OTHERS: usize = 60_000;
    let place = Place::default();
    let inside = Arc::clone(&place);
    let server = ThreadingTcpServer::builder()
        .send_buffer_bytes(4 * 1024)
        .limits(Limits { outbox_bytes: OWN + 2 * OTHERS, ..patient() })
        .bind(
            "127.0.0.1:0",
            stream_fn(move |request| {
                *inside.lock().unwrap() = Some(request.outbox()?);
                request.write_all(&vec![b'h'; OWN])?;
                request.read_to_end(&mut Vec::new())?;
                Ok(())
            }),
        );
    let server = server.unwrap().serve_in_background().unwrap();
    // Small buffers: neither part fits into them.
    let mut client = connect_with_room(16 * 1024, inet(&*server));
    let outbox = outbox_in(&place);
    waits_for_room(&outbox);
    outbox.send(vec![b'o'; OTHERS]).unwrap();
    let mut bytes = vec![0; OWN + OTHERS];
    client.read_exact(&mut bytes).expect("everything that was sent");
    assert!(bytes[..OWN].iter().all(|byte| *byte == b'h'));
    assert!(bytes[OWN..].iter().all(|byte| *byte == b'o'));
    // And what comes later finds somebody who sends it.
    outbox.send("later\n").unwrap();
    assert_eq!(read_line(&mut client), "later\n");
}

#[test]
fn a_closed_outbox_with_bytes_in_it_keeps_nobody_busy() {
    alone("regressions::a_closed_outbox_with_bytes_in_it_keeps_nobody_busy", || {
        let place = Place::default();
        let (release, released) = channel::<()>();
        let (inside, released) = (Arc::clone(&place), Mutex::new(released));
        let server = ThreadingTcpServer::builder()
            .send_buffer_bytes(16 * 1024)
            .limits(Limits { outbox_bytes: 16 * 1024 * 1024, ..patient() })
            .bind(
                "127.0.0.1:0",
                stream_fn(move |request| {
                    *inside.lock().unwrap() = Some(request.outbox()?);
                    // It looks at nothing that happens to its connection.
                    let _ = released.lock().unwrap().recv();
                    Ok(())
                }),
            );
        let server = server.unwrap().serve_in_background().unwrap();
        let _client = connect(inet(&*server));
        let outbox = outbox_in(&place);
        outbox.send(vec![b'x'; 8 * 1024 * 1024]).unwrap();
        waits_for_room(&outbox);
        outbox.close();
        let spins = is_spinning();
        // Before a failure: the server would wait for its handler.
        drop(release);
        assert!(!spins);
    });
}

#[test]
fn more_live_requests_than_the_mixin_has_room_for_do_not_make_the_loop_spin() {
    alone(
        "regressions::more_live_requests_than_the_mixin_has_room_for_do_not_make_the_loop_spin",
        || {
            let limits = Limits { live: 1, ..patient() };
            let server = TcpServer::builder()
                .mixin(Threading::new().max_threads(1))
                .limits(limits)
                .bind("127.0.0.1:0", || Echo);
            let server = server.unwrap().serve_in_background().unwrap();
            let mut client = connect(inet(&*server));
            assert_eq!(exchange(&mut client, "hello"), "hello\n");
            server.context().set_limits(Limits { live: 100, ..limits });
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
    alone("regressions::a_shutdown_that_crosses_the_end_of_a_run_leaves_no_spinning_run", || {
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
            // A second run knows nothing of a stop that came before it: so again and again.
            eventually("the last run ends", || {
                handle.shutdown();
                runs.is_finished()
            });
            runs.join().unwrap();
        }
    });
}

#[test]
fn a_pool_server_that_is_dropped_ends_its_threads() {
    alone("regressions::a_pool_server_that_is_dropped_ends_its_threads", || {
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

fn one_line_is_answered(builder: Builder<Tcp, Threading>, line: &str) {
    let server = builder.bind("127.0.0.1:0", || Echo).unwrap().serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    client.write_all(line.as_bytes()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), b"hello\n");
}

#[test]
fn a_line_may_be_as_long_as_a_number_can_say() {
    let limits = Limits { line_bytes: usize::MAX, ..patient() };
    one_line_is_answered(ThreadingTcpServer::builder().limits(limits), "hello\r\n");
    one_line_is_answered(ThreadingTcpServer::builder().limits(limits), "hello\n");
}

#[test]
fn a_poll_interval_that_no_clock_can_count_is_one_that_never_comes() {
    let builder = ThreadingTcpServer::builder().limits(patient());
    one_line_is_answered(builder.poll_interval(Duration::MAX), "hello\n");
}

#[test]
fn no_live_requests_at_all_are_taken_for_one() {
    let limits = Limits { live: 0, ..patient() };
    one_line_is_answered(ThreadingTcpServer::builder().limits(limits), "hello\n");
    let server = ThreadingTcpServer::builder().limits(patient()).bind("127.0.0.1:0", || Echo);
    let server = server.unwrap().serve_in_background().unwrap();
    server.context().set_limits(limits);
    assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
}

#[test]
fn a_linger_that_no_clock_can_count_still_lets_the_answer_arrive() {
    let (told, ended) = channel();
    let server = ThreadingTcpServer::builder()
        .limits(Limits { linger: Duration::MAX, ..patient() })
        .observer(move |event| {
            if let ServerEvent::RequestEnded { .. } = event {
                // The test may be over already.
                let _ = told.send(());
            }
        })
        .bind(
            "127.0.0.1:0",
            stream_fn(|request| {
                request.read_exact(&mut [0])?;
                writeln!(request, "too much")?;
                Ok(())
            }),
        );
    let server = server.unwrap().serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    client.write_all(&[b'x'; 100_000]).unwrap();
    ended.recv_timeout(SOON).expect("the request ends, and its connection lingers");
    // A connection that was closed instead would be reset by this.
    client.write_all(b"and more").unwrap();
    assert_eq!(read_to_end(&mut client), b"too much\n");
}

/// Acknowledges, does what takes long, and says that it is done.
#[derive(Clone)]
struct Slow {
    step: Arc<Mutex<Receiver<()>>>,
}

impl DatagramRequestHandler for Slow {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        request.reply(b"acknowledged")?;
        // It takes as long as the test wants it to.
        let _ = self.step.lock().unwrap().recv();
        request.reply(b"done")?;
        Ok(())
    }
}

fn a_reply_leaves_at_once(mixin: impl Mixin + 'static) {
    let (end_of_step, step) = channel();
    let slow = Slow { step: Arc::new(Mutex::new(step)) };
    let server = Builder::<Udp, _>::new(mixin).bind("127.0.0.1:0", move || slow.clone());
    let server = server.unwrap().serve_in_background().unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(inet(&*server)).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    let receive = || {
        let mut buffer = [0; 64];
        let count = client.recv(&mut buffer).expect("a reply in time");
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    for _ in 0..3 {
        client.send(b"please").unwrap();
        assert_eq!(receive(), "acknowledged");
        end_of_step.send(()).unwrap();
        assert_eq!(receive(), "done");
    }
}

#[test]
fn a_datagram_is_acknowledged_before_the_slow_step_that_follows_inline() {
    a_reply_leaves_at_once(Inline);
}

#[test]
fn a_datagram_is_acknowledged_before_the_slow_step_that_follows_threading() {
    a_reply_leaves_at_once(Threading::new());
}

/// Replies, and notes what came of it.
#[derive(Clone)]
struct Noting {
    replies: Diary,
}

impl DatagramRequestHandler for Noting {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        let came_of_it = match request.reply(b"reply") {
            Ok(sent) => format!("{sent}"),
            Err(error) => format!("{:?}", error.kind()),
        };
        self.replies.note(came_of_it);
        Ok(())
    }
}

#[test]
fn a_datagram_peer_that_never_reads_delays_nobody_and_its_replies_fail() {
    let queue = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen");
    let queue: usize = queue.map_or(usize::MAX, |text| text.trim().parse().unwrap());
    if queue > 2_000 {
        return skip("the queues of Unix datagrams are unknown here, or too long");
    }
    let folder = folder();
    let path = folder.path().join("server");
    let replies = Diary::default();
    let noting = Noting { replies: replies.clone() };
    let server = UnixDatagramServer::bind(path.clone(), move || noting.clone()).unwrap();
    let _server = server.serve_in_background().unwrap();
    // Not connected: to a socket that is connected to it a server could send without end.
    let peer = |name: &str| {
        let socket = UnixDatagram::bind(folder.path().join(name)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.set_write_timeout(Some(SOON)).unwrap();
        socket
    };
    let (stuck, good) = (peer("stuck"), peer("good"));
    let ask = |socket: &UnixDatagram| assert_eq!(socket.send_to(b"x", &path).unwrap(), 1);
    for _ in 0..=queue {
        ask(&stuck);
    }
    eventually("its queue is full", || replies.lines().len() == queue + 1);
    assert_eq!(replies.count("true"), queue + 1);
    ask(&stuck);
    eventually("one more is answered", || replies.lines().len() == queue + 2);
    assert_eq!(replies.lines().last().unwrap(), "WouldBlock");
    // If each of them were waited for, even a little, the next one would not be answered soon.
    for _ in 0..400 {
        ask(&stuck);
    }
    ask(&good);
    let mut buffer = [0; 64];
    assert_eq!(good.recv(&mut buffer).expect("an answer in time"), 5);
}

#[test]
fn a_datagram_peer_that_takes_no_reply_is_no_failure_of_the_server() {
    let folder = folder();
    let path = folder.path().join("server");
    let echo = datagram_fn(|request| {
        request.reply(request.packet())?;
        Ok(())
    });
    let server = UnixDatagramServer::bind(path.clone(), echo).unwrap();
    let peer = |name: &str| {
        let socket = UnixDatagram::bind(folder.path().join(name)).unwrap();
        socket.set_write_timeout(Some(SOON)).unwrap();
        socket
    };
    // Its file is there, and refuses.
    assert_eq!(peer("refuses").send_to(b"x", &path).unwrap(), 1);
    let server = server.serve_in_background().unwrap();
    eventually("it is lost", || server.context().counts().disconnected == 1);
    // It never reads. Connected or not, some queue fills.
    for (connected, name) in ["queue", "buffer"].into_iter().enumerate() {
        let stuck = peer(name);
        if connected == 1 {
            stuck.connect(&path).unwrap();
        }
        let lost = server.context().counts().disconnected;
        eventually("replies are lost", || {
            for _ in 0..100 {
                let sent =
                    if connected == 1 { stuck.send(b"x") } else { stuck.send_to(b"x", &path) };
                assert_eq!(sent.unwrap(), 1);
            }
            server.context().counts().disconnected > lost
        });
    }
    assert_eq!(server.context().counts().failed, 0);
    server.stop().unwrap();
}

#[test]
fn an_outbox_that_is_kept_does_not_keep_its_connection_open() {
    alone("regressions::an_outbox_that_is_kept_does_not_keep_its_connection_open", || {
        let room: Arc<Mutex<Vec<Outbox>>> = Arc::default();
        let inside = Arc::clone(&room);
        let server = ThreadingTcpServer::bind(
            "127.0.0.1:0",
            stream_fn(move |request| {
                let outbox = request.outbox()?;
                outbox.send("welcome\n")?;
                inside.lock().unwrap().push(outbox);
                Ok(())
            }),
        );
        let server = server.unwrap().serve_in_background().unwrap();
        let come_and_go = || {
            assert_eq!(read_to_end(&mut connect(inet(&*server))), b"welcome\n");
            eventually("it has ended", || server.context().live_count() == 0);
        };
        // The first one starts what is started once for all.
        come_and_go();
        let before = open_descriptors();
        for _ in 0..30 {
            come_and_go();
        }
        assert_eq!(room.lock().unwrap().len(), 31);
        eventually("all are closed", || open_descriptors() <= before);
    });
}

/// How many descriptors of this process are sockets.
fn open_sockets() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

#[test]
fn a_connection_is_closed_when_its_end_is_told() {
    alone("regressions::a_connection_is_closed_when_its_end_is_told", || {
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
            // The client's own is open until it has been told.
            let _client = connect(inet(&*server));
            counts.recv_timeout(SOON).expect("it is told")
        };
        // With the first one the server makes what it needs for all.
        let first = open_at_end_of_next();
        assert!(first <= open_sockets() + 1, "a connection is open after its end");
        for _ in 0..5 {
            assert_eq!(open_at_end_of_next(), first);
        }
    });
}

#[test]
fn a_slow_but_steady_reader_never_times_out_a_write_with_an_outbox() {
    const BYTES: usize = 8 * 1024 * 1024;
    // Less than the whole write takes, and many times what any step of it takes.
    let (limit, step) = (Duration::from_millis(1_000), Duration::from_millis(50));
    let (told, result) = channel();
    let told = Mutex::new(told);
    let server = ThreadingTcpServer::builder()
        .send_buffer_bytes(64 * 1024)
        .limits(Limits { write: limit, ..patient() })
        .bind(
            "127.0.0.1:0",
            stream_fn(move |request| {
                request.outbox()?;
                let written = request.write_all(&vec![b'x'; BYTES]);
                told.lock().unwrap().send(written)?;
                Ok(())
            }),
        );
    let server = server.unwrap().serve_in_background().unwrap();
    let mut client = connect_with_room(64 * 1024, inet(&*server));
    let began = Instant::now();
    let mut some = vec![0; 128 * 1024];
    let mut count = 0;
    while began.elapsed() < limit + limit / 2 {
        client.read_exact(&mut some).expect("it is still being written");
        count += some.len();
        thread::sleep(step);
    }
    assert!(result.try_recv().is_err(), "it has written {BYTES} already: {count} were read");
    count += read_to_end(&mut client).len();
    assert_eq!(count, BYTES);
    result.recv_timeout(SOON).unwrap().expect("the whole is written");
}

/// Requests of two bytes, which come one by one.
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

/// Asks until the server takes no more. Whatever it has begun to answer is a whole answer.
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
    const NAME: &str = "regressions::after_a_run_sigterm_ends_the_process_again";
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
struct Phases {
    to: Sender<Phase>,
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
    // Whoever comes before the last of them has failed is let go without a word.
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
    // From here on, all of them.
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

/// An error whose causes lead in a circle.
#[derive(Debug)]
struct Circle;

impl std::fmt::Display for Circle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("round and round")
    }
}

impl std::error::Error for Circle {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&Circle)
    }
}

#[test]
fn an_error_that_is_its_own_cause_is_reported_and_ends_its_request() {
    for wrapped in [false, true] {
        let handler = stream_fn(move |_request: &mut StreamRequest| {
            Err(if wrapped { io::Error::other(Circle).into() } else { Circle.into() })
        });
        let server = Arc::new(ThreadingTcpServer::bind("127.0.0.1:0", handler).unwrap());
        let served = serve(&server);
        // It would be a reset or an end; a worker that spins gives neither within the client's patience.
        let mut client = connect(inet(&*server));
        match client.read(&mut [0]) {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
        }
        eventually("it has failed", || server.context().counts().failed == 1);
        server.server_close();
        served.recv_timeout(SOON).unwrap().unwrap();
    }
}

/// Panics where it is told to.
struct Fragile(&'static str);

impl socketserver::StreamRequestHandler for Fragile {
    fn setup(&mut self, _request: &mut StreamRequest) -> HandlerResult {
        assert_ne!(self.0, "setup");
        Ok(())
    }

    fn handle(&mut self, _request: &mut StreamRequest) -> HandlerResult {
        Ok(())
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        assert_ne!(self.0, "drop");
    }
}

#[test]
fn a_panic_in_a_handlers_drop_is_of_the_end_and_one_in_its_making_of_the_beginning() {
    for (place, expected) in
        [("making", Phase::Setup), ("setup", Phase::Setup), ("drop", Phase::Finish)]
    {
        let (to, phases) = channel();
        let make = move || {
            assert_ne!(place, "making");
            Fragile(place)
        };
        let server = ThreadingTcpServer::builder().hooks(Phases { to }).bind("127.0.0.1:0", make);
        let server = server.unwrap().serve_in_background().unwrap();
        drop(connect(inet(&*server)));
        assert_eq!(phases.recv_timeout(SOON).unwrap(), expected, "{place}");
        drop(server);
    }
}
