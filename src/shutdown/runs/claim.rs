//! [`Claim`]: the runs of a server for one thread alone.

use std::fmt::Display;
use std::sync::Arc;
use std::thread;

use super::{Runs, serving_already};
use crate::error::Result;

/// Keeps the runs of a server for one thread, until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    /// The runs that are claimed.
    runs: Arc<Runs>,
}

impl Claim {
    /// From here on the runs are for the calling thread.
    pub(crate) fn take_over(&self) {
        self.runs.state.lock().claimed = Some(thread::current().id());
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.runs.state.lock().claimed = None;
    }
}

impl Runs {
    /// For `Server::run`, which closes the server as soon as its run stops: until the claim is dropped, no other thread
    /// begins a run. Fails, and changes nothing, if there is another claim or a run goes on.
    pub(crate) fn claim(self: &Arc<Self>, address: &dyn Display) -> Result<Claim> {
        let mut state = self.wait_while_finishing();
        if state.run.is_accepting() || state.claimed.is_some() {
            return Err(serving_already(address));
        }
        state.claimed = Some(thread::current().id());
        drop(state);
        Ok(Claim { runs: Arc::clone(self) })
    }
}
