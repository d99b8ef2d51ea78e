//! [`Claim`]: the runs of a server for one thread alone.
//!
//! `run` and `run_all` close their servers as soon as the runs stop. Without a claim another thread could begin a run of its
//! own just before theirs, or between their stop and the close; the close would then end that run.
//!
//! ```text
//! run, on its thread                  another thread
//! claim: no run goes on
//!                                     begin: fails, "is serving already"
//! (a thread for each server: take_over)
//! begin, .. end
//!                                     begin: fails
//! close
//! the claim is dropped                begin: fails, the server is closed
//! ```

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
    /// Passes the claim to the calling thread. `run_all` claims all servers on one thread, so that it begins all or
    /// none, and serves each on a thread of its own.
    pub(crate) fn take_over(&self) {
        self.runs.state.lock().claimed = Some(thread::current().id());
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // After a run the server is already closed, so that `begin` finds a closed server and not a free one.
        self.runs.state.lock().claimed = None;
    }
}

impl Runs {
    /// Claims the runs for the calling thread: until the claim is dropped, no other thread begins a run. `Server::run`
    /// needs this, because it closes the server as soon as its run stops. Fails, and changes nothing, if there is
    /// another claim or a run goes on.
    pub(crate) fn claim(self: &Arc<Self>, address: &dyn Display) -> Result<Claim> {
        // A run that finishes is as good as over, so this waits for its end, which is near.
        let mut state = self.wait_while_finishing();
        if state.run.kind().is_some() || state.claimed.is_some() {
            return Err(serving_already(address));
        }
        state.claimed = Some(thread::current().id());
        drop(state);
        Ok(Claim { runs: Arc::clone(self) })
    }
}
