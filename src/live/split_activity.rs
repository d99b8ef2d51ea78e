//! The activity of a request whose two directions are used at once.
//!
//! The activity of a request is that of its input half, because a drain and the reaper act by the waits of that half.
//! A write at the same time must neither hide a wait for the beginning of a request, nor look like one. The output half has
//! a flag of its own for "it sends". The list shows that flag while the input half waits for nothing.

use std::sync::atomic::Ordering;

use super::{Activity, Entry};

impl Entry {
    /// Notes whether the output half is sending now, or running otherwise. Only the thread that has the output half calls it.
    pub(crate) fn show_output_half(&self, activity: Activity) {
        let sends = activity == Activity::Sending;
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
