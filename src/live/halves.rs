//! The activity of a request whose two directions are used at once.
//!
//! The input half alone says what the request does, because a drain and the reaper act by its waits: a write beside it must
//! neither hide a wait for the beginning of a request, nor seem to be one. The output half says by a note of its own that it
//! sends, and the list shows that while the input half waits for nothing.

use std::sync::atomic::Ordering;

use super::{Activity, Entry};

impl Entry {
    /// The output half sends from here on, or does not any more.
    pub(crate) fn show_output_half(&self, sends: bool) {
        self.counters.output_half().store(u64::from(sends), Ordering::Relaxed);
    }

    /// The activity for operators.
    pub(super) fn shown_activity(&self) -> Activity {
        match self.activity() {
            Activity::Running if self.counters.output_half().load(Ordering::Relaxed) != 0 => {
                Activity::Sending
            }
            activity => activity,
        }
    }
}
