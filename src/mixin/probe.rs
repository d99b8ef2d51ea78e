//! [`Probe`]: a request that tests hand to mixins, without a server.

use crossbeam_channel::{Receiver, Sender};

use super::{ChildEnd, Door, Handed, Outcome, Refused, Work};
use crate::address::Address;
use crate::sys::process::SignalsHeld;

/// A request that says that it runs and waits until it may end.
pub(super) struct Probe {
    pub(super) runs: Sender<std::thread::ThreadId>,
    pub(super) end: Receiver<()>,
    pub(super) refused: Sender<String>,
    /// Where the next one may be waited for.
    pub(super) door: Option<Door>,
}

impl Work for Probe {
    fn run(self: Box<Self>) -> Outcome {
        self.runs.send(std::thread::current().id()).unwrap();
        let _ = self.end.recv();
        Outcome::Completed
    }

    fn refuse(self: Box<Self>, why: Refused) {
        self.refused.send(why.to_string()).unwrap();
    }

    fn release(self: Box<Self>) {}

    fn hand_over(self: Box<Self>) -> Box<dyn Handed> {
        unreachable!("threads hand nothing to other processes")
    }

    fn prepare_fork(&self) {}

    fn run_in_child(self: Box<Self>, _signals: SignalsHeld) -> ChildEnd {
        unreachable!("threads have no children")
    }

    fn door(&self) -> Option<Door> {
        self.door.clone()
    }

    fn label(&self) -> &'static str {
        "Probe"
    }

    fn peer(&self) -> &Address {
        &Address::Unnamed
    }
}
