//! [`Limit`]: the limits that hold requests back.

use std::fmt;

/// A limit that holds requests back or refuses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// `Limits::live`, or the maximum of the mixin: nothing is accepted until a request has ended.
    Live,
    /// `Limits::accept_rate`: nothing is accepted for a moment.
    AcceptRate,
    /// `Limits::per_peer`: the request is refused.
    PerPeer,
    /// `Limits::peer_rate`: the request is refused.
    PeerRate,
    /// `Limits::handshakes`: the oldest unfinished handshake is ended, and its request refused.
    Handshakes,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "the limit of live requests",
            Self::AcceptRate => "the limit of the rate of accepting",
            Self::PerPeer => "the limit of requests for one peer",
            Self::PeerRate => "the limit of the rate of accepting from one peer",
            Self::Handshakes => "the limit of unfinished handshakes",
        })
    }
}

impl Limit {
    /// All of them, each at the place of its number.
    pub(crate) const ALL: [Self; 5] =
        [Self::Live, Self::AcceptRate, Self::PerPeer, Self::PeerRate, Self::Handshakes];

    /// A name in one word, for a label or a log: `live`, `accept_rate`, `per_peer`, `peer_rate` or
    /// `handshakes`. It never changes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::AcceptRate => "accept_rate",
            Self::PerPeer => "per_peer",
            Self::PeerRate => "peer_rate",
            Self::Handshakes => "handshakes",
        }
    }
}
