//! [`Refused`]: why a request is not run.
//!
//! A refused request has been made and has a place in the live list, so that the hook `overflow` can answer it: see
//! `OpenRequest::overflow`. It ends as [`CloseReason::Refused`](crate::monitor::CloseReason::Refused), and the event of
//! its end has this reason.

/// Why a request is refused, by a mixin or by a limit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The maximum number of requests is already running. Python has no such limit. The `overflow` hook may answer.
    #[error("the server is busy")]
    Busy,
    /// The peer already has as many live requests as `Limits::per_peer` allows.
    #[error("this client has too many requests at once")]
    TooManyFromPeer,
    /// The peer sends requests faster than `Limits::peer_rate` allows.
    #[error("this client comes too often")]
    TooFastFromPeer,
    /// More handshakes than `Limits::handshakes` were unfinished, and this request's was the oldest.
    #[error("the handshake took too long while others waited")]
    TooManyHandshakes,
    /// The server is closing.
    #[error("the server is closing")]
    Closing,
    /// No worker could be started for the request. `handle_error` gets this error.
    #[error("no worker could be started: {0}")]
    CannotStart(std::io::Error),
}

impl Refused {
    /// All names, for the labels of a metric before any request is refused.
    #[cfg(feature = "metrics")]
    pub(crate) const NAMES: [&'static str; 6] = [
        "busy",
        "too_many_from_peer",
        "too_fast_from_peer",
        "too_many_handshakes",
        "closing",
        "cannot_start",
    ];

    /// A name in one word, for a label or a log. It never changes.
    ///
    /// The names are `busy`, `too_many_from_peer`, `too_fast_from_peer`, `too_many_handshakes`, `closing` and
    /// `cannot_start`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::TooManyFromPeer => "too_many_from_peer",
            Self::TooFastFromPeer => "too_fast_from_peer",
            Self::TooManyHandshakes => "too_many_handshakes",
            Self::Closing => "closing",
            Self::CannotStart(_) => "cannot_start",
        }
    }
}
