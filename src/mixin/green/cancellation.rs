//! [`Cancellation`]: how a request that does not end by itself is ended.
//!
//! ```text
//! the deadline of a drain     the server shuts down the connections
//!                             Message::Cancel: the wait of each request fails, once (`Cancelled`)
//! GRACE later                 waits unwind, a few times: the handler, its `finish`, its drops
//! after that                  waits fail, each after ABANDONED_WAIT
//! ```
//!
//! A handler that swallows the error, and each unwinding, is left behind; the server closes in time, and its report names
//! the request. Its waits pause, so that a handler which waits again and again takes neither its worker from others that
//! are about to end, nor the processor from a process that goes on. Nothing unwinds while the thread is panicking
//! (`wait::any` does not wait then), nor in a section of `park::shield`, nor with `panic = "abort"`, which has no
//! unwinding. The unwinding is a panic of our own that starts in the coroutine. corosensei can unwind a coroutine from
//! outside, but repeats that until the coroutine has ended: with a handler that catches panics in a loop it would never
//! return.

use std::cell::Cell;
use std::io;
use std::panic;
use std::time::Duration;

use crate::wait::{Cancelled, CancelledUnwind};

/// How long a handler has to return after its wait has failed. Well below the time that a close waits after it has forced
/// the requests that are left.
pub(super) const GRACE: Duration = Duration::from_millis(25);

/// How long each wait of a handler that is left behind lasts before it fails.
pub(super) const ABANDONED_WAIT: Duration = Duration::from_millis(10);

/// How far the end of a request has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum CancelPhase {
    #[default]
    None,
    /// The request's next wait fails.
    Asked,
    /// One wait has failed.
    Told,
    /// The request's waits unwind, this many times more. At zero each wait fails.
    Unwinds(u8),
}

impl CancelPhase {
    /// How many times one request unwinds: `handle`, `finish`, a drop, and one more.
    pub(super) const UNWINDS: Self = Self::Unwinds(4);
}

/// The cancellation of one coroutine.
#[derive(Default)]
pub(super) struct Cancellation {
    pub(super) phase: Cell<CancelPhase>,
    /// How many sections of `park::shield` the coroutine is in.
    pub(super) shields: Cell<u32>,
}

impl Cancellation {
    /// Makes the value for a coroutine that begins when the cancellation of all requests has come to this phase.
    pub(super) fn new(phase: CancelPhase) -> Self {
        Self { phase: Cell::new(phase), shields: Cell::new(0) }
    }

    /// Called before and after each wait. An error ends the wait.
    #[inline]
    pub(super) fn check(&self) -> io::Result<()> {
        if self.phase.get() == CancelPhase::None { Ok(()) } else { self.act() }
    }

    /// Whether all waits of the request fail from here on.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.phase.get() == CancelPhase::Unwinds(0) && self.shields.get() == 0
    }

    /// `check`, for a request that has to end.
    #[cold]
    fn act(&self) -> io::Result<()> {
        // In a section of `park::shield` the phase stays: the first wait after the section acts on it.
        if self.shields.get() > 0 {
            return Ok(());
        }
        match self.phase.get() {
            // One wait of the request has failed. For GRACE its other waits work as usual, so that it can clean up.
            CancelPhase::None | CancelPhase::Told => return Ok(()),
            CancelPhase::Asked => self.phase.set(CancelPhase::Told),
            CancelPhase::Unwinds(0) => {}
            CancelPhase::Unwinds(left) => {
                self.phase.set(CancelPhase::Unwinds(left - 1));
                if cfg!(panic = "unwind") {
                    // This is not `panic!`, so that no hook prints it.
                    panic::resume_unwind(Box::new(CancelledUnwind));
                }
            }
        }
        Err(Cancelled::error())
    }
}
