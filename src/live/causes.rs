//! The cause of a request's end, as its worker notes it: the limit, and in a child the text of the step that has failed.
//!
//! The limit is in the counters, because under `Forking` the child notes it and the parent tells it. The text is too long for
//! them: the child sends it with its end.

use std::sync::atomic::Ordering;

use super::Entry;
use crate::events::Limit;
use crate::timed_out::Timeout;

impl Entry {
    /// Notes the limit that the request exceeds. Without it a parent would hear only that its child has refused.
    pub(crate) fn note_beyond(&self, limit: Limit) {
        // Above the byte for a time limit. A refused request was ended by none.
        self.counters.limit().store((limit as u64 + 1) << 8, Ordering::Relaxed);
    }

    /// The limit that the request exceeds, if its worker has noted one.
    pub(crate) fn beyond(&self) -> Option<Limit> {
        let place = (self.counters.limit().load(Ordering::Relaxed) >> 8).checked_sub(1)?;
        Limit::ALL.get(usize::try_from(place).ok()?).copied()
    }

    /// Notes the time limit that has ended the request.
    pub(crate) fn note_limit(&self, limit: Timeout) {
        self.counters.limit().store(limit as u64 + 1, Ordering::Relaxed);
    }

    /// The time limit that has ended the request, if one has.
    pub(crate) fn limit(&self) -> Option<Timeout> {
        let place = (self.counters.limit().load(Ordering::Relaxed) & 0xff).checked_sub(1)?;
        Timeout::ALL.get(usize::try_from(place).ok()?).copied()
    }

    /// Notes the text of a step before the handler that has failed. For a child, which sends it to its parent at its end.
    pub(crate) fn note_failed_step(&self, text: String) {
        // One step fails: the others are not taken.
        let _ = self.marks.rare.get_or_init(Box::default).failed_step.set(text);
    }

    /// The text that was noted.
    #[inline]
    pub(crate) fn failed_step(&self) -> Option<String> {
        self.marks.rare.get().and_then(|rare| rare.failed_step.get()).cloned()
    }
}
