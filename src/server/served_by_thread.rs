//! The servers whose requests a thread runs: a handler that closes its own server must not wait for itself.
//!
//! A list and not one server: a handler may run a server of its own in its thread, and so on. Counted, because a thread
//! may run thousands of requests of a server, as coroutines.

use std::cell::RefCell;
use std::sync::Arc;

use crate::server_context::ServerContext;

thread_local! {
    /// By the addresses of their contexts: how many requests of each.
    static SERVING: RefCell<Vec<(*const ServerContext, usize)>> = const { RefCell::new(Vec::new()) };
}

/// This thread runs a request of a server for as long as this lives.
pub(super) struct Serving {
    /// Compared, and never followed.
    server: *const ServerContext,
}

impl Serving {
    pub(super) fn start(context: &Arc<ServerContext>) -> Self {
        let server = Arc::as_ptr(context);
        SERVING.with_borrow_mut(|serving| {
            match serving.iter_mut().find(|(known, _)| *known == server) {
                Some((_, count)) => *count += 1,
                None => serving.push((server, 1)),
            }
        });
        Self { server }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        SERVING.with_borrow_mut(|serving| {
            let Some(at) = serving.iter().position(|(server, _)| *server == self.server) else {
                return;
            };
            serving[at].1 -= 1;
            if serving[at].1 == 0 {
                serving.swap_remove(at);
            }
        });
    }
}

/// Whether this thread runs a request of this server.
pub(super) fn is_serving(context: &Arc<ServerContext>) -> bool {
    SERVING.with_borrow(|serving| serving.iter().any(|(server, _)| *server == Arc::as_ptr(context)))
}
