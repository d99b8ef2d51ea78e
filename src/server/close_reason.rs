//! How a request has ended: by what was done to it from here, or by what its handler has failed with.

use super::error_owner::ErrorOwner;
use crate::error::{HandlerError, Panicked, Stopping, TimedOut, Timeout};
use crate::events::CloseReason;
use crate::live::{Cut, Entry};
use crate::request::LineTooLong;

/// How a request has ended that was ended from here, whatever its handler has made of that.
pub(super) fn ended_from_here(entry: &Entry) -> Option<CloseReason> {
    match entry.cut() {
        Some(Cut::Forced) => Some(CloseReason::Forced),
        Some(Cut::Closed) => Some(CloseReason::ClosedHere),
        // Its handler may have come to its end without a word of these.
        Some(Cut::Drained | Cut::Silent) | None => {
            entry.is_stopped().then_some(CloseReason::Stopped)
        }
    }
}

/// How a request has ended whose handler has failed. Only what is of the request itself explains its end.
pub(super) fn reason_of(
    error: &HandlerError,
    whose: ErrorOwner,
    from_here: Option<CloseReason>,
) -> CloseReason {
    // What we have done ourselves explains whatever the handler has met of it.
    if let Some(reason @ (CloseReason::Forced | CloseReason::ClosedHere)) = from_here {
        return reason;
    }
    let error = &**error;
    if whose.find::<Stopping>(error).is_some() {
        return CloseReason::Stopped;
    }
    match whose.find(error).map(TimedOut::which) {
        Some(Timeout::Idle) => return CloseReason::Idle,
        Some(_) => return CloseReason::TimedOut,
        None => {}
    }
    if error.is::<Panicked>() {
        CloseReason::Panicked
    } else if whose.find::<LineTooLong>(error).is_some() {
        CloseReason::LineTooLong
    } else if whose.is_garbled(error) {
        CloseReason::Garbled
    } else if whose.is_disconnect(error) {
        CloseReason::Disconnected
    } else {
        CloseReason::Failed
    }
}

/// Whether what was sent may have been an answer to something that the peer was still about to send.
pub(super) fn may_be_early(reason: CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::Failed
            | CloseReason::Panicked
            | CloseReason::TimedOut
            | CloseReason::LineTooLong
            | CloseReason::Garbled
            | CloseReason::Refused
    )
}
