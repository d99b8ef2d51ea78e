//! The exit status of a child: how its request has ended.

use super::ChildEnd;
use crate::events::CloseReason;

/// The statuses that other programs use as well. 101 is that of a Rust program that has panicked.
const COMPLETED: i32 = 0;
const FAILED: i32 = 1;
pub(super) const PANICKED: i32 = 101;

/// The other ends have statuses from here on, two for each of [`ENDS`]: the second one if the handler has requested a stop
/// of its server as well. A handler is unlikely to call `exit` with one of them: programs stay below, and shells use the
/// numbers just above 128.
const FIRST_OF_OURS: u8 = 160;
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
    if end.reason == CloseReason::Completed && !end.stop { COMPLETED } else { other_status(end) }
}

#[cold]
fn other_status(end: &ChildEnd) -> i32 {
    match (end.reason, end.stop) {
        (CloseReason::Failed, false) => FAILED,
        (CloseReason::Panicked, false) => PANICKED,
        (reason, stop) => {
            let status_of =
                |reason| (FIRST_OF_OURS..).step_by(2).zip(ENDS).find(|(_, end)| *end == reason);
            // No other reason comes from a child.
            let found = status_of(reason).or_else(|| status_of(CloseReason::Failed));
            found.map_or(FAILED, |(status, _)| i32::from(status) + i32::from(stop))
        }
    }
}

/// The end of a child that has left no status.
pub(super) fn ended_otherwise(reason: CloseReason, cut_off: bool) -> ChildEnd {
    ChildEnd { reason, fatal: None, stop: false, cut_off }
}

/// The end for a status, and whether the handler has requested a stop.
pub(super) fn end_of(status: i32) -> (CloseReason, bool) {
    let ours = usize::try_from(status - i32::from(FIRST_OF_OURS)).ok();
    match (status, ours) {
        (COMPLETED, _) => (CloseReason::Completed, false),
        (PANICKED, _) => (CloseReason::Panicked, false),
        (_, Some(ours)) if ours / 2 < ENDS.len() => (ENDS[ours / 2], ours % 2 == 1),
        // `FAILED`, and a status by which a handler has left the process itself.
        _ => (CloseReason::Failed, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_it_was_made_of_and_others_say_that_it_failed() {
        for reason in ENDS {
            for stop in [false, true] {
                let status = status(&ChildEnd { reason, fatal: None, stop, cut_off: false });
                assert!((0..=255).contains(&status));
                assert_eq!(end_of(status), (reason, stop));
            }
        }
        for foreign in [2, 7, 100, 113, 127, 130, 137, 159, 192, 255] {
            assert_eq!(end_of(foreign), (CloseReason::Failed, false), "{foreign}");
        }
    }
}
