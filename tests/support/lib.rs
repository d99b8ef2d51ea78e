//! Shared by the tests of the library and of the programs: clients with deadlines, scratch folders, processes, and
//! measurements of this process.

pub mod activation;
pub mod datagrams;
pub mod passed;
pub mod process;
pub mod program;
pub mod promises;
pub mod system;
pub mod tls;
pub mod unread;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvError, TryRecvError};
use std::time::{Duration, Instant};

use socketserver::{Address, BaseServer};

pub use datagrams::{receive, receive_from, receive_text, udp_client, uninterrupted};

/// The longest that an expected event may take. It is long, so that no test fails on a slow machine. That something does
/// *not* happen is shown by a later event.
pub const SOON: Duration = Duration::from_secs(20);

/// The internet address of a server.
pub fn inet(server: &(impl BaseServer + ?Sized)) -> SocketAddr {
    server.server_address().as_inet().expect("an internet address")
}

/// The next message of the test, waited for as requests wait: a handler that blocked its thread would stop all the
/// requests that the thread runs.
pub fn hear<T>(from: &Mutex<Receiver<T>>) -> Result<T, RecvError> {
    loop {
        // The lock is not held during the wait.
        let heard = from.lock().unwrap().try_recv();
        match heard {
            Err(TryRecvError::Empty) => socketserver::sleep(Duration::from_millis(1)),
            Err(TryRecvError::Disconnected) => return Err(RecvError),
            Ok(message) => return Ok(message),
        }
    }
}

/// Connects, with a deadline on every read and write.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, SOON).expect("the server takes connections");
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream
}

/// Connects to a TCP or Unix server, whichever it is.
pub fn connect_any(address: &Address) -> Box<dyn Duplex> {
    match address {
        Address::Inet(address) => Box::new(connect(*address)),
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).expect("the server takes connections");
            stream.set_read_timeout(Some(SOON)).unwrap();
            stream.set_write_timeout(Some(SOON)).unwrap();
            Box::new(stream)
        }
        other => panic!("no client for {other}"),
    }
}

/// Both directions of a connection.
pub trait Duplex: Read + Write + Send {}
impl<S: Read + Write + Send> Duplex for S {}

/// Reads until a newline or the end.
pub fn read_line(stream: &mut (impl Read + ?Sized)) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\n")
        && uninterrupted(|| stream.read(&mut byte)).expect("an answer in time") == 1
    {
        line.push(byte[0]);
    }
    String::from_utf8(line).expect("text")
}

/// Reads everything up to the end.
pub fn read_to_end(stream: &mut (impl Read + ?Sized)) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the end in time");
    bytes
}

/// Sends a line and reads one.
pub fn exchange(stream: &mut (impl Read + Write + ?Sized), line: &str) -> String {
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    read_line(stream)
}

/// Polls until a condition holds that nothing announces.
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < SOON, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A folder that is removed at the end of the test. Its path is short, because that of a Unix socket must be.
pub fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("ss").tempdir().unwrap()
}

/// How many descriptors this process has. Other tests of the same process open and close some as well:
/// compare it only inside a process of one's own, or with a wide margin.
pub fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Runs a function in a thread, and fails if it does not return in time.
pub fn soon<R: Send + 'static>(what: &str, run: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, result) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // The test may have given up.
        let _ = done.send(run());
    });
    result.recv_timeout(SOON).unwrap_or_else(|error| panic!("in vain: {what}: {error}"))
}

/// Held by a test while threads of its scope wait for a server. If the test panics, this stops the server and ends its
/// requests: a scope waits for its threads also when it panics, and the test would hang instead of showing its message.
#[derive(Debug)]
pub struct StopOnPanic<'a, S: BaseServer + ?Sized>(pub &'a S);

impl<S: BaseServer + ?Sized> Drop for StopOnPanic<'_, S> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.shutdown_handle().shutdown();
            for request in self.0.context().live() {
                self.0.context().close_live(request.id);
            }
        }
    }
}

/// Serves in a thread; the result of `serve_forever` comes through the channel.
pub fn serve<S: BaseServer + ?Sized + 'static>(
    server: &std::sync::Arc<S>,
) -> std::sync::mpsc::Receiver<socketserver::Result<()>> {
    let (done, result) = std::sync::mpsc::channel();
    let server = std::sync::Arc::clone(server);
    std::thread::spawn(move || {
        let _ = done.send(server.serve_forever());
    });
    result
}

/// Says that a test cannot run here. That is a failure where `SOCKETSERVER_NO_SKIP` is 1.
pub fn skip(why: &str) {
    assert!(std::env::var_os("SOCKETSERVER_NO_SKIP").is_none_or(|set| set != "1"), "{why}");
    println!("skipped: {why}");
}

/// Runs the body of a test in a process of its own, which other tests do not disturb: it starts this binary again with
/// this test alone. `test` is the whole path of the test, without the crate.
pub fn alone(test: &str, run: impl FnOnce()) {
    const ALONE: &str = "SOCKETSERVER_ALONE";
    if std::env::var_os(ALONE).is_some_and(|name| name == test) {
        return run();
    }
    system::undo_ignored_signals();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(ALONE, test)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The output is read while the process runs: a full pipe would keep it from ending.
    let mut stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut output = String::new();
        stdout.read_to_string(&mut output).map(|_| output)
    });
    let began = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if began.elapsed() > SOON * 3 => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{test} does not end: {:?}", reader.join());
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let output = reader.join().unwrap().unwrap();
    assert!(status.success() && output.contains("1 passed"), "{test} alone: {status}\n{output}");
}

/// Writes to a pipe or a socket until nothing more fits, and returns how much that was. Its mode is then as before.
pub fn fill(fd: &std::os::fd::OwnedFd) -> usize {
    let mode = rustix::fs::fcntl_getfl(fd).unwrap();
    rustix::fs::fcntl_setfl(fd, mode | rustix::fs::OFlags::NONBLOCK).unwrap();
    let mut filled = 0;
    // The last bytes are filled as well, because a message is shorter than a page.
    for size in [4_096, 1] {
        while let Ok(count) = rustix::io::write(fd, &vec![b'.'; size]) {
            filled += count;
        }
    }
    rustix::fs::fcntl_setfl(fd, mode).unwrap();
    filled
}

/// Whether a test has to be left out because something is missing; see [`skip`].
pub fn skip_if(missing: Option<impl std::fmt::Display>) -> bool {
    missing.is_some_and(|why| {
        skip(&why.to_string());
        true
    })
}

/// Whether this machine has IPv6.
pub fn has_ipv6() -> bool {
    std::net::TcpListener::bind("[::1]:0").is_ok()
}

/// Runs the saved inputs of a fuzz target, which are in `tests/seeds` of its package. The name of the one that fails is
/// the last one that is printed.
pub fn replay(package: &str, run: fn(&[u8])) {
    let folder = std::path::Path::new(package).join("tests/seeds");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        run(&std::fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 0, "no input is saved in {package}");
}
