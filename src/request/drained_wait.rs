//! The receive of a coroutine whose socket is known to be empty: it waits first, and has room for bytes only when some have
//! come.
//!
//! ```text
//! wait_without_memory   shown as waiting; parks         its stack is short meanwhile, and it holds no block
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
    /// Something has probably come. The wait is still shown.
    Yes,
    /// The receive has to wait, if there is need.
    No,
}

impl BoundedIo {
    /// Whether the next receive is one of a coroutine that finds nothing.
    #[inline]
    pub(super) fn is_sure_to_wait(&self, started: Option<Instant>) -> bool {
        let is_drained = self.connection.as_socket().is_some_and(SocketIo::is_drained);
        is_drained && started.is_none() && self.output.is_empty()
    }

    /// Before a receive that is sure to wait: if the reaper bounds it, a coroutine waits here. The part of its stack that it has
    /// while it waits is brought into the cache for each request, and the processor predicts no return from there: so the
    /// usual way down to the switch has few calls.
    #[inline(always)]
    pub(super) fn wait_without_memory(&mut self) -> io::Result<Awaited> {
        if self.next_wait_bounded_by() == BoundedBy::Timeout {
            return Ok(Awaited::No);
        }
        self.show_wait(
            if self.at_boundary { Activity::Idle } else { Activity::Receiving },
            BoundedBy::Reaper,
        );
        // In this order: see the diagram in `bounded_io.rs`. The usual receive looks again, and ends the wait.
        if self.at_boundary && self.ticket.is_to_end() {
            return Ok(Awaited::No);
        }
        match self.connection.as_socket().map(|socket| socket.park_for_input(None)) {
            Some(Err(error)) => Err(self.fail_awaited(error)),
            _ => Ok(Awaited::Yes),
        }
    }

    /// The receive after [`wait_without_memory`](Self::wait_without_memory) has waited.
    #[inline]
    pub(super) fn receive_awaited(&mut self, buf: &mut RecvBuf<'_>) -> io::Result<usize> {
        let result = match self.connection.as_socket() {
            Some(socket) => socket.recv_at_once(buf),
            None => return self.receive(buf, None),
        };
        let result = match result {
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

    #[cold]
    fn fail_awaited(&mut self, error: io::Error) -> io::Error {
        self.ticket.entry().show_activity(Activity::Running);
        self.explain(error, Timeout::Idle, self.ticket.limits().idle)
    }
}
