//! The lingering close: reading what a peer still sends, and throwing it away, for as long as it takes the
//! peer to read our answer.
//!
//! A socket that is closed with unread input makes the kernel send a reset, and the peer's kernel then
//! throws away the answer that its program has not read yet. So whoever has answered without reading
//! everything (an error, "busy") has to go on reading a little. That must cost no worker: a thread of this
//! process does it for all connections, as long as there are any. A coroutine does it itself, and so does a
//! forked child, which is about to end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::process::OwnerProcess;
use crate::socket_io::{self, SocketIo};
use crate::sys::{self, Mode, PollFd, RecvBuf};
use crate::wait::{self, Event};

/// How long to read on for a peer, and how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LingerLimits {
    pub(crate) time: Duration,
    pub(crate) bytes: usize,
}

/// A connection whose answer is on its way. It closes when this is dropped.
struct Lingering {
    fd: Arc<OwnedFd>,
    until: Instant,
    bytes_left: usize,
}

/// How many connections linger at once in a process. More are closed at once: it is a kindness, and not to
/// be used against us. The budget of descriptors leaves room for them.
const AT_ONCE: usize = 256;

/// The same where there are few descriptors: a quarter of them.
pub(crate) fn at_once() -> usize {
    let allowed = sys::descriptors().map_or(u64::MAX, |(allowed, _open)| allowed);
    usize::try_from(allowed / 4).unwrap_or(usize::MAX).min(AT_ONCE)
}

/// The thread stays for so long without a connection.
const KEEP: Duration = Duration::from_secs(1);

/// Those that are on their way to the thread, and the thread's bell; none while there is no thread.
static REAPER: Mutex<Option<Reaper>> = Mutex::new(None);

struct Reaper {
    bell: Arc<Event>,
    arriving: Vec<Lingering>,
    /// Those that the thread reads on for.
    lingering: usize,
    at_once: usize,
    /// Where the thread is. A forked child has a copy of this and no thread.
    owner: OwnerProcess,
}

/// Reads on for a connection, in a thread of its own for all of them, and closes it.
pub(crate) fn elsewhere(fd: Arc<OwnedFd>, bound: LingerLimits) {
    let connection = Lingering::new(fd, bound);
    let mut reaper = REAPER.lock();
    if reaper.as_ref().is_none_or(|reaper| !reaper.owner.is_noted()) {
        // Without descriptors or threads the connection is closed at once.
        let Ok(bell) = Event::new() else { return };
        let bell = Arc::new(bell);
        let heard = Arc::clone(&bell);
        let main = move || reap(&heard);
        if thread::Builder::new().name("linger".into()).spawn(main).is_err() {
            return;
        }
        *reaper = Some(Reaper {
            bell,
            arriving: Vec::new(),
            lingering: 0,
            at_once: at_once(),
            owner: OwnerProcess::noted(),
        });
    }
    if let Some(reaper) = &mut *reaper {
        if reaper.arriving.len() + reaper.lingering < reaper.at_once {
            reaper.arriving.push(connection);
            reaper.bell.notify();
        }
    }
}

/// Reads on for a connection, here: the caller has time, or is a coroutine.
pub(crate) fn here(source: &SocketIo, bound: LingerLimits) {
    let until = Instant::now().checked_add(bound.time);
    let until = until.map_or(socket_io::RecvTimeout::Never, socket_io::RecvTimeout::Until);
    // On the stack it would cost every request its pages, and hardly one lingers.
    let mut memory = vec![0; ROOM];
    let mut room = RecvBuf::from(&mut *memory);
    let mut left = bound.bytes;
    while left > 0 {
        match source.recv(&mut room, until) {
            Ok(0) => return,
            Ok(count) => left = left.saturating_sub(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

const ROOM: usize = 16 * 1024;

/// The life of the thread.
fn reap(bell: &Event) {
    let mut connections: Vec<Lingering> = Vec::new();
    let mut memory = vec![0; ROOM];
    let mut room = RecvBuf::from(&mut *memory);
    let mut leave_at = Instant::now() + KEEP;
    loop {
        let next = connections.iter().map(|connection| connection.until).min();
        let mut fds = vec![PollFd::readable(bell.as_fd())];
        fds.extend(connections.iter().map(|connection| PollFd::readable(connection.fd.as_fd())));
        let _ = sys::poll(&mut fds, Some(next.unwrap_or(leave_at)));
        drop(fds);
        bell.clear();
        connections.retain_mut(|connection| connection.go_on(&mut room));
        let now = Instant::now();
        if !connections.is_empty() {
            leave_at = now + KEEP;
        }
        let mut reaper = REAPER.lock();
        let Some(state) = &mut *reaper else { return };
        connections.append(&mut state.arriving);
        state.lingering = connections.len();
        if connections.is_empty() && now >= leave_at {
            *reaper = None;
            return;
        }
    }
}

impl Lingering {
    fn new(fd: Arc<OwnedFd>, bound: LingerLimits) -> Self {
        let until = wait::moment_after(Instant::now(), bound.time);
        Self { fd, until, bytes_left: bound.bytes }
    }

    /// Reads what is there. False: it is over, and the connection may be closed.
    fn go_on(&mut self, room: &mut RecvBuf<'_>) -> bool {
        while self.bytes_left > 0 && Instant::now() < self.until {
            match room.recv(self.fd.as_fd(), Mode::Try) {
                Ok(0) => return false,
                Ok(count) => self.bytes_left = self.bytes_left.saturating_sub(count),
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        false
    }
}
