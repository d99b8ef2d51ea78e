//! Tests of a program's own parkers: waits that end whenever the parker likes, and requests that are swapped during a wait.
//! They are safe code that reaches the library's `unsafe`; all of them run under Miri too.

#![allow(clippy::unit_arg, reason = "a step of a script is one line")]

mod swapped;
mod waits;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::{Builder, Failure, Server, ServerHooks};
use crate::address::Address;
use crate::error::HandlerResult;
use crate::handler::stream_fn;
use crate::mixin::{Job, Mixin};
use crate::request::{StreamRequest, Ticket};
use crate::transport::{BeforeBind, Transport};
use crate::wait::{Event, Interest, Parker, Slot, Waiting};

/// A transport of connections that the test makes itself.
struct Made {
    connections: Shared<OwnedFd>,
    /// The listener's descriptor, which is always readable.
    ready: Arc<OwnedFd>,
    /// Requests that are kept when their handlers have ended, while `keeps` is set.
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

/// Keeps the jobs for the test, and the texts of the failures that would be printed.
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

/// A parker that does the next step of its script at each wait. When no step is left, it returns at once.
#[derive(Default)]
struct Script {
    steps: RefCell<VecDeque<Step>>,
    /// Closures that were spawned and are kept.
    spawned: RefCell<Vec<Box<dyn FnOnce()>>>,
    /// The fate of a closure that it is to spawn.
    spawns: Cell<Spawns>,
    waits: Cell<usize>,
}

#[derive(Clone, Copy, Default)]
enum Spawns {
    #[default]
    Never,
    AtOnce,
    /// The closure is kept, and a later step runs or drops it.
    Later,
    /// The closure is dropped at once, as if it had run.
    Drops,
    /// The closure is kept, and then the parker panics.
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
            // The library relies on no value in a slot, so the parker changes it.
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

/// Reads to the end, without a wait in a system call: under Miri such a wait misses an end that came together with bytes.
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
