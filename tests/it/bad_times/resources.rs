//! Listeners that break, and descriptors that run out.

use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::handler::MakeHandler;
use socketserver::hooks::AcceptFailure;
use socketserver::transport::{AcceptAction, Bind, Tcp, Udp, UnixDatagram, UnixStream};
use socketserver::{Address, Builder, ServerHooks, StreamRequest, ThreadingTcpServer};

use super::mixins;
use crate::handlers::Echo;
use crate::support::process::{Process, answer, child, in_a_process, is_child};
use crate::support::system::{limit_descriptors, processor_seconds, replace};
use crate::support::{SOON, connect, eventually, exchange, folder, inet};

/// Breaks the listener of a server that runs under each mixin, and waits for the end of the run.
fn breaks<T: Bind>(
    address: &str,
    handler: &(impl MakeHandler<T::Request> + Clone),
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
        // If the loop still waits for the old file, a connection wakes it; if not, there is nothing to connect to.
        let _ = knock(&server.server_address());
        assert!(server.shutdown_handle().wait_timeout(SOON), "it goes on without a listener");
        let error = server.join().unwrap_err().to_string();
        assert!(error.starts_with("cannot accept at "), "{error}");
        assert!(processor_seconds() - before < 1.0, "it has been spinning");
    }
}

#[test]
fn a_listener_that_breaks_ends_the_loop_with_an_error() {
    let name = "bad_times::resources::a_listener_that_breaks_ends_the_loop_with_an_error";
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
        breaks::<Tcp>("127.0.0.1:0", &|| Echo, tcp);
        breaks::<UnixStream>(&path("s"), &|| Echo, unix);
        breaks::<Udp>("127.0.0.1:0", &|| Echo, udp);
        breaks::<UnixDatagram>(&path("d"), &|| Echo, unixgram);
        String::new()
    });
}

/// How many connections a server out of descriptors can have, at the least and at the most.
const ROOM: std::ops::RangeInclusive<usize> = 12..=24;

/// The process that runs out of descriptors: an echo server under a low limit, which also answers its parent's questions.
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
    // Once the server serves, its budget of descriptors is made. Then the process gets fewer of them.
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

/// Lowers the limit until this many descriptors are free below it. Those in use need not be the lowest numbers: some may
/// have been inherited.
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

/// The counts that the server's process answers with: the errors of accept, the clients that were shed, and the most errors in a
/// row.
pub fn counts(server: &Process) -> [u64; 3] {
    server.ask("count");
    let numbers: Vec<u64> =
        server.answer().split(' ').map(|number| number.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

/// Whether a new client is served; if not, it was closed unanswered.
fn is_served(client: &mut TcpStream) -> bool {
    let mut back = [0; 6];
    // The client may be closed before or after its bytes have arrived.
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
    let name = "bad_times::resources::out_of_descriptors_clients_are_turned_away_and_the_loop_does_not_spin";
    if is_child(name) {
        return server_short_of_descriptors();
    }
    let mut server = child(name);
    let address: SocketAddr = server.answer().parse().unwrap();

    // Clients connect until there is no room: the next one is closed unanswered, and soon.
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
    // A client may see that it was turned away before the server has counted it.
    eventually("the errors and the clients turned away are counted", || {
        let [errors, shed, _] = counts(&server);
        errors >= 1 && shed >= 1
    });

    // Many clients connect for a while; those that have a place go on being served.
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
