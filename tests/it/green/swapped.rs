//! Requests that move to other handlers. A transport gets each request by value at its end and may keep it. A handler that
//! swaps its own request with a kept one owns the request that it had before, and may send it to a handler of another
//! worker, or to a plain thread.

use std::io::{self, Read, Write};
use std::mem::swap;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socket2::SockRef;
use socketserver::hooks::Failure;
use socketserver::mixin::Mixin;
use socketserver::transport::{Bind, Tcp, Transport};
use socketserver::{
    Address, BackgroundServer, Builder, Green, HandlerResult, Limits, ServerHooks, SocketOptions,
    StreamRequest, Threading, stream_fn,
};

use crate::over_tcp::{leave_connections_to_tcp, leave_to_tcp};
use crate::support::{connect, eventually, exchange, hear, inet, read_line, read_to_end, soon};

/// Requests that have been kept beyond their handlers.
type Kept = Arc<Mutex<Vec<StreamRequest>>>;

/// TCP that keeps requests at their end, while the test wants it to.
struct Keeps {
    inner: Tcp,
    kept: Kept,
    keeps: Arc<AtomicBool>,
}

impl Transport for Keeps {
    leave_to_tcp!();
    leave_connections_to_tcp!();

    fn get_request(&self) -> io::Result<(Self::Raw, Address)> {
        self.inner.get_request()
    }

    fn shutdown_request(&self, request: &mut StreamRequest) {
        if !self.keeps.load(Ordering::SeqCst) {
            self.inner.shutdown_request(request);
        }
    }

    fn close_request(&self, request: StreamRequest) {
        if self.keeps.load(Ordering::SeqCst) {
            self.kept.lock().unwrap().push(request);
        } else {
            self.inner.close_request(request);
        }
    }
}

/// The place where requests are swapped: the first handler lends its own, the second swaps.
struct Place {
    kept: Kept,
    keeps: Arc<AtomicBool>,
    lends: Mutex<Sender<StreamRequest>>,
    borrows: Mutex<Receiver<StreamRequest>>,
    gives_back: Mutex<Sender<StreamRequest>>,
    gets_back: Mutex<Receiver<StreamRequest>>,
    reports: Reports,
}

/// The failures that would be printed.
#[derive(Clone, Default)]
struct Reports(Arc<Mutex<Vec<String>>>);

impl ServerHooks for Reports {
    fn handle_error(&self, failure: &Failure<'_>) {
        if !failure.is_quiet() {
            self.0.lock().unwrap().push(failure.to_string());
        }
    }
}

impl Place {
    fn new() -> Arc<Self> {
        let ((lends, borrows), (gives_back, gets_back)) = (channel(), channel());
        Arc::new(Self {
            kept: Kept::default(),
            keeps: Arc::new(AtomicBool::new(true)),
            lends: Mutex::new(lends),
            borrows: Mutex::new(borrows),
            gives_back: Mutex::new(gives_back),
            gets_back: Mutex::new(gets_back),
            reports: Reports::default(),
        })
    }

    /// Asserts that no failure of a handler was reported.
    fn assert_quiet(&self) {
        let reports = self.reports.0.lock().unwrap();
        assert!(reports.is_empty(), "{reports:?}");
    }

    /// Gives the handler's own request to the other handler, and takes the other's.
    fn lend(&self, request: &mut StreamRequest) -> HandlerResult {
        let mut spare = self.kept.lock().unwrap().pop().ok_or("no request was kept")?;
        swap(request, &mut spare);
        self.lends.lock().unwrap().send(spare).map_err(|_| "nobody borrows")?;
        let mut others = hear(&self.gets_back)?;
        swap(request, &mut others);
        self.kept.lock().unwrap().push(others);
        Ok(())
    }

    fn swap(&self, request: &mut StreamRequest) -> HandlerResult {
        let mut others = hear(&self.borrows)?;
        swap(request, &mut others);
        self.gives_back.lock().unwrap().send(others).map_err(|_| "nobody gets it back")?;
        Ok(())
    }
}

/// Answers lines with its name. The lines "lend" and "swap" lend or swap its request, and "bye" ends it.
fn named(
    name: &'static str,
    place: &Arc<Place>,
) -> impl Fn(&mut StreamRequest) -> HandlerResult + use<> {
    let place = Arc::clone(place);
    move |request| {
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            let text = text.to_owned();
            match text.as_str() {
                "lend" => place.lend(request)?,
                "swap" => place.swap(request)?,
                _ => {}
            }
            writeln!(request, "{name}: {text}")?;
            if text == "bye" {
                break;
            }
        }
        Ok(())
    }
}

fn serving<M: Mixin + 'static>(
    mixin: M,
    place: &Arc<Place>,
    handler: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
) -> BackgroundServer<Keeps, M> {
    let limits = Limits::default().drain(Duration::from_secs(2));
    let inner = Tcp::unbound(&"127.0.0.1:0".into(), &SocketOptions::default()).unwrap();
    let transport = Keeps { inner, kept: Arc::clone(&place.kept), keeps: Arc::clone(&place.keeps) };
    let server = Builder::<Keeps, M>::new(mixin).limits(limits).hooks(place.reports.clone());
    let server = server.observer(|_| {});
    server.with_transport(transport, stream_fn(handler)).unwrap().serve_in_background().unwrap()
}

/// Makes the server keep a request, which is the first that ends.
fn keep_one<M: Mixin + 'static>(server: &BackgroundServer<Keeps, M>, place: &Place) {
    let mut client = connect(inet(&**server));
    exchange(&mut client, "bye");
    eventually("it is kept", || !place.kept.lock().unwrap().is_empty());
    place.keeps.store(false, Ordering::SeqCst);
}

/// The two handlers of `a` and `b` swap their requests; then each talks to the other's client, and one request ends. Later
/// connections get the number of its descriptor.
fn swap_and_go_on<A: Mixin + 'static, B: Mixin + 'static>(
    place: &Place,
    a: &BackgroundServer<Keeps, A>,
    b: &BackgroundServer<Keeps, B>,
) {
    keep_one(a, place);
    let (mut of_a, mut of_b) = (connect(inet(&**a)), connect(inet(&**b)));
    // Both wait for input once, so that they are registered where they began.
    for client in [&mut of_a, &mut of_b] {
        exchange(client, "hello");
    }
    of_a.write_all(b"lend\n").unwrap();
    of_b.write_all(b"swap\n").unwrap();
    // Each handler answers the other's client.
    let (said_to_a, said_to_b) = (read_line(&mut of_a), read_line(&mut of_b));
    assert!(said_to_a.starts_with("b:") && said_to_a.ends_with(": swap\n"), "{said_to_a}");
    assert!(said_to_b.starts_with("a:") && said_to_b.ends_with(": lend\n"), "{said_to_b}");
    for round in 0..100 {
        let line = format!("round {round}");
        for (client, name) in [(&mut of_a, "b"), (&mut of_b, "a")] {
            let answer = exchange(client, &line);
            assert!(answer.starts_with(name) && answer.contains(&line), "{answer}");
        }
    }
    // A large message, so that both wait for room as well.
    let large = format!("{}\n", "x".repeat(60_000));
    for client in [&mut of_a, &mut of_b] {
        assert!(exchange(client, large.trim_end()).ends_with(&large));
    }
    // The handler of `b` ends, with the request of `a` in its place, while the handler of `a` goes on.
    assert_eq!(exchange(&mut of_a, "bye"), "b: bye\n");
    assert!(read_to_end(&mut of_a).is_empty());
    for round in 0..200 {
        for address in [inet(&**a), inet(&**b)] {
            let answer = exchange(&mut connect(address), &format!("new {round}"));
            assert!(answer.contains(&format!("new {round}")), "{answer}");
        }
        let answer = exchange(&mut of_b, &format!("still {round}"));
        assert!(answer.starts_with("a:") && answer.contains("still"), "{answer}");
    }
    drop(of_b);
    place.kept.lock().unwrap().clear();
    for context in [a.context(), b.context()] {
        eventually("all have ended", || context.live_count() == 0);
    }
}

fn stop<M: Mixin + 'static>(server: BackgroundServer<Keeps, M>) {
    let report = server.stop().unwrap();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn two_workers_swap_their_requests() {
    let place = Place::new();
    let a = serving(Green::new().workers(1), &place, named("a", &place));
    let b = serving(Green::new().workers(1), &place, named("b", &place));
    swap_and_go_on(&place, &a, &b);
    stop(b);
    stop(a);
}

#[test]
fn a_thread_ends_the_request_of_a_coroutine() {
    let place = Place::new();
    let a = serving(Green::new().workers(1), &place, named("a", &place));
    let b = serving(Threading::new(), &place, named("b", &place));
    swap_and_go_on(&place, &a, &b);
    stop(a);
    stop(b);
}

#[test]
fn a_coroutine_ends_the_request_of_a_thread() {
    let place = Place::new();
    let a = serving(Threading::new(), &place, named("a", &place));
    let b = serving(Green::new().workers(1), &place, named("b", &place));
    swap_and_go_on(&place, &a, &b);
    stop(a);
    stop(b);
}

/// Two clients whose handlers wait for input, each with the other's request.
fn swapped(
    place: &Place,
    a: &BackgroundServer<Keeps, Green>,
    b: &BackgroundServer<Keeps, Green>,
) -> [TcpStream; 2] {
    keep_one(a, place);
    let mut clients = [connect(inet(&**a)), connect(inet(&**b))];
    for client in &mut clients {
        exchange(client, "hello");
    }
    clients[0].write_all(b"lend\n").unwrap();
    clients[1].write_all(b"swap\n").unwrap();
    assert!(read_line(&mut clients[0]).ends_with(": swap\n"));
    assert!(read_line(&mut clients[1]).ends_with(": lend\n"));
    for client in &mut clients {
        assert!(exchange(client, "on").ends_with(": on\n"));
    }
    place.kept.lock().unwrap().clear();
    clients
}

#[test]
fn two_coroutines_of_a_worker_swap_their_requests_and_are_drained() {
    let place = Place::new();
    let server = serving(Green::new().workers(1), &place, named("a", &place));
    let mut clients = swapped(&place, &server, &server);
    stop(server);
    for client in &mut clients {
        assert!(read_to_end(client).is_empty());
    }
    place.assert_quiet();
}

#[test]
fn the_peers_of_swapped_requests_go_away() {
    let place = Place::new();
    let a = serving(Green::new().workers(1), &place, named("a", &place));
    let b = serving(Green::new().workers(1), &place, named("b", &place));
    for client in swapped(&place, &a, &b) {
        // The drop resets.
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    }
    for server in [a, b] {
        eventually("all have ended", || server.context().live_count() == 0);
        stop(server);
    }
    place.assert_quiet();
}

/// Each server drains the requests that are its own, wherever their handlers are.
#[test]
fn a_drain_ends_requests_that_have_changed_their_servers() {
    let place = Place::new();
    let a = serving(Green::new().workers(1), &place, named("a", &place));
    let b = serving(Green::new().workers(1), &place, named("b", &place));
    let mut clients = swapped(&place, &a, &b);
    for server in [a, b] {
        let report = server.stop().unwrap();
        assert_eq!(report.left_running.len(), 0, "{report}");
    }
    for client in &mut clients {
        assert!(read_to_end(client).is_empty());
    }
    place.assert_quiet();
}

/// A plain thread uses the request of a coroutine that has ended, and drops it after the end of its server.
#[test]
fn a_request_that_is_kept_beyond_its_handler_works_on_a_plain_thread() {
    let place = Place::new();
    let server = serving(Green::new().workers(2), &place, named("a", &place));
    let mut client = connect(inet(&*server));
    exchange(&mut client, "hello");
    exchange(&mut client, "bye");
    eventually("it is kept", || !place.kept.lock().unwrap().is_empty());
    let mut request = place.kept.lock().unwrap().pop().unwrap();
    let used = thread::spawn(move || {
        let mut line = String::new();
        let text = request.next_line(&mut line).unwrap().unwrap().to_owned();
        writeln!(request, "from a thread: {text}").unwrap();
        request
    });
    assert_eq!(exchange(&mut client, "hello"), "from a thread: hello\n");
    let mut request = used.join().unwrap();
    // The request still belongs to its server: a drain waits for it, and cuts it off.
    assert_eq!(server.context().live_count(), 1);
    let report = server.stop().unwrap();
    assert_eq!(report.forced.len(), 1, "{report}");
    soon("a read after the end", move || assert!(!matches!(request.read(&mut [0]), Ok(1..))));
    assert!(read_to_end(&mut client).is_empty());
}

/// In each round a plain thread drops a request whose coroutine has ended, and the worker serves the next client.
#[test]
fn a_request_that_is_dropped_on_a_plain_thread_leaves_its_worker_in_order() {
    let place = Place::new();
    let server = serving(Green::new().workers(1), &place, named("a", &place));
    for round in 0..200 {
        let mut client = connect(inet(&*server));
        exchange(&mut client, "hello");
        exchange(&mut client, "bye");
        eventually("it is kept", || !place.kept.lock().unwrap().is_empty());
        let request = place.kept.lock().unwrap().pop();
        thread::spawn(move || drop(request)).join().unwrap();
        assert!(read_to_end(&mut client).is_empty(), "round {round}");
    }
    stop(server);
}
