//! [`Preface`]: a step of the framework's own between a connection and its handler.

use super::Deadline;
use crate::error::{HandlerResult, Timeout};
use crate::limits::Limits;

/// A condition that a connection has to meet before its handler runs: a PROXY header, a TLS handshake.
///
/// It runs in the worker, so that a client that stalls here delays no other client, and within a limit of its own. Its
/// error ends the request as an error of the hook `wrap_request` does.
pub(crate) trait Preface<R>: Send + Sync {
    /// The limit of this step, for a request with these limits.
    fn deadline(&self, limits: &Limits) -> Option<Deadline>;

    /// Takes the step.
    ///
    /// # Errors
    ///
    /// Any; the request is closed, and `handle_error` is called.
    fn run(&self, request: &mut R) -> HandlerResult;
}

/// The prefaces of a server, in the order in which a connection brings them. None, usually.
pub(crate) struct Prefaces<R> {
    steps: Vec<Box<dyn Preface<R>>>,
}

impl<R> Default for Prefaces<R> {
    fn default() -> Self {
        Self { steps: Vec::new() }
    }
}

impl<R> Prefaces<R> {
    /// Whether handlers run at once.
    pub(crate) fn are_none(&self) -> bool {
        self.steps.is_empty()
    }

    /// The steps in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &dyn Preface<R>> {
        self.steps.iter().map(|step| &**step)
    }
}

/// The limit of a handshake that begins now.
pub(crate) fn handshake_deadline(limits: &Limits) -> Option<Deadline> {
    Deadline::after(Timeout::Handshake, limits.handshake)
}
