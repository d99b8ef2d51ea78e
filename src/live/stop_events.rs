//! What tells those of a stop or an end who look after a request beside its handler: two events, made for the first of them.

use std::io;

use super::Entry;
use crate::wait::Event;

/// The events of one request. Each becomes readable once, and stays so.
#[derive(Debug)]
pub(crate) struct Notices {
    /// The server drains, or the request is over.
    pub(crate) stopping: Event,
    /// The request is over.
    pub(crate) closed: Event,
}

impl Notices {
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
    pub(crate) fn notices(&self, draining: impl Fn() -> bool) -> io::Result<&Notices> {
        let made = match self.notices.get() {
            Some(notices) => notices,
            None => {
                let made = Box::new(Notices::new()?);
                self.notices.get_or_init(|| made)
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
        if let Some(notices) = self.notices.get() {
            notices.stopping.notify();
        }
    }

    /// The request is over.
    pub(super) fn tell_of_close(&self) {
        if let Some(notices) = self.notices.get() {
            notices.stopping.notify();
            notices.closed.notify();
        }
    }
}
