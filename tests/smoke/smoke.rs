//! Tries every transport under every mixin, then drains, limits, signals and control messages.
//!
//! It depends on nothing but the library, and so runs wherever the library does: `.ci/other-machines` runs it on a
//! machine of 32 bits and on one that is not x86, `.ci/portable` over the calls of other systems. Every wait has a
//! deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use socketserver::mixin::Mixin;
use socketserver::monitor::AcceptOutcome;
use socketserver::transport::{
    Tcp, Transport, Udp, UnixDatagram as UnixDatagrams, UnixStream as UnixStreams,
};
use socketserver::{
    Address, Builder, DatagramRequest, DatagramRequestHandler, Forking, ForkingTcpServer,
    HandlerResult, Inline, Limits, Pool, Server, StreamRequest, StreamRequestHandler, TcpServer,
    Threading, ThreadingTcpServer, UdpServer, UnixStreamServer,
};

/// The longest that an expected event may take. An emulated machine is slow.
const SOON: Duration = Duration::from_secs(60);

/// More than the buffers of a connection hold.
const LARGE_BYTES: usize = 8 * 1024 * 1024 + 1;

/// Answers a text with the number of the process that it has reached, and the text.
struct Echo;

impl StreamRequestHandler for Echo {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            if text == "large" {
                request.write_all(&vec![b'x'; LARGE_BYTES])?;
                return Ok(());
            }
            writeln!(request, "{} {text}", process::id())?;
        }
        Ok(())
    }
}

impl DatagramRequestHandler for Echo {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        let text = String::from_utf8_lossy(request.packet()).into_owned();
        request.reply(format!("{} {text}", process::id()).as_bytes())?;
        Ok(())
    }
}

/// A folder for sockets, which is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = env::temp_dir().join(format!("smoke-{}", process::id()));
        fs::create_dir(&path).expect("a new folder");
        Self(path)
    }

    /// Where a socket can be bound: nothing is there.
    fn free(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        let _ = fs::remove_file(&path);
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A client of any transport: sends a text, and receives an answer.
enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
    Udp(UdpSocket),
    UnixDatagram(UnixDatagram),
}

impl Client {
    /// Connects. The kernel completes connections by itself, so that the server need not serve yet.
    fn tcp(server: &Address, _folder: &Folder) -> Self {
        let server = server.as_inet().expect("an internet address");
        let stream = TcpStream::connect_timeout(&server, SOON).expect("a connection");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        Self::Tcp(stream)
    }

    fn unix(server: &Address, _folder: &Folder) -> Self {
        let stream = UnixStream::connect(server.as_path().expect("a path")).expect("a connection");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        Self::Unix(stream)
    }

    fn udp(server: &Address, _folder: &Folder) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
        socket.connect(server.as_inet().expect("an internet address")).expect("a destination");
        Self::Udp(socket)
    }

    fn unix_datagram(server: &Address, folder: &Folder) -> Self {
        let socket = UnixDatagram::bind(folder.free("client")).expect("a socket");
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
        socket.connect(server.as_path().expect("a path")).expect("a destination");
        Self::UnixDatagram(socket)
    }

    fn send(&mut self, text: &str) {
        let line = format!("{text}\n");
        let sent = match self {
            Self::Tcp(stream) => stream.write_all(line.as_bytes()),
            Self::Unix(stream) => stream.write_all(line.as_bytes()),
            Self::Udp(socket) => socket.send(text.as_bytes()).map(drop),
            Self::UnixDatagram(socket) => socket.send(text.as_bytes()).map(drop),
        };
        sent.expect("it is sent");
    }

    /// The process that has answered, and its answer. `None` for the process means that the connection has ended.
    fn receive(&mut self) -> (Option<u32>, String) {
        let mut buffer = vec![0; 256];
        let answer = match self {
            Self::Tcp(stream) => line(stream),
            Self::Unix(stream) => line(stream),
            Self::Udp(socket) => {
                let count = uninterrupted(|| socket.recv(&mut buffer)).expect("a reply");
                String::from_utf8_lossy(&buffer[..count]).into_owned()
            }
            Self::UnixDatagram(socket) => {
                let count = uninterrupted(|| socket.recv(&mut buffer)).expect("a reply");
                String::from_utf8_lossy(&buffer[..count]).into_owned()
            }
        };
        match answer.split_once(' ') {
            Some((process, text)) => (process.parse().ok(), text.to_owned()),
            None => (None, answer),
        }
    }

    /// Ends a connection from this side, and waits for the other. To drop it is not enough under `Forking`: the child has a
    /// copy of everything that its parent had open, also of this client.
    fn end(&mut self) {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write).expect("it is open"),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write).expect("it is open"),
            Self::Udp(_) | Self::UnixDatagram(_) => return,
        }
        assert_eq!(self.receive(), (None, String::new()));
    }

    fn ask(&mut self, text: &str) -> (Option<u32>, String) {
        self.send(text);
        self.receive()
    }
}

/// Repeats a call that the end of a child has interrupted.
fn uninterrupted<R>(mut call: impl FnMut() -> io::Result<R>) -> io::Result<R> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The next line without its newline; empty at the end.
fn line(stream: &mut impl Read) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while uninterrupted(|| stream.read(&mut byte)).expect("an answer in time") == 1 {
        if byte == *b"\n" {
            break;
        }
        line.push(byte[0]);
    }
    String::from_utf8(line).expect("text")
}

/// Serves one client after the other, by a server whose process has one thread: it forks for each of them.
fn forks<T: Transport>(
    server: &Server<T, Forking>,
    connect: fn(&Address, &Folder) -> Client,
    folder: &Folder,
) {
    for number in 0..3 {
        let mut client = connect(&server.server_address(), folder);
        client.send(&format!("request {number}"));
        assert_eq!(server.handle_request().expect("a request"), AcceptOutcome::Handled);
        let (child, text) = client.receive();
        assert_eq!(text, format!("request {number}"));
        assert_ne!(child.expect("a child has answered"), process::id());
        client.end();
    }
    let report = server.server_close();
    assert!(report.is_clean(), "{report}");
    let counts = server.context().counts();
    assert_eq!(counts.completed, 3, "{counts:?}");
}

/// Serves one client after the other, and stops without forcing anything.
fn serves<T: Transport, M: Mixin + 'static>(
    server: Server<T, M>,
    connect: fn(&Address, &Folder) -> Client,
    folder: &Folder,
) {
    let server = server.serve_in_background().expect("a thread for the loop");
    for number in 0..3 {
        let mut client = connect(&server.server_address(), folder);
        for text in [format!("request {number}"), "and again".to_owned()] {
            assert_eq!(client.ask(&text), (Some(process::id()), text));
        }
    }
    let report = server.stop().expect("the loop has ended in order");
    assert!(report.is_clean(), "{report}");
}

/// A table of all transports, for one mixin: how each is bound, and what its clients are.
macro_rules! every_transport {
    ($try:ident, $mixin:expr, $folder:expr) => {{
        let folder: &Folder = $folder;
        let inet = "127.0.0.1:0";
        macro_rules! server {
            ($transport:ty, $address:expr) => {
                Builder::<$transport, _>::new($mixin).timeout(SOON).bind($address, || Echo).expect("a server")
            };
        }
        every_transport!(@$try, server!(Tcp, inet), Client::tcp, folder);
        every_transport!(@$try, server!(UnixStreams, folder.free("server").as_path()), Client::unix, folder);
        every_transport!(@$try, server!(Udp, inet), Client::udp, folder);
        every_transport!(@$try, server!(UnixDatagrams, folder.free("server").as_path()), Client::unix_datagram, folder);
    }};
    (@forks, $server:expr, $connect:expr, $folder:expr) => { forks(&$server, $connect, $folder) };
    (@serves, $server:expr, $connect:expr, $folder:expr) => { serves($server, $connect, $folder) };
}

/// A child that waits for its client's next request ends at once when the parent drains.
fn a_drain_of_children(folder: &Folder) {
    let server =
        ForkingTcpServer::builder().timeout(SOON).bind("127.0.0.1:0", || Echo).expect("a server");
    let mut client = Client::tcp(&server.server_address(), folder);
    client.send("hello");
    assert_eq!(server.handle_request().expect("a request"), AcceptOutcome::Handled);
    assert_eq!(client.receive().1, "hello");
    let began = Instant::now();
    let report = server.server_close_within(SOON);
    assert!(report.is_clean(), "{report}");
    assert!(began.elapsed() < SOON / 2, "it is not cut off at the deadline");
    assert_eq!(client.receive(), (None, String::new()), "the connection has ended");
}

/// An idle client is ended, and one in the middle of a request finishes.
fn a_drain_of_threads(folder: &Folder) {
    let server = ThreadingTcpServer::bind("127.0.0.1:0", || Echo).expect("a server");
    let server = server.serve_in_background().expect("a thread for the loop");
    let mut idle = Client::tcp(&server.server_address(), folder);
    let mut busy = Client::tcp(&server.server_address(), folder);
    assert_eq!(idle.ask("hello").1, "hello");
    assert_eq!(busy.ask("hello").1, "hello");
    let Client::Tcp(stream) = &mut busy else { unreachable!() };
    stream.write_all(b"half a ").expect("it is sent");
    let began = Instant::now();
    while !server.context().live().iter().any(|live| live.bytes_in == 13) {
        assert!(began.elapsed() < SOON, "the first half does not arrive");
        thread::sleep(Duration::from_millis(5));
    }
    thread::scope(|scope| {
        let closing = scope.spawn(|| server.server_close_within(SOON));
        let ended = idle.receive();
        busy.send("line");
        let finished = busy.receive();
        let report = closing.join().expect("no panic");
        assert_eq!(ended, (None, String::new()));
        assert_eq!(finished.1, "half a line");
        assert!(report.is_clean(), "{report}");
    });
}

/// An idle limit, for which the library passes times to the kernel, holds, and the connection ends quietly.
fn an_idle_limit(folder: &Folder) {
    let mut limits = Limits::default();
    limits.idle = Duration::from_millis(300);
    let server =
        TcpServer::builder().limits(limits).bind("127.0.0.1:0", || Echo).expect("a server");
    let server = server.serve_in_background().expect("a thread for the loop");
    let mut client = Client::tcp(&server.server_address(), folder);
    let began = Instant::now();
    assert_eq!(client.ask("hello").1, "hello");
    assert_eq!(client.receive(), (None, String::new()));
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
    assert_eq!(server.context().counts().idle, 1);
}

/// An answer that no buffer holds arrives whole, at a client that begins late to read.
fn a_large_answer(folder: &Folder) {
    let server =
        UnixStreamServer::bind(folder.free("server").as_path(), || Echo).expect("a server");
    let server = server.serve_in_background().expect("a thread for the loop");
    let mut client = Client::unix(&server.server_address(), folder);
    client.send("large");
    thread::sleep(Duration::from_millis(100));
    let Client::Unix(stream) = &mut client else { unreachable!() };
    stream.shutdown(Shutdown::Write).expect("it is open");
    let (mut count, mut block) = (0, vec![0; 65_536]);
    loop {
        match uninterrupted(|| stream.read(&mut block)).expect("an answer in time") {
            0 => break,
            some => count += some,
        }
    }
    assert_eq!(count, LARGE_BYTES);
}

/// Control messages in both directions: replies leave from the address that the client has sent to, also in bursts.
fn replies_of_a_server_on_all_addresses() {
    let server = UdpServer::bind("0.0.0.0:0", || Echo).expect("a server");
    let port = server.server_address().as_inet().expect("an internet address").port();
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.set_read_timeout(Some(SOON)).expect("a timeout");
    // All datagrams are there before the server runs, which makes it reply in a burst.
    for number in 0..20 {
        client
            .send_to(format!("number {number:02}").as_bytes(), ("127.0.0.2", port))
            .expect("it is sent");
    }
    let _serving = server.serve_in_background().expect("a thread for the loop");
    for number in 0..20 {
        let mut buffer = [0; 64];
        let (count, from) = uninterrupted(|| client.recv_from(&mut buffer)).expect("a reply");
        assert_eq!(from.to_string(), format!("127.0.0.2:{port}"));
        assert_eq!(buffer[..count], *format!("{} number {number:02}", process::id()).as_bytes());
    }
}

/// A signal stops `run`, which returns no error.
fn a_signal_stops_a_run(folder: &Folder) {
    let server = Arc::new(ThreadingTcpServer::bind("127.0.0.1:0", || Echo).expect("a server"));
    let (running, mut client) =
        (Arc::clone(&server), Client::tcp(&server.server_address(), folder));
    let run = thread::spawn(move || running.run());
    assert_eq!(client.ask("hello").1, "hello");
    let kill = |process: u32| -> io::Result<ExitStatus> {
        Command::new("kill").args(["-TERM", &process.to_string()]).status()
    };
    assert!(kill(process::id()).expect("a program").success());
    assert_eq!(client.receive(), (None, String::new()));
    let report = run.join().expect("no panic").expect("it has stopped in order");
    assert!(report.is_clean(), "{report}");
}

fn main() {
    // The arguments are those of every test program: `--list`, and a part of the name of those that are wanted.
    let arguments: Vec<String> = env::args().skip(1).collect();
    let has = |argument: &str| arguments.iter().any(|given| given == argument);
    if has("--list") {
        return println!("smoke: test");
    }
    if arguments.iter().any(|given| !given.starts_with('-') && !"smoke".contains(&**given)) {
        return;
    }
    let folder = Folder::new();
    let done = |what: &str| println!("{what}: ok");
    // Forking comes first, because a server forks only in a process that has one thread. An emulator of another machine
    // has threads of its own in the process.
    if has("--without-forks") {
        println!("skipped: every transport under Forking, a drain of children");
    } else {
        every_transport!(forks, Forking::new(), &folder);
        done("every transport under Forking");
        a_drain_of_children(&folder);
        done("a drain of children");
    }
    every_transport!(serves, Inline, &folder);
    done("every transport under Inline");
    every_transport!(serves, Threading::new(), &folder);
    done("every transport under Threading");
    every_transport!(serves, Pool::new(2), &folder);
    done("every transport under Pool");
    a_drain_of_threads(&folder);
    done("a drain of threads");
    an_idle_limit(&folder);
    done("an idle limit");
    a_large_answer(&folder);
    done("a large answer");
    // Only some systems tell where an IPv4 datagram was sent to.
    if has("--without-reply-addresses") {
        println!("skipped: replies of a server on all addresses");
    } else {
        replies_of_a_server_on_all_addresses();
        done("replies of a server on all addresses");
    }
    a_signal_stops_a_run(&folder);
    done("a signal stops a run");
    println!("{} bits, {}: all is well", usize::BITS, env::consts::ARCH);
}
