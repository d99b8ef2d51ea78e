//! Which process this is. All other parts that have to know it ask this file. `server/fork.rs` does what a fork makes
//! necessary.
//!
//! A fork copies the memory of a process and one of its threads. Parent and child share the descriptors. So a child
//! must not take every value as its own: not one that stands for a thread, for a descriptor that is waited for, or
//! for a request.
//!
//! | in a child | that goes on for itself | that serves one request ([`Role::Child`]) |
//! |---|---|---|
//! | an event | gets a descriptor of its own, under the same number | is its parent's: `notify` and `clear` do nothing |
//! | the live list, a gate | forgets those of the parent | stays as it was, and is not read |
//! | a run | none goes on; a requested stop stays requested | none is begun, none ends |
//! | threads of the library | are started again when they are needed | likewise, for this one request |
//! | threads of a mixin | make it refuse to serve | there are none |
//! | datagrams of a batch | are the parent's to answer | all but its own are the parent's |
//! | the listener | stays shared, and each process closes its copy | is closed at once |
//! | a Unix socket's file | is removed if no other process listens | stays |
//! | counts, observer | its own from here on | are the parent's; the exit status tells the parent how the request ended |
//!
//! # A bare fork
//!
//! A handler of any mixin may fork by itself, while other threads hold locks: a lock that one of them held stays held in the
//! child for ever. `sys/fork_count.rs` notices the fork ([`enter_bare_fork`]), and a [`BareFork`] shows whether the value
//! that holds it was made before the fork.
//! The child serves its request on the one thread that it has, and ends with the handler.
//!
//! | in such a child | |
//! |---|---|
//! | the outbox writer, the lingering close, threads of `offload`, the locks of events and of a run's begin | its own: `PerProcess` of `sys` |
//! | an outbox, deferred replies and lists from before the fork | the parent's to send: left alone |
//! | the pool of blocks, the description of the terminal | their locks are only tried |
//! | the console's counts, the limit of descriptors that programs get back | have no lock |
//! | the process number | noted at the fork, so that an event becomes the child's own when it is next waited for |
//! | the end of the request: live list, gate, queue of workers, observer | is not reached: the process ends with the handler |
//! | the live list, the server's state, TLS shared with an outbox or a half, connections to other servers | have locks: a handler asks for none of them in the child |
//! | servers, metrics, sockets of a predecessor or a service manager, actions of signals | have locks that are held while a server is made, begins or ends: a child makes one only if its parent does not at that moment |
//!
//! Asking the system costs a call. So the process number is asked for when a run begins ([`note`]), and later code of
//! the run compares with the noted number. The actions of signals ask the system itself, because they may run before
//! anything is noted.

use std::convert::Infallible;
use std::env;
use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

/// Turns the result of a call that ends the process into an expression that never returns. (Rust 1.85 warns of a
/// `match` on the call itself.)
pub(crate) fn no_return(gone: Infallible) -> ! {
    // There is no value of this type, so the match has no arms.
    match gone {}
}

/// The value of a variable of the environment. An empty variable counts as unset, because a unit file unsets a variable by
/// an empty value.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The role of this process to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The process serves by itself, and may start threads.
    Alone,
    /// The process forks a child for each request, and so must stay a process of one thread.
    Parent,
    /// A child of the parent. It serves one request and ends.
    Child,
}

impl Role {
    /// Whether it may start threads. A parent may not: a fork copies only one thread, and locks that other threads hold
    /// stay locked in the child.
    pub(crate) fn may_start_threads(self) -> bool {
        self != Self::Parent
    }

    /// Whether it forks a child for each request.
    pub(crate) fn is_parent(self) -> bool {
        self == Self::Parent
    }

    /// Whether it serves one request and ends.
    pub(crate) fn is_child(self) -> bool {
        self == Self::Child
    }
}

/// The role of this process, which changes once: in a child.
#[derive(Debug)]
pub(crate) struct CurrentRole {
    /// The role that the mixin has chosen, when the server was made.
    at_first: Role,
    /// Set in a child of this server, if the server itself runs in a child of another server: see [`SERVED`].
    in_nested_child: AtomicBool,
}

/// The server that this process is a child of, by the address of that server's [`CurrentRole`]; [`NOBODY`] if it is no
/// child. Set once.
///
/// It is a static, because a child writes to other statics on the same page anyway. A flag in the server would be on a page
/// of its own, which each child would have to copy.
static SERVED: AtomicUsize = AtomicUsize::new(NOBODY);

/// The value of [`SERVED`] in a process that is not a child. It is not zero, so that the linker puts the static among
/// those with an initial value.
const NOBODY: usize = usize::MAX;

impl CurrentRole {
    /// `at_first`: never [`Role::Child`], because no server is made as a child.
    pub(crate) fn new(at_first: Role) -> Self {
        Self { at_first, in_nested_child: AtomicBool::new(false) }
    }

    /// The role of the process that asks. Each request asks a few times, so this makes two atomic loads at most.
    #[inline]
    pub(crate) fn get(&self) -> Role {
        // Only a server that forks has children. In all others this is one comparison: the static is not even read.
        if self.at_first.is_parent() && self.is_of_child() { Role::Child } else { self.at_first }
    }

    #[inline]
    fn is_of_child(&self) -> bool {
        SERVED.load(Ordering::SeqCst) == self.place() || self.in_nested_child.load(Ordering::SeqCst)
    }

    /// The number that distinguishes this server from others. It never changes, because the value lies in the server's
    /// context, which is never moved.
    #[inline]
    fn place(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Notes that from here on this process is a child that serves one request.
    #[inline]
    pub(crate) fn enter_child(&self) {
        // The process has just been forked and has one thread, so no other thread stores between the load and the store.
        if SERVED.load(Ordering::SeqCst) == NOBODY {
            SERVED.store(self.place(), Ordering::SeqCst);
        } else {
            self.in_nested_child.store(true, Ordering::SeqCst);
        }
    }
}

/// The process number that was noted last; zero before the first note. Relaxed: it changes only after a fork, when the
/// process has one thread.
static NOTED: AtomicU32 = AtomicU32::new(0);

/// Asks the system which process this is, and notes it. Called at the beginning of a run, and where something is made
/// that belongs to one process.
pub(crate) fn note() -> u32 {
    let process = std::process::id();
    // Stored only if it has changed: a store in a child copies a page of the parent's.
    if NOTED.load(Ordering::Relaxed) != process {
        NOTED.store(process, Ordering::Relaxed);
    }
    process
}

/// The process number that was noted last. In a child that has not noted its own yet, this is the parent's.
fn noted() -> u32 {
    NOTED.load(Ordering::Relaxed)
}

/// How many bare forks lie between this process and the first of its ancestors that has run a server. Relaxed, as
/// [`NOTED`].
static BARE_FORKS: AtomicU32 = AtomicU32::new(0);

/// Notes a child of a fork that the program has made by itself, perhaps while other threads held locks. A handler of
/// pthread_atfork(3) calls it, so it takes no lock and no memory. (`Forking` forks a process of one thread, and its child
/// writes as little as it can.)
pub(crate) fn enter_bare_fork() {
    BARE_FORKS.fetch_add(1, Ordering::Relaxed);
    note();
}

/// The process in which something was made, identified by the number of bare forks before it. In a child of a bare fork an
/// inherited value may be half changed, and its lock may stay held for ever.
///
/// A comparison needs no system call. It notices neither a bare clone(2) nor a fork by `Forking`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BareFork(u32);

impl BareFork {
    /// The value of this process.
    #[inline]
    pub(crate) fn current() -> Self {
        Self(BARE_FORKS.load(Ordering::Relaxed))
    }

    /// Whether no bare fork lies between the process that has made this value and this process.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        self == Self::current()
    }
}

/// The process that a descriptor, a thread or a file belongs to. By default none.
#[derive(Debug, Default)]
pub(crate) struct OwnerProcess {
    /// The number of that process; zero stands for none.
    process: AtomicU32,
}

impl OwnerProcess {
    /// This process as the owner, by the number that the system gives.
    pub(crate) fn this_process() -> Self {
        Self { process: AtomicU32::new(note()) }
    }

    /// This process as the owner, by the number that was last noted.
    pub(crate) fn noted() -> Self {
        Self { process: AtomicU32::new(noted()) }
    }

    /// Whether this process is the owner. It asks the system by getpid(2), so the action of a signal may call it, too.
    pub(crate) fn is_this_process(&self) -> bool {
        // The noted number would not do: a child that has noted nothing yet would take its parent's for its own.
        self.process.load(Ordering::SeqCst) == std::process::id()
    }

    /// Whether the noted process is the owner. No system call. Correct from the beginning of a run on, because a run
    /// notes its process.
    pub(crate) fn is_noted(&self) -> bool {
        self.process.load(Ordering::SeqCst) == noted()
    }

    /// Makes the noted process the owner.
    pub(crate) fn become_noted(&self) {
        self.process.store(noted(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_this_process_from_the_moment_it_is_noted() {
        let owner = OwnerProcess::default();
        assert!(!owner.is_this_process());
        note();
        assert!(!owner.is_noted());
        owner.become_noted();
        assert!(owner.is_noted() && owner.is_this_process());
    }

    #[test]
    fn a_child_may_start_threads_and_its_parent_may_not() {
        let role = CurrentRole::new(Role::Parent);
        assert!(!role.get().may_start_threads());
        role.enter_child();
        assert!(role.get().is_child() && role.get().may_start_threads());
        // A child of a child is a child to both servers.
        let nested = CurrentRole::new(Role::Parent);
        assert!(nested.get().is_parent());
        nested.enter_child();
        assert!(nested.get().is_child() && role.get().is_child());
        SERVED.store(NOBODY, Ordering::SeqCst);
    }
}
