//! Whether a thread runs a request of a server: a handler that closes its own server must not wait for itself. The list is
//! the thread's, in `wait/serving.rs`, which knows a server only by a number. Here that number is made: the address of the
//! context, which no other server has while a request of this one runs.

use std::sync::Arc;

use crate::server_context::ServerContext;
use crate::wait;

pub(super) use crate::wait::Serving;

/// Until the result is dropped this thread runs a request of this server.
pub(super) fn start_serving(context: &Arc<ServerContext>) -> Serving {
    Serving::start(Arc::as_ptr(context).addr())
}

/// Whether this thread runs a request of this server.
pub(super) fn is_serving(context: &Arc<ServerContext>) -> bool {
    // A thread that works for a handler (`park::offload`) counts as well.
    wait::is_serving(Arc::as_ptr(context).addr())
}
