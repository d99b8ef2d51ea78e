//! A server process and its clients.

use std::cell::Cell;
use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};
use test_support::{receive_text, udp_client};

/// The longest time to wait for anything that is expected.
pub const SOON: Duration = Duration::from_secs(20);

thread_local! {
    /// Whether tests of this thread that ask for a server over TCP get one with TLS, and clients that speak TLS.
    static UNDER_TLS: Cell<bool> = const { Cell::new(false) };
}

/// Runs a test of servers over TCP with TLS: what it expects is the same.
#[cfg(feature = "tls")]
pub fn under_tls(test: fn()) {
    struct Before;
    impl Drop for Before {
        fn drop(&mut self) {
            UNDER_TLS.set(false);
        }
    }
    UNDER_TLS.set(true);
    let _before = Before;
    test();
}

/// A server process, killed at the end of its test if it is still there.
pub struct Server {
    process: Child,
    /// Whether its clients speak TLS.
    tls: bool,
    pub address: String,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

fn lines(source: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    receiver
}

impl Server {
    pub fn start(transport: &str, address: &str, options: &[&str]) -> Self {
        Self::start_by(&[], transport, address, options)
    }

    /// Starts a server by another program, which gets the server's command line.
    pub fn start_by(by: &[&str], transport: &str, address: &str, options: &[&str]) -> Self {
        let own = std::env::current_exe().unwrap();
        let words: Vec<&str> = by.iter().copied().chain([own.to_str().unwrap()]).collect();
        let mut process = Command::new(words[0])
            .args(&words[1..])
            .arg("serve")
            .arg(transport)
            .arg(address)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = lines(process.stdout.take().unwrap());
        let stderr = lines(process.stderr.take().unwrap());
        let tls = transport == "tcp-tls";
        let mut server = Self { process, tls, address: String::new(), stdout, stderr };
        server.address = match server.stdout.recv_timeout(SOON) {
            Ok(first) => first.strip_prefix("listening on ").expect("its address").to_owned(),
            // The server has ended before it listened, and its test checks how.
            Err(_) => String::new(),
        };
        server
    }

    pub fn tcp(options: &[&str]) -> Self {
        let transport = if UNDER_TLS.get() { "tcp-tls" } else { "tcp" };
        Self::start(transport, "127.0.0.1:0", options)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn connect(&self) -> Client {
        let stream = TcpStream::connect(&self.address).expect("it takes connections");
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        Client { stream: Box::new(BufReader::new(self.speak_to(stream))) }
    }

    #[cfg(feature = "tls")]
    fn speak_to(&self, stream: TcpStream) -> Box<dyn Stream> {
        if self.tls {
            Box::new(crate::client::Client::new().over(stream))
        } else {
            Box::new(stream)
        }
    }

    #[cfg(not(feature = "tls"))]
    fn speak_to(&self, stream: TcpStream) -> Box<dyn Stream> {
        assert!(!self.tls, "there is none");
        Box::new(stream)
    }

    /// The next line on stderr that begins like this.
    pub fn told(&self, beginning: &str) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.stderr.recv_timeout(left) {
                Ok(line) if line.starts_with(beginning) => return line,
                Ok(_) => {}
                Err(_) => panic!("it never says {beginning:?}"),
            }
        }
    }

    /// The unread lines of stderr that begin like this, once the server has ended.
    pub fn all_told(&self, beginning: &str) -> Vec<String> {
        let mut told = Vec::new();
        while let Ok(line) = self.stderr.recv_timeout(SOON) {
            told.extend(line.starts_with(beginning).then_some(line));
        }
        told
    }

    /// The unread lines of stdout, once the server has ended.
    pub fn printed(&self) -> Vec<String> {
        let mut printed = Vec::new();
        while let Ok(line) = self.stdout.recv_timeout(SOON) {
            printed.push(line);
        }
        printed
    }

    pub fn signal(&self, signal: libc::c_int) {
        kill(self.pid(), signal);
    }

    /// Stops it in order.
    pub fn stop(&mut self) {
        self.signal(libc::SIGTERM);
        assert!(self.wait().success());
    }

    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it never ends");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether its process sleeps.
    pub fn sleeps(&self) -> bool {
        state(self.pid()) == Some('S')
    }

    /// Its children, by number and state.
    pub fn children(&self) -> Vec<(u32, char)> {
        let pid = self.pid();
        let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let listed = listed.unwrap_or_default();
        let numbers = listed.split_whitespace().map(|number| number.parse().unwrap());
        numbers.filter_map(|child| Some((child, state(child)?))).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for (child, _) in self.children() {
            kill(child, libc::SIGKILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The state of a process, as `ps` shows it; `None` once it is gone.
pub fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 2..].chars().next()
}

/// Whether a signal is pending at a process. A second one would be merged with it.
pub fn is_pending(pid: u32, signal: libc::c_int) -> bool {
    is_in(pid, &["SigPnd", "ShdPnd"], signal)
}

/// Whether a process has a handler for a signal.
pub fn takes(pid: u32, signal: libc::c_int) -> bool {
    is_in(pid, &["SigCgt"], signal)
}

/// Whether a signal is in one of these sets, as the system shows them.
fn is_in(pid: u32, sets: &[&str], signal: libc::c_int) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = |line: &str| {
        let (name, mask) = line.split_once(':')?;
        let mask = || u64::from_str_radix(mask.trim(), 16).unwrap_or(0);
        sets.contains(&name).then(mask)
    };
    status.lines().filter_map(mask).any(|mask| mask >> (signal - 1) & 1 == 1)
}

#[allow(unsafe_code, reason = "std has no way to send a signal")]
pub fn kill(pid: u32, signal: libc::c_int) {
    // SAFETY: no pointers; the number is that of a process which this test has started.
    unsafe { libc::kill(i32::try_from(pid).unwrap(), signal) };
}

/// Signals a process twice, so that it takes both in one moment: one signal to the process and one to its first thread, while
/// it is stopped.
#[allow(unsafe_code, reason = "std has no way to send a signal")]
pub fn kill_twice(pid: u32, signal: libc::c_int) {
    kill(pid, libc::SIGSTOP);
    eventually("it is stopped", || state(pid) == Some('T'));
    kill(pid, signal);
    let thread = i32::try_from(pid).unwrap();
    // SAFETY: no pointers; the numbers are those of a process which this test has started.
    unsafe { libc::syscall(libc::SYS_tgkill, thread, thread, signal) };
    kill(pid, libc::SIGCONT);
}

/// Repeats a signal, which the process has already taken once, until the process has ended: a repetition that comes soon
/// counts as a copy of the first.
pub fn insist(pid: u32, signal: libc::c_int) {
    eventually("a second signal ends it", || {
        kill(pid, signal);
        matches!(state(pid), None | Some('Z'))
    });
}

pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < SOON, "in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A client's end of a connection.
pub trait Stream: Read + Write + Send {
    fn socket(&self) -> &TcpStream;
    /// Ends the output of the client in order: what it has sent is all.
    fn end(&mut self) {}
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

#[cfg(feature = "tls")]
impl Stream for crate::client::TlsClient {
    fn socket(&self) -> &TcpStream {
        &self.stream.sock
    }

    fn end(&mut self) {
        self.stream.conn.send_close_notify();
        // The server may have gone first.
        let _ = self.stream.flush();
    }
}

/// A client that speaks lines.
pub struct Client {
    stream: Box<BufReader<Box<dyn Stream>>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stream.get_mut().end();
    }
}

impl Client {
    pub fn send(&mut self, line: &str) {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Sends bytes. Returns false if the server receives no more.
    pub fn try_send_bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.get_mut().write_all(bytes).is_ok()
    }

    /// Its own address, by which the server knows it.
    pub fn address(&self) -> String {
        self.stream.get_ref().socket().local_addr().unwrap().to_string()
    }

    /// The next line, without its newline; empty at the end.
    pub fn receive(&mut self) -> String {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(_) => line.trim_end().to_owned(),
            // Under TLS a child that is killed cannot say that it ends.
            Err(error) if matches!(error.kind(), ConnectionReset | UnexpectedEof) => String::new(),
            Err(error) => panic!("no answer in time: {error}"),
        }
    }

    /// How many bytes arrive before an orderly end.
    pub fn receive_end(&mut self) -> usize {
        self.stream.read_to_end(&mut Vec::new()).expect("the end, and no reset")
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.receive()
    }
}

/// Asks a datagram server of either kind.
pub fn ask_datagram(transport: &str, address: &str, own: &std::path::Path, text: &str) -> String {
    if transport == "udp" {
        let socket = udp_client();
        socket.send_to(text.as_bytes(), address).unwrap();
        receive_text(&socket)
    } else {
        let _ = std::fs::remove_file(own);
        let socket = UnixDatagram::bind(own).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.send_to(text.as_bytes(), address).unwrap();
        receive_text(&socket)
    }
}

/// Asks a Unix stream server.
pub fn ask_unix(address: &str, line: &str) -> String {
    let mut stream = UnixStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer.trim_end().to_owned()
}
