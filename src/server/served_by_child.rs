//! [`ServedByChild`]: a request that a child serves, in its parent. The parent tells the observers what the child has left in
//! shared memory, in its exit status and in its text.
//!
//! The mixin keeps it together with the child's process number, calls `ended` when it has reaped the child, and drops it.
//! If it is dropped without that call, the request counts as released. All reports are made in the drop, so that each is
//! made once, and in the same order, in both cases.

use std::sync::Arc;

use super::catch_panic::drop_catching;
use super::close_reason::refused_by;
use super::server_permit::ServerPermit;
use crate::error::{Error, Fatal, HandlerError};
use crate::events::{CloseReason, Limit, ServerEvent};
use crate::live::{Cut, Entry};
use crate::mixin::{ChildEnd, RequestOfChild};
use crate::request::Ticket;
use crate::transport::Transport;

/// The parent's side of a request that a child serves: its slot in the live list and its permit.
pub(super) struct ServedByChild<T: Transport> {
    /// The slot in the live list, which the request keeps as long as its child lives. `None` only at the very end.
    ticket: Option<Ticket>,
    /// The request's entry in the live list: shared with the ticket, and still there when the ticket has been dropped.
    entry: Arc<Entry>,
    /// The permit of `Limits::live`: children count, too.
    core: ServerPermit<T>,
    /// How the request has ended, as far as is known.
    reason: CloseReason,
    /// The text of the error of a step before the handler, if such a step has failed.
    failed_step: Option<String>,
}

impl<T: Transport> ServedByChild<T> {
    /// The parent's side of a request that has just been left to its child. Until its end is known, it counts as
    /// released.
    pub(super) fn new(ticket: Ticket, core: ServerPermit<T>) -> Self {
        let (entry, reason) = (Arc::clone(ticket.entry()), CloseReason::Released);
        Self { ticket: Some(ticket), entry, core, reason, failed_step: None }
    }
}

impl<T: Transport> RequestOfChild for ServedByChild<T> {
    fn ended(mut self: Box<Self>, end: ChildEnd) {
        let runs = &self.core.context.runs;
        if end.reason == CloseReason::Fatal {
            let text = end.text.unwrap_or_else(|| "a child process said so".to_owned());
            runs.fail(Error::fatal(Fatal::new(text)));
        } else {
            self.failed_step = end.text;
        }
        // `stop` is set only if the handler has asked for a stop: one from before the fork is known here.
        if end.stop {
            // The child's `shutdown` has stopped only its copy of the server, and nothing in this process.
            runs.request_stop();
        }
        // The status says only that a signal has ended the child. If this process has sent that signal, the cut says
        // why.
        self.reason = match self.entry.cut() {
            Some(Cut::Forced) if end.cut_off => CloseReason::Forced,
            Some(Cut::Closed) if end.cut_off => CloseReason::ClosedHere,
            _ => end.reason,
        };
    }
}

impl<T: Transport> Drop for ServedByChild<T> {
    fn drop(&mut self) {
        // A hook may have left an extension in the ticket, and its drop is the program's code.
        drop(drop_catching(self.ticket.take()));
        // By now the parent can know the client that a proxy has named to the child.
        self.core.tell_of_client(&self.entry);
        if let Some(text) = self.failed_step.take() {
            self.core.tell_of_preface(&self.entry, &HandlerError::from(text));
        }
        // The limit because of which the child has refused its request. The child has noted the limit in the request's
        // shared row; if there are more requests than rows, this request may have had none.
        let refused = (self.reason == CloseReason::Refused)
            .then(|| self.entry.beyond().unwrap_or(Limit::PerPeer));
        if let Some(limit) = refused {
            self.core.tell(&ServerEvent::LimitReached { limit });
        }
        let refused = refused.map(refused_by);
        self.core.count(&self.entry, self.reason);
        self.core.tell_of_end(&self.entry, self.reason, refused.as_ref());
    }
}
