//! Handlers that do more than answer their peer: they make connections, do two things at once, use the two directions of a
//! connection at once, and send datagrams later.

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
