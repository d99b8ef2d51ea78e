//! Peers that are slow, silent or gone, handlers that misbehave, resources that run out: after each of
//! them the server answers the next client.

use std::io::{BufRead, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use socketserver::{
    AcceptAction, AcceptFailure, Address, BackgroundServer, Bind, Builder, Failure, Fault,
    HandlerResult, Inline, Limits, LineTooLong, MakeHandler, Mixin, Panicked, Pool, ServerHooks,
    StreamRequest, Tcp, Threading, ThreadingTcpServer, TimedOut, Timeout, Udp, UnixDatagram,
    UnixStream, stream_fn,
};

use crate::handlers::{Echo, OneLine, held};
use crate::support::process::{Process, answer, child, in_a_process, is_child};
use crate::support::system::{limit_descriptors, own_status, processor_seconds, replace};
use crate::support::{
    SOON, connect, eventually, exchange, folder, inet, open_descriptors, read_line, read_to_end,
};

type Running<T = Tcp> = BackgroundServer<T, Box<dyn Mixin>>;

fn mixins() -> [Box<dyn Mixin>; 3] {
    [Box::new(Inline), Box::new(Threading::new()), Box::new(Pool::new(4))]
}

/// What `handle_error` was told.
#[derive(Debug)]
struct Told {
    text: String,
    fault: Fault,
    limit: Option<Timeout>,
    is_disconnect: bool,
    line_too_long: bool,
    panicked: bool,
}

struct Tell {
    told: Sender<Told>,
}

impl ServerHooks<StreamRequest> for Tell {
    fn handle_error(&self, failure: &Failure<'_>) {
        // The test may be over already.
        let _ = self.told.send(Told {
            text: failure.to_string(),
            fault: failure.fault(),
            limit: TimedOut::find(failure.error()).map(TimedOut::which),
            is_disconnect: failure.is_disconnect(),
            line_too_long: LineTooLong::find(failure.error()).is_some(),
            panicked: failure.error().is::<Panicked>(),
        });
    }
}

fn serve<Kind: 'static>(
    mixin: impl Mixin + 'static,
    limits: Limits,
    handler: impl MakeHandler<StreamRequest, Kind>,
) -> (Running, Receiver<Told>) {
    let (told, telling) = channel();
    let builder = Builder::<Tcp, _>::new(Box::new(mixin) as Box<dyn Mixin>);
    let server = builder.limits(limits).hooks(Tell { told }).bind("127.0.0.1:0", handler).unwrap();
    (server.serve_in_background().unwrap(), telling)
}

fn client(server: &Running) -> TcpStream {
    connect(inet(&**server))
}

/// The server answers the next client, and comes to a clean end.
fn serves_on(server: Running) {
    assert_eq!(exchange(&mut client(&server), "next"), "next\n");
    let report = server.stop().unwrap();
    assert!(report.is_clean(), "{report}");
}

/// Closes a connection so that the peer gets a reset and not an end.
fn reset(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
}

/// A limit that passes while a test waits for it, among others that do not.
const SHORT: Duration = Duration::from_millis(100);

#[test]
fn a_peer_that_says_nothing_is_ended_quietly() {
    for mixin in mixins() {
        let limits = Limits { idle: SHORT, ..Limits::default() };
        let (server, told) = serve(mixin, limits, || Echo);
        for number in 1..=3 {
            assert_eq!(read_to_end(&mut client(&server)), b"");
            eventually("it is counted", || server.context().counts().idle == number);
        }
        // It is nobody's failure.
        assert!(told.try_recv().is_err());
        server.context().set_limits(Limits::default());
        serves_on(server);
    }
}

#[test]
fn nothing_is_printed_about_peers_that_are_silent_or_gone() {
    let name = "bad_times::nothing_is_printed_about_peers_that_are_silent_or_gone";
    let ended = in_a_process(name, || {
        for mixin in mixins() {
            let limits = Limits { idle: SHORT, ..Limits::default() };
            let server = Builder::<Tcp, _>::new(mixin).limits(limits);
            let server = server.bind("127.0.0.1:0", || Echo).unwrap();
            let server = server.serve_in_background().unwrap();
            assert_eq!(read_to_end(&mut client(&server)), b"");
            server.context().set_limits(Limits::default());
            // Gone while it is read from, and while it is written to.
            for bytes in [&b"half a li"[..], &[b'\n'; 100_000]] {
                let mut gone = client(&server);
                gone.write_all(bytes).unwrap();
                reset(gone);
            }
            let counts = || server.context().counts();
            eventually("both are counted", || counts().idle == 1 && counts().disconnected == 2);
            serves_on(server);
        }
        String::new()
    });
    if let Some(ended) = ended {
        assert_eq!(ended.err, "");
    }
}

#[test]
fn a_line_that_comes_byte_by_byte_has_one_deadline_for_all_of_it() {
    for mixin in mixins() {
        let limits = Limits { read: SHORT, ..Limits::default() };
        let (server, told) = serve(mixin, limits, || Echo);
        let slow = client(&server);
        slow.set_nonblocking(true).unwrap();
        eventually("the slow client is cut off", || {
            // Several bytes within each limit, and never a newline.
            thread::sleep(SHORT / 10);
            let sent = (&slow).write(b"x").is_ok();
            let open = matches!((&slow).read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock);
            !sent || !open
        });
        let told = told.recv_timeout(SOON).unwrap();
        assert!(told.limit == Some(Timeout::Read) && told.fault == Fault::Peer, "{told:?}");
        serves_on(server);
    }
}

#[test]
fn a_peer_that_takes_nothing_is_ended_by_the_write_limit() {
    let endless = stream_fn(|request| {
        let mut line = String::new();
        if request.next_line(&mut line)? == Some("next") {
            writeln!(request, "next")?;
            return Ok(());
        }
        loop {
            request.write_all(&[0; 65_536])?;
        }
    });
    for mixin in mixins() {
        let limits = Limits { write: SHORT, ..Limits::default() };
        let (server, told) = serve(mixin, limits, endless.clone());
        let mut stalled = client(&server);
        stalled.write_all(b"more\n").unwrap();
        let told = told.recv_timeout(SOON).unwrap();
        assert!(told.limit == Some(Timeout::Write) && told.fault == Fault::Peer, "{told:?}");
        serves_on(server);
    }
}

#[test]
fn resets_harm_nobody_else() {
    for mixin in mixins() {
        let (told, telling) = channel();
        let builder = Builder::<Tcp, _>::new(mixin).hooks(Tell { told });
        let server = builder.bind("127.0.0.1:0", || Echo).unwrap();
        // Before anybody accepts them.
        for bytes in [&b""[..], b"a line\n"] {
            let mut early = connect(inet(&server));
            early.write_all(bytes).unwrap();
            reset(early);
        }
        let server = server.serve_in_background().unwrap();
        for _ in 0..10 {
            reset(client(&server));
            let mut midway = client(&server);
            midway.write_all(b"half a li").unwrap();
            reset(midway);
            let mut answered = client(&server);
            assert_eq!(exchange(&mut answered, "hello"), "hello\n");
            // The server sends to a peer that is gone.
            answered.write_all(&[b'\n'; 100_000]).unwrap();
            reset(answered);
        }
        let context = server.context();
        eventually("all are forgotten", || context.live_count() == 0);
        serves_on(server);
        for told in telling {
            assert!(told.is_disconnect && told.fault == Fault::Peer, "{told:?}");
        }
    }
}

#[test]
fn a_peer_that_has_ended_its_side_still_gets_its_answers() {
    for mixin in mixins() {
        let (server, told) = serve(mixin, Limits::default(), || Echo);
        let mut client = client(&server);
        client.write_all(b"one\ntwo\nthree, without its end").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut client), b"one\ntwo\nthree, without its end\n");
        assert!(told.try_recv().is_err());
        serves_on(server);
    }
}

/// How much memory may grow, in kibibytes: far less than what is sent, more than what allocators keep.
const MEMORY_KIB: usize = 8 * 1024;

#[test]
fn a_hundred_mebibytes_without_a_newline_take_no_memory() {
    let name = "bad_times::a_hundred_mebibytes_without_a_newline_take_no_memory";
    in_a_process(name, || {
        for mixin in mixins() {
            let (server, told) = serve(mixin, Limits::default(), || Echo);
            serves_once(&server);
            let before = own_status("VmHWM");
            let mut client = client(&server);
            let block = vec![b'x'; 65_536];
            let refused = (0..1_600).find_map(|_| client.write_all(&block).err());
            let refused = refused.expect("the server ends it before it has taken all");
            assert_ne!(refused.kind(), std::io::ErrorKind::WouldBlock, "it hangs");
            let told = told.recv_timeout(SOON).unwrap();
            assert!(told.line_too_long && told.fault == Fault::Peer, "{told:?}");
            assert!(told.text.contains("longer than 65536 bytes"), "{}", told.text);
            assert!(own_status("VmHWM") < before + MEMORY_KIB);
            serves_on(server);
        }
        String::new()
    });
}

#[test]
fn a_hundred_mebibytes_taken_in_chunks_take_no_memory() {
    let name = "bad_times::a_hundred_mebibytes_taken_in_chunks_take_no_memory";
    let sink = stream_fn(|request| {
        let mut count = 0;
        while let Some(chunk) = request.chunk()? {
            count += chunk.len();
        }
        writeln!(request, "{count}")?;
        Ok(())
    });
    in_a_process(name, || {
        for mixin in mixins() {
            let (server, _told) = serve(mixin, Limits::default(), sink.clone());
            let before = own_status("VmHWM");
            let mut client = client(&server);
            let block = vec![b'x'; 65_536];
            for _ in 0..1_600 {
                client.write_all(&block).unwrap();
            }
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_line(&mut client), "104857600\n");
            assert!(own_status("VmHWM") < before + MEMORY_KIB);
        }
        String::new()
    });
}

fn serves_once(server: &Running) {
    assert_eq!(exchange(&mut client(server), "once"), "once\n");
}

#[test]
fn peers_that_vanish_under_load_are_forgotten() {
    for mixin in mixins() {
        let (server, told) = serve(mixin, Limits::default(), || Echo);
        let address = inet(&*server);
        let lines = b"a line of some length\n".repeat(1_000);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for number in 0..20 {
                        let mut client = connect(address);
                        // The server may be answering, and then not everything is taken.
                        client.set_nonblocking(true).unwrap();
                        let _ = client.write(&lines);
                        if number % 2 == 0 { reset(client) } else { drop(client) }
                    }
                });
            }
        });
        let context = server.context();
        eventually("all are accepted", || context.counts().accepted >= 80);
        eventually("all are forgotten", || context.live_count() == 0);
        serves_on(server);
        for told in told {
            assert!(told.is_disconnect, "{told:?}");
        }
    }
}

/// Sends datagrams from sockets that are gone before the server sees them, and then from one that is not.
fn senders_that_are_gone<T: Bind>(
    address: &str,
    open: impl Fn() -> socket2::Socket,
    to: impl Fn(&Address) -> socket2::SockAddr,
) where
    Echo: socketserver::BaseRequestHandler<T::Request>,
{
    for (number, mixin) in mixins().into_iter().enumerate() {
        let address = address.replace('#', &number.to_string());
        let server = Builder::<T, _>::new(mixin).bind(address, || Echo).unwrap();
        let address = server.server_address();
        for _ in 0..5 {
            open().send_to(b"gone", &to(&address)).unwrap();
        }
        let server = server.serve_in_background().unwrap();
        let client = open();
        client.set_read_timeout(Some(SOON)).unwrap();
        client.send_to(b"next", &to(&address)).unwrap();
        let mut back = [0; 4];
        (&client).read_exact(&mut back).unwrap();
        assert_eq!(&back, b"next");
        eventually("all are counted", || {
            let counts = server.context().counts();
            counts.completed + counts.disconnected + counts.failed == 6
        });
        server.stop().unwrap();
    }
}

#[test]
fn senders_of_datagrams_that_are_gone_harm_nobody() {
    use socket2::{Domain, SockAddr, Socket, Type};
    senders_that_are_gone::<Udp>(
        "127.0.0.1:0",
        || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            socket.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
            socket
        },
        |address| address.as_inet().unwrap().into(),
    );
    let folder = folder();
    let names = AtomicU64::new(0);
    senders_that_are_gone::<UnixDatagram>(
        &format!("{}/#", folder.path().display()),
        || {
            let socket = Socket::new(Domain::UNIX, Type::DGRAM, None).unwrap();
            let name = format!("from{}", names.fetch_add(1, Ordering::SeqCst));
            socket.bind(&SockAddr::unix(folder.path().join(name)).unwrap()).unwrap();
            socket
        },
        |address| SockAddr::unix(address.as_path().unwrap()).unwrap(),
    );
}

#[test]
fn handlers_that_panic_end_nobody_but_themselves() {
    let moody = stream_fn(|request| {
        let mut line = String::new();
        let line = request.next_line(&mut line)?.unwrap_or_default();
        assert_ne!(line, "panic", "as it was told");
        writeln!(request, "{line}")?;
        Ok(())
    });
    for mixin in mixins() {
        let (server, told) = serve(mixin, Limits::default(), moody.clone());
        for _ in 0..20 {
            let mut client = client(&server);
            client.write_all(b"panic\n").unwrap();
            assert_eq!(read_to_end(&mut client), b"");
            let told = told.recv_timeout(SOON).unwrap();
            assert!(told.panicked && told.fault == Fault::Handler, "{told:?}");
            assert!(told.text.contains("as it was told"), "{}", told.text);
        }
        assert_eq!(server.context().counts().panicked, 20);
        serves_on(server);
    }
}

#[test]
fn a_handler_that_blocks_keeps_waiting_only_those_that_must_wait() {
    // Two can be served at once, so that one that blocks leaves room.
    let mixins: [Box<dyn Mixin>; 2] = [Box::new(Threading::new()), Box::new(Pool::new(2))];
    for mixin in mixins {
        let (held, holder) = held();
        let (server, _told) = serve(mixin, Limits::default(), move || Blocks(held.clone()));
        let mut blocked = client(&server);
        blocked.write_all(b"block\n").unwrap();
        holder.started.recv_timeout(SOON).unwrap();
        for _ in 0..10 {
            serves_once(&server);
        }
        drop(holder.release);
        assert_eq!(read_line(&mut blocked), "released\n");
        serves_on(server);
    }
    let (held, holder) = held();
    let (server, _told) = serve(Inline, Limits::default(), move || Blocks(held.clone()));
    let mut blocked = client(&server);
    blocked.write_all(b"block\n").unwrap();
    holder.started.recv_timeout(SOON).unwrap();
    // In the kernel's queue, and in its turn.
    let mut waits = client(&server);
    waits.write_all(b"once\n").unwrap();
    drop(holder.release);
    assert_eq!(read_line(&mut waits), "once\n");
    serves_on(server);
}

/// Blocks when told so, away from its connection; else it answers one line.
struct Blocks(crate::handlers::Held);

impl socketserver::StreamRequestHandler for Blocks {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let mut line = String::new();
        match request.next_line(&mut line)? {
            Some("block") => self.0.handle(request),
            line => Ok(writeln!(request, "{}", line.unwrap_or_default())?),
        }
    }
}

#[test]
fn a_handler_that_blocks_for_ever_does_not_keep_the_server_from_closing() {
    let mixins: [Box<dyn Mixin>; 2] = [Box::new(Threading::new()), Box::new(Pool::new(2))];
    for mixin in mixins {
        let (held, holder) = held();
        let (server, _told) = serve(mixin, Limits::default(), move || Blocks(held.clone()));
        let mut blocked = client(&server);
        blocked.write_all(b"block\n").unwrap();
        holder.started.recv_timeout(SOON).unwrap();
        let began = Instant::now();
        let report = server.server_close_within(SHORT);
        assert!(began.elapsed() < SOON);
        let peer = socketserver::Address::from(blocked.local_addr().unwrap());
        for list in [&report.forced, &report.left_running] {
            assert!(matches!(&list[..], [one] if one.client_address == peer), "{report}");
        }
        // Its connection is gone, whatever it does.
        assert_eq!(read_to_end(&mut blocked), b"");
        drop(holder.release);
        eventually("it ends", || server.context().live_count() == 0);
    }
}

#[test]
fn threads_that_a_handler_leaves_behind_keep_nobody_waiting() {
    for mixin in mixins() {
        let (leave, wait) = channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let leaks = stream_fn(move |request: &mut StreamRequest| {
            let mut line = String::new();
            let text = request.next_line(&mut line)?.unwrap_or_default();
            writeln!(request, "{text}")?;
            // With a duplicate of the connection, which only the orderly end can end.
            let duplicate = request.fileno().ok_or("no socket")?.try_clone_to_owned()?;
            let wait = Arc::clone(&wait);
            thread::spawn(move || {
                let _ = wait.lock().unwrap().recv();
                drop(duplicate);
            });
            Ok(())
        });
        let (server, _told) = serve(mixin, Limits::default(), leaks);
        for _ in 0..10 {
            let mut client = client(&server);
            client.write_all(b"once\n").unwrap();
            assert_eq!(read_to_end(&mut client), b"once\n");
        }
        serves_on(server);
        drop(leave);
    }
}

/// Breaks the listener of a server that runs under each mixin, and sees it end.
fn breaks<T: Bind, Kind: 'static>(
    address: &str,
    handler: &(impl MakeHandler<T::Request, Kind> + Clone),
    knock: impl Fn(&Address) -> std::io::Result<()>,
) {
    for (number, mixin) in mixins().into_iter().enumerate() {
        let address = address.replace('#', &number.to_string());
        let server = Builder::<T, _>::new(mixin).bind(address, handler.clone()).unwrap();
        let server = server.serve_in_background().unwrap();
        knock(&server.server_address()).unwrap();
        eventually("it serves", || server.context().counts().completed == 1);
        let before = processor_seconds();

        let listener = server.fileno().unwrap();
        replace(&*listener, &std::fs::File::open("/dev/null").unwrap());
        // The loop may still wait at the old file, which lives until that wait ends, and may not: then
        // there is nobody to knock for.
        let _ = knock(&server.server_address());
        assert!(server.shutdown_handle().wait_timeout(SOON), "it goes on without a listener");
        let error = server.join().unwrap_err().to_string();
        assert!(error.starts_with("cannot accept at "), "{error}");
        assert!(processor_seconds() - before < 1.0, "it has been spinning");
    }
}

#[test]
fn a_listener_that_breaks_ends_the_loop_with_an_error() {
    let name = "bad_times::a_listener_that_breaks_ends_the_loop_with_an_error";
    in_a_process(name, || {
        let folder = folder();
        let path = |name: &str| format!("{}/{name}#", folder.path().display());
        let tcp = |address: &Address| TcpStream::connect(address.as_inet().unwrap()).map(drop);
        let unix = |address: &Address| {
            std::os::unix::net::UnixStream::connect(address.as_path().unwrap()).map(drop)
        };
        let udp = |address: &Address| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
            socket.send_to(b"x", address.as_inet().unwrap()).map(drop)
        };
        let unixgram = |address: &Address| {
            let socket = std::os::unix::net::UnixDatagram::unbound()?;
            socket.send_to(b"x", address.as_path().unwrap()).map(drop)
        };
        breaks::<Tcp, _>("127.0.0.1:0", &|| Echo, tcp);
        breaks::<UnixStream, _>(&path("s"), &|| Echo, unix);
        breaks::<Udp, _>("127.0.0.1:0", &|| Echo, udp);
        breaks::<UnixDatagram, _>(&path("d"), &|| Echo, unixgram);
        String::new()
    });
}

/// How many connections a server out of descriptors can have, at the least and at the most.
const ROOM: std::ops::RangeInclusive<usize> = 12..=24;

/// The process that runs out: it echoes, under a low limit, and answers what the parent asks.
fn server_short_of_descriptors() {
    let errors = Arc::new(AcceptErrors::default());
    struct Hooks(Arc<AcceptErrors>);
    impl ServerHooks<StreamRequest> for Hooks {
        fn accept_error(&self, failure: &AcceptFailure<'_>) {
            assert_eq!(failure.error().raw_os_error(), Some(libc::EMFILE));
            assert_eq!(failure.action(), AcceptAction::Shed);
            self.0.count.fetch_add(1, Ordering::SeqCst);
            self.0.longest_row.fetch_max(failure.in_a_row(), Ordering::SeqCst);
        }
    }
    let builder = ThreadingTcpServer::builder().hooks(Hooks(Arc::clone(&errors)));
    let server = builder.bind("127.0.0.1:0", || Echo).unwrap().serve_in_background().unwrap();
    // Once it serves it has made its budget of descriptors, of which it then has fewer.
    assert_eq!(exchange(&mut connect(inet(&*server)), "served"), "served\n");
    eventually("the first request ends", || server.context().live_count() == 0);
    leave_free_descriptors(20);
    answer(inet(&*server));
    for line in std::io::stdin().lock().lines() {
        assert_eq!(line.unwrap(), "count");
        let shed = server.context().counts().shed;
        let count = errors.count.load(Ordering::SeqCst);
        answer(format!("{count} {shed} {}", errors.longest_row.load(Ordering::SeqCst)));
    }
    assert!(server.stop().unwrap().is_clean());
}

/// Lowers the limit until so many descriptors are free below it. Those in use need not be the lowest
/// numbers: some may have been inherited.
fn leave_free_descriptors(count: usize) {
    let names = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name());
    let used: Vec<u64> = names.map(|name| name.to_str().unwrap().parse().unwrap()).collect();
    let free = (0..).filter(|number| !used.contains(number));
    limit_descriptors(free.take(count).last().unwrap() + 1);
}

#[derive(Default)]
struct AcceptErrors {
    count: AtomicU64,
    longest_row: AtomicU64,
}

/// The other side of it: how many errors of accept there have been, how many clients were shed, and
/// the most errors in a row.
fn counts(server: &Process) -> [u64; 3] {
    server.ask("count");
    let numbers: Vec<u64> =
        server.answer().split(' ').map(|number| number.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

/// Whether a new client is served; if not, it was closed unanswered.
fn is_served(client: &mut TcpStream) -> bool {
    let mut back = [0; 6];
    // Closed before or after what it has sent has come.
    let sent = client.write_all(b"hello\n");
    match sent.and_then(|()| client.read_exact(&mut back)) {
        Ok(()) => back == *b"hello\n",
        Err(error) => {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it is left to hang");
            false
        }
    }
}

#[test]
fn out_of_descriptors_clients_are_turned_away_and_the_loop_does_not_spin() {
    let name = "bad_times::out_of_descriptors_clients_are_turned_away_and_the_loop_does_not_spin";
    if is_child(name) {
        return server_short_of_descriptors();
    }
    let mut server = child(name);
    let address: SocketAddr = server.answer().parse().unwrap();

    // Until there is no room: the next one is closed unanswered, and soon.
    let mut served = Vec::new();
    loop {
        let mut client = connect(address);
        if !is_served(&mut client) {
            break;
        }
        served.push(client);
        assert!(served.len() <= *ROOM.end(), "it has more descriptors than it may have");
    }
    assert!(served.len() >= *ROOM.start(), "only {} were served", served.len());
    // The client may know it before it is counted.
    eventually("the errors and the clients turned away are counted", || {
        let [errors, shed, _] = counts(&server);
        errors >= 1 && shed >= 1
    });

    // A rush of many clients for a while; those that have room go on being served.
    let began = Instant::now();
    let [before, ..] = counts(&server);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while began.elapsed() < Duration::from_secs(1) {
                    assert!(!is_served(&mut connect(address)));
                }
            });
        }
        for client in &mut served {
            assert!(is_served(client));
        }
    });
    let [after, _, row] = counts(&server);
    let a_second = (after - before) as f64 / began.elapsed().as_secs_f64();
    assert!(after > before && a_second < 100.0, "{a_second} turns a second");
    assert!(row > 1, "pauses never grew");

    // Descriptors come back, and with them the service.
    served.truncate(ROOM.start() / 2);
    eventually("the next client is served", || is_served(&mut connect(address)));
    for client in &mut served {
        assert!(is_served(client));
    }
    drop(served);
    server.close_stdin();
    let ended = server.end();
    assert!(ended.status.success(), "{ended:?}");
}

/// What may be left over for good by requests, and must not be.
#[derive(Debug)]
struct Footprint {
    threads: usize,
    descriptors: usize,
    memory_kib: usize,
}

impl Footprint {
    fn now() -> Self {
        Self {
            threads: own_status("Threads"),
            descriptors: open_descriptors(),
            memory_kib: own_status("VmRSS"),
        }
    }
}

const CLIENTS: usize = 4;

fn short_connections(server: &Running, count: usize) {
    let address = inet(&**server);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..count / CLIENTS {
                    let mut client = connect(address);
                    client.write_all(b"hello\n").unwrap();
                    assert_eq!(read_to_end(&mut client), b"hello\n");
                }
            });
        }
    });
    eventually("all have ended", || server.context().live_count() == 0);
}

fn ten_thousand_connections(name: &str, mixin: impl Mixin + 'static) {
    in_a_process(name, || {
        let (server, _told) = serve(mixin, Limits::default(), || OneLine);
        short_connections(&server, 1_000);
        let early = Footprint::now();
        short_connections(&server, 9_000);
        let late = Footprint::now();
        assert_eq!(server.context().counts().completed, 10_000);
        // A few threads more or less are those that have not yet come to their end.
        assert!(late.threads <= early.threads + 2 * CLIENTS, "{early:?} {late:?}");
        assert!(late.descriptors <= early.descriptors + 2, "{early:?} {late:?}");
        assert!(late.memory_kib <= early.memory_kib + 4 * 1_024, "{early:?} {late:?}");
        serves_on(server);
        String::new()
    });
}

#[test]
fn ten_thousand_connections_leave_nothing_behind_inline() {
    let name = "bad_times::ten_thousand_connections_leave_nothing_behind_inline";
    ten_thousand_connections(name, Inline);
}

#[test]
fn ten_thousand_connections_leave_nothing_behind_in_threads() {
    let name = "bad_times::ten_thousand_connections_leave_nothing_behind_in_threads";
    ten_thousand_connections(name, Threading::new());
}

#[test]
fn ten_thousand_connections_leave_nothing_behind_in_a_thread_each() {
    let name = "bad_times::ten_thousand_connections_leave_nothing_behind_in_a_thread_each";
    ten_thousand_connections(name, Threading::new().keep(Duration::ZERO));
}

#[test]
fn ten_thousand_connections_leave_nothing_behind_in_a_pool() {
    let name = "bad_times::ten_thousand_connections_leave_nothing_behind_in_a_pool";
    ten_thousand_connections(name, Pool::new(4));
}
