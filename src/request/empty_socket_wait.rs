//! The receive of a coroutine whose socket is known to be empty: it waits first, and takes memory for bytes only when
//! some have come. Between two requests a socket is usually empty. So a silent connection has a short stack, and holds
//! no block of the pool.
//!
//! ```text
//! wait_without_memory   shown as waiting; parks         the parked coroutine has a short stack and no block
//! receive_awaited       recv(2), into a block           still shown as waiting: nothing is shown twice
//!   nothing there         the usual receive, which waits again
//! ```

use std::io::{self, ErrorKind::Interrupted};
use std::time::Instant;

use super::bounded_io::{BoundedBy, BoundedIo};
use super::io_error::is_no_more_for_now;
use crate::live::Activity;
use crate::socket_io::{RecvTimeout, SocketIo};
use crate::sys::RecvBuf;
use crate::timed_out::Timeout;

/// Whether a receive has waited already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The receive has waited, and some bytes have probably come. The live list still shows the wait.
    Yes,
    /// The receive has not waited. It waits itself, if need be.
    No,
}

impl BoundedIo {
    /// Whether the next receive is that of a coroutine, and would find nothing. False with held-back output, which has
    /// to be sent before a wait, and in the middle of a read, which has a timeout. Never true on a plain thread,
    /// because only a coroutine's receive notes that it has taken everything.
    #[inline]
    pub(super) fn is_sure_to_wait(&self, started: Option<Instant>) -> bool {
        let is_drained = self.connection.as_socket().is_some_and(SocketIo::is_drained);
        is_drained && started.is_none() && self.output.is_empty()
    }

    /// Called before a receive that is sure to wait: a coroutine waits here, if the reaper bounds the wait. The stack
    /// that a waiting coroutine occupies is loaded into the cache for each request, and the processor predicts none
    /// of the returns from there. So the usual way down to the switch has few calls.
    #[inline(always)]
    pub(super) fn wait_without_memory(&mut self) -> io::Result<Awaited> {
        // There is a deadline, a handler's timeout, or a short limit: the usual receive computes the bound.
        if self.next_wait_bounded_by() == BoundedBy::Timeout {
            return Ok(Awaited::No);
        }
        self.show_wait(
            if self.at_boundary { Activity::Idle } else { Activity::Receiving },
            BoundedBy::Reaper,
        );
        // Asked only after the wait is shown: see the diagram in `bounded_io.rs`. The usual receive asks again, and
        // then does not wait.
        if self.at_boundary && self.ticket.is_to_end() {
            return Ok(Awaited::No);
        }
        // No bound: the reaper ends this wait by a shutdown, which makes the socket readable.
        match self.connection.as_socket().map(|socket| socket.park_for_input(None)) {
            Some(Err(error)) => Err(self.fail_awaited(error)),
            _ => Ok(Awaited::Yes),
        }
    }

    /// The receive that follows a wait by [`wait_without_memory`](Self::wait_without_memory).
    #[inline]
    pub(super) fn receive_awaited(&mut self, buf: &mut RecvBuf<'_>) -> io::Result<usize> {
        // The connection is a socket: `is_sure_to_wait` has checked it.
        let Some(socket) = self.connection.as_socket() else { return self.receive(buf, None) };
        let result = match socket.recv_at_once(buf) {
            // Nothing has come yet, or the wait was interrupted.
            Err(error) if is_no_more_for_now(&error) || error.kind() == Interrupted => {
                return self.receive(buf, None);
            }
            result => self.received(result, buf, RecvTimeout::Reaped),
        };
        match result {
            Ok(count) => {
                self.ticket.entry().show_activity(Activity::Running);
                Ok(count)
            }
            Err(error) => Err(self.fail_awaited(error)),
        }
    }

    /// Ends the wait in the live list, and explains the error that has ended it.
    #[cold]
    fn fail_awaited(&mut self, error: io::Error) -> io::Error {
        self.ticket.entry().show_activity(Activity::Running);
        self.explain(error, Timeout::Idle, self.ticket.limits().idle)
    }
}
