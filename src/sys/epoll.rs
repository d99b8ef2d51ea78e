//! An epoll set: several descriptors that are waited for as one.
//!
//! A fork shares the set itself and makes no copy: a change by one process holds for both. So a child that goes on to use
//! the set renews it before it adds or removes anything. A closed descriptor leaves the set only when its last copy is
//! closed, in any process. So descriptors that may have been inherited are removed explicitly.
//!
//! | user | set | events |
//! |---|---|---|
//! | a worker of `Green` | its connections, its inbox, what a coroutine waits for once | [`WatchFor`] |
//! | `exclusive_epoll` | a listener and interrupts | EPOLLIN, with EPOLLEXCLUSIVE for the listener |
//! | `exit_watch` | the pidfds of children, and an event | EPOLLIN |
//! | `input_after_shutdown` | one connection | EPOLLIN and EPOLLET |
//!
//! **Stale events.** With each event the kernel returns the number that the descriptor was added with, and not the descriptor.
//! An event may be fetched, its descriptor closed and given to another file, and only then the event handled. A user that
//! closes descriptors has to recognise such an event: a worker puts a token of the connection into the number
//! (`mixin/green/registrations.rs`).
//!
//! **Errors.** EPOLL_CTL_ADD fails with ENOSPC at `fs.epoll.max_user_watches`, a bound for all sets of a user, and with
//! ENOMEM; `epoll_create1` with EMFILE or ENFILE, as every call that makes a descriptor. A wait fails with EINTR alone.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
#[cfg(has_green)]
use std::time::Duration;

use super::check;
use super::socket::Mode;

/// The set. Its descriptor is readable while a descriptor in the set is ready.
/// [epoll(7)](https://man7.org/linux/man-pages/man7/epoll.7.html)
#[derive(Debug)]
pub(crate) struct Epoll {
    /// The descriptor of the set. Its number stays, also after [`renew`](Self::renew).
    set: OwnedFd,
}

impl Epoll {
    /// An empty set, which is closed by exec and shared by a fork.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; a descriptor or -1 comes back.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Self { set: super::owned(fd) })
    }

    /// In a forked child: replaces the set with an empty one of the child's own, under the same number. Until then the child
    /// shares the parent's set, and every change would hold in the parent as well.
    ///
    /// Takes one descriptor for a moment. The user of the set adds the descriptors again that the child still has.
    pub(super) fn renew(&self) -> io::Result<()> {
        super::replace(&self.set, Self::new()?.set)
    }

    /// Adds a descriptor; [`wait`](Self::wait) returns `number` when it is ready.
    ///
    /// `events` are those of epoll_ctl(2), such as EPOLLIN. EPOLLERR and EPOLLHUP are reported in any case. Fails for
    /// a descriptor that is in the set already (EEXIST), and for regular files (EPERM).
    pub(super) fn add(
        &self,
        fd: BorrowedFd<'_>,
        events: libc::c_int,
        number: u64,
    ) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, events, number)
    }

    /// Makes one call of epoll_ctl(2) with an event. [epoll_ctl(2)](https://man7.org/linux/man-pages/man2/epoll_ctl.2.html)
    fn control(
        &self,
        operation: libc::c_int,
        fd: BorrowedFd<'_>,
        events: libc::c_int,
        number: u64,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: number };
        let (set, fd) = (self.set.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: the pointer is to a live event, and both descriptors are open.
        check(unsafe { libc::epoll_ctl(set, operation, fd, &raw mut event) }).map(drop)
    }

    /// Removes a descriptor. If it is not in the set, nothing happens.
    ///
    /// Once this returns, no later wait reports the descriptor; events that were fetched before may still be in the
    /// caller's hands.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        let (set, fd) = (self.set.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: no event is passed, and none is needed to delete.
        unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    /// Waits until a descriptor is ready ([`Mode::Block`]), or only looks. Returns the numbers of the ready ones,
    /// `MOST` at the most.
    ///
    /// A signal ends the wait with `Interrupted`. If more than `MOST` are ready, the next calls report the others.
    ///
    /// The events lie on the caller's stack, so nothing is allocated, and several threads may wait for one set.
    pub(super) fn wait<const MOST: usize>(
        &self,
        mode: Mode,
    ) -> io::Result<impl Iterator<Item = u64> + use<MOST>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; MOST];
        let most = libc::c_int::try_from(MOST).unwrap_or(libc::c_int::MAX);
        let timeout = if mode == Mode::Block { -1 } else { 0 };
        let set = self.set.as_raw_fd();
        // SAFETY: the pointer and the length are those of `events`.
        let count = check(unsafe { libc::epoll_wait(set, events.as_mut_ptr(), most, timeout) })?;
        let count = usize::try_from(count).unwrap_or(0);
        Ok(events.into_iter().take(count).map(|event| event.u64))
    }
}

/// For a worker that runs coroutines: many descriptors, each with a number of its own.
#[cfg(has_green)]
impl Epoll {
    /// Watches a descriptor from here on. A descriptor that is in the set already is watched for the new events
    /// instead.
    ///
    /// A new descriptor takes one system call. One that is in the set takes two: it is a connection whose earlier registration
    /// the worker has forgotten, and the kernel has not.
    pub(crate) fn watch(&self, fd: BorrowedFd<'_>, what: WatchFor, number: u64) -> io::Result<()> {
        match self.add(fd, what.events(), number) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.watch_instead(fd, what, number)
            }
            done => done,
        }
    }

    /// Watches a descriptor that is not in the set yet. If it is, the error is `AlreadyExists`.
    ///
    /// Two coroutines may wait for one event: the second one learns by the error that it needs a copy of the
    /// descriptor.
    pub(crate) fn watch_new(
        &self,
        fd: BorrowedFd<'_>,
        what: WatchFor,
        number: u64,
    ) -> io::Result<()> {
        self.add(fd, what.events(), number)
    }

    /// Watches a descriptor of the set for other events. If one of them is there already, it is reported anew.
    pub(crate) fn watch_instead(
        &self,
        fd: BorrowedFd<'_>,
        what: WatchFor,
        number: u64,
    ) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, what.events(), number)
    }

    /// Waits until a descriptor is ready, or for this long; None means for ever. A signal ends the wait.
    ///
    /// A worker waits nowhere else: between two calls it runs all coroutines that are ready. A timeout of zero only looks.
    /// The kernel counts the timeout in milliseconds; the longest is 25 days.
    pub(crate) fn wait_for_events(&self, events: &mut ReadyEvents, timeout: Option<Duration>) {
        // Rounded up: a wait that ended early would make its caller spin until the time is over.
        let millis = timeout.map_or(-1, |timeout| {
            libc::c_int::try_from(timeout.as_nanos().div_ceil(1_000_000))
                .unwrap_or(libc::c_int::MAX)
        });
        let most = libc::c_int::try_from(events.room.len()).unwrap_or(libc::c_int::MAX);
        let set = self.set.as_raw_fd();
        // SAFETY: the pointer and the length are those of `room`.
        let count = unsafe { libc::epoll_wait(set, events.room.as_mut_ptr(), most, millis) };
        // The only possible error is EINTR, because the set and the memory are valid.
        events.count = usize::try_from(count).unwrap_or(0);
    }
}

/// The readiness that a descriptor is watched for.
///
/// A connection is watched once, by edges, for as long as it lives: a wait on it then costs no system call. An edge is
/// reported once, so the reader has to go on until a call says `WouldBlock` before it may wait again. A descriptor that is
/// waited for once is watched by level: whatever is there already is reported.
#[cfg(has_green)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchFor {
    /// Input that arrives, and the end of the input. Each is reported once.
    Arrivals,
    /// As `Arrivals`; and room to write, each time there is some again.
    ArrivalsAndRoom,
    /// Input or clients. Reported for as long as there are some.
    Input,
    /// Room to write. Reported for as long as there is some.
    Room,
}

#[cfg(has_green)]
impl WatchFor {
    /// The flags of epoll_ctl(2). EPOLLRDHUP says that the peer has ended its output, so that no read is needed to find that
    /// out. EPOLLPRI says that there is urgent data.
    fn events(self) -> libc::c_int {
        const ARRIVAL_EVENTS: libc::c_int =
            libc::EPOLLIN | libc::EPOLLPRI | libc::EPOLLRDHUP | libc::EPOLLET;
        match self {
            Self::Arrivals => ARRIVAL_EVENTS,
            Self::ArrivalsAndRoom => ARRIVAL_EVENTS | libc::EPOLLOUT,
            Self::Input => libc::EPOLLIN,
            Self::Room => libc::EPOLLOUT,
        }
    }
}

/// The events of one wait.
///
/// A worker makes it once and uses it for every wait.
#[cfg(has_green)]
pub(crate) struct ReadyEvents {
    /// The first `count` events are those of the last wait. The others are left from earlier waits.
    room: Box<[libc::epoll_event]>,
    /// How many events the last wait has found.
    count: usize,
}

#[cfg(has_green)]
impl ReadyEvents {
    /// Room for `most` events.
    pub(crate) fn new(most: usize) -> Self {
        let none = libc::epoll_event { events: 0, u64: 0 };
        Self { room: vec![none; most].into_boxed_slice(), count: 0 }
    }

    /// How many events there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The event at this place.
    ///
    /// None from [`len`](Self::len) on. A connection that is broken counts as both readable and writable, so that each
    /// coroutine that waits for it makes its call and gets the error.
    pub(crate) fn get(&self, at: usize) -> Option<ReadyEvent> {
        let event = self.room[..self.count].get(at)?;
        let has = |flags: libc::c_int| event.events & flags as u32 != 0;
        let broken = has(libc::EPOLLHUP | libc::EPOLLERR);
        // EPOLLERR alone is no end: it also announces an entry in the error queue.
        let ended = has(libc::EPOLLHUP | libc::EPOLLRDHUP);
        Some(ReadyEvent {
            number: event.u64,
            readable: ended || broken || has(libc::EPOLLIN | libc::EPOLLPRI),
            writable: broken || has(libc::EPOLLOUT),
            urgent: has(libc::EPOLLPRI),
            ended,
        })
    }
}

/// The readiness of a descriptor.
///
/// It is a hint: by the time at which a coroutine runs, another one may have read the input.
#[cfg(has_green)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadyEvent {
    /// The number that the descriptor was added with.
    pub(crate) number: u64,
    /// There is input, a client, the end of input, or an error.
    pub(crate) readable: bool,
    /// There is room to write, or an error.
    pub(crate) writable: bool,
    /// There is urgent data of TCP in the input.
    pub(crate) urgent: bool,
    /// No more input will come.
    pub(crate) ended: bool,
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}
