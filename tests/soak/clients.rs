//! The clients.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;

use crate::servers::BIG;

/// A client that hears nothing for this long has lost its request.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many clients of each kind there are at once.
const EACH: usize = 3;

/// The end of a connection.
enum Outcome {
    Answered,
    /// The server or the client itself has cut it off, as the client wanted.
    Killed,
}

/// Kinds of clients: what each of them does, in words and as a function.
const KINDS: [(&str, fn(&Place) -> io::Result<Outcome>); 12] = [
    ("ask a line, and the next on a new connection", |place| ask(place, "hello")),
    ("do so over a Unix socket", ask_unix),
    ("send one byte at a time, and close their half first", trickle),
    ("read a large answer slowly", slow_reader),
    ("ask a handler that sleeps", |place| ask(place, "sleep")),
    ("ask one that offloads", |place| ask(place, "offload")),
    ("ask one that does two things at once", |place| ask(place, "join")),
    ("ask one that holds its worker for 60 ms, now and then", spin),
    ("reset the connection in the middle of a large answer", reset),
    (
        "make a handler panic, every other time with a payload that panics when it is dropped",
        panics,
    ),
    ("have an outbox overflow", flood),
    ("ask the server that is drained, or stay there for an hour", drained),
];

/// Where the servers are.
struct Place {
    tcp: u16,
    unix: String,
    drained: u16,
    turn: AtomicUsize,
}

/// The counts of one kind of clients.
#[derive(Default)]
pub struct Kind {
    pub what: &'static str,
    pub answered: u64,
    pub killed: u64,
}

/// The ends of all requests: the counts of each kind, and the requests that were lost.
#[derive(Default)]
pub struct Tally {
    pub kinds: Vec<Kind>,
    pub lost: Vec<String>,
}

impl Tally {
    pub fn sum(&self, of: impl Fn(&Kind) -> u64) -> u64 {
        self.kinds.iter().map(of).sum()
    }
}

/// The clients' threads.
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    place: Place,
    goes: AtomicBool,
    ends: AtomicBool,
    /// Connections that are under way.
    busy: AtomicUsize,
    tally: Mutex<Tally>,
}

impl Clients {
    /// Starts the threads, which wait for their first turn. `addresses` has a port, a path, and the port of the drained
    /// server.
    pub fn start(addresses: &str) -> Self {
        let mut words = addresses.split(' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (tcp, unix, drained) = (word(), word(), word());
        let port = |text: &str| text.parse().expect("a port");
        let (tcp, drained) = (port(&tcp), port(&drained));
        let kinds = KINDS.iter().map(|(what, _)| Kind { what, ..Kind::default() }).collect();
        let shared = Arc::new(Shared {
            place: Place { tcp, unix, drained, turn: AtomicUsize::new(0) },
            goes: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            tally: Mutex::new(Tally { kinds, lost: Vec::new() }),
        });
        let threads = (0..EACH * KINDS.len()).map(|number| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.work(number % KINDS.len()))
        });
        Self { threads: threads.collect(), shared }
    }

    pub fn go_on(&self) {
        self.shared.goes.store(true, Ordering::SeqCst);
    }

    /// Pauses the clients, and waits until no connection is under way.
    pub fn pause(&self) {
        self.shared.goes.store(false, Ordering::SeqCst);
        while self.shared.busy.load(Ordering::SeqCst) > 0 {
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn end(self) -> Tally {
        self.shared.ends.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a client ends");
        }
        std::mem::take(&mut *self.shared.tally.lock().expect("no client panics"))
    }
}

impl Shared {
    fn work(&self, kind: usize) {
        let (what, run) = KINDS[kind];
        while !self.ends.load(Ordering::SeqCst) {
            self.busy.fetch_add(1, Ordering::SeqCst);
            if self.goes.load(Ordering::SeqCst) {
                let outcome = run(&self.place);
                let mut tally = self.tally.lock().expect("no client panics");
                match outcome {
                    Ok(Outcome::Answered) => tally.kinds[kind].answered += 1,
                    Ok(Outcome::Killed) => tally.kinds[kind].killed += 1,
                    Err(error) => tally.lost.push(format!("lost, of those that {what}: {error}")),
                }
            }
            self.busy.fetch_sub(1, Ordering::SeqCst);
            // Without a pause the ports would run out: closed connections keep theirs for a while.
            thread::sleep(Duration::from_millis(8));
        }
    }
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn expect(stream: &mut impl Read, text: &str) -> io::Result<()> {
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    if answer == text.as_bytes() { Ok(()) } else { Err(io::Error::other("another answer")) }
}

fn ask(place: &Place, what: &str) -> io::Result<Outcome> {
    let mut stream = connect(place.tcp)?;
    writeln!(stream, "{what}")?;
    expect(&mut stream, &format!("{what}\n"))?;
    Ok(Outcome::Answered)
}

fn ask_unix(place: &Place) -> io::Result<Outcome> {
    let mut stream = UnixStream::connect(&place.unix)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "hello")?;
    expect(&mut stream, "hello\n")?;
    Ok(Outcome::Answered)
}

fn trickle(place: &Place) -> io::Result<Outcome> {
    let mut stream = connect(place.tcp)?;
    stream.set_nodelay(true)?;
    for byte in b"slow\n" {
        stream.write_all(&[*byte])?;
        thread::sleep(Duration::from_millis(1));
    }
    stream.shutdown(Shutdown::Write)?;
    expect(&mut stream, "slow\n")?;
    if stream.read(&mut [0])? == 0 { Ok(Outcome::Answered) } else { Err(io::Error::other("more")) }
}

fn slow_reader(place: &Place) -> io::Result<Outcome> {
    let mut stream = connect(place.tcp)?;
    SockRef::from(&stream).set_recv_buffer_size(32_768)?;
    stream.write_all(b"big\n")?;
    let mut answer = vec![0; BIG + 4];
    for part in answer.chunks_mut(30_000) {
        stream.read_exact(part)?;
        thread::sleep(Duration::from_millis(2));
    }
    if answer.ends_with(b"big\n") { Ok(Outcome::Answered) } else { Err(io::Error::other("cut")) }
}

fn spin(place: &Place) -> io::Result<Outcome> {
    thread::sleep(Duration::from_millis(400));
    ask(place, "spin")
}

fn reset(place: &Place) -> io::Result<Outcome> {
    let mut stream = connect(place.tcp)?;
    stream.write_all(b"big\n")?;
    stream.read_exact(&mut [0; 100])?;
    // The close sends a reset.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(Outcome::Killed)
}

fn panics(place: &Place) -> io::Result<Outcome> {
    let mut stream = connect(place.tcp)?;
    let is_bomb = place.turn.fetch_add(1, Ordering::SeqCst) % 2 == 0;
    stream.write_all(if is_bomb { b"bomb\n" } else { b"panic\n" })?;
    killed(stream.read(&mut [0]))
}

/// The outcome of a request that has to be cut off: the connection ends, or is reset. Silence is a lost request.
fn killed(read: io::Result<usize>) -> io::Result<Outcome> {
    match read {
        Ok(0) => Ok(Outcome::Killed),
        Ok(_) => Err(io::Error::other("an answer where there should be none")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Outcome::Killed),
        Err(error) => Err(error),
    }
}

fn flood(place: &Place) -> io::Result<Outcome> {
    let mut stream = connect(place.tcp)?;
    stream.write_all(b"flood\n")?;
    thread::sleep(Duration::from_millis(20));
    let mut buf = vec![0; 65_536];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => return Ok(Outcome::Killed),
            Ok(_) => {}
            Err(error) => return killed(Err(error)),
        }
    }
}

/// Asks the drained server. A refusal, or a reset before any answer, only means that it is not there at the moment. A
/// reset within an answer is a loss.
fn drained(place: &Place) -> io::Result<Outcome> {
    let stays = place.turn.fetch_add(1, Ordering::SeqCst) % 8 == 0;
    let Ok(mut stream) = connect(place.drained) else {
        thread::sleep(Duration::from_millis(20));
        return Ok(Outcome::Killed);
    };
    let sent = stream.write_all(if stays { b"hour\n" } else { b"hello\n" });
    if stays || sent.is_err() {
        return killed(stream.read(&mut [0]));
    }
    match stream.read(&mut [0; 1]) {
        Ok(1) => expect(&mut stream, "ello\n").map(|()| Outcome::Answered),
        other => killed(other),
    }
}
