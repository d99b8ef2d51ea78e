//! Figures of a server: each is made to change, and read back.

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net as unix;
use std::sync::Arc;

use socket2::{Domain, Socket, Type};
use socketserver::mixin::{Gate, Job, Mixin, Refused};
use socketserver::monitor::{Figures, Fill};
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, Inline, Limits, Pool, SocketOptions, StreamRequest, TcpServer, Threading,
    UdpServer, UnixStreamServer, datagram_fn, stream_fn,
};

use crate::handlers::{Echo, Held, Holder, Silent, held};
use crate::support::{
    SOON, connect, eventually, exchange, folder, hear, inet, read_to_end, udp_client,
};

fn holding<M: Mixin>(mixin: M) -> (BackgroundServer<Tcp, M>, Holder) {
    let (handler, holder) = held();
    let server =
        TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", move || Held::clone(&handler));
    (server.unwrap().serve_in_background().unwrap(), holder)
}

/// Waits until the figures are as the test expects them.
fn becomes<M: Mixin>(
    server: &BackgroundServer<Tcp, M>,
    what: &str,
    is_so: impl Fn(&Figures) -> bool,
) {
    eventually(what, || is_so(&server.context().figures()));
}

fn clients<M: Mixin>(server: &BackgroundServer<Tcp, M>, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| connect(inet(&**server))).collect()
}

fn fill(used: u64, max: u64) -> Fill {
    Fill::new(used, Some(max))
}

#[test]
fn a_full_pool_shows_its_workers_its_queue_and_the_kernels() {
    let (server, holder) = holding(Pool::new(2).queue(3));
    let figures = server.context().figures();
    assert_eq!((figures.busy, figures.queued), (fill(0, 2), fill(0, 3)), "{figures}");
    assert_eq!(figures.live, fill(0, server.limits().live as u64));
    let mut all = clients(&server, 7);
    becomes(&server, "all places are taken", |figures| {
        let accept_queue = figures.accept_queue.map(|queue| queue.used);
        // Only Linux reports the length of the queue.
        let is_held_back = !cfg!(target_os = "linux") || accept_queue == Some(2);
        (figures.busy, figures.queued) == (fill(2, 2), fill(3, 3)) && is_held_back
    });
    let figures = server.context().figures();
    assert_eq!((figures.live.used, figures.idle), (5, Some(0)), "{figures}");
    assert!(figures.to_string().contains("2 of 2 busy, 0 idle, 3 of 3 queued"), "{figures}");
    assert_eq!(figures.busy.share(), Some(1.0));
    drop(holder);
    for client in &mut all {
        assert_eq!(read_to_end(client), b"released\n");
    }
    becomes(&server, "both workers are idle", |figures| {
        (figures.busy.used, figures.idle, figures.queued.used) == (0, Some(2), 0)
    });
    let accept_queue = server.context().figures().accept_queue;
    assert!(accept_queue.is_none_or(|queue| queue.used == 0), "{accept_queue:?}");
}

#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn threads_have_a_maximum_if_they_are_given_one() {
    let (server, holder) = holding(Threading::new());
    assert_eq!(server.context().figures().busy, Fill::new(0, None));
    let mut all = clients(&server, 3);
    becomes(&server, "all run", |figures| figures.busy == Fill::new(3, None));
    drop(holder);
    for client in &mut all {
        read_to_end(client);
    }
    becomes(&server, "they are kept", |figures| {
        figures.busy.used == 0 && figures.idle.is_some_and(|idle| idle >= 1)
    });
    let (server, _holder) = holding(Threading::new().max_threads(9));
    assert_eq!(server.context().figures().busy, fill(0, 9));
}

#[test]
fn the_loop_is_the_only_worker_of_an_inline_server() {
    let (server, holder) = holding(Inline);
    assert_eq!(server.context().figures().busy, fill(0, 1));
    let mut only = clients(&server, 1);
    holder.started.recv_timeout(SOON).unwrap();
    let figures = server.context().figures();
    assert_eq!((figures.busy, figures.idle, figures.queued.used), (fill(1, 1), None, 0));
    drop(holder);
    read_to_end(&mut only[0]);
    becomes(&server, "it is free", |figures| figures.busy.used == 0);
}

#[test]
fn a_mixin_that_tells_nothing_has_its_requests_counted() {
    /// Keeps each job until the next one comes.
    struct Keeps {
        kept: Arc<std::sync::Mutex<Option<Job>>>,
    }
    impl Mixin for Keeps {
        fn process_request(&self, job: Job) {
            if let Some(before) = self.kept.lock().unwrap().replace(job) {
                std::thread::spawn(|| before.run());
            }
        }
    }
    let kept = Arc::default();
    let (server, holder) = holding(Keeps { kept: Arc::clone(&kept) });
    let _clients = clients(&server, 2);
    becomes(&server, "one runs and one waits", |figures| {
        (figures.busy, figures.queued, figures.idle)
            == (Fill::new(1, None), Fill::new(1, None), None)
    });
    drop(holder);
    // The request that is kept would never end.
    drop(kept.lock().unwrap().take());
}

#[test]
fn a_boxed_mixin_tells_what_it_has_inside() {
    let mixin: Box<dyn Mixin> = Box::new(Pool::new(3));
    let (server, _holder) = holding(mixin);
    assert_eq!(server.context().figures().busy.max, Some(3));
}

#[test]
fn the_maximum_of_live_requests_is_that_in_force() {
    let (server, _holder) = holding(Threading::new());
    server.context().set_limits(Limits::default().live(7));
    assert_eq!(server.context().figures().live, fill(0, 7));
}

/// Begins to connect a client, which may never be accepted.
fn begin_to_connect(to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    // The connection is in progress, or complete.
    let _ = socket.connect(&to.into());
    socket
}

#[test]
fn a_full_accept_queue_shows_what_it_has_dropped() {
    let options = SocketOptions::default().request_queue_size(1);
    let server = TcpServer::builder().socket_options(options);
    // Nobody accepts: the server is bound and does not serve.
    let server = server.bind("127.0.0.1:0", || Silent).unwrap();
    let before = server.context().figures();
    if before.accept_queue.is_none() {
        return eprintln!("skipped: this kernel does not tell");
    }
    assert_eq!((before.accept_queue, before.accept_drops), (Some(fill(0, 1)), Some(0)));
    let _clients: Vec<_> = (0..8).map(|_| begin_to_connect(inet(&server))).collect();
    eventually("the kernel drops clients", || {
        let figures = server.context().figures();
        // Linux queues one more than the maximum.
        figures.accept_queue.is_some_and(|queue| queue.used >= 1)
            && figures.accept_drops.is_some_and(|drops| drops >= 1)
    });
    let text = server.context().figures().to_string();
    assert!(text.contains(" of 1 in the accept queue, ") && text.contains(" dropped"), "{text}");
}

#[test]
fn datagrams_that_are_dropped_are_counted() {
    let options = SocketOptions::default().recv_buffer_bytes(4_096);
    let server = UdpServer::builder().socket_options(options);
    let server = server.bind("127.0.0.1:0", datagram_fn(|_request| Ok(()))).unwrap();
    let before = server.context().figures();
    let Some(drops) = before.datagram_drops else {
        return eprintln!("skipped: this kernel does not tell");
    };
    assert_eq!((drops, before.accept_queue, before.accept_drops), (0, None, None));
    let client = udp_client();
    for _ in 0..100 {
        client.send_to(&[0; 1_000], inet(&server)).unwrap();
    }
    let after = server.context().figures();
    assert!(after.datagram_drops.unwrap() >= 50, "{after:?}");
    let buffer = after.receive_buffer.unwrap();
    assert!(buffer.used >= 1_000 && buffer.max >= Some(4_096), "{after:?}");
    while server.context().figures().receive_buffer.unwrap().used > 0 {
        server.handle_request().unwrap();
    }
}

#[test]
fn the_accept_queue_of_a_unix_socket_is_told_too() {
    let folder = folder();
    let path = folder.path().join("s");
    let options = SocketOptions::default().request_queue_size(20);
    let server = UnixStreamServer::builder().socket_options(options);
    let server = server.bind(path.as_path(), || Silent).unwrap();
    let clients = [(); 3].map(|()| unix::UnixStream::connect(&path).unwrap());
    let figures = server.context().figures();
    // A kernel without unix_diag, or a sandbox, does not report the queue.
    assert!(figures.accept_queue.is_none_or(|queue| queue == fill(3, 20)), "{figures}");
    assert_eq!((figures.accept_drops, figures.datagram_drops), (None, None));
    for _ in &clients {
        server.handle_request().unwrap();
    }
    let figures = server.context().figures();
    assert!(figures.accept_queue.is_none_or(|queue| queue == fill(0, 20)), "{figures}");
}

#[test]
fn descriptors_of_the_process_are_counted() {
    let server = TcpServer::bind("127.0.0.1:0", || Silent).unwrap();
    let Some(before) = server.context().figures().descriptors else {
        return eprintln!("skipped: this kernel does not tell");
    };
    // Other tests open and close some files of their own meanwhile.
    let _files: Vec<_> = (0..500).map(|_| File::open("/dev/null").unwrap()).collect();
    let after = server.context().figures().descriptors.unwrap();
    assert!(after.used >= before.used + 100, "{before:?} {after:?}");
    assert!(after.max.unwrap() >= after.used);
}

#[test]
fn a_closed_server_has_no_listener_to_tell_of() {
    let server = TcpServer::bind("127.0.0.1:0", || Silent).unwrap();
    server.server_close();
    let figures = server.context().figures();
    assert_eq!((figures.accept_queue, figures.accept_drops), (None, None));
}

#[test]
fn a_handler_reads_the_figures_of_its_server_even_when_that_is_gone() {
    let (goes, gone) = std::sync::mpsc::channel::<()>();
    let gone = Arc::new(std::sync::Mutex::new(gone));
    let handler = stream_fn(move |request: &mut StreamRequest| {
        writeln!(request, "{}", request.server().figures())?;
        hear(&gone)?;
        // The last handler owns the last reference to the server.
        Ok(writeln!(request, "{}", request.server().figures())?)
    });
    let server = TcpServer::builder().mixin(Threading::new()).bind("127.0.0.1:0", handler).unwrap();
    let mut client = connect(inet(&server));
    server.handle_request().unwrap();
    let line = crate::support::read_line(&mut client);
    // Idle threads are counted; of coroutines there are no idle ones.
    let line = line.replace(" 0 idle,", "");
    assert!(line.contains(" live, 1 busy, 0 queued"), "{line}");
    drop(server);
    goes.send(()).unwrap();
    let line = crate::support::read_line(&mut client);
    assert!(line.starts_with("1 of ") && line.contains(" live, 1 busy, 0 queued"), "{line}");
}

#[test]
fn a_mixin_of_ones_own_has_its_gate_for_figures() {
    /// Runs each request in a thread, and as many at once as its gate lets in.
    struct Gated {
        gate: Arc<Gate>,
    }
    impl Mixin for Gated {
        fn process_request(&self, job: Job) {
            let Some(permit) = self.gate.try_enter() else { return job.refuse(Refused::Busy) };
            std::thread::spawn(move || {
                job.run();
                drop(permit);
            });
        }

        fn figures(&self) -> socketserver::mixin::WorkerFigures {
            let mut figures = socketserver::mixin::WorkerFigures::default();
            figures.busy = Some(self.gate.count());
            figures.max_busy = Some(self.gate.max());
            figures
        }
    }
    let server = TcpServer::builder().mixin(Gated { gate: Gate::new(4).unwrap() });
    let server = server.bind("127.0.0.1:0", || Echo).unwrap().serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    assert_eq!(exchange(&mut client, "hello"), "hello\n");
    assert_eq!(server.context().figures().busy, fill(1, 4));
}

#[test]
fn asking_for_figures_does_not_lend_the_listener() {
    let server = TcpServer::bind("127.0.0.1:0", || Silent).unwrap().serve_in_background().unwrap();
    let address = inet(&*server);
    // The loop runs from here on.
    assert!(read_to_end(&mut connect(address)).is_empty());
    let _ = server.context().figures();
    let mut client = connect(address);
    // A server whose listener is lent would leave this client to another process; here the client is served.
    assert!(server.server_close_within(SOON).is_clean());
    assert!(read_to_end(&mut client).is_empty());
    assert!(TcpListener::bind(address).is_ok(), "the address is free");
}
