//! Brings the memory that the next events of a batch need into the processor's caches before their turn.

use super::worker::Worker;
use crate::sys::epoll::ReadyEvents;

/// If there are more coroutines than this, the memory that an event needs is fetched before the event's turn. With fewer it
/// is in the cache already.
const PREFETCH_FROM: usize = 400;

/// How many events are a group. Their registrations are fetched two groups ahead of their turn, and the pages that the
/// registrations name one group ahead.
const FETCH_GROUP: usize = 16;

/// How many events ahead the coroutine of an event is fetched.
const FETCH_READER: usize = 2;

impl Worker {
    /// Whether there are so many coroutines that the caches do not hold them.
    #[inline]
    pub(super) fn fetches(&self) -> bool {
        self.tasks.len() > PREFETCH_FROM
    }

    /// Makes the processor fetch the memory that the next events need, in three steps, each of which needs the previous one.
    /// The first two come in groups: a fetch from a page that is not in the TLB stalls, and several in a row look up their
    /// pages at the same time.
    #[inline]
    pub(super) fn fetch(&self, events: &ReadyEvents, at: usize) {
        // With so few events there is no time between a fetch and its use.
        if events.len() <= FETCH_READER {
            return;
        }
        if at % FETCH_GROUP == 0 {
            // The first events have no earlier group that could have fetched for them.
            let after = |groups: usize| if at == 0 { 0 } else { at + groups * FETCH_GROUP };
            for later in after(2)..at + 3 * FETCH_GROUP {
                if let Some(event) = events.get(later) {
                    self.registrations.fetch_entry(event);
                }
            }
            for later in after(1)..at + 2 * FETCH_GROUP {
                if let Some(event) = events.get(later) {
                    self.registrations.fetch_pages(event);
                }
            }
        }
        if let Some(event) = events.get(at + FETCH_READER) {
            self.registrations.fetch_reader(event);
        }
    }
}
