//! The servers whose requests a thread runs: a handler that closes its own server must not wait for itself.
//!
//! The servers are a list, because a handler may run a server of its own in its thread, and so on. Each has a count,
//! because a thread may run thousands of requests of one server, as coroutines. A thread that works for a handler
//! ([`join`](fn@super::join), [`offload`](fn@super::offload)) has the list of the handler's thread.
//!
//! The list is per thread and not per coroutine. Suppose that a worker of `Green` runs requests of two servers, and
//! that a handler of one closes the other: that close does not wait for the requests of this worker, although it could.
//! The opposite mistake would be a wait without end.

use std::cell::RefCell;

thread_local! {
    /// For each server, by the address of its context: how many of its requests this thread runs.
    static SERVING: RefCell<Vec<(usize, usize)>> = const { RefCell::new(Vec::new()) };
}

/// Notes that this thread runs a request of a server, until this is dropped.
pub(crate) struct Serving {
    /// The address of the server's context. Compared, and never followed.
    server: usize,
}

impl Serving {
    /// `server`: the address of its context.
    pub(crate) fn start(server: usize) -> Self {
        SERVING.with_borrow_mut(|serving| {
            // The list is searched from its beginning: as a rule it has one entry. Its memory stays for the next request.
            match serving.iter_mut().find(|(known, _)| *known == server) {
                Some((_, count)) => *count += 1,
                None => serving.push((server, 1)),
            }
        });
        Self { server }
    }

    /// The list of this thread, for another thread that works for it.
    pub(crate) fn inherit() -> Inherited {
        Inherited(
            SERVING.with_borrow(|serving| serving.iter().map(|(server, _)| *server).collect()),
        )
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        SERVING.with_borrow_mut(|serving| {
            let Some(at) = serving.iter().position(|(server, _)| *server == self.server) else {
                return;
            };
            serving[at].1 -= 1;
            // The entry is removed at zero: when this context is gone, another server's context may get its address.
            if serving[at].1 == 0 {
                serving.swap_remove(at);
            }
        });
    }
}

/// Whether this thread runs a request of the server whose context has this address.
pub(crate) fn is_serving(server: usize) -> bool {
    SERVING.with_borrow(|serving| serving.iter().any(|(known, _)| *known == server))
}

/// The servers of the thread that the work comes from.
pub(crate) struct Inherited(Vec<usize>);

impl Inherited {
    /// Notes that this thread works for requests of these servers, until the result is dropped.
    pub(crate) fn enter(&self) -> Vec<Serving> {
        self.0.iter().copied().map(Serving::start).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_works_for_another_serves_what_that_one_does() {
        let _outer = Serving::start(1);
        let inherited = {
            let _inner = Serving::start(2);
            Serving::inherit()
        };
        assert!(is_serving(1) && !is_serving(2));
        std::thread::spawn(move || {
            let entered = inherited.enter();
            assert!(is_serving(1) && is_serving(2));
            drop(entered);
            assert!(!is_serving(1) && !is_serving(2));
        })
        .join()
        .unwrap();
    }
}
