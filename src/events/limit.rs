//! [`Limit`]: the limits that hold requests back. The gate and the live list apply them before a request has a worker,
//! with two exceptions, which apply in the worker: `Handshakes`, and the limits for one peer if a proxy names the client.

use crate::named_enum::named;

named! {
    /// A limit that holds requests back or refuses them.
    pub enum Limit {
        /// `Limits::live`, or the maximum of the mixin: nothing is accepted until a request has ended.
        Live, "live", "the limit of live requests";
        /// `Limits::accept_rate`: nothing is accepted for a moment.
        AcceptRate, "accept_rate", "the limit of the rate of accepting";
        /// `Limits::per_peer`: the request is refused.
        PerPeer, "per_peer", "the limit of requests for one peer";
        /// `Limits::peer_rate`: the request is refused.
        PeerRate, "peer_rate", "the limit of the rate of accepting from one peer";
        /// `Limits::handshakes`: the oldest unfinished handshake is ended, and its request refused.
        Handshakes, "handshakes", "the limit of unfinished handshakes";
    }
}
