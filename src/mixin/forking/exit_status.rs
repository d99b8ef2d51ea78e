//! The exit status of a child: how its request has ended.
//!
//! | status | from | means |
//! |---|---|---|
//! | 0, 1, 101 | a child of ours, or the handler by `exit` | completed, failed, panicked |
//! | 160 to 223 | a child of ours | one of [`ENDS`], a stop or not, a text or not |
//! | any other | the handler, by `exit` | failed |
//!
//! A child has eight bits to say it, and shares them with the program: a handler may call `exit`, and a shell's or a panic's
//! status has a meaning of its own. For example 167: it is 7 above 160, so its end is the second of [`ENDS`] (7 / 4 is 1:
//! `Failed`); of the rest, 3, both bits are set: the handler has requested a stop, and a text is in the pipe.

use super::ChildEnd;
use crate::events::CloseReason;

/// The statuses that other programs use as well. 101 is that of a Rust program that has panicked.
const COMPLETED: i32 = 0;
const FAILED: i32 = 1;
pub(super) const PANICKED: i32 = 101;

/// The other ends have statuses from here on, 160 to 223, four for each of [`ENDS`]: one more if the handler has requested a
/// stop of its server as well, and two more if there is a text. A handler is unlikely to call `exit` with one of them:
/// programs stay below, and shells use the numbers just above 128. The page of `Forking` says so.
const FIRST_OWN_STATUS: u8 = 160;
const STATUSES_PER_END: usize = 4;
/// The ends that a child can tell. The order is the protocol between a parent and its own children, and nothing else
/// reads it. `Killed` and `Released` are the parent's to say.
const ENDS: [CloseReason; 16] = [
    CloseReason::Completed,
    CloseReason::Failed,
    CloseReason::Panicked,
    CloseReason::Fatal,
    CloseReason::Disconnected,
    CloseReason::Idle,
    CloseReason::TimedOut,
    CloseReason::LineTooLong,
    CloseReason::Stopped,
    CloseReason::Forced,
    CloseReason::ClosedHere,
    CloseReason::Garbled,
    CloseReason::BadProxyHeader,
    CloseReason::Rejected,
    CloseReason::Refused,
    CloseReason::HandshakeFailed,
];

/// The status for an end.
#[inline]
pub(super) fn status(end: &ChildEnd) -> i32 {
    // Apart from the others, which need a jump table: to read it is one more page that each child maps.
    let is_usual = end.reason == CloseReason::Completed && !end.stop && end.text.is_none();
    if is_usual { COMPLETED } else { other_status(end) }
}

#[cold]
fn other_status(end: &ChildEnd) -> i32 {
    match (end.reason, end.stop, end.text.is_some()) {
        (CloseReason::Failed, false, false) => FAILED,
        (CloseReason::Panicked, false, false) => PANICKED,
        (reason, stop, has_text) => {
            let all = || (FIRST_OWN_STATUS..).step_by(STATUSES_PER_END).zip(ENDS);
            let status_of = |reason| all().find(|(_, end)| *end == reason);
            // No other reason comes from a child.
            let found = status_of(reason).or_else(|| status_of(CloseReason::Failed));
            let more = i32::from(stop) + 2 * i32::from(has_text);
            found.map_or(FAILED, |(status, _)| i32::from(status) + more)
        }
    }
}

/// The end of a child that has left no status.
pub(super) fn ended_otherwise(reason: CloseReason, cut_off: bool) -> ChildEnd {
    ChildEnd { reason, text: None, stop: false, cut_off }
}

/// The meaning of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) reason: CloseReason,
    /// The handler has requested a stop.
    pub(super) stop: bool,
    /// There is more in the pipe.
    pub(super) has_text: bool,
}

/// The end for a status.
pub(super) fn end_of(status: i32) -> Status {
    let alone = |reason| Status { reason, stop: false, has_text: false };
    let ours = usize::try_from(status - i32::from(FIRST_OWN_STATUS)).ok();
    match (status, ours) {
        (COMPLETED, _) => alone(CloseReason::Completed),
        (PANICKED, _) => alone(CloseReason::Panicked),
        // Below 160 `ours` is none, and beyond 223 there is no end for it.
        (_, Some(ours)) if ours / STATUSES_PER_END < ENDS.len() => Status {
            reason: ENDS[ours / STATUSES_PER_END],
            stop: ours & 1 != 0,
            has_text: ours & 2 != 0,
        },
        // `FAILED`, and a status by which a handler has left the process itself.
        _ => alone(CloseReason::Failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_it_was_made_of_and_others_say_that_it_failed() {
        for reason in ENDS {
            for (stop, text) in [(false, None), (true, None), (false, Some("")), (true, Some(""))] {
                let (text, has_text) = (text.map(str::to_owned), text.is_some());
                let status = status(&ChildEnd { reason, text, stop, cut_off: false });
                assert!((0..=255).contains(&status));
                assert_eq!(end_of(status), Status { reason, stop, has_text });
            }
        }
        for foreign in [2, 7, 100, 113, 127, 130, 137, 159, 224, 255] {
            let failed = Status { reason: CloseReason::Failed, stop: false, has_text: false };
            assert_eq!(end_of(foreign), failed, "{foreign}");
        }
    }
}
