//! The interface for coroutines, tested by a small mixin that runs every request as a stackful coroutine on the thread
//! of the accept loop. Handlers and transports stay the same; only the [`Parker`] differs. The mixin is short rather
//! than fast.

#![allow(unsafe_code, reason = "epoll, and switching between stacks")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use corosensei::{Coroutine, CoroutineResult, Yielder};
use socketserver::mixin::{Job, Mixin};
use socketserver::park::{Interest, Parker, Slot, Waiting, flush, install, offload, sleep};
use socketserver::request::{TimedOut, Timeout};
use socketserver::transport::{Tcp, Udp, UnixStream};
use socketserver::{
    Builder, HandlerResult, Inline, Limits, Result, Server, ServerHooks, StreamRequest,
    StreamRequestHandler, stream_fn,
};

use crate::handlers::{Diary, Echo};
use crate::support::{
    SOON, connect, connect_any, eventually, exchange, folder, inet, read_to_end, receive,
    udp_client,
};
use crate::wrapping::framed::{Client, Framed};

/// Runs the accept loop and every request as coroutines on one thread.
#[derive(Debug, Default)]
pub struct Coroutines;

impl Mixin for Coroutines {
    fn serve(&self, accept_loop: Arc<dyn Fn() -> Result<()> + Send + Sync>) -> Result<()> {
        let worker = Rc::new(Worker::new().expect("an epoll descriptor"));
        let _installed = install(Rc::clone(&worker) as Rc<dyn Parker>);
        CURRENT.set(Some(Rc::clone(&worker)));
        let result = Rc::new(RefCell::new(Ok(())));
        let outcome = Rc::clone(&result);
        worker.spawn(Box::new(move || *outcome.borrow_mut() = accept_loop()));
        worker.run();
        CURRENT.set(None);
        result.replace(Ok(()))
    }

    fn process_request(&self, job: Job) {
        let worker = CURRENT.with_borrow(std::clone::Clone::clone).expect("inside serve");
        worker.spawn(Box::new(move || {
            job.run();
        }));
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Worker>>> = const { RefCell::new(None) };
}

type Body = Box<dyn FnOnce()>;

/// A coroutine, and the descriptors or the time it waits for.
struct Task {
    coroutine: Option<Coroutine<(), (), ()>>,
    wakes_at: Option<Instant>,
}

struct Worker {
    epoll: OwnedFd,
    tasks: RefCell<Vec<Option<Task>>>,
    ready: RefCell<VecDeque<usize>>,
    /// The running coroutine, and its way back to the loop.
    running: Cell<Option<(usize, *const Yielder<(), ()>)>>,
    /// Connections that are registered for good: their slot's value is their place here plus one.
    registered: RefCell<Vec<RawFd>>,
    forgotten: Cell<usize>,
}

impl Worker {
    fn new() -> io::Result<Self> {
        // SAFETY: no pointers; a descriptor or -1 comes back.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            // SAFETY: the descriptor is new and has no other owner.
            epoll: unsafe { OwnedFd::from_raw_fd(fd) },
            tasks: RefCell::default(),
            ready: RefCell::default(),
            running: Cell::new(None),
            registered: RefCell::default(),
            forgotten: Cell::new(0),
        })
    }

    fn spawn(self: &Rc<Self>, body: Body) {
        let id = self.tasks.borrow().len();
        let worker = Rc::clone(self);
        let coroutine = Coroutine::new(move |yielder, ()| {
            worker.running.set(Some((id, yielder)));
            body();
        });
        self.tasks.borrow_mut().push(Some(Task { coroutine: Some(coroutine), wakes_at: None }));
        self.ready.borrow_mut().push_back(id);
    }

    fn run(&self) {
        while self.tasks.borrow().iter().any(Option::is_some) {
            while let Some(id) = { self.ready.borrow_mut().pop_front() } {
                self.resume(id);
            }
            self.wait_for_events();
        }
    }

    fn resume(&self, id: usize) {
        // The task is taken out while it runs, because it may spawn others.
        let taken = self.tasks.borrow_mut()[id].as_mut().and_then(|task| task.coroutine.take());
        let Some(mut coroutine) = taken else { return };
        let result = coroutine.resume(());
        self.running.set(None);
        let mut tasks = self.tasks.borrow_mut();
        match result {
            CoroutineResult::Yield(()) => {
                tasks[id].as_mut().expect("it is alive").coroutine = Some(coroutine);
            }
            CoroutineResult::Return(()) => tasks[id] = None,
        }
    }

    fn wait_for_events(&self) {
        if self.tasks.borrow().iter().all(Option::is_none) {
            return;
        }
        let next = self.tasks.borrow().iter().flatten().filter_map(|task| task.wakes_at).min();
        let timeout = next.map_or(-1, |at| {
            let left = at.saturating_duration_since(Instant::now());
            i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX)
        });
        flush();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: the pointer and the length are those of `events`.
        let count =
            unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), 64, timeout) };
        let mut ready = self.ready.borrow_mut();
        for event in &events[..usize::try_from(count).unwrap_or(0)] {
            ready.push_back(usize::try_from(event.u64).expect("a task's number"));
        }
        let now = Instant::now();
        for (id, task) in self.tasks.borrow().iter().enumerate() {
            if task.as_ref().and_then(|task| task.wakes_at).is_some_and(|at| at <= now) {
                ready.push_back(id);
            }
        }
    }

    fn control(&self, what: i32, fd: RawFd, events: i32, id: usize) {
        let events = u32::try_from(events).expect("flags");
        let mut event = libc::epoll_event { events, u64: id as u64 };
        // SAFETY: the pointer is to a live event. A descriptor that is not registered causes an error or a wake-up
        // without effect.
        unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), what, fd, &raw mut event) };
    }
}

impl Parker for Worker {
    fn park(&self, waiting: &[Waiting<'_>], deadline: Option<Instant>) -> io::Result<()> {
        let (id, yielder) = self.running.get().expect("a coroutine runs");
        for wait in waiting {
            let flags = match wait.interest {
                Interest::Read => libc::EPOLLIN,
                Interest::Write => libc::EPOLLOUT,
                other => panic!("{other:?} is not known here"),
            };
            let fd = wait.fd.as_raw_fd();
            let once = flags | libc::EPOLLONESHOT;
            match wait.slot {
                // A connection stays registered, until `forget`.
                Some(slot) if slot.get() == 0 => {
                    self.registered.borrow_mut().push(fd);
                    slot.set(self.registered.borrow().len());
                    self.control(libc::EPOLL_CTL_ADD, fd, once, id);
                }
                Some(_) => self.control(libc::EPOLL_CTL_MOD, fd, once, id),
                None => self.control(libc::EPOLL_CTL_ADD, fd, once, id),
            }
        }
        self.tasks.borrow_mut()[id].as_mut().expect("it is alive").wakes_at = deadline;
        // SAFETY: the yielder lives on the stack of this very coroutine, which is running.
        unsafe { (*yielder).suspend(()) };
        self.running.set(Some((id, yielder)));
        self.tasks.borrow_mut()[id].as_mut().expect("it is alive").wakes_at = None;
        for wait in waiting.iter().filter(|wait| wait.slot.is_none()) {
            self.control(libc::EPOLL_CTL_DEL, wait.fd.as_raw_fd(), 0, 0);
        }
        Ok(())
    }

    fn forget(&self, fd: BorrowedFd<'_>, slot: &Slot) {
        assert_eq!(self.registered.borrow()[slot.get() - 1], fd.as_raw_fd());
        self.control(libc::EPOLL_CTL_DEL, fd.as_raw_fd(), 0, 0);
        self.forgotten.set(self.forgotten.get() + 1);
        FORGOTTEN.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

static FORGOTTEN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

fn limits(idle: Duration) -> Limits {
    Limits::default().idle(idle)
}

fn builder<T: socketserver::transport::Bind>() -> Builder<T, Coroutines> {
    Builder::new(Coroutines)
}

#[test]
fn the_unchanged_echo_serves_two_hundred_connections_on_one_thread() {
    let server = builder::<Tcp>().bind("127.0.0.1:0", || Echo).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut clients: Vec<_> = (0..200).map(|_| connect(inet(&*server))).collect();
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            let line = format!("client {number} round {round}");
            assert_eq!(exchange(client, &line), format!("{line}\n"));
        }
    }
    assert_eq!(server.context().live_count(), 200);
    drop(clients);
    eventually("all requests end", || server.context().live_count() == 0);
    assert!(server.stop().unwrap().is_clean());
}

#[test]
fn a_connection_that_was_registered_is_forgotten_before_it_closes() {
    let before = FORGOTTEN.load(std::sync::atomic::Ordering::SeqCst);
    let handler = stream_fn(|request: &mut StreamRequest| -> HandlerResult {
        // Nothing comes, so that the handler has to park.
        request.set_timeout(Some(Duration::from_millis(20)));
        request.read(&mut [0]).expect_err("nothing comes");
        Ok(())
    });
    let server = builder::<Tcp>().bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    assert!(read_to_end(&mut client).is_empty());
    eventually("it ends", || server.context().live_count() == 0);
    assert!(FORGOTTEN.load(std::sync::atomic::Ordering::SeqCst) > before);
}

#[test]
fn all_transports_serve_on_coroutines() {
    let folder = folder();
    let unix = builder::<UnixStream>().bind(folder.path().join("s"), || Echo).unwrap();
    let unix = unix.serve_in_background().unwrap();
    assert_eq!(exchange(&mut *connect_any(&unix.server_address()), "unix"), "unix\n");

    let udp = builder::<Udp>().bind("127.0.0.1:0", || Echo).unwrap();
    let udp = udp.serve_in_background().unwrap();
    let client = udp_client();
    for _ in 0..3 {
        client.send_to(b"udp", inet(&*udp)).unwrap();
        assert_eq!(receive(&client).len(), 3);
    }
}

#[test]
fn wrapped_connections_wait_as_coroutines_do_and_end_in_order() {
    struct Wraps;
    impl ServerHooks<StreamRequest> for Wraps {
        fn wrap_request(&self, request: &mut StreamRequest) -> HandlerResult {
            Ok(request.wrap_stream(|inner| Ok(Box::new(Framed::accept(inner)?)))?)
        }
    }
    let server = builder::<Tcp>().hooks(Wraps).bind("127.0.0.1:0", || Echo).unwrap();
    let server = server.serve_in_background().unwrap();
    // A client that is silent in its handshake keeps none of the others waiting.
    let mut silent = connect(inet(&*server));
    let mut clients: Vec<_> = (0..50).map(|_| Client::new(connect(inet(&*server)), 1)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let line = format!("client {number}");
        assert_eq!(exchange(client, &line), format!("{line}\n"));
    }
    // The line is longer than any buffer, so that the write parks as well.
    let long = "x".repeat(60_000);
    assert_eq!(exchange(&mut clients[0], &long), format!("{long}\n"));
    assert!(server.stop().unwrap().is_clean());
    for client in &mut clients {
        assert_eq!(read_to_end(client), b"");
    }
    assert_eq!(read_to_end(&mut silent), b"");
}

#[test]
fn a_read_deadline_ends_a_silent_client_and_no_other() {
    let server = builder::<Tcp>()
        .limits(limits(Duration::from_millis(300)))
        .bind("127.0.0.1:0", || Echo)
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let mut silent = connect(inet(&*server));
    let mut busy = connect(inet(&*server));
    let (ended, when) = channel();
    let watch = std::thread::spawn(move || {
        let _ = ended.send(read_to_end(&mut silent));
    });
    let began = Instant::now();
    while when.try_recv().is_err() {
        assert!(began.elapsed() < SOON, "the silent client is never ended");
        assert_eq!(exchange(&mut busy, "busy"), "busy\n");
    }
    assert!(began.elapsed() >= Duration::from_millis(250));
    watch.join().unwrap();
    assert_eq!(server.context().counts().idle, 1);
}

#[test]
fn the_timeout_of_a_coroutine_says_which_limit_it_was() {
    let diary = Diary::default();
    let notes = diary.clone();
    let handler = stream_fn(move |request: &mut StreamRequest| -> HandlerResult {
        request.set_timeout(Some(Duration::from_millis(20)));
        let error = request.read(&mut [0]).expect_err("nothing comes");
        let which = TimedOut::find(&error).map(TimedOut::which);
        assert_eq!(which, Some(Timeout::Read));
        notes.note("timed out");
        Ok(())
    });
    let server = builder::<Tcp>().bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    assert!(read_to_end(&mut connect(inet(&*server))).is_empty());
    assert_eq!(diary.lines(), ["timed out"]);
}

/// Sleeps, and then answers.
struct Sleeper;

impl StreamRequestHandler for Sleeper {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        sleep(Duration::from_millis(200));
        writeln!(request, "awake")?;
        Ok(())
    }
}

#[test]
fn two_hundred_sleeps_on_one_thread_take_as_long_as_one() {
    let server = builder::<Tcp>().bind("127.0.0.1:0", || Sleeper).unwrap();
    let server = server.serve_in_background().unwrap();
    let began = Instant::now();
    let mut clients: Vec<_> = (0..200).map(|_| connect(inet(&*server))).collect();
    for client in &mut clients {
        assert_eq!(read_to_end(client), b"awake\n");
    }
    // In sequence they would take forty seconds.
    assert!(began.elapsed() < SOON);
}

#[test]
fn offloaded_work_stops_no_other_request() {
    let (finish, finished) = channel::<()>();
    let finished = std::sync::Arc::new(std::sync::Mutex::new(finished));
    let handler = stream_fn(move |request: &mut StreamRequest| -> HandlerResult {
        let mut line = String::new();
        let text = request.next_line(&mut line)?.unwrap_or_default().to_owned();
        if text == "work" {
            let finished = std::sync::Arc::clone(&finished);
            let answer = offload(move || finished.lock().unwrap().recv().is_ok())?;
            writeln!(request, "{answer}")?;
        } else {
            writeln!(request, "{text}")?;
        }
        Ok(())
    });
    let server = builder::<Tcp>().bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut worker = connect(inet(&*server));
    worker.write_all(b"work\n").unwrap();
    eventually("the work begins", || server.context().live().iter().any(|live| live.bytes_in > 0));
    assert_eq!(exchange(&mut connect(inet(&*server)), "meanwhile"), "meanwhile\n");
    finish.send(()).unwrap();
    assert_eq!(read_to_end(&mut worker), b"true\n");
}

#[test]
fn a_write_that_must_wait_parks_until_the_peer_reads() {
    const BYTES: usize = 16 * 1024 * 1024;
    let handler = stream_fn(|request: &mut StreamRequest| -> HandlerResult {
        request.write_all(&vec![7; BYTES])?;
        Ok(())
    });
    let server = builder::<Tcp>().bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut clients: Vec<_> = (0..4).map(|_| connect(inet(&*server))).collect();
    // The first ones to connect are the last ones to read.
    while let Some(mut client) = clients.pop() {
        assert_eq!(read_to_end(&mut client).len(), BYTES);
    }
}

#[test]
fn a_stop_ends_two_hundred_idle_connections_and_closes_the_listener_first() {
    let server = builder::<Tcp>().bind("127.0.0.1:0", || Echo).unwrap();
    let server = server.serve_in_background().unwrap();
    let address = inet(&*server);
    let mut clients: Vec<_> = (0..200).map(|_| connect(address)).collect();
    for client in &mut clients {
        exchange(client, "hello");
    }
    let report = server.stop().unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.open_at_start, 200);
    for client in &mut clients {
        assert!(read_to_end(client).is_empty());
    }
    assert!(std::net::TcpStream::connect(address).is_err(), "the listener is closed");
}

#[test]
fn while_a_request_goes_on_the_listener_is_closed_already() {
    let server = builder::<Tcp>().bind("127.0.0.1:0", || {
        stream_fn(|request: &mut StreamRequest| -> HandlerResult {
            let mut word = [0; 2];
            request.read_exact(&mut word)?;
            request.write_all(b"done")?;
            Ok(())
        })
    });
    let server = server.unwrap().serve_in_background().unwrap();
    let address = inet(&*server);
    let mut client = connect(address);
    client.write_all(b"a").unwrap();
    eventually("half of it has come", || {
        server.context().live().iter().any(|live| live.bytes_in == 1)
    });
    let closing = std::thread::spawn(move || server.stop().unwrap());
    eventually("the listener closes", || std::net::TcpStream::connect(address).is_err());
    client.write_all(b"b").unwrap();
    assert_eq!(read_to_end(&mut client), b"done");
    assert!(closing.join().unwrap().is_clean());
}

#[test]
fn a_panic_on_a_coroutine_harms_only_its_own_request() {
    let handler = stream_fn(|request: &mut StreamRequest| -> HandlerResult {
        let mut line = String::new();
        let text = request.next_line(&mut line)?.unwrap_or_default();
        assert!(text != "panic", "asked to panic");
        writeln!(request, "{text}")?;
        Ok(())
    });
    let server = builder::<Tcp>().bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut other = connect(inet(&*server));
    let mut client = connect(inet(&*server));
    client.write_all(b"panic\n").unwrap();
    assert!(read_to_end(&mut client).is_empty());
    assert_eq!(exchange(&mut other, "fine"), "fine\n");
    assert_eq!(server.context().counts().panicked, 1);
}

#[test]
fn handle_request_on_coroutines_returns_when_the_request_has_ended() {
    let server: Server<Tcp, Coroutines> = builder::<Tcp>().bind("127.0.0.1:0", || Sleeper).unwrap();
    let mut client = connect(inet(&server));
    assert_eq!(server.handle_request().unwrap(), socketserver::monitor::AcceptOutcome::Handled);
    assert_eq!(server.context().live_count(), 0);
    assert_eq!(read_to_end(&mut client), b"awake\n");
}

#[test]
fn a_parker_holds_for_its_thread_and_until_its_guard_is_dropped() {
    // While this thread has a parker, a plain server runs in another one. Without the parker this thread sleeps as usual.
    let worker = Rc::new(Worker::new().unwrap());
    let installed = install(Rc::clone(&worker) as Rc<dyn Parker>);
    let server: Server<Tcp, Inline> = Server::bind("127.0.0.1:0", || Echo).unwrap();
    let server = server.serve_in_background().unwrap();
    assert_eq!(exchange(&mut connect(inet(&*server)), "plain"), "plain\n");
    drop(installed);
    sleep(Duration::from_millis(1));
    assert!(worker.epoll.as_fd().as_raw_fd() >= 0);
}
