//! The end of a request from outside: by a drain, the reaper, `close_live` or a limit.
//!
//! Two pairs of threads meet here. Each thread first stores its own value and then loads the other's, with sequential
//! consistency, so that at least one of the two sees the other:
//!
//! ```text
//! worker                                 another thread
//!   activity = Idle                        draining = true (Runs)
//!   is the server draining?                is the activity Idle?   -> shutdown(Read)
//!
//!   waits_to_write = true                  cut = Forced
//!   is there a cut?  -> no send            waits_to_write?         -> shutdown(Both), or Read
//! ```
//!
//! A shutdown of the socket is what wakes a worker that waits in the kernel: its read returns the end of input, its write
//! fails. The descriptor is never closed from here, because another thread may be in a system call with its number. A
//! handler that is in no read or write finds the cut at its next one.
//!
//! The cut is stored before the shutdown, always. So a worker that is woken finds the reason, and does not take the end of
//! input for the peer's.

use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Entry;
use crate::live::{Activity, Cut, FirstReads};
use crate::sys;

impl Entry {
    /// Why this side has ended the connection, if it has: the last reason that was stored. A request that was ended as idle
    /// and then answers for too long becomes a forced one.
    pub(crate) fn cut(&self) -> Option<Cut> {
        match self.marks.cut.load(Ordering::SeqCst) {
            0 => None,
            1 => Some(Cut::Drained),
            2 => Some(Cut::Forced),
            3 => Some(Cut::Closed),
            4 => Some(Cut::Silent),
            _ => Some(Cut::Crowded),
        }
    }

    /// Whether this side has ended the connection. Each receive asks this, and does not need the reason.
    #[inline]
    pub(crate) fn is_cut(&self) -> bool {
        self.marks.cut.load(Ordering::SeqCst) != 0
    }

    /// Notes that the handler has been told of the stop: a read has failed with `Stopping`. Only the worker calls this.
    pub(crate) fn stop(&self) {
        self.marks.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether the handler has been told of the stop.
    #[inline]
    pub(crate) fn is_stopped(&self) -> bool {
        self.marks.stopped.load(Ordering::Relaxed)
    }

    /// Whether this side has ended both directions of the connection: nothing more can be sent, and the request's
    /// linked connections end too. After the other cuts (a drain between two requests, a silent peer) the handler may
    /// still answer.
    pub(crate) fn is_cut_off(&self) -> bool {
        matches!(self.cut(), Some(Cut::Forced | Cut::Closed | Cut::Crowded))
    }

    /// Whether the reaper has ended the request's wait.
    pub(crate) fn is_silent(&self) -> bool {
        self.cut() == Some(Cut::Silent)
    }

    /// Whether the request is over, or has been cut off: for threads that work for it without its connection.
    pub(crate) fn is_closed(&self) -> bool {
        self.marks.ended.load(Ordering::SeqCst) || self.is_cut_off()
    }

    /// Ends the request for `close_live`, even if a child serves it. Returns false if there is nothing to end.
    pub(in crate::live) fn close(&self) -> bool {
        // Without a connection there is nothing to end, and no cut may be stored: it would explain an end that it has
        // not caused.
        let closed = match self.marks.process.load(Ordering::Relaxed) {
            // This process serves the request. If the request leaves at this moment, its connection may be gone.
            0 => self.connection.lock().is_some(),
            // The handler in the child cannot be reached, and the child has the connection. A kill ends both. If the
            // child has been reaped meanwhile, `signal` sends nothing: the number may be a stranger's.
            child => sys::child_process::signal(child, libc::SIGKILL),
        };
        // In a parent this only stores the reason and wakes the tokens: the connection is the child's alone.
        if closed {
            self.shut_down(Cut::Closed, Shutdown::Both);
        }
        closed
    }

    /// Makes every later end from outside leave the output open, unless the worker waits in a write: so the worker can send
    /// the wrapper's closing message (the `close_notify` of TLS). Called when the wrapper is in its place, and never undone.
    pub(crate) fn set_wrapped(&self) {
        self.marks.wrapped.store(true, Ordering::SeqCst);
    }

    /// Notes that the worker is about to wait for room to write. The worker looks for a cut after this call: see the
    /// second diagram at the top of the file.
    pub(crate) fn begin_write_wait(&self) {
        self.marks.waits_to_write.store(true, Ordering::SeqCst);
    }

    /// Notes that the wait is over: from here on the worker itself looks for a cut.
    pub(crate) fn end_write_wait(&self) {
        self.marks.waits_to_write.store(false, Ordering::SeqCst);
    }

    /// Stores the reason and ends one or both directions. Below a wrapper only the input is ended, because the worker
    /// has to send the wrapper's closing message; the worker finds the cut at its next read or write. If the worker waits
    /// in a write, both directions are ended: a peer that takes nothing gets no closing message either.
    ///
    /// Any thread may call this, but no signal handler, because this takes locks. It does not wait.
    pub(crate) fn shut_down(&self, why: Cut, how: Shutdown) {
        self.marks.cut.store(why as u8, Ordering::SeqCst);
        // This comes after the store of the cut: see the second diagram at the top of the file.
        let is_left_to_worker = self.marks.wrapped.load(Ordering::SeqCst)
            && !self.marks.waits_to_write.load(Ordering::SeqCst);
        self.shut_connection(if is_left_to_worker { Shutdown::Read } else { how });
        // This comes last, so that code that a token wakes finds the connection ended.
        if self.is_closed() {
            self.end_linked_connections();
            self.tell_of_close();
        }
    }

    /// Ends one or both directions of the connection, if the entry still has it. The lock keeps the descriptor's number
    /// from being used again meanwhile.
    pub(in crate::live) fn shut_connection(&self, how: Shutdown) {
        if let Some(fd) = &*self.connection.lock() {
            // It fails only if the peer has ended the connection already (ENOTCONN).
            let _ = sys::shutdown(fd.as_fd(), how);
        }
    }

    /// The connection that a cut from outside shuts down. `None` for a user's transport that has not given it, and when
    /// the request has ended.
    pub(crate) fn share_connection(&self) -> Option<Arc<OwnedFd>> {
        self.connection.lock().clone()
    }

    /// Whether a drain may end the request's wait. It may if the wait is for the beginning of a request; for the first
    /// request of a connection only when first reads are over.
    pub(in crate::live) fn may_be_ended(&self, first_reads: FirstReads) -> bool {
        self.activity() == Activity::Idle && (first_reads == FirstReads::Over || !self.is_unheard())
    }

    /// Ends the wait for the beginning of a request, if the worker is in one. A signal handler may call this, so it
    /// only tries the lock: a thread that holds the lock is ending the connection, or giving it up.
    pub(crate) fn end_input_if_idle(&self, first_reads: FirstReads) {
        if !self.may_be_ended(first_reads) {
            return;
        }
        // The reason is stored first, as always. If the lock is taken, the cut alone says why the connection ends.
        self.marks.cut.store(Cut::Drained as u8, Ordering::SeqCst);
        self.try_shut_connection(Shutdown::Read);
    }

    /// Ends one or both directions, for signal handlers. Does nothing if the lock is taken: the connection is then
    /// about to end anyway.
    pub(in crate::live) fn try_shut_connection(&self, how: Shutdown) {
        if let Some(fd) = self.connection.try_lock().as_deref().and_then(Option::as_ref) {
            let _ = sys::shutdown(fd.as_fd(), how);
        }
    }

    /// Notes that the request has left the list. The list calls this before the slot is free.
    pub(in crate::live) fn end(&self) {
        // The row belongs to the slot, and is cleared before the next request gets the slot.
        if let Some(proxied_client) = &self.arrival.proxied_client {
            proxied_client.end();
        }
        self.marks.ended.store(true, Ordering::SeqCst);
        // This comes after the store: a token that is made now is either notified here, or finds the end itself.
        self.tell_of_close();
        self.forget_connection();
    }

    /// Gives up this reference to the connection. The last reference closes it.
    pub(in crate::live) fn forget_connection(&self) {
        // Datagrams, of which there are many a second, take no lock.
        if !self.marks.has_connection.load(Ordering::Relaxed) {
            return;
        }
        self.connection.lock().take();
    }
}
