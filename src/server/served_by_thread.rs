//! The servers whose requests a thread runs: a handler that closes its own server must not wait for itself.
//!
//! A list and not one server: a handler may run a server of its own in its thread, and so on.

use std::cell::RefCell;
use std::sync::Arc;

use crate::server_context::ServerContext;

thread_local! {
    /// By the addresses of their contexts.
    static SERVING: RefCell<Vec<*const ServerContext>> = const { RefCell::new(Vec::new()) };
}

/// This thread runs a request of a server for as long as this lives.
pub(super) struct Serving {
    /// Compared, and never followed.
    server: *const ServerContext,
}

impl Serving {
    pub(super) fn start(context: &Arc<ServerContext>) -> Self {
        let server = Arc::as_ptr(context);
        SERVING.with_borrow_mut(|serving| serving.push(server));
        Self { server }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        SERVING.with_borrow_mut(|serving| {
            // Any of several equal entries will do.
            if let Some(at) = serving.iter().rposition(|server| *server == self.server) {
                serving.swap_remove(at);
            }
        });
    }
}

/// Whether this thread runs a request of this server.
pub(super) fn is_serving(context: &Arc<ServerContext>) -> bool {
    SERVING.with_borrow(|serving| serving.contains(&Arc::as_ptr(context)))
}
