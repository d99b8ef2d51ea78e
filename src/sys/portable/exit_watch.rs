//! The ends of children, on systems where this crate forks none.
//!
//! The parts of `Forking` above this folder are compiled for every system, so these names have to exist. `new` fails before
//! anything else is called, with the text that the operator reads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::fork::unsupported;

/// See the form for Linux, in `sys/exit_watch.rs`.
#[derive(Debug)]
pub(crate) struct ExitWatch;

/// See the form for Linux, in `sys/exit_watch.rs`.
#[derive(Debug)]
#[expect(dead_code, reason = "there are no children to watch")]
pub(crate) enum Watched {
    ByDescriptor(std::os::fd::OwnedFd),
    BySignal,
}

impl ExitWatch {
    /// Always fails, so that the other methods are never called.
    pub(crate) fn new() -> io::Result<Self> {
        Err(unsupported())
    }

    /// Never called: there is no watch.
    pub(crate) fn renew(&self) -> io::Result<()> {
        Err(unsupported())
    }

    /// Never called.
    pub(crate) fn add(&self, _child: i32) -> io::Result<Watched> {
        Err(unsupported())
    }

    /// Never called.
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

    /// No ends.
    pub(crate) fn ended(&self) -> Ended {
        Ended { signalled: false }
    }
}

/// See the form for Linux, in `sys/exit_watch.rs`.
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
