//! Hooks that show on stderr what happens in the parent.

use socketserver::hooks::Incoming;
use socketserver::mixin::Refused;
use socketserver::monitor::{Activity, ServerEvent};
use socketserver::request::Request;
use socketserver::{
    DatagramRequest, HandlerError, HandlerResult, ServerContext, ServerHooks, StreamRequest,
};

use crate::system;

/// Answers refused requests, where they can be answered.
pub trait Refusable: Request {
    fn refuse(&mut self) -> HandlerResult {
        Ok(())
    }
}

impl Refusable for StreamRequest {
    fn refuse(&mut self) -> HandlerResult {
        self.outbox()?.send("too many\n")?;
        Ok(())
    }
}

impl Refusable for DatagramRequest {
    fn refuse(&mut self) -> HandlerResult {
        self.reply(b"too many")?;
        Ok(())
    }
}

/// Hooks that print on stderr what they see in the parent.
pub struct Told {
    /// Whether the hooks, when a new client comes, close and print the connections that wait for a next request.
    pub is_admin: bool,
    /// Whether the hooks make the process ignore SIGCHLD when the first client comes: after `run` has checked that signal.
    pub ignores_sigchld: bool,
}

impl Told {
    fn look_after(&self, server: &ServerContext) {
        say!("figures: {}", server.figures());
        for live in server.live() {
            if live.activity == Activity::Idle {
                let closed = server.close_live(live.id);
                say!("admin: {live}; closed: {closed}");
            }
        }
    }
}

impl<R: Refusable> ServerHooks<R> for Told {
    fn verify_request(&self, incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
        static FIRST: std::sync::Once = std::sync::Once::new();
        if self.ignores_sigchld {
            FIRST.call_once(|| system::ignore(libc::SIGCHLD));
        }
        if self.is_admin {
            self.look_after(incoming.server());
        }
        Ok(true)
    }

    fn overflow(&self, request: &mut R, _why: &Refused) -> HandlerResult {
        request.refuse()
    }

    fn handle_error(&self, failure: &socketserver::hooks::Failure<'_>) {
        say!("handle_error in {}: {failure}", std::process::id());
    }

    fn service_actions(&self) {
        say!("service_actions");
    }
}

/// An observer that prints each event and its process on stderr.
pub fn tell(event: &ServerEvent<'_>) {
    let what = match event {
        ServerEvent::RequestStarted { id, client_address, .. } => {
            format!("{id} of {client_address} started")
        }
        ServerEvent::ClientKnown { id, client_address, proxy_address, .. } => {
            format!("{id} of {client_address} is known by {}", proxy_address.ip().unwrap())
        }
        ServerEvent::HandshakeFailed { id, client_address, error } => {
            format!("{id} of {client_address} failed: {error}")
        }
        ServerEvent::LimitReached { limit } => format!("{limit:?}"),
        ServerEvent::RequestEnded {
            id,
            client_address,
            reason,
            refused,
            bytes_in,
            bytes_out,
            ..
        } => {
            if let Some(refused) = refused {
                say!("why {id}: {refused:?}");
            }
            say!("bytes of {id}: {bytes_in} in, {bytes_out} out");
            show_times(event);
            format!("{id} of {client_address} ended {reason:?}")
        }
        _ => return,
    };
    say!("event in {}: {what}", std::process::id());
}

/// An observer that prints the phases of a run and its reloads.
pub fn tell_of_phase(event: &ServerEvent<'_>) {
    match event {
        ServerEvent::PhaseReached { phase, .. } => say!("phase: {phase}"),
        ServerEvent::Reloaded { error, .. } => say!("reloaded: {}", error.is_none()),
        _ => {}
    }
}

/// Prints where the time of a request has gone, and the limit that has ended it.
fn show_times(event: &ServerEvent<'_>) {
    let ServerEvent::RequestEnded { id, limit, age, times, .. } = event else { return };
    let millis = |time: Option<std::time::Duration>| time.map(|time| time.as_millis());
    let (queue, handler) = (millis(times.in_queue), millis(times.handler));
    let fits = times.in_queue.unwrap_or_default() + times.handler.unwrap_or_default() <= *age;
    say!("times of {id}: queue {queue:?}, handler {handler:?}, fits {fits}, limit {limit:?}");
}

pub fn show_counts(context: &ServerContext) {
    let counts = context.counts();
    say!("counts: {counts:?}");
    say!("balance: {} accepted, {} ended", counts.accepted, counts.ended());
}

/// Shows that a value of the parent is dropped, and in which process.
pub struct LastWords {
    pub of: &'static str,
}

impl LastWords {
    /// Leaves one value to an exit function and one in a thread-local, and returns one for `main`.
    pub fn leave() -> Self {
        extern "C" fn at_exit() {
            drop(LastWords { of: "an exit function" });
        }
        thread_local! {
            static OF_THE_THREAD: LastWords = const { LastWords { of: "a thread's own" } };
        }
        OF_THE_THREAD.with(|_made| ());
        system::at_exit(at_exit);
        Self { of: "main's" }
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        say!("last words in {}: {}", std::process::id(), self.of);
    }
}
