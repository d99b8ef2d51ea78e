//! The life of one request, from the listener's queue to the close: rows 15 to 32.

mod accept_errors;
mod end;
mod failures;
mod fatal;
mod steps;
mod verify;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socketserver::hooks::{Failure, Incoming};
use socketserver::mixin::{Job, Mixin};
use socketserver::monitor::AcceptOutcome;
use socketserver::transport::{Bind, Tcp, Transport};
use socketserver::{
    Address, BackgroundServer, Builder, HandlerError, ServerHooks, SocketOptions, StreamRequest,
    StreamRequestHandler, TcpServer, stream_fn,
};

use crate::handlers::Diary;
use crate::over_tcp::{leave_connections_to_tcp, leave_to_tcp};
use crate::reports::reports;
use crate::support::{SOON, connect, inet, read_to_end};

/// Errors that the test lets a transport meet.
#[derive(Clone, Default)]
pub struct Injected {
    queue: Arc<Mutex<VecDeque<i32>>>,
    /// An error for every call, until it is set back to zero.
    always: Arc<AtomicI32>,
    calls: Arc<AtomicUsize>,
}

impl Injected {
    fn next(&self) -> io::Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let queued = self.queue.lock().unwrap().pop_front();
        match queued.unwrap_or(self.always.load(Ordering::SeqCst)) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// TCP that notes its steps, fails with the injected errors, and can keep requests open.
pub struct Noted {
    inner: Tcp,
    pub diary: Diary,
    injected: Injected,
    kept: Option<Arc<Mutex<Vec<StreamRequest>>>>,
}

impl Noted {
    pub fn new(diary: &Diary) -> Self {
        let inner = Tcp::unbound(&"127.0.0.1:0".into(), &SocketOptions::default()).unwrap();
        Self { inner, diary: diary.clone(), injected: Injected::default(), kept: None }
    }

    fn with_errors(injected: &Injected) -> Self {
        Self { injected: injected.clone(), ..Self::new(&Diary::default()) }
    }
}

impl Transport for Noted {
    leave_to_tcp!();
    leave_connections_to_tcp!();

    fn get_request(&self) -> io::Result<(Self::Raw, Address)> {
        self.injected.next()?;
        let request = self.inner.get_request()?;
        self.diary.note("get_request");
        Ok(request)
    }

    /// Sheds nothing, because it has no descriptor in reserve, and says that it has shed three clients.
    fn shed(&self) -> usize {
        3
    }

    fn shutdown_request(&self, request: &mut StreamRequest) {
        self.diary.note("shutdown_request");
        self.inner.shutdown_request(request);
    }

    fn close_request(&self, request: StreamRequest) {
        self.diary.note("close_request");
        match &self.kept {
            Some(kept) => kept.lock().unwrap().push(request),
            None => self.inner.close_request(request),
        }
    }
}

/// Hooks that note their calls.
struct NotedHooks {
    diary: Diary,
    wanted: bool,
}

impl ServerHooks<StreamRequest> for NotedHooks {
    fn verify_request(&self, _incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
        self.diary.note("verify_request");
        Ok(self.wanted)
    }

    fn handle_error(&self, failure: &Failure<'_>) {
        self.diary.note(format!("handle_error({}: {})", failure.phase(), failure.error()));
    }
}

/// `Inline`, which notes each request.
struct NotedMixin {
    diary: Diary,
}

impl Mixin for NotedMixin {
    fn process_request(&self, job: Job) {
        self.diary.note("process_request");
        job.run();
    }
}

/// Serves one request. Returns everything that happened to it, in order.
fn life<H: StreamRequestHandler + 'static>(
    wanted: bool,
    make: impl Fn(Diary) -> H + Send + Sync + 'static,
) -> (Diary, AcceptOutcome) {
    let diary = Diary::default();
    let making = diary.clone();
    let server = Builder::<Noted, _>::new(NotedMixin { diary: diary.clone() })
        .hooks(NotedHooks { diary: diary.clone(), wanted })
        .timeout(SOON)
        .with_transport(Noted::new(&diary), move || {
            making.note("finish_request");
            make(making.clone())
        })
        .unwrap();
    let mut client = connect(inet(&server));
    let turn = server.handle_request().unwrap();
    assert_eq!(read_to_end(&mut client), b"", "an orderly end");
    assert_eq!(server.context().live_count(), 0);
    (diary, turn)
}

/// Waits for the run to end by itself, and returns the result of `serve_forever`.
pub fn joined<T: Transport, M: Mixin + 'static>(
    server: BackgroundServer<T, M>,
) -> socketserver::Result<()> {
    let (done, ended) = channel();
    thread::spawn(move || done.send(server.join()));
    ended.recv_timeout(SOON).expect("the run ends by itself")
}

/// Closes a connection so that the peer sees a reset.
pub fn reset(client: std::net::TcpStream) {
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
}

/// Runs a server that is ended by the error of its only handler, and returns the error of the run.
pub fn ended_by<M: Mixin + 'static>(
    mixin: M,
    end: impl Fn() -> HandlerError + Send + Sync + 'static,
) -> socketserver::Error {
    let (reports, reported) = reports();
    let handler = stream_fn(move |request| {
        writeln!(request, "farewell")?;
        Err(end())
    });
    let server =
        TcpServer::builder().mixin(mixin).hooks(reports).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    assert_eq!(read_to_end(&mut client), b"farewell\n", "closed in order");
    let error = joined(server).unwrap_err();
    assert!(reported.try_recv().is_err(), "handle_error is not told");
    error
}
