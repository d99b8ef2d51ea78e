//! The exit status of a child: how its request has ended.
//!
//! | status | from | means |
//! |---|---|---|
//! | 0, 1, 101 | a child of ours, or the handler by `exit` | completed, failed, panicked |
//! | 160 to 223 | a child of ours | one of [`ENDS`], with or without a stop, with or without a text |
//! | any other | the handler, by `exit` | failed |
//!
//! A status has eight bits, and the program uses them too: a handler may call `exit`, and the statuses of shells and of
//! panics have meanings of their own. An example is 167. It is 160 + 7, and 7 / 4 is 1: the entry of [`ENDS`] with index 1,
//! `Failed`. The remainder is 3, so both bits are set: the handler has requested a stop, and a text is in the pipe.

use super::ChildEnd;
use crate::events::CloseReason;

/// The statuses that other programs use as well. 101 is that of a Rust program that has panicked.
const COMPLETED: i32 = 0;
const FAILED: i32 = 1;
pub(super) const PANICKED: i32 = 101;

/// The first of the statuses for all other ends, 160 to 223. Each of [`ENDS`] has four: the first of them, plus one if the
/// handler has requested a stop of its server, plus two if there is a text. A handler is unlikely to call `exit` with one
/// of them: programs use lower numbers, and shells those just above 128. The page of `Forking` warns of it.
const FIRST_OWN_STATUS: u8 = 160;
const STATUSES_PER_END: usize = 4;
/// The ends that a child can report. Their order is the protocol between a parent and its own children, and nothing else
/// reads it. `Killed` and `Released` are missing: only the parent notices those.
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
    // The usual end is tested first: the others need a jump table, which is one more page for each child to map.
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
            // A child never ends for a reason without an entry; `Failed` would stand for it.
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
    /// The child has put a text into the pipe.
    pub(super) has_text: bool,
}

/// The meaning of an exit status.
pub(super) fn end_of(status: i32) -> Status {
    let alone = |reason| Status { reason, stop: false, has_text: false };
    let ours = usize::try_from(status - i32::from(FIRST_OWN_STATUS)).ok();
    match (status, ours) {
        (COMPLETED, _) => alone(CloseReason::Completed),
        (PANICKED, _) => alone(CloseReason::Panicked),
        // Below 160 `ours` is None, and above 223 `ENDS` has no entry for it.
        (_, Some(ours)) if ours / STATUSES_PER_END < ENDS.len() => Status {
            reason: ENDS[ours / STATUSES_PER_END],
            stop: ours & 1 != 0,
            has_text: ours & 2 != 0,
        },
        // `FAILED`, and any status with which the handler itself has called `exit`.
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
