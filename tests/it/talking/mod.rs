//! Handlers that talk to others than their own peer: connections that they make, two things at once, the two directions
//! of a connection apart, and datagrams that are sent later.

mod connecting;
#[cfg(has_green)]
mod coroutines;
mod halves;
mod later_datagrams;

use socketserver::hooks::Failure;
use socketserver::{ServerHooks, StreamRequest};

/// Prints nothing of a failure that is made on purpose.
struct Quiet;

impl ServerHooks<StreamRequest> for Quiet {
    fn handle_error(&self, _failure: &Failure<'_>) {}
}
