//! Waits that end as a parker of the program's has it, and requests that change hands while others wait: what safe code
//! may do, through the parts of the library that have `unsafe`. All of these run under Miri as well.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::mem::swap;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::{Event, Interest, Parker, Slot, Waiting, install, sleep};
use crate::hooks::Failure;
use crate::mixin::{Job, Mixin};
use crate::request::{Ticket, TimedOut};
use crate::transport::{BeforeBind, Transport};
use crate::{Address, Builder, HandlerResult, Server, ServerHooks, StreamRequest, join, stream_fn};

/// A transport of connections that the test makes itself.
struct Made {
    connections: Shared<OwnedFd>,
    /// Always readable.
    ready: Arc<OwnedFd>,
    /// Requests that were kept when their handlers had ended, while that is asked for.
    kept: Shared<StreamRequest>,
    keeps: Arc<AtomicBool>,
}

type Shared<T> = Arc<Mutex<Vec<T>>>;

impl Transport for Made {
    type Raw = OwnedFd;
    type Request = StreamRequest;

    fn server_bind(&self, _before_bind: BeforeBind<'_>) -> crate::Result<()> {
        Ok(())
    }

    fn server_activate(&self) -> crate::Result<()> {
        Ok(())
    }

    fn server_address(&self) -> Address {
        Address::Unnamed
    }

    fn fileno(&self) -> Option<Arc<OwnedFd>> {
        Some(Arc::clone(&self.ready))
    }

    fn get_request(&self) -> io::Result<(OwnedFd, Address)> {
        let next = self.connections.lock().unwrap().pop();
        Ok((next.ok_or(io::ErrorKind::WouldBlock)?, Address::Inet(([127, 0, 0, 1], 9).into())))
    }

    fn make_request(&self, raw: OwnedFd, ticket: Ticket) -> StreamRequest {
        StreamRequest::over_socket(Arc::new(raw), ticket)
    }

    fn end_request(&self, request: StreamRequest) {
        if self.keeps.load(Ordering::SeqCst) {
            self.kept.lock().unwrap().push(request);
        } else {
            request.end_request();
        }
    }

    fn server_close(&self) {}
}

/// Hands the jobs to the test, and counts the failures that would be printed.
#[derive(Clone, Default)]
struct Collects {
    jobs: Arc<Mutex<Vec<Job>>>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Mixin for Collects {
    fn process_request(&self, job: Job) {
        self.jobs.lock().unwrap().push(job);
    }
}

impl ServerHooks for Collects {
    fn handle_error(&self, failure: &Failure<'_>) {
        self.failures.lock().unwrap().push(failure.to_string());
    }
}

/// A server whose accepted requests run where and when the test likes.
struct Fixture {
    server: Server<Made, Collects>,
    collects: Collects,
    connections: Shared<OwnedFd>,
    keeps: Arc<AtomicBool>,
    _event: Event,
}

impl Fixture {
    fn new(handler: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static) -> Self {
        Self::with_kept(Shared::default(), handler)
    }

    fn with_kept(
        kept: Shared<StreamRequest>,
        handler: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
    ) -> Self {
        let (connections, keeps) = <(Shared<_>, Arc<AtomicBool>)>::default();
        let (collects, event) = (Collects::default(), Event::new().unwrap());
        event.notify();
        let transport = Made {
            connections: Arc::clone(&connections),
            ready: Arc::new(event.as_fd().try_clone_to_owned().unwrap()),
            kept,
            keeps: Arc::clone(&keeps),
        };
        let server = Builder::new(collects.clone()).hooks(collects.clone());
        let server = server.with_transport(transport, stream_fn(handler)).unwrap();
        Self { server, collects, connections, keeps, _event: event }
    }

    /// A client, and the job of its request.
    fn connect(&self) -> (TcpStream, Job) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        self.connections.lock().unwrap().push(listener.accept().unwrap().0.into());
        self.server.handle_request().unwrap();
        (client, self.collects.jobs.lock().unwrap().pop().unwrap())
    }

    fn failures(&self) -> Vec<String> {
        std::mem::take(&mut *self.collects.failures.lock().unwrap())
    }
}

type Step = Box<dyn FnOnce(&Script) -> io::Result<()>>;

/// A parker that does the next step of its script at each wait. When there is none it returns at once.
#[derive(Default)]
struct Script {
    steps: RefCell<VecDeque<Step>>,
    /// What was spawned and is kept.
    spawned: RefCell<Vec<Box<dyn FnOnce()>>>,
    /// What is done with a closure to spawn.
    spawns: Cell<Spawns>,
    waits: Cell<usize>,
}

#[derive(Clone, Copy, Default)]
enum Spawns {
    #[default]
    Never,
    AtOnce,
    /// It is kept, and a later step runs or drops it.
    Later,
    /// It is dropped at once, as if it had run.
    Drops,
    /// It is kept, and then the parker panics.
    Panics,
}

impl Script {
    fn new(steps: Vec<Step>) -> Rc<Self> {
        Rc::new(Self { steps: RefCell::new(steps.into()), ..Self::default() })
    }

    fn spawning(spawns: Spawns, steps: Vec<Step>) -> Rc<Self> {
        let script = Self::new(steps);
        script.spawns.set(spawns);
        script
    }
}

impl Parker for Script {
    fn park(&self, waiting: &[Waiting<'_>], _deadline: Option<Instant>) -> io::Result<()> {
        self.waits.set(self.waits.get() + 1);
        for (slot, waiting) in waiting.iter().filter_map(|waiting| Some((waiting.slot?, waiting))) {
            // Whatever it notes, nobody relies on it.
            slot.set(slot.get().wrapping_add(usize::from(waiting.interest == Interest::Read)));
        }
        let step = self.steps.borrow_mut().pop_front();
        step.map_or_else(|| Ok(thread::yield_now()), |step| step(self))
    }

    fn forget(&self, _fd: BorrowedFd<'_>, slot: &Slot) {
        slot.set(0);
    }

    fn spawn(&self, run: Box<dyn FnOnce()>) -> Result<(), Box<dyn FnOnce()>> {
        match self.spawns.get() {
            Spawns::Never => return Err(run),
            Spawns::AtOnce => run(),
            Spawns::Drops => drop(run),
            Spawns::Later => self.spawned.borrow_mut().push(run),
            Spawns::Panics => {
                self.spawned.borrow_mut().push(run);
                resume_unwind(Box::new("spawn"));
            }
        }
        Ok(())
    }
}

fn step(step: impl FnOnce(&Script) -> io::Result<()> + 'static) -> Step {
    Box::new(step)
}

/// A step by which the client sends.
fn sends(client: &TcpStream, text: &'static str) -> Step {
    let mut client = client.try_clone().unwrap();
    step(move |_| client.write_all(text.as_bytes()))
}

fn early() -> Step {
    step(|_| Ok(()))
}

/// Answers each line with its length.
fn lengths(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        let count = text.len();
        writeln!(request, "{count}")?;
    }
    Ok(())
}

/// Reads to the end, without a wait in a call: under Miri such a wait misses an end that came together with bytes.
fn read_to_end(mut client: &TcpStream) -> String {
    client.set_nonblocking(true).unwrap();
    let (mut text, began) = (Vec::new(), Instant::now());
    loop {
        match client.read_to_end(&mut text) {
            Ok(_) => return String::from_utf8(text).unwrap(),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it does not end: {text:?}");
        thread::yield_now();
    }
}

#[test]
fn waits_that_end_early_or_late_or_by_another_thread_cost_a_look() {
    let fixture = Fixture::new(lengths);
    for _ in 0..2 {
        let (client, job) = fixture.connect();
        let by_another_thread = client.try_clone().unwrap();
        let parker = Script::new(vec![
            early(),
            early(),
            sends(&client, "on"),
            early(),
            sends(&client, "e\ntwo"),
            // The rest comes from another thread, which wakes this one.
            step(move |_| {
                let parked = thread::current();
                thread::spawn(move || {
                    (&by_another_thread).write_all(b"\n").unwrap();
                    by_another_thread.shutdown(Shutdown::Write).unwrap();
                    parked.unpark();
                });
                thread::park();
                Ok(())
            }),
        ]);
        let installed = install(Rc::clone(&parker) as Rc<dyn Parker>);
        job.run();
        drop(installed);
        assert!(parker.waits.get() >= 5);
        assert_eq!(read_to_end(&client), "3\n3\n");
    }
    assert!(fixture.failures().is_empty());
}

#[test]
fn an_error_and_a_panic_of_a_parker_end_one_request() {
    let fixture = Fixture::new(lengths);
    let fails = step(|_| Err(io::Error::other("no room to wait")));
    let panics = step(|_| resume_unwind(Box::new("the parker has panicked")));
    for (last, told) in [(fails, "no room to wait"), (panics, "the parker has panicked")] {
        let (client, job) = fixture.connect();
        let installed = install(Script::new(vec![early(), sends(&client, "one\ntw"), last]));
        job.run();
        drop(installed);
        let failures = fixture.failures();
        assert!(failures.len() == 1 && failures[0].contains(told), "{failures:?}");
        assert_eq!(read_to_end(&client), "3\n");
    }
    // Nothing of them is left on this thread.
    let (client, job) = fixture.connect();
    let _installed = install(Script::new(vec![sends(&client, "three\n")]));
    client.shutdown(Shutdown::Read).unwrap();
    let ends = client.try_clone().unwrap();
    thread::spawn(move || ends.shutdown(Shutdown::Write).unwrap());
    job.run();
}

#[test]
fn a_deadline_ends_a_wait_that_comes_back_late() {
    let fixture = Fixture::new(|request| {
        request.set_timeout(Some(Duration::from_millis(5)));
        let error = request.read(&mut [0]).expect_err("nothing comes");
        assert!(TimedOut::find(&error).is_some(), "{error}");
        Ok(writeln!(request, "late")?)
    });
    let (client, job) = fixture.connect();
    let late = step(|_| Ok(thread::sleep(Duration::from_millis(20))));
    let _installed = install(Script::new(vec![early(), late]));
    job.run();
    assert_eq!((read_to_end(&client).as_str(), fixture.failures().len()), ("late\n", 0));
}

/// Both closures borrow from the frame of `join`, whatever the parker does with the one that it gets.
#[test]
fn what_is_lent_to_a_parker_ends_before_join_does() {
    let runs = || step(|script| Ok(script.spawned.take().into_iter().for_each(|run| run())));
    let drops = || step(|script| Ok(drop(script.spawned.take())));
    for (spawns, steps, expected) in [
        (Spawns::Never, vec![], Ok(true)),
        (Spawns::AtOnce, vec![], Ok(true)),
        (Spawns::Later, vec![early(), runs()], Ok(true)),
        (Spawns::Later, vec![early(), drops()], Ok(false)),
        (Spawns::Drops, vec![], Ok(false)),
        (Spawns::Panics, vec![early(), runs()], Err("spawn")),
        (Spawns::Panics, vec![drops()], Err("spawn")),
    ] {
        let _installed = install(Script::spawning(spawns, steps));
        let (mut of_a, mut of_b) = (String::new(), String::from("b"));
        let joined = catch_unwind(AssertUnwindSafe(|| {
            join(|| of_a.push_str("has run"), || of_b.push_str(" has run"))
        }));
        match joined {
            Ok(joined) => assert_eq!(Ok(joined.is_ok()), expected),
            Err(payload) => assert_eq!(Err(*payload.downcast_ref().unwrap()), expected),
        }
        assert!(["b", "b has run"].contains(&of_b.as_str()), "{of_b}");
    }
}

#[test]
fn the_halves_of_a_request_wait_beside_each_other() {
    let fixture = Fixture::new(|request| {
        let (mut input, mut output) = request.split()?;
        let mut text = String::new();
        let (read, written) =
            join(|| output.write_all(b"go on\n"), || input.read_to_string(&mut text))?;
        (read?, written?);
        Ok(write!(request, "{text}")?)
    });
    for spawns in [Spawns::Never, Spawns::AtOnce, Spawns::Later] {
        let (client, job) = fixture.connect();
        (&client).write_all(b"some bytes").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let runs = step(|script| Ok(script.spawned.take().into_iter().for_each(|run| run())));
        let _installed = install(Script::spawning(spawns, vec![runs]));
        job.run();
        assert_eq!(read_to_end(&client), "go on\nsome bytes");
    }
    assert!(fixture.failures().is_empty());
}

/// The place where handlers leave their requests for others.
type Place = Arc<Mutex<Option<StreamRequest>>>;

/// Answers lines with the name of its handler, which the first line says. "lend" leaves the request in the place, with a kept
/// one instead of it, sleeps, and takes back what is there then. "swap" changes the request with the one in the place.
fn named(
    place: &Place,
    kept: &Shared<StreamRequest>,
) -> impl Fn(&mut StreamRequest) -> HandlerResult + use<> {
    let (place, kept) = (Arc::clone(place), Arc::clone(kept));
    move |request| {
        let (mut name, mut line) = (String::new(), String::new());
        while let Some(text) = request.next_line(&mut line)?.map(str::to_owned) {
            match text.as_str() {
                "lend" => {
                    let spare = kept.lock().unwrap().pop().ok_or("no request was kept")?;
                    *place.lock().unwrap() = Some(std::mem::replace(request, spare));
                    sleep(Duration::from_millis(1));
                    let mut others = place.lock().unwrap().take().ok_or("the place is empty")?;
                    swap(request, &mut others);
                    kept.lock().unwrap().push(others);
                }
                "swap" => {
                    let mut place = place.lock().unwrap();
                    swap(request, place.as_mut().ok_or("the place is empty")?);
                }
                "panic" => resume_unwind(Box::new("the handler has panicked")),
                _ if name.is_empty() => name = text.clone(),
                _ => {}
            }
            writeln!(request, "{name}: {text}")?;
        }
        Ok(())
    }
}

/// Two requests, of which one is begun while the other waits, change hands; each handler ends with the other's, by a return or by
/// a panic.
#[test]
fn requests_are_swapped_while_a_handler_waits() {
    for (last_of_b, last_of_a) in
        [("bye", "bye"), ("panic", "bye"), ("bye", "panic"), ("panic", "panic")]
    {
        let place = Place::default();
        let kept = Shared::default();
        let fixture = Fixture::with_kept(Arc::clone(&kept), named(&place, &kept));
        // One is kept at its end, and no other.
        let (client, job) = fixture.connect();
        client.shutdown(Shutdown::Write).unwrap();
        fixture.keeps.store(true, Ordering::SeqCst);
        job.run();
        fixture.keeps.store(false, Ordering::SeqCst);

        let ((of_a, a), (of_b, b)) = (fixture.connect(), fixture.connect());
        let ends = |client: &TcpStream| {
            let client = client.try_clone().unwrap();
            step(move |_| client.shutdown(Shutdown::Write))
        };
        let parker = Script::new(vec![
            sends(&of_a, "a\nfirst\nlend\n"),
            // The handler of `a` sleeps: that of `b` begins and ends in its wait, with the request of `a` from the swap on.
            step(move |_| Ok(_ = b.run())),
            sends(&of_b, "b\nswap\n"),
            early(),
            sends(&of_a, "for b\n"),
            sends(&of_a, if last_of_b == "bye" { "bye\n" } else { "panic\n" }),
            ends(&of_a),
            // The handler of `a` goes on with the request of `b`.
            sends(&of_b, "for a\n"),
            sends(&of_b, if last_of_a == "bye" { "bye\n" } else { "panic\n" }),
            ends(&of_b),
        ]);
        let installed = install(Rc::clone(&parker) as Rc<dyn Parker>);
        a.run();
        drop(installed);
        assert!(parker.steps.borrow().is_empty());
        let bye =
            |last, name: &str| if last == "bye" { format!("{name}: bye\n") } else { String::new() };
        let (bye_of_b, bye_of_a) = (bye(last_of_b, "b"), bye(last_of_a, "a"));
        assert_eq!(read_to_end(&of_a), format!("a: a\na: first\nb: swap\nb: for b\n{bye_of_b}"));
        assert_eq!(read_to_end(&of_b), format!("b: b\na: lend\na: for a\n{bye_of_a}"));
        let failures = fixture.failures();
        let panics = [last_of_a, last_of_b].iter().filter(|last| **last == "panic").count();
        assert_eq!(failures.len(), panics, "{failures:?}");
        assert!(failures.iter().all(|failure| failure.contains("has panicked")), "{failures:?}");
    }
}

#[test]
fn a_kept_request_is_used_by_another_thread_and_outlives_its_server() {
    let kept = Shared::default();
    let fixture = Fixture::with_kept(Arc::clone(&kept), |request| {
        let mut line = String::new();
        let count = request.next_line(&mut line)?.map_or(0, str::len);
        Ok(writeln!(request, "{count}")?)
    });
    fixture.keeps.store(true, Ordering::SeqCst);
    let (client, job) = fixture.connect();
    let _installed = install(Script::new(vec![early(), sends(&client, "one\nhalf of a li")]));
    job.run();
    // The second line is in the request's buffer.
    let mut request = kept.lock().unwrap().pop().unwrap();
    (&client).write_all(b"ne\n").unwrap();
    let used = thread::spawn(move || {
        let _installed = install(Script::new(vec![early()]));
        let mut line = String::new();
        let text = request.next_line(&mut line).unwrap().unwrap().to_owned();
        writeln!(request, "{text}").unwrap();
        (request, text)
    });
    let (mut request, text) = used.join().unwrap();
    assert_eq!(text, "half of a line");
    drop(fixture);
    assert!(request.write_all(b"after the server\n").is_ok());
    thread::spawn(move || drop(request)).join().unwrap();
    assert_eq!(read_to_end(&client), "3\nhalf of a line\nafter the server\n");
}
