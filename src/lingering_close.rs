//! The lingering close: reading what a peer still sends, and throwing it away, until the peer has read our answer.
//!
//! A socket that is closed with unread input makes the kernel send a reset, and the peer's kernel then throws away
//! the answer that its program has not read yet. So a server that has answered without reading everything (an error,
//! "busy") has to go on reading a little. No worker may be held up for that: one thread of the process, `linger`,
//! reads for all connections, also for those of coroutines, and ends after a second without any. A forked child, which
//! is about to end, reads on by itself ([`in_this_thread`]).
//!
//! ```text
//! worker                        REAPER (locked)                linger
//! in_background(fd) ----------> arriving.push(fd)
//!                   wake_up.notify() ------------------------> poll returns
//!                               arriving -> the thread's own <- takes them, under the lock
//!                                                              reads each, never waiting for one of them
//!                               None <------------------------ leaves: no connection for a second
//! ```
//!
//! Invariant when unlocked: while `REAPER` is `Some`, its thread runs and takes the connections in `arriving`. When
//! the thread finds `arriving` empty and wants to leave, it sets `None` under the same lock. So no connection can
//! arrive after the thread's last check.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::limits::Limits;
use crate::socket_io::{RecvTimeout, SocketIo};
use crate::sys::{self, Mode, PerProcess, PollFd, RecvBuf};
use crate::wait::{self, Event};

/// A connection whose answer is on its way. Its output has been ended already; the connection closes when this is dropped.
struct LingeringConnection {
    /// The last reference to the descriptor, unless the program has kept one. The request is over.
    fd: Arc<OwnedFd>,
    /// When `Limits::linger` is over.
    until: Instant,
    /// The rest of `Limits::linger_bytes`.
    bytes_left: usize,
}

/// How many connections linger at the same time in a process. More are closed at once, so that clients cannot use up
/// the descriptors of a server by making it linger. The budget of descriptors leaves room for these.
const MAX_LINGERING: usize = 256;

/// [`MAX_LINGERING`], or a quarter of the descriptors that this process may have, if that is less.
pub(crate) fn max_lingering() -> usize {
    // With few descriptors most of them have to be left to clients that wait for an answer.
    let allowed = sys::descriptors().map_or(u64::MAX, |(allowed, _open)| allowed);
    usize::try_from(allowed / 4).unwrap_or(usize::MAX).min(MAX_LINGERING)
}

/// How long the thread stays without a connection. A server with many early answers keeps it; one with few has no idle
/// thread.
const KEEP_THREAD: Duration = Duration::from_secs(1);

/// None while there is no thread.
static REAPER: PerProcess<Mutex<Option<Reaper>>> = PerProcess::new(Mutex::default);

/// Locks [`REAPER`]. Nothing panics while it is locked.
fn lock_reaper() -> MutexGuard<'static, Option<Reaper>> {
    REAPER.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shared by the thread and by the threads that hand connections over to it, under the lock of [`REAPER`].
struct Reaper {
    /// Ends the thread's poll.
    wake_up: Arc<Event>,
    /// Connections that the thread has not taken yet.
    arriving: Vec<LingeringConnection>,
    /// How many the thread has taken and not closed.
    lingering: usize,
    /// The result of [`max_lingering`] when the thread was started.
    max_lingering: usize,
}

/// Reads on for a connection, in the one thread for all of them, and closes it. If there is no descriptor or no thread for
/// that, the connection is closed at once.
pub(crate) fn in_background(fd: Arc<OwnedFd>, limits: &Limits) {
    let until = wait::moment_after(Instant::now(), limits.linger);
    let connection = LingeringConnection { fd, until, bytes_left: limits.linger_bytes };
    let mut reaper = lock_reaper();
    if reaper.is_none() {
        // Out of descriptors: the return drops the connection, and so frees one.
        let Ok(wake_up) = Event::new() else { return };
        let wake_up = Arc::new(wake_up);
        let woken = Arc::clone(&wake_up);
        // Started under the lock: the thread first takes `arriving` after the push below.
        let main = move || reap(&woken);
        if thread::Builder::new().name("linger".into()).spawn(main).is_err() {
            return;
        }
        *reaper = Some(Reaper {
            wake_up,
            arriving: Vec::new(),
            lingering: 0,
            max_lingering: max_lingering(),
        });
    }
    if let Some(reaper) = &mut *reaper {
        // Beyond the limit the drop of `connection` closes it.
        if reaper.arriving.len() + reaper.lingering < reaper.max_lingering {
            reaper.arriving.push(connection);
            reaper.wake_up.notify();
        }
    }
}

/// Reads on for a connection, until the peer has ended its output or either limit (time, bytes) is reached. The caller is
/// a forked child, which has nothing else to do. The connection closes with the child.
pub(crate) fn in_this_thread(socket: &SocketIo, limits: &Limits) {
    let until = RecvTimeout::until(Instant::now().checked_add(limits.linger));
    // The buffer is not on the stack, where every request would pay for its pages, although few linger.
    let mut memory = vec![0; BUF_BYTES];
    let mut buf = RecvBuf::from(&mut *memory);
    // Bytes and time are both limited: neither a peer that sends for ever nor one that sends nothing holds the child.
    let mut left = limits.linger_bytes;
    while left > 0 {
        match socket.recv(&mut buf, until) {
            Ok(0) | Err(_) => return,
            Ok(count) => left = left.saturating_sub(count),
        }
    }
}

/// Bytes that one receive throws away at the most. `Limits::linger_bytes` may be exceeded by as much.
const BUF_BYTES: usize = 16 * 1024;

/// The body of the thread `linger`.
fn reap(wake_up: &Event) {
    let mut connections: Vec<LingeringConnection> = Vec::new();
    let mut memory = vec![0; BUF_BYTES];
    let mut buf = RecvBuf::from(&mut *memory);
    let mut leave_at = Instant::now() + KEEP_THREAD;
    loop {
        // The poll ends at the earliest deadline of a connection or, without connections, when the thread is to end.
        let next = connections.iter().map(|connection| connection.until).min();
        let mut fds = vec![PollFd::readable(wake_up.as_fd())];
        fds.extend(connections.iter().map(|connection| PollFd::readable(connection.fd.as_fd())));
        // After an error all connections are tried, as after an early return.
        let _ = sys::poll(&mut fds, Some(next.unwrap_or(leave_at)));
        drop(fds);
        wake_up.clear();
        // Reads from all connections, not only from the readable ones: there are few, and `read_on` checks their time
        // limits as well.
        connections.retain_mut(|connection| connection.read_on(&mut buf));
        let now = Instant::now();
        if !connections.is_empty() {
            leave_at = now + KEEP_THREAD;
        }
        // The thread checks for the last time, and leaves, under one lock: see the invariant above.
        let mut reaper = lock_reaper();
        let Some(state) = &mut *reaper else { return };
        connections.append(&mut state.arriving);
        state.lingering = connections.len();
        if connections.is_empty() && now >= leave_at {
            *reaper = None;
            return;
        }
    }
}

impl LingeringConnection {
    /// Reads the bytes that have come. Returns false if the connection is done; the caller then closes it.
    fn read_on(&mut self, buf: &mut RecvBuf<'_>) -> bool {
        while self.bytes_left > 0 && Instant::now() < self.until {
            match buf.recv(self.fd.as_fd(), Mode::Try) {
                Ok(0) => return false,
                Ok(count) => self.bytes_left = self.bytes_left.saturating_sub(count),
                // `WouldBlock`: there is nothing more for now. Any other error means that the peer is gone.
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        false
    }
}
