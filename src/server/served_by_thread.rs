//! Whether a thread runs a request of a server: a handler that closes its own server must not wait for itself.
//!
//! Each thread has a list of the servers that it works for, in `wait/serving.rs`, which knows a server only by a
//! number. That number is made here: the address of the context, which no other server has while a request of this one
//! runs.

use std::sync::Arc;

use crate::server_context::ServerContext;
use crate::wait;

pub(super) use crate::wait::Serving;

/// Notes that this thread runs a request of this server, until the result is dropped.
pub(super) fn start_serving(context: &Arc<ServerContext>) -> Serving {
    Serving::start(Arc::as_ptr(context).addr())
}

/// Whether this thread runs a request of this server.
pub(super) fn is_serving(context: &Arc<ServerContext>) -> bool {
    // A thread that works for a handler (`park::offload`) counts as well.
    wait::is_serving(Arc::as_ptr(context).addr())
}
