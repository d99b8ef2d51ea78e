//! Child processes, where the number of a process's threads cannot be known: none are made.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// See the Linux form.
pub(crate) enum Forked {
    Parent { child: i32 },
    Child,
}

/// Refuses: only a process that is known to have one thread may be forked.
pub(crate) fn fork() -> io::Result<Forked> {
    Err(unsupported())
}

/// Refuses, as `fork` does.
pub(crate) fn no_other_threads() -> io::Result<()> {
    Err(unsupported())
}

fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "forking servers run on Linux only")
}

/// See the Linux form.
pub(crate) struct SignalsHeld;

impl SignalsHeld {
    pub(crate) fn hold() -> Self {
        Self
    }

    pub(crate) fn release_in_child(self) {}
}

/// See the Linux form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildState {
    Running,
    Exited(i32),
    Killed(i32),
    Gone,
}

/// There are no children.
pub(crate) fn reap(_child: i32) -> ChildState {
    ChildState::Gone
}

/// There are no children.
pub(crate) fn ended_child() -> Option<i32> {
    None
}

/// There are no children.
pub(crate) fn signal(_child: i32, _signal: libc::c_int) -> bool {
    false
}

/// See the Linux form.
#[derive(Debug)]
pub(crate) struct ExitWatch;

/// See the Linux form.
#[derive(Debug)]
#[expect(dead_code, reason = "there are no children to watch")]
pub(crate) enum Watched {
    ByDescriptor(std::os::fd::OwnedFd),
    BySignal,
}

impl ExitWatch {
    pub(crate) fn new() -> io::Result<Self> {
        Err(unsupported())
    }

    pub(crate) fn renew(&self) -> io::Result<()> {
        Err(unsupported())
    }

    pub(crate) fn add(&self, _child: i32) -> io::Result<Watched> {
        Err(unsupported())
    }

    pub(crate) fn watch_by_signal(&self) -> io::Result<()> {
        Err(unsupported())
    }

    pub(crate) fn watches_by_signal(&self) -> bool {
        false
    }

    pub(crate) fn are_reaped_by_the_kernel(&self) -> bool {
        false
    }

    pub(crate) fn remove(&self, _watched: Watched) {}

    pub(crate) fn ended(&self) -> Ended {
        Ended { signalled: false }
    }
}

/// See the Linux form.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) signalled: bool,
}

impl Ended {
    pub(crate) fn children(&self) -> impl Iterator<Item = i32> + use<> {
        std::iter::empty()
    }
}

impl AsFd for ExitWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        unreachable!("no watch can be made")
    }
}

/// See the Linux form.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OrphanMark {}

impl OrphanMark {
    pub(crate) fn if_orphans_come() -> Option<Self> {
        None
    }

    pub(crate) fn number(self) -> u64 {
        match self {}
    }

    pub(crate) fn of_number(_number: u64) -> Option<Self> {
        None
    }

    pub(crate) fn put(self) {
        match self {}
    }

    pub(crate) fn reap(self, _orphan: i32) -> bool {
        match self {}
    }
}

/// There are no children.
pub(crate) fn children() -> Vec<i32> {
    Vec::new()
}
