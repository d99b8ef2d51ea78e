//! Workers, as `mixin/green/mod.rs` has them.

use std::sync::Arc;
use std::time::Duration;

use super::acceptor::Acceptors;
use super::inbox::Inbox;
use super::watchdog::Watchdog;
use super::worker_status::WorkerStatus;
use crate::wait::Event;

pub(super) struct Group {
    pub(super) workers: Vec<WorkerHandle>,
    pub(super) acceptors: Acceptors,
    pub(super) watchdog: Watchdog,
}

pub(super) struct WorkerHandle {
    pub(super) inbox: Inbox,
    pub(super) status: WorkerStatus,
    /// The event of the inbox, for the worker's wait.
    pub(super) wake_up: Event,
}

impl Group {
    pub(super) fn of(workers: usize) -> Arc<Self> {
        let worker = |_| {
            let inbox = Inbox::new().expect("a model has all that it takes");
            WorkerHandle { inbox, status: WorkerStatus::default(), wake_up: Event::last() }
        };
        Arc::new(Self {
            workers: (0..workers).map(worker).collect(),
            acceptors: Acceptors::default(),
            watchdog: Watchdog::new(Duration::from_secs(1)),
        })
    }

    pub(super) fn least_loaded(&self) -> usize {
        self.least_loaded_but(usize::MAX).unwrap_or(0)
    }

    pub(super) fn least_loaded_but(&self, one: usize) -> Option<usize> {
        let others = (0..self.workers.len()).filter(|number| *number != one);
        others.min_by_key(|number| self.workers[*number].status.load())
    }

    pub(super) fn begin_request(self: &Arc<Self>, worker: usize) {
        if self.workers[worker].status.begin_request() {
            self.watchdog.begin(self);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.workers.iter().all(|worker| worker.status.is_idle())
    }

    pub(super) fn tell_held(&self, _request: u64, _held: Duration) {}
}
