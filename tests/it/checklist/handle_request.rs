//! Rows 33 to 39: one request at a time, for programs with a loop of their own.

use std::io::Write;
use std::os::fd::BorrowedFd;
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::hooks::{AcceptFailure, Failure, Incoming};
use socketserver::mixin::{Job, Mixin};
use socketserver::monitor::AcceptOutcome;
use socketserver::{
    BaseServer, Builder, HandlerError, HandlerResult, Inline, Result, Server, ServerHooks,
    StreamRequest, TcpServer, UdpServer, UnixStreamServer, stream_fn,
};

use super::matrix::memory::Memory;
use crate::handlers::{Diary, OneLine, Silent};
use crate::support::{SOON, connect, connect_any, folder, inet, read_line, read_to_end, soon};

/// Notes every hook that the loop calls.
struct Notes {
    diary: Diary,
    accept: bool,
}

impl Notes {
    fn in_diary(diary: &Diary) -> Self {
        Self { diary: diary.clone(), accept: true }
    }
}

impl<R> ServerHooks<R> for Notes {
    fn verify_request(&self, _: &Incoming<'_>) -> std::result::Result<bool, HandlerError> {
        self.diary.note("verify_request");
        Ok(self.accept)
    }

    fn handle_error(&self, _failure: &Failure<'_>) {
        self.diary.note("handle_error");
    }

    fn handle_timeout(&self) {
        self.diary.note("handle_timeout");
    }

    fn service_actions(&self) {
        self.diary.note("service_actions");
    }

    fn accept_error(&self, _failure: &AcceptFailure<'_>) {
        self.diary.note("accept_error");
    }
}

/// Runs requests as `Inline` does, and tells when the loop is about to wait.
struct Watched {
    waits: Sender<()>,
}

impl Mixin for Watched {
    fn process_request(&self, job: Job) {
        job.run();
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        // The test may be over already.
        let _ = self.waits.send(());
        None
    }
}

/// Calls `handle_request` once, in a thread.
fn turn<S: BaseServer + 'static>(server: &Arc<S>) -> Receiver<Result<AcceptOutcome>> {
    let (done, result) = channel();
    let server = Arc::clone(server);
    thread::spawn(move || {
        let _ = done.send(server.handle_request());
    });
    result
}

// Row 33.

#[test]
fn row_033_handle_request_serves_exactly_one_pending_request() {
    let folder = folder();
    let server = UnixStreamServer::bind(folder.path().join("s"), || OneLine).unwrap();
    let mut clients: Vec<_> = (0..3).map(|_| connect_any(&server.server_address())).collect();
    for client in &mut clients {
        client.write_all(b"hello\n").unwrap();
    }
    for (index, client) in clients.iter_mut().enumerate() {
        assert_eq!(server.context().counts().accepted, index as u64);
        assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
        assert_eq!(server.context().counts().accepted, index as u64 + 1);
        assert_eq!(read_to_end(&mut **client), b"hello\n");
    }
}

#[test]
#[cfg_attr(under_green, ignore = "it is about `Inline`, whose loop runs the request itself")]
fn row_033_a_batch_of_datagrams_is_served_one_by_one() {
    let server = UdpServer::builder().timeout(SOON).bind("127.0.0.1:0", || Silent).unwrap();
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..3 {
        client.send_to(b"hello", inet(&server)).unwrap();
    }
    for served in 1..=3 {
        assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
        assert_eq!(server.context().counts().completed, served);
    }
}

// Rows 33 and 34.

#[test]
fn row_034_without_a_timeout_handle_request_waits_until_a_request_comes() {
    let (folder, diary) = (folder(), Diary::default());
    let (waits, waiting) = channel();
    let server = UnixStreamServer::builder().mixin(Watched { waits });
    let server = server.hooks(Notes::in_diary(&diary));
    let server = Arc::new(server.bind(folder.path().join("s"), || OneLine).unwrap());
    let result = turn(&server);
    waiting.recv_timeout(SOON).unwrap();
    assert!(result.try_recv().is_err());
    let mut client = connect_any(&server.server_address());
    client.write_all(b"hello\n").unwrap();
    assert_eq!(read_line(&mut *client), "hello\n");
    assert_eq!(result.recv_timeout(SOON).unwrap().unwrap(), AcceptOutcome::Handled);
    assert_eq!(diary.lines(), ["verify_request"]);
}

#[test]
fn row_034_handle_request_waits_for_the_servers_timeout() {
    let timeout = Duration::from_millis(300);
    let server = TcpServer::builder().timeout(timeout).bind("127.0.0.1:0", || Silent).unwrap();
    let began = Instant::now();
    let result = turn(&Arc::new(server));
    assert_eq!(result.recv_timeout(SOON).unwrap().unwrap(), AcceptOutcome::TimedOut);
    assert!(began.elapsed() >= timeout, "{:?}", began.elapsed());
}

#[test]
fn row_034_a_request_within_the_timeout_is_served() {
    let folder = folder();
    let (waits, waiting) = channel();
    let server = UnixStreamServer::builder().mixin(Watched { waits }).timeout(SOON);
    let server = Arc::new(server.bind(folder.path().join("s"), || OneLine).unwrap());
    let result = turn(&server);
    waiting.recv_timeout(SOON).unwrap();
    connect_any(&server.server_address()).write_all(b"hello\n").unwrap();
    assert_eq!(result.recv_timeout(SOON).unwrap().unwrap(), AcceptOutcome::Handled);
}

// Row 35.

#[test]
fn row_035_on_expiry_handle_timeout_is_called_once_and_nothing_else() {
    let diary = Diary::default();
    let server = TcpServer::builder()
        .hooks(Notes::in_diary(&diary))
        .poll_interval(Duration::from_millis(1))
        .timeout(Duration::from_millis(30));
    let server = Arc::new(server.bind("127.0.0.1:0", || Silent).unwrap());
    assert_eq!(turn(&server).recv_timeout(SOON).unwrap().unwrap(), AcceptOutcome::TimedOut);
    assert_eq!(diary.lines(), ["handle_timeout"]);
    assert_eq!(turn(&server).recv_timeout(SOON).unwrap().unwrap(), AcceptOutcome::TimedOut);
    assert_eq!(diary.lines(), ["handle_timeout", "handle_timeout"]);
}

// Row 36.

#[test]
fn row_036_a_timeout_of_zero_only_looks() {
    let (folder, diary) = (folder(), Diary::default());
    let (waits, waiting) = channel();
    let server = UnixStreamServer::builder().mixin(Watched { waits });
    let server = server.hooks(Notes::in_diary(&diary)).timeout(Duration::ZERO);
    let server = Arc::new(server.bind(folder.path().join("s"), || OneLine).unwrap());
    assert_eq!(turn(&server).recv_timeout(SOON).unwrap().unwrap(), AcceptOutcome::TimedOut);
    assert_eq!(diary.lines(), ["handle_timeout"]);
    // A pending request is served whatever the timeout.
    let mut client = connect_any(&server.server_address());
    client.write_all(b"hello\n").unwrap();
    assert_eq!(turn(&server).recv_timeout(SOON).unwrap().unwrap(), AcceptOutcome::Handled);
    assert_eq!(read_line(&mut *client), "hello\n");
    assert!(waiting.try_recv().is_err(), "it has waited");
}

// Row 37.

#[test]
#[allow(unsafe_code, reason = "std sends no signals")]
fn row_037_a_signal_neither_shortens_the_wait_nor_is_an_error() {
    let caught = Arc::new(AtomicBool::new(false));
    let id = signal_hook::flag::register(libc::SIGUSR1, Arc::clone(&caught)).unwrap();
    let timeout = Duration::from_millis(300);
    let server = TcpServer::builder().timeout(timeout).bind("127.0.0.1:0", || Silent).unwrap();
    let waiter = thread::spawn(move || {
        let began = Instant::now();
        (server.handle_request(), began.elapsed())
    });
    let began = Instant::now();
    while !waiter.is_finished() {
        assert!(began.elapsed() < SOON);
        // SAFETY: the thread has not been joined, so that its number is still its own.
        unsafe { libc::pthread_kill(waiter.as_pthread_t(), libc::SIGUSR1) };
        thread::sleep(Duration::from_millis(5));
    }
    let (result, elapsed) = waiter.join().unwrap();
    assert_eq!(result.unwrap(), AcceptOutcome::TimedOut);
    assert!(elapsed >= timeout, "{elapsed:?}");
    assert!(caught.load(Ordering::SeqCst));
    signal_hook::low_level::unregister(id);
}

// Row 38.

#[test]
fn row_038_handle_request_does_not_call_service_actions() {
    let (folder, diary) = (folder(), Diary::default());
    let server = UnixStreamServer::builder()
        .hooks(Notes::in_diary(&diary))
        .poll_interval(Duration::from_millis(1))
        .timeout(Duration::from_millis(20));
    let server = server.bind(folder.path().join("s"), || Silent).unwrap();
    let _client = connect_any(&server.server_address());
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::TimedOut);
    assert_eq!(diary.lines(), ["verify_request", "handle_timeout"]);
}

// Row 39.

#[test]
fn row_039_handled() {
    let memory = Memory::new();
    let server = over_memory(&memory, &Diary::default());
    let _client = memory.connect();
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
}

fn over_memory(memory: &Memory, diary: &Diary) -> Server<Memory, Inline> {
    let server = Builder::<Memory, _>::new(Inline).hooks(Notes::in_diary(diary));
    server.with_transport(memory.clone(), || Silent).unwrap()
}

#[test]
fn row_039_rejected() {
    let (folder, diary) = (folder(), Diary::default());
    let hooks = Notes { diary: diary.clone(), accept: false };
    let server = UnixStreamServer::builder().hooks(hooks);
    let server = server.bind(folder.path().join("s"), || OneLine).unwrap();
    let mut client = connect_any(&server.server_address());
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Rejected);
    assert!(read_to_end(&mut *client).is_empty());
    assert_eq!(diary.lines(), ["verify_request"]);
}

#[test]
fn row_039_accept_failed() {
    // The connection was lost; the system lacks memory for buffers; the process lacks descriptors.
    for errno in [libc::ECONNABORTED, libc::ENOBUFS, libc::EMFILE] {
        let (memory, diary) = (Memory::new(), Diary::default());
        let server = over_memory(&memory, &diary);
        memory.fail(std::io::Error::from_raw_os_error(errno));
        assert_eq!(server.handle_request().unwrap(), AcceptOutcome::AcceptFailed, "{errno}");
        assert_eq!(diary.lines(), ["accept_error"]);
        assert_eq!(server.context().counts().accept_errors, 1);
        let _client = memory.connect();
        assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
    }
}

#[test]
fn row_039_an_interrupted_accept_is_nothing_to_speak_of() {
    let (memory, diary) = (Memory::new(), Diary::default());
    let server = over_memory(&memory, &diary);
    memory.fail(std::io::ErrorKind::WouldBlock.into());
    memory.fail(std::io::Error::from_raw_os_error(libc::EINTR));
    let _client = memory.connect();
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
    assert_eq!(diary.lines(), ["verify_request"]);
}

#[test]
fn row_039_a_broken_listener_is_an_error() {
    let memory = Memory::new();
    let server = over_memory(&memory, &Diary::default());
    memory.fail(std::io::Error::from_raw_os_error(libc::EBADF));
    let error = server.handle_request().unwrap_err();
    assert!(error.to_string().starts_with("cannot accept at memory: "), "{error}");
}

#[test]
fn row_039_stopped() {
    let memory = Memory::new();
    let server = over_memory(&memory, &Diary::default());
    let mut client = memory.connect();
    server.shutdown_handle().shutdown();
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Stopped);
    // The stop was for one turn, and the pending request is still there.
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
    assert!(read_to_end(&mut client).is_empty());
}

#[test]
fn row_039_stopped_while_it_waits() {
    let folder = folder();
    let (waits, waiting) = channel();
    let server = UnixStreamServer::builder().mixin(Watched { waits });
    let server = Arc::new(server.bind(folder.path().join("s"), || OneLine).unwrap());
    let result = turn(&server);
    waiting.recv_timeout(SOON).unwrap();
    let stopping = Arc::clone(&server);
    soon("a shutdown", move || stopping.shutdown());
    assert_eq!(result.recv_timeout(SOON).unwrap().unwrap(), AcceptOutcome::Stopped);
}

#[test]
fn row_039_a_closed_server_is_an_error() {
    let server = over_memory(&Memory::new(), &Diary::default());
    server.server_close();
    assert!(server.handle_request().unwrap_err().is_closed());
}

#[test]
fn row_039_one_run_at_a_time() {
    let folder = folder();
    let (waits, waiting) = channel();
    let server = UnixStreamServer::builder().mixin(Watched { waits });
    let server = Arc::new(server.bind(folder.path().join("s"), || OneLine).unwrap());
    let first = turn(&server);
    waiting.recv_timeout(SOON).unwrap();
    let error = turn(&server).recv_timeout(SOON).unwrap().unwrap_err();
    assert!(error.to_string().contains("is serving already"), "{error}");
    server.shutdown_handle().shutdown();
    assert_eq!(first.recv_timeout(SOON).unwrap().unwrap(), AcceptOutcome::Stopped);
}

#[test]
fn a_shutdown_while_a_request_is_handled_ends_the_next_wait() {
    let handler = stream_fn(|request: &mut StreamRequest| -> HandlerResult {
        request.server().shutdown_handle().shutdown();
        Ok(())
    });
    let server = TcpServer::bind("127.0.0.1:0", handler).unwrap();
    let _client = connect(inet(&server));
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Stopped);
}
