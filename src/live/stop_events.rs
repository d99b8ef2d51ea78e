//! What tells those of a stop or an end who look after a request beside its handler: two events, made for the first of them.

use std::io;

use super::Entry;
use crate::wait::Event;

/// The events of one request. Each becomes readable once, and stays so.
#[derive(Debug)]
pub(crate) struct StopEvents {
    /// The server drains, or the request is over.
    pub(crate) stopping: Event,
    /// The request is over.
    pub(crate) closed: Event,
}

impl StopEvents {
    fn new() -> io::Result<Self> {
        Ok(Self { stopping: Event::new()?, closed: Event::new()? })
    }
}

impl Entry {
    /// The events, made now if there are none. `draining`: asked once they are there for everybody to see, so that a
    /// drain that begins meanwhile finds them or is found.
    ///
    /// # Errors
    ///
    /// If there is no descriptor for them.
    pub(crate) fn stop_events(&self, draining: impl Fn() -> bool) -> io::Result<&StopEvents> {
        let made = match self.stop_events.get() {
            Some(stop_events) => stop_events,
            None => {
                let made = Box::new(StopEvents::new()?);
                self.stop_events.get_or_init(|| made)
            }
        };
        if draining() {
            self.tell_of_stop();
        }
        if self.is_closed() {
            self.tell_of_close();
        }
        Ok(made)
    }

    /// The server drains. A signal's handler may say so.
    pub(crate) fn tell_of_stop(&self) {
        if let Some(stop_events) = self.stop_events.get() {
            stop_events.stopping.notify();
        }
    }

    /// The request is over.
    pub(super) fn tell_of_close(&self) {
        if let Some(stop_events) = self.stop_events.get() {
            stop_events.stopping.notify();
            stop_events.closed.notify();
        }
    }
}
