//! Idle workers accept requests themselves: those that the loop would have accepted, and no others.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, ThreadId};
use std::time::Instant;

use socketserver::hooks::{AcceptFailure, Failure, Incoming};
use socketserver::mixin::{Job, Mixin, Refused};
use socketserver::monitor::ServerEvent;
use socketserver::park::Event;
use socketserver::transport::{Bind, Tcp, Transport};
use socketserver::{
    Address, BaseServer, Builder, Fatal, HandlerError, HandlerResult, Limits, Pool, Rate, Server,
    ServerContext, ServerHooks, SocketOptions, StreamRequest, TcpServer, Threading, stream_fn,
};

use crate::over_tcp::{leave_connections_to_tcp, leave_to_tcp};
use crate::support::{SOON, connect, eventually, exchange, inet, read_to_end, serve};

/// The threads that have accepted requests, in order.
#[derive(Clone, Default)]
struct AcceptLog {
    by: Arc<Mutex<Vec<ThreadId>>>,
}

impl AcceptLog {
    fn observer(&self) -> impl Fn(&ServerEvent<'_>) + Send + Sync + 'static {
        let by = Arc::clone(&self.by);
        move |event| {
            if let ServerEvent::RequestStarted { .. } = event {
                by.lock().unwrap().push(thread::current().id());
            }
        }
    }

    fn count(&self) -> usize {
        self.by.lock().unwrap().len()
    }

    /// Whether the last request was accepted by a thread other than the loop's, which always accepts the first.
    fn beside_loop(&self) -> bool {
        let by = self.by.lock().unwrap();
        by.first() != by.last()
    }
}

/// Answers a line. The line "the end" ends the server.
fn answer(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    request.next_line(&mut line)?;
    if line == "the end" {
        return Err(Fatal::new("as asked").into());
    }
    writeln!(request, "{line}")?;
    Ok(())
}

fn ask(server: &(impl BaseServer + ?Sized)) {
    assert_eq!(exchange(&mut connect(inet(server)), "hello"), "hello\n");
}

/// Sends one request after the other until a worker has accepted one. That worker then waits to accept the next.
fn have_worker_accept(server: &(impl BaseServer + ?Sized), accepted: &AcceptLog) {
    eventually("a worker accepts", || {
        ask(server);
        accepted.beside_loop()
    });
}

fn make<M: Mixin + 'static>(mixin: M, limits: Limits) -> (Server<Tcp, M>, AcceptLog) {
    let accepted = AcceptLog::default();
    let server = TcpServer::builder().mixin(mixin).limits(limits).observer(accepted.observer());
    (server.bind("127.0.0.1:0", stream_fn(answer)).unwrap(), accepted)
}

fn a_worker_takes_requests_itself(mixin: impl Mixin + 'static) {
    let (server, accepted) = make(mixin, Limits::default());
    let server = server.serve_in_background().unwrap();
    have_worker_accept(&*server, &accepted);
}

#[test]
fn a_worker_without_a_request_accepts_the_next_one_itself_threading() {
    a_worker_takes_requests_itself(Threading::new());
}

#[test]
fn a_worker_without_a_request_accepts_the_next_one_itself_pool() {
    a_worker_takes_requests_itself(Pool::new(2));
}

#[test]
fn a_worker_takes_a_place_among_the_maximum_for_what_it_accepts() {
    let (server, accepted) = make(Threading::new().max_threads(1), Limits::default());
    let server = server.serve_in_background().unwrap();
    have_worker_accept(&*server, &accepted);
    eventually("all have ended", || server.context().live_count() == 0);
    let before = accepted.count();
    let mut first = connect(inet(&*server));
    eventually("it is accepted", || server.context().live_count() == 1);
    let mut second = connect(inet(&*server));
    second.write_all(b"second\n").unwrap();
    assert_eq!(exchange(&mut first, "first"), "first\n");
    assert_eq!(read_to_end(&mut second), b"second\n");
    assert_eq!(accepted.count(), before + 2, "each once");
}

#[test]
fn a_pool_serves_what_it_accepts_itself_and_its_queue_in_the_order_in_which_they_came() {
    let (server, accepted) = make(Pool::new(1), Limits::default());
    let server = server.serve_in_background().unwrap();
    have_worker_accept(&*server, &accepted);
    for _ in 0..200 {
        let mut clients: Vec<_> = (0..3).map(|_| connect(inet(&*server))).collect();
        for client in &mut clients {
            assert_eq!(exchange(client, "hello"), "hello\n");
        }
    }
}

/// All hooks that the loop does not call for each request.
struct Reports;

impl ServerHooks<StreamRequest> for Reports {
    fn handle_error(&self, _failure: &Failure<'_>) {}
    fn wrap_request(&self, _request: &mut StreamRequest) -> HandlerResult {
        Ok(())
    }
    fn warning(&self, _text: &str) {}
    fn accept_error(&self, _failure: &AcceptFailure<'_>) {}
    fn overflow(&self, _request: &mut StreamRequest, _why: &Refused) -> HandlerResult {
        Ok(())
    }
    fn server_activated(&self, _server: &ServerContext) {}
    fn handle_timeout(&self) {}
}

struct Verifies;

impl ServerHooks<StreamRequest> for Verifies {
    fn verify_request(&self, _incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
        Ok(true)
    }
}

struct Ticks;

impl ServerHooks<StreamRequest> for Ticks {
    fn service_actions(&self) {}
}

/// Implements the hooks of the loop by a call of the hooks inside. If these have no such hook, their default runs.
struct Around<H>(H);

impl<H: ServerHooks<StreamRequest>> ServerHooks<StreamRequest> for Around<H> {
    fn verify_request(&self, incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
        self.0.verify_request(incoming)
    }

    fn service_actions(&self) {
        self.0.service_actions();
    }
}

/// Fails unless workers accept if `accept` is true, and none does if it is false.
fn workers_accept(
    set: impl FnOnce(Builder<Tcp, Threading>) -> Builder<Tcp, Threading>,
    accept: bool,
) {
    let accepted = AcceptLog::default();
    let server = set(TcpServer::builder().mixin(Threading::new()))
        .observer(accepted.observer())
        .bind("127.0.0.1:0", stream_fn(answer))
        .unwrap();
    let server = server.serve_in_background().unwrap();
    if accept {
        have_worker_accept(&*server, &accepted);
    } else {
        for _ in 0..100 {
            ask(&*server);
        }
        let by = accepted.by.lock().unwrap();
        assert!(by.iter().all(|thread| *thread == by[0]), "the loop's hooks have one thread");
    }
}

#[test]
fn with_hooks_that_the_loop_calls_only_the_loop_accepts() {
    workers_accept(|builder| builder.hooks(Verifies), false);
    workers_accept(|builder| builder.hooks(Ticks), false);
    workers_accept(|builder| builder.hooks(Around(Reports)), false);
    workers_accept(|builder| builder.hooks(Around(Verifies)), false);
}

#[test]
fn with_other_hooks_workers_accept_as_without_any() {
    workers_accept(|builder| builder, true);
    workers_accept(|builder| builder.hooks(Reports), true);
}

#[test]
fn workers_do_not_accept_where_that_is_switched_off() {
    workers_accept(|builder| builder.workers_accept(false), false);
    workers_accept(|builder| builder.hooks(Reports).workers_accept(false), false);
}

/// Each client wakes a thread. A lost wake-up would leave a client without an answer until another client comes, and here
/// none does.
#[test]
fn no_client_waits_for_another_one_to_come() {
    for mixin in [Box::new(Threading::new()) as Box<dyn Mixin>, Box::new(Pool::new(3))] {
        let (server, accepted) = make(mixin, Limits::default());
        let server = server.serve_in_background().unwrap();
        thread::scope(|scope| {
            // The clients are few, so that workers begin and stop accepting all the time.
            for client in 0..3_u64 {
                let server = &server;
                scope.spawn(move || {
                    let mut random = client + 1;
                    for _ in 0..700 {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let mut stream = connect(inet(&**server));
                        for _ in 0..random >> 54 {
                            std::hint::spin_loop();
                        }
                        assert_eq!(exchange(&mut stream, "hello"), "hello\n");
                        if random >> 62 == 0 {
                            thread::yield_now();
                        }
                    }
                });
            }
        });
        assert_eq!(accepted.count(), 2_100);
    }
}

#[test]
fn where_a_rate_is_set_only_the_loop_accepts_and_it_holds_exactly() {
    let rate = Some(Rate::per_second(1).burst(50));
    let (server, accepted) = make(Threading::new(), Limits::default().accept_rate(rate));
    let server = server.serve_in_background().unwrap();
    for _ in 0..50 {
        ask(&*server);
    }
    assert!(!accepted.beside_loop());
}

#[test]
fn after_a_shutdown_a_worker_takes_nothing_until_the_next_run() {
    let (server, accepted) = make(Threading::new(), Limits::default());
    let server = Arc::new(server);
    for _ in 0..20 {
        let serving = serve(&server);
        accepted.by.lock().unwrap().clear();
        have_worker_accept(&*server, &accepted);
        server.shutdown();
        let before = accepted.count();
        let mut client = connect(inet(&*server));
        client.write_all(b"between\n").unwrap();
        serving.recv_timeout(SOON).unwrap().unwrap();
        assert_eq!(accepted.count(), before, "no thread accepts between two runs");
        let serving = serve(&server);
        assert_eq!(read_to_end(&mut client), b"between\n");
        server.shutdown();
        serving.recv_timeout(SOON).unwrap().unwrap();
    }
}

#[test]
fn a_handle_request_takes_one_and_a_worker_none_beside_it() {
    let (server, accepted) = make(Threading::new(), Limits::default());
    let server = Arc::new(server);
    let serving = serve(&server);
    have_worker_accept(&*server, &accepted);
    server.shutdown();
    serving.recv_timeout(SOON).unwrap().unwrap();
    let before = accepted.count();
    let mut clients: Vec<_> = (0..3).map(|_| connect(inet(&*server))).collect();
    for (served, client) in clients.iter_mut().enumerate() {
        client.write_all(b"one\n").unwrap();
        server.handle_request().unwrap();
        assert_eq!(read_to_end(client), b"one\n");
        assert_eq!(accepted.count(), before + served + 1);
    }
}

#[test]
fn after_an_error_has_ended_the_run_a_worker_takes_nothing() {
    let (server, accepted) = make(Threading::new(), Limits::default());
    let server = Arc::new(server);
    let serving = serve(&server);
    have_worker_accept(&*server, &accepted);
    connect(inet(&*server)).write_all(b"the end\n").unwrap();
    let ended = serving.recv_timeout(SOON).expect("it ends");
    assert!(ended.unwrap_err().to_string().contains("as asked"));
    let before = accepted.count();
    let _waits = connect(inet(&*server));
    let serving = serve(&server);
    eventually("the next run takes it", || accepted.count() == before + 1);
    server.shutdown();
    serving.recv_timeout(SOON).unwrap().unwrap();
}

#[test]
fn a_server_that_is_dropped_sends_away_the_worker_that_accepts() {
    let (stopped, stops) = std::sync::mpsc::channel();
    let stopped = Mutex::new(stopped);
    let hook = move || stopped.lock().unwrap().send(()).unwrap();
    let (server, accepted) = make(Threading::new().on_thread_stop(hook), Limits::default());
    let server = Arc::new(server);
    let serving = serve(&server);
    have_worker_accept(&*server, &accepted);
    server.shutdown();
    serving.recv_timeout(SOON).unwrap().unwrap();
    let address = inet(&*server);
    drop(server);
    stops.recv_timeout(SOON).expect("the thread ends");
    assert!(std::net::TcpStream::connect(address).is_err(), "and nothing keeps the port");
}

/// A failure that happens once, when a worker accepts.
#[derive(Clone, Copy)]
enum Trouble {
    Error(i32),
    Panic,
}

/// TCP that makes trouble once, on a thread that is not the loop's.
struct Touchy {
    inner: Tcp,
    loop_thread: OnceLock<ThreadId>,
    trouble: Arc<Mutex<Option<Trouble>>>,
}

impl Transport for Touchy {
    leave_to_tcp!();
    leave_connections_to_tcp!();

    fn get_request(&self) -> io::Result<(Self::Raw, Address)> {
        let me = thread::current().id();
        if *self.loop_thread.get_or_init(|| me) != me {
            let trouble = self.trouble.lock().unwrap().take();
            match trouble {
                Some(Trouble::Error(number)) => return Err(io::Error::from_raw_os_error(number)),
                Some(Trouble::Panic) => panic!("as asked"),
                None => {}
            }
        }
        self.inner.get_request()
    }

    fn waits_first(&self) -> bool {
        true
    }
}

/// Counts the errors of accepting.
struct Counts(Arc<AtomicUsize>);

impl ServerHooks<StreamRequest> for Counts {
    fn accept_error(&self, _failure: &AcceptFailure<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Makes trouble for the worker that accepts, ten times. Returns the number of accept errors that were counted.
fn served_in_spite_of(trouble: Trouble) -> u64 {
    let (accepted, waiting) = (AcceptLog::default(), Arc::new(Mutex::new(None)));
    let inner = Tcp::unbound(&"127.0.0.1:0".into(), &SocketOptions::default()).unwrap();
    let transport = Touchy { inner, loop_thread: OnceLock::new(), trouble: Arc::clone(&waiting) };
    let told = Arc::new(AtomicUsize::new(0));
    let server = Builder::<Touchy, _>::new(Threading::new())
        .hooks(Counts(Arc::clone(&told)))
        .observer(accepted.observer())
        .with_transport(transport, stream_fn(answer))
        .unwrap()
        .serve_in_background()
        .unwrap();
    for _ in 0..10 {
        *waiting.lock().unwrap() = Some(trouble);
        eventually("a worker has met it", || {
            ask(&*server);
            waiting.lock().unwrap().is_none()
        });
    }
    let counted = server.context().counts().accept_errors;
    assert_eq!(told.load(Ordering::SeqCst) as u64, counted, "the hook was told of as many");
    counted
}

#[test]
fn a_client_that_is_gone_when_a_worker_accepts_it_is_counted() {
    assert_eq!(served_in_spite_of(Trouble::Error(libc::ECONNABORTED)), 10);
}

#[test]
fn an_error_that_the_loop_has_to_judge_is_left_to_it() {
    assert_eq!(served_in_spite_of(Trouble::Error(libc::EMFILE)), 0, "the loop has not met it");
}

#[test]
fn a_transport_that_panics_at_a_worker_loses_no_client() {
    assert_eq!(served_in_spite_of(Trouble::Panic), 0);
}

/// `Threading` with a count of its requests.
#[derive(Default)]
struct Counting {
    inner: Threading,
    asked: Arc<AtomicUsize>,
}

impl Mixin for Counting {
    fn process_request(&self, job: Job) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.inner.process_request(job);
    }

    fn server_close(&self, deadline: Instant) {
        self.inner.server_close(deadline);
    }
}

#[test]
fn a_mixin_around_another_is_asked_for_every_request() {
    let mixin = Counting::default();
    let asked = Arc::clone(&mixin.asked);
    let (server, _) = make(mixin, Limits::default());
    let server = server.serve_in_background().unwrap();
    for served in 1..=100 {
        ask(&*server);
        assert_eq!(asked.load(Ordering::SeqCst), served);
    }
}

#[test]
fn a_mixin_that_is_chosen_at_run_time_has_workers_that_accept_as_well() {
    let mixin: Box<dyn Mixin> = Box::new(Threading::new());
    a_worker_takes_requests_itself(mixin);
}

/// Accepts clients by another TCP listener, and passes several of them at once to its server, which is woken once.
struct Courier {
    inner: Tcp,
    brought: Arc<Brought>,
}

struct Brought {
    requests: Mutex<VecDeque<(<Tcp as Transport>::Raw, Address)>>,
    event: Event,
}

impl Transport for Courier {
    leave_to_tcp!();

    fn fileno(&self) -> Option<Arc<OwnedFd>> {
        self.brought.event.as_fd().try_clone_to_owned().ok().map(Arc::new)
    }

    fn get_request(&self) -> io::Result<(Self::Raw, Address)> {
        let mut requests = self.brought.requests.lock().unwrap();
        let next = requests.pop_front();
        if requests.is_empty() {
            self.brought.event.clear();
        }
        next.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    fn waits_first(&self) -> bool {
        true
    }
}

#[test]
fn a_transport_that_wakes_once_for_several_requests_has_all_of_them_served_at_once() {
    let inner = Tcp::unbound(&"127.0.0.1:0".into(), &SocketOptions::default()).unwrap();
    let event = Event::new().unwrap();
    let brought = Arc::new(Brought { requests: Mutex::default(), event });
    let outside = Tcp::unbound(&"127.0.0.1:0".into(), &SocketOptions::default()).unwrap();
    outside.server_bind(&|_| Ok(())).unwrap();
    outside.server_activate().unwrap();
    let address = outside.server_address().as_inet().unwrap();
    let server = Builder::<Courier, _>::new(Threading::new())
        .with_transport(Courier { inner, brought: Arc::clone(&brought) }, stream_fn(answer))
        .unwrap()
        .serve_in_background()
        .unwrap();
    let bring = |count: usize| {
        let clients: Vec<_> = (0..count).map(|_| connect(address)).collect();
        let taken: Vec<_> = (0..count).map(|_| outside.get_request().unwrap()).collect();
        let mut requests = brought.requests.lock().unwrap();
        requests.extend(taken);
        brought.event.notify();
        clients
    };
    for _ in 0..100 {
        assert_eq!(exchange(&mut bring(1)[0], "alone"), "alone\n");
        eventually("it has ended", || server.context().live_count() == 0);
        let mut clients = bring(2);
        for client in clients.iter_mut().rev() {
            assert_eq!(exchange(client, "one of two"), "one of two\n");
        }
    }
}
