//! How a request has ended: by what was done to it from here, or by what its handler has failed with.

use crate::error::{HandlerError, Panicked, Stopping, TimedOut, Timeout, is_disconnect};
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

/// How a request has ended whose handler has failed.
pub(super) fn reason_of(error: &HandlerError, from_here: Option<CloseReason>) -> CloseReason {
    // What we have done ourselves explains whatever the handler has met of it.
    if let Some(reason @ (CloseReason::Forced | CloseReason::ClosedHere)) = from_here {
        return reason;
    }
    if Stopping::find(&**error).is_some() {
        return CloseReason::Stopped;
    }
    match TimedOut::find(&**error).map(TimedOut::which) {
        Some(Timeout::Idle) => return CloseReason::Idle,
        Some(_) => return CloseReason::TimedOut,
        None => {}
    }
    if error.is::<Panicked>() {
        CloseReason::Panicked
    } else if LineTooLong::find(&**error).is_some() {
        CloseReason::LineTooLong
    } else if is_disconnect(&**error) {
        CloseReason::Disconnected
    } else {
        CloseReason::Failed
    }
}
