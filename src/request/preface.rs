//! [`Preface`]: a step of the framework's own between a connection and its handler.
//!
//! | caller | method | bound |
//! |---|---|---|
//! | the builder | `set` | before the server runs; from then on the list does not change |
//! | the accept loop, before it serves a request or forks | `prepare`, `name_client`, `begin_with_handshake` | it must not wait |
//! | the worker, before the hook `wrap_request` | `deadline`, then `run` | within that deadline |
//! | the worker that refuses | `refuse`, before the hook `overflow` | it must not wait |

use super::Deadline;
use crate::address::Address;
use crate::error::HandlerResult;
use crate::limits::Limits;
use crate::timed_out::Timeout;

/// A condition that a connection has to meet before its handler runs: a PROXY header, a TLS handshake.
///
/// It runs in the worker, within a limit of its own, so that a client that stalls here delays no other client. Its
/// error ends the request as an error of the hook `wrap_request` does.
pub(crate) trait Preface<R>: Send + Sync {
    /// Called by the process that accepts, before it serves a request or forks for it. It must be quick.
    fn prepare(&self) {}

    /// The limit of this step, for a request with these limits.
    fn deadline(&self, limits: &Limits) -> Option<Deadline>;

    /// Whether this step finds out the client's address, because the peer is a proxy. The limits for one peer then
    /// count the client, and not the proxy.
    fn names_client(&self, peer: &Address) -> bool {
        let _ = peer;
        false
    }

    /// Whether this step is a TLS handshake, for the limit on unfinished ones.
    fn is_handshake(&self) -> bool {
        false
    }

    /// Called when the request is refused, and a hook is about to answer: no byte may leave in the clear that this step
    /// would have encrypted.
    fn refuse(&self, request: &mut R) {
        let _ = request;
    }

    /// Takes the step.
    ///
    /// # Errors
    ///
    /// Any; the request is closed, and `handle_error` is called.
    fn run(&self, request: &mut R) -> HandlerResult;
}

/// The place of a step. A connection goes through the places in this order, whatever the order of the builder's setters
/// was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PrefacePlace {
    /// A proxy sends its header first, in the clear.
    ProxyHeader,
    /// The handshake, with which the client's own bytes begin, after that header.
    #[cfg(feature = "tls")]
    Tls,
}

/// The prefaces of a server, in the order in which a connection goes through them. Usually there are none.
pub(crate) struct Prefaces<R> {
    /// At most one for each place.
    steps: Vec<(PrefacePlace, Box<dyn Preface<R>>)>,
}

impl<R> Default for Prefaces<R> {
    fn default() -> Self {
        Self { steps: Vec::new() }
    }
}

impl<R> Prefaces<R> {
    /// Puts a step into its place. An earlier step in that place is dropped.
    pub(crate) fn set(&mut self, place: PrefacePlace, step: impl Preface<R> + 'static) {
        self.steps.retain(|(other, _)| *other != place);
        self.steps.push((place, Box::new(step)));
        // The setters of the builder may be called in any order. With two places the sort costs nothing.
        self.steps.sort_by_key(|(place, _)| *place);
    }

    /// Whether there are no steps, so that handlers run at once.
    pub(crate) fn are_none(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether one of the steps finds out which client is behind this peer.
    pub(crate) fn name_client(&self, peer: &Address) -> bool {
        self.iter().any(|step| step.names_client(peer))
    }

    /// Whether a connection of this peer begins with a TLS handshake.
    pub(crate) fn begin_with_handshake(&self, peer: &Address) -> bool {
        // A connection from a proxy begins with a header, and the handshake after it is the client's.
        self.iter().any(Preface::is_handshake) && !self.name_client(peer)
    }

    /// The steps in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &dyn Preface<R>> {
        self.steps.iter().map(|(_, step)| &**step)
    }
}

/// The limit of a handshake that begins now.
pub(crate) fn handshake_deadline(limits: &Limits) -> Option<Deadline> {
    Deadline::after(Timeout::Handshake, limits.handshake)
}
