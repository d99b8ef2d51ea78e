//! The cause of a request's end, as its worker notes it: the limit, and in a child the text of the step that has failed.
//!
//! The limit is in the counters, because under `Forking` the child notes it and the parent reports it. The text is too
//! long for the counters: the child sends it to the parent when it ends.

use std::sync::atomic::Ordering;

use super::Entry;
use crate::events::Limit;
use crate::timed_out::Timeout;

impl Entry {
    /// Notes the limit that the request exceeds. Without this note a parent would learn only that its child has refused
    /// the request.
    pub(crate) fn note_beyond(&self, limit: Limit) {
        // The number lies above the byte for a time limit. The store clears that byte: no time limit has ended a refused
        // request.
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

    /// Notes the text of the error of a step before the handler. A child calls this, and sends the text to its parent
    /// when it ends.
    pub(crate) fn note_failed_step(&self, text: String) {
        // Only one step of a request fails, so a second text does not come, and would be dropped.
        let _ = self.marks.rare.get_or_init(Box::default).failed_step.set(text);
    }

    /// The text that [`note_failed_step`](Self::note_failed_step) has noted.
    #[inline]
    pub(crate) fn failed_step(&self) -> Option<String> {
        self.marks.rare.get().and_then(|rare| rare.failed_step.get()).cloned()
    }
}
