//! The wait of a coroutine whose socket is known to be empty, before it has room for what comes.

use std::io;
use std::time::Instant;

use super::bounded_io::{BoundedBy, BoundedIo};
use crate::error::Timeout;
use crate::live::Activity;

impl BoundedIo {
    /// Before a receive: if that is sure to wait, and the reaper bounds it, a coroutine waits here, where its stack has
    /// no room for bytes. The part of its stack that it has while it waits is brought into the cache for each request.
    #[inline]
    pub(super) fn wait_without_memory(&mut self, started: Option<Instant>) -> io::Result<()> {
        match self.connection.as_socket() {
            Some(socket) if socket.is_drained() && started.is_none() && self.output.is_empty() => {
                self.wait_drained()
            }
            _ => Ok(()),
        }
    }

    #[inline(never)]
    fn wait_drained(&mut self) -> io::Result<()> {
        if self.next_wait_bounded_by() == BoundedBy::Timeout {
            return Ok(());
        }
        self.show_wait(
            if self.at_boundary { Activity::Idle } else { Activity::Receiving },
            BoundedBy::Reaper,
        );
        // In this order: see the diagram above. The receive looks again, and ends the wait.
        if self.at_boundary && self.ticket.is_to_end() {
            return Ok(());
        }
        let waited =
            self.connection.as_socket().map_or(Ok(()), |socket| socket.park_for_input(None));
        waited.map_err(|error| {
            self.ticket.entry().show_activity(Activity::Running);
            self.explain(error, Timeout::Idle, self.ticket.limits().idle)
        })
    }
}
