//! The members: connections that say what they are told to, and write down what they hear.

use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use socket2::{Domain, Socket, Type};

use crate::heard::{Heard, Line, quoted};
use crate::network::Network;
use crate::world::SOON;

/// How a member reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// All that comes.
    Everything,
    /// This many bytes in a tenth of a second.
    Slowly(usize),
    /// Nothing.
    Nothing,
}

/// A member of the room.
#[derive(Debug)]
pub struct Member {
    /// Its name, which no other member of the case ever has.
    pub name: String,
    /// The machine of its server.
    pub host: String,
    /// When that server was started.
    pub server_started: Instant,
    stream: Option<TcpStream>,
    received: Vec<u8>,
    to_send: Vec<u8>,
    reading: Reading,
    /// When it was told its name.
    pub joined: Option<Instant>,
    /// When its connection ended.
    pub closed: Option<Instant>,
    /// Whether the end of its connection is no fault: its server was ended, or it was asked to leave.
    pub excused: bool,
    /// Whether its server was killed: its last lines may be lost.
    pub killed: bool,
    /// When it said each of its lines.
    pub said: Vec<Instant>,
    /// The times in which its server stood still. The server takes lines from such a time when it goes on.
    pauses: Vec<(Instant, Instant)>,
    /// The numbers of its lines that a notice has quoted.
    pub told: HashSet<u32>,
    /// All that it has heard, by the authors' indices.
    pub heard: HashMap<usize, Heard>,
    /// Lines that it heard and that were said before its server was started.
    pub old: u32,
    /// The server's own lines, with their times.
    pub news: Vec<(Instant, String)>,
    /// Lines in an unknown form.
    pub other: Vec<String>,
}

/// A line from one member to another one.
#[derive(Debug)]
pub struct Private {
    /// The author's index.
    pub from: usize,
    /// The index of the member that it is meant for.
    pub to: usize,
    /// Its number.
    pub number: u32,
    /// The indices of the members that have heard it.
    pub heard_by: Vec<usize>,
    /// Whether its author got a notice that quotes it.
    pub told: bool,
}

/// All members, and what they know.
#[derive(Debug, Default)]
pub struct State {
    /// The members by their indices, also those that are gone.
    pub members: Vec<Member>,
    /// All private lines.
    pub private: Vec<Private>,
    /// Whether the times that lines take are collected in [`lateness`](Self::lateness).
    pub is_timed: bool,
    /// The time that lines took to members of other servers.
    pub lateness: Vec<Duration>,
    by_name: HashMap<String, usize>,
}

/// The members of a case, with the thread that reads for them.
#[derive(Debug)]
pub struct Members {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    epoll: OwnedFd,
    stop: OwnedFd,
}

/// The index that stands for the end of the thread.
const STOP: u64 = u64::MAX;
/// Lines that are said this much before the start of a server may seem to come after it, because the server reads the room's
/// clock over a link.
const CLOSE: Duration = Duration::from_secs(1);
/// How often a slow member reads.
const SLOW: Duration = Duration::from_millis(100);

impl Default for Members {
    fn default() -> Self {
        Self::new()
    }
}

impl Members {
    /// No members yet.
    pub fn new() -> Self {
        let epoll = epoll::create(CreateFlags::CLOEXEC).expect("an epoll");
        let stop = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        epoll::add(&epoll, &stop, EventData::new_u64(STOP), EventFlags::IN).expect("it is added");
        let (state, changed) = (Mutex::default(), Condvar::new());
        let inner = Arc::new(Inner { state, changed, epoll, stop });
        let reader = Arc::clone(&inner);
        let thread = Some(std::thread::spawn(move || reader.read()));
        Self { inner, thread }
    }

    /// The state that the members have reached.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state()
    }

    /// Connects this many members from the machine `from` to the server on the machine `host`, and waits until they have
    /// joined. Returns their indices.
    #[track_caller]
    pub fn join(
        &self,
        network: &Network,
        [from, host]: [&str; 2],
        server_started: Instant,
        count: usize,
        reading: Reading,
    ) -> Vec<usize> {
        let address = network.address(host, 8000);
        let streams: Vec<TcpStream> =
            network.inside(from, || (0..count).map(|_| connect(address, reading)).collect());
        let indices: Vec<usize> = streams
            .into_iter()
            .map(|stream| self.inner.add(stream, host, server_started, reading))
            .collect();
        // A member that reads nothing does not read its name either.
        if reading != Reading::Nothing {
            let joined = |state: &State| {
                let all = indices.iter().all(|index| state.members[*index].joined.is_some());
                all.then_some(())
            };
            self.wait("the members have joined", SOON, joined);
        }
        indices
    }

    /// Waits until `find` finds what it looks for.
    #[track_caller]
    pub fn wait<R>(&self, what: &str, time: Duration, find: impl FnMut(&State) -> Option<R>) -> R {
        self.wait_or_not(time, find).unwrap_or_else(|| panic!("in vain for {time:?}: {what}"))
    }

    /// Waits as [`wait`](Self::wait) does, and returns `None` after this time.
    pub fn wait_or_not<R>(
        &self,
        time: Duration,
        mut find: impl FnMut(&State) -> Option<R>,
    ) -> Option<R> {
        let deadline = Instant::now() + time;
        let mut state = self.state();
        loop {
            if let Some(found) = find(&state) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.inner.changed.wait_timeout(state, left.min(SLOW));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets a member type this line.
    pub fn type_in(&self, member: usize, line: &str) {
        self.inner.send(&mut self.state(), member, line);
    }

    /// Lets a member say its next line to all, with this many bytes after its number. Returns false if the member is no
    /// longer there.
    pub fn say(&self, member: usize, bytes: usize) -> bool {
        let mut state = self.state();
        let author = &mut state.members[member];
        if author.stream.is_none() {
            return false;
        }
        let line = format!("#{}.{} {:x<bytes$}", author.name, author.said.len(), "");
        author.said.push(Instant::now());
        self.inner.send(&mut state, member, &line);
        true
    }

    /// Lets a member say a line to another one, at the server that is called `server`, or at the author's own server.
    pub fn tell(&self, from: usize, to: usize, server: Option<&str>) {
        let mut state = self.state();
        let number = state.private.iter().filter(|line| line.from == from).count() as u32;
        let (author, name) = (&state.members[from].name, &state.members[to].name);
        let at = server.map_or(String::new(), |server| format!("@{server}"));
        let line = format!("@{name}{at} ~{author}.{number}");
        state.private.push(Private { from, to, number, heard_by: Vec::new(), told: false });
        self.inner.send(&mut state, from, &line);
    }

    /// Notes that the server on this machine has stood still since the moment `since`, and goes on now.
    pub fn server_goes_on(&self, host: &str, since: Instant) {
        let pause = (since, Instant::now());
        let mut state = self.state();
        let there = state.members.iter_mut().filter(|member| member.host == host);
        there.for_each(|member| member.pauses.push(pause));
    }

    /// Notes that the server on this machine ends, so that the end of its members' connections is not a fault; and if the
    /// server is killed, that their last lines may be lost.
    pub fn excuse(&self, host: &str, is_killed: bool) {
        let mut state = self.state();
        for member in state.members.iter_mut().filter(|it| it.host == host && it.is_open()) {
            member.excused = true;
            member.killed |= is_killed;
        }
    }

    /// Lets a member leave, by `/quit`, and waits for the end of its connection.
    pub fn quit(&self, member: usize) {
        self.state().members[member].excused = true;
        self.type_in(member, "/quit");
        self.wait("a member that quits is gone", SOON, |state| state.members[member].closed);
    }

    /// Changes how a member reads.
    pub fn set_reading(&self, member: usize, reading: Reading) {
        let mut state = self.state();
        let it = &mut state.members[member];
        let was = std::mem::replace(&mut it.reading, reading);
        let Some(stream) = &it.stream else { return };
        let flags =
            if reading == Reading::Everything { EventFlags::IN } else { EventFlags::empty() };
        if was != reading {
            let data = EventData::new_u64(member as u64);
            epoll::modify(&self.inner.epoll, stream, data, flags).expect("it was added");
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        // The write fails if the thread has ended by a panic; there is nobody left to stop.
        let _ = rustix::io::write(&self.inner.stop, &1_u64.to_ne_bytes());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Connects, as soon as the server listens.
fn connect(address: std::net::SocketAddr, reading: Reading) -> TcpStream {
    let began = Instant::now();
    loop {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        if reading != Reading::Everything {
            socket.set_recv_buffer_size(4096).expect("a small buffer");
        }
        let connected = socket.connect_timeout(&address.into(), SOON);
        match connected {
            Ok(()) => {
                socket.set_nonblocking(true).expect("a mode");
                return socket.into();
            }
            Err(error) => assert!(began.elapsed() < SOON, "{address} takes nobody: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, stream: TcpStream, host: &str, started: Instant, reading: Reading) -> usize {
        let mut state = self.state();
        let index = state.members.len();
        let name = format!("{host}-{index}");
        let flags =
            if reading == Reading::Everything { EventFlags::IN } else { EventFlags::empty() };
        epoll::add(&self.epoll, &stream, EventData::new_u64(index as u64), flags).expect("added");
        state.by_name.insert(name.clone(), index);
        let nick = format!("/nick {name}");
        state.members.push(Member {
            name,
            host: host.to_owned(),
            server_started: started,
            stream: Some(stream),
            received: Vec::new(),
            to_send: Vec::new(),
            reading,
            joined: None,
            closed: None,
            excused: false,
            killed: false,
            said: Vec::new(),
            pauses: Vec::new(),
            told: HashSet::new(),
            heard: HashMap::new(),
            old: 0,
            news: Vec::new(),
            other: Vec::new(),
        });
        self.send(&mut state, index, &nick);
        index
    }

    fn send(&self, state: &mut State, index: usize, line: &str) {
        let member = &mut state.members[index];
        let waited = !member.to_send.is_empty();
        member.to_send.extend_from_slice(line.as_bytes());
        member.to_send.push(b'\n');
        if !waited {
            self.flush(member, index);
        }
    }

    /// Sends the bytes that the server takes now. The rest is sent when the server takes more.
    fn flush(&self, member: &mut Member, index: usize) {
        let Some(stream) = &mut member.stream else { return };
        let mut sent = 0;
        while sent < member.to_send.len() {
            match stream.write(&member.to_send[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The thread that reads notices the end of the connection.
                Err(_) => sent = member.to_send.len(),
            }
        }
        member.to_send.drain(..sent);
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, member.reading == Reading::Everything);
        flags.set(EventFlags::OUT, !member.to_send.is_empty());
        let data = EventData::new_u64(index as u64);
        epoll::modify(&self.epoll, &*stream, data, flags).expect("it was added");
    }

    /// The thread: reads until it is stopped.
    fn read(&self) {
        let mut events = Vec::with_capacity(256);
        let mut bytes = vec![0; 65_536];
        let wait = Timespec::try_from(SLOW).expect("a short time");
        let mut next_slow = Instant::now();
        loop {
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            if epoll::wait(&self.epoll, spare, Some(&wait)).is_err() {
                continue;
            }
            let mut state = self.state();
            for event in &events {
                // Copies, because the fields of an event have no alignment.
                let (data, mut flags) = (event.data, event.flags);
                if data.u64() == STOP {
                    return;
                }
                let index = data.u64() as usize;
                if flags.contains(EventFlags::OUT) {
                    self.flush(&mut state.members[index], index);
                }
                flags.remove(EventFlags::OUT);
                if !flags.is_empty() {
                    state.receive(index, &mut bytes);
                }
            }
            if Instant::now() >= next_slow {
                next_slow = Instant::now() + SLOW;
                for index in 0..state.members.len() {
                    if let Reading::Slowly(count) = state.members[index].reading {
                        state.receive(index, &mut bytes[..count]);
                    }
                }
            }
            drop(state);
            self.changed.notify_all();
        }
    }
}

impl State {
    /// The index of the member with this name.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    fn receive(&mut self, index: usize, bytes: &mut [u8]) {
        let member = &mut self.members[index];
        let Some(stream) = &mut member.stream else { return };
        match stream.read(bytes) {
            Ok(0) => {}
            Ok(count) => {
                member.received.extend_from_slice(&bytes[..count]);
                let mut received = std::mem::take(&mut member.received);
                let end = received.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                let now = Instant::now();
                for line in received[..end].split(|byte| *byte == b'\n').filter(|it| !it.is_empty())
                {
                    self.hear(index, &String::from_utf8_lossy(line), now);
                }
                received.drain(..end);
                self.members[index].received = received;
                return;
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return;
            }
            Err(_) => {}
        }
        member.closed = Some(Instant::now());
        // The socket leaves the epoll set when it is closed.
        member.stream = None;
    }

    fn hear(&mut self, index: usize, line: &str, now: Instant) {
        match Line::read(line) {
            Line::Said { name, number } => {
                let Some(author) = self.index(name) else { return self.other(index, line) };
                let Some(said) = self.members[author].said.get(number as usize).copied() else {
                    return self.other(index, line);
                };
                if self.is_timed && self.members[author].host != self.members[index].host {
                    self.lateness.push(now.duration_since(said));
                }
                let heard_by_server = self.members[author].heard_by_server(said);
                let member = &mut self.members[index];
                member.old += u32::from(heard_by_server + CLOSE < member.server_started);
                member.heard.entry(author).or_default().add(number);
            }
            Line::Private { name, number } => {
                let author = self.index(name);
                let known = self
                    .private
                    .iter_mut()
                    .find(|private| Some(private.from) == author && private.number == number);
                match known {
                    Some(private) => private.heard_by.push(index),
                    None => self.other(index, line),
                }
            }
            Line::News(news) => self.news(index, news, now),
            Line::Other(_) => self.other(index, line),
        }
    }

    fn news(&mut self, index: usize, news: &str, now: Instant) {
        let member = &mut self.members[index];
        if news.strip_prefix("* you are ").is_some_and(|rest| rest.starts_with(&member.name)) {
            member.joined.get_or_insert(now);
        }
        for (kind, number) in quoted(news, &member.name) {
            if kind == '#' {
                member.told.insert(number);
                continue;
            }
            let mut private = self.private.iter_mut();
            let private = private.find(|line| line.from == index && line.number == number);
            private.into_iter().for_each(|line| line.told = true);
        }
        let member = &mut self.members[index];
        member.news.push((now, news.to_owned()));
    }

    fn other(&mut self, index: usize, line: &str) {
        self.members[index].other.push(line.to_owned());
    }
}

impl Member {
    /// When its server took the line that it said at the moment `said`: later than that if the server stood still.
    fn heard_by_server(&self, said: Instant) -> Instant {
        let pause = self.pauses.iter().find(|(from, until)| *from <= said && said < *until);
        pause.map_or(said, |(_, until)| *until)
    }

    /// Whether its connection is open.
    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether it reads at all; if it does not, its server drops it sooner or later.
    pub fn reads(&self) -> bool {
        self.reading != Reading::Nothing
    }

    /// Whether it hears all that is said, sooner or later.
    pub fn listens(&self) -> bool {
        self.is_open() && self.reads() && self.joined.is_some()
    }
}
