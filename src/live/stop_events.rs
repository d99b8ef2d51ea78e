//! The events behind a `StopToken`: for threads and loops that work for a request and do not read from its peer.
//!
//! The events are made with the request's first token; a request without a token pays one load when it ends. They are a
//! part of the request's entry, which lives at least as long as the last token: so a token finds the end even after the
//! request has left the list.
//!
//! A handler may make the events while a drain begins. Each side first makes its own step visible and then checks the
//! other's: the handler publishes the events and asks whether the server drains; the drain stores that it has begun and
//! looks for events. If each finds the other, both notify the event, which does no harm.

use std::io;

use super::Entry;
use crate::wait::Event;

/// The events of one request; each takes a descriptor. An event becomes readable once, and stays so: any number of
/// threads may wait for it.
#[derive(Debug)]
pub(crate) struct StopEvents {
    /// Notified when the server drains, and when the request is over or cut off.
    pub(crate) stopping: Event,
    /// Notified when the request is over or cut off.
    pub(crate) closed: Event,
}

impl Entry {
    /// Returns the events, which the first call makes. It asks `draining` only when other threads can find the events:
    /// a drain that begins at this moment either notifies them or is seen here.
    ///
    /// # Errors
    ///
    /// If there is no descriptor for them.
    pub(crate) fn stop_events(&self, draining: impl Fn() -> bool) -> io::Result<&StopEvents> {
        let place = &self.marks.rare.get_or_init(Box::default).stop_events;
        let made = match place.get() {
            Some(stop_events) => stop_events,
            None => {
                // Two tokens may be made at once. The events of the slower one are dropped, and nobody has seen them.
                let made = StopEvents { stopping: Event::new()?, closed: Event::new()? };
                place.get_or_init(|| made)
            }
        };
        // A drain or an end that came before the events existed has notified nobody.
        if draining() {
            self.tell_of_stop();
        }
        if self.is_closed() {
            self.tell_of_close();
        }
        Ok(made)
    }

    /// Notifies the stop tokens that the server drains. A signal handler may call this.
    pub(crate) fn tell_of_stop(&self) {
        if let Some(stop_events) = self.marks.rare.get().and_then(|rare| rare.stop_events.get()) {
            stop_events.stopping.notify();
        }
    }

    /// Notifies the stop tokens that the request is over, or has been cut off.
    pub(super) fn tell_of_close(&self) {
        if let Some(stop_events) = self.marks.rare.get().and_then(|rare| rare.stop_events.get()) {
            // Code that works for a request stops at the request's end as it does at a drain.
            stop_events.stopping.notify();
            stop_events.closed.notify();
        }
    }
}
