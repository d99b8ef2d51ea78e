//! Finds the [`CloseReason`] of a request: from a cut by the server, or from the error of its handler.
//!
//! The cause comes before its effects. A connection that this side has ended makes the handler fail with an end of input or
//! a broken pipe, which would look like the peer's doing; so a cut decides first. Then come the errors that this crate
//! makes, the outer before those that they wrap, and last the errors of the system. Each is looked for along the whole chain
//! of causes, because handlers wrap errors in their own.

use super::error_owner::ErrorOwner;
use crate::error::{HandlerError, Panicked, Rejected, Stopping};
use crate::events::{CloseReason, Limit};
use crate::live::{Cut, Entry};
use crate::peer_fault::find;
use crate::refused::Refused;
use crate::request::{LineTooLong, NoHeader};
use crate::timed_out::{TimedOut, Timeout};

/// The reason of a request that the server ended: it cut the request off, or its handler has seen the stop. `Forced` and
/// `ClosedHere` hold whatever the handler's result is; `Stopped` holds only if the handler succeeds.
///
/// `None` if the server has not ended the request: then the handler's result alone decides.
#[inline]
pub(super) fn ended_from_here(entry: &Entry) -> Option<CloseReason> {
    // The usual case is decided here, without a call.
    if !entry.is_cut() && !entry.is_stopped() {
        return None;
    }
    from_here(entry)
}

/// The rest of [`ended_from_here`]. Only a request that a drain, an operator or a limit has touched gets here.
#[cold]
fn from_here(entry: &Entry) -> Option<CloseReason> {
    match entry.cut() {
        Some(Cut::Forced) => Some(CloseReason::Forced),
        Some(Cut::Closed) => Some(CloseReason::ClosedHere),
        // `Drained` and `Silent` end only the input, or a wait, and `Crowded` only a handshake: the handler may have ended
        // without noticing the cut or the stop.
        Some(Cut::Drained | Cut::Silent | Cut::Crowded) | None => {
            entry.is_stopped().then_some(CloseReason::Stopped)
        }
    }
}

/// The reason of a request whose handler has failed. Only errors of the request itself count: an error of an upstream
/// is `Failed`.
///
/// The error's `source` is the program's code, so the caller has to catch its panics. `from_here`: see
/// [`ended_from_here`].
pub(super) fn reason_of(
    error: &HandlerError,
    owner: ErrorOwner,
    from_here: Option<CloseReason>,
) -> CloseReason {
    // A cut is the cause of the handler's error. `Stopped` is not returned here: a handler may fail for a reason of its own
    // while its server stops.
    if let Some(reason @ (CloseReason::Forced | CloseReason::ClosedHere)) = from_here {
        return reason;
    }
    let error = &**error;
    if owner.find::<Stopping>(error).is_some() {
        return CloseReason::Stopped;
    }
    // `NoHeader` comes before the error that it wraps, which may be any of those below.
    if let Some(no_header) = owner.find::<NoHeader>(error) {
        let is_from_proxy = no_header.is_from_proxy();
        return if is_from_proxy { CloseReason::BadProxyHeader } else { CloseReason::Rejected };
    }
    if find::<Rejected>(error).is_some() {
        return CloseReason::Rejected;
    }
    match owner.find(error).map(TimedOut::which) {
        // Silence between two requests is nobody's failure: it has a reason of its own, which is not reported.
        Some(Timeout::Idle) => return CloseReason::Idle,
        Some(_) => return CloseReason::TimedOut,
        None => {}
    }
    if error.is::<Panicked>() {
        CloseReason::Panicked
    } else if owner.find::<LineTooLong>(error).is_some() {
        CloseReason::LineTooLong
    } else if owner.is_not_agreed(error) {
        CloseReason::HandshakeFailed
    } else if owner.is_garbled(error) {
        // Checked after the handshake, whose errors count as garbled input as well.
        CloseReason::Garbled
    } else if owner.is_disconnect(error) {
        CloseReason::Disconnected
    } else {
        CloseReason::Failed
    }
}

/// Whether the peer may still be sending, because the handler may have answered before it had read everything.
///
/// If so, the close lingers, because closing a socket with unread input resets the connection, and the peer may lose
/// the answer.
pub(super) fn may_be_early(reason: CloseReason) -> bool {
    // For a completed request the transport itself sees whether input is left.
    matches!(
        reason,
        CloseReason::Failed
            | CloseReason::Panicked
            | CloseReason::TimedOut
            | CloseReason::LineTooLong
            | CloseReason::Garbled
            | CloseReason::HandshakeFailed
            | CloseReason::Refused
    )
}

/// Why a request that is beyond a limit for one peer, or for all handshakes, is refused.
pub(super) fn refused_by(limit: Limit) -> Refused {
    match limit {
        Limit::PeerRate => Refused::TooFastFromPeer,
        Limit::Handshakes => Refused::TooManyHandshakes,
        _ => Refused::TooManyFromPeer,
    }
}
