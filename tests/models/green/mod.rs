//! The parts of `src/mixin/green/` that threads share, and their models.

#[path = "../../../src/mixin/green/accept_coroutine.rs"]
mod accept_coroutine;
#[path = "../../../src/mixin/green/acceptor.rs"]
mod acceptor;
#[path = "../../../src/mixin/green/inbox.rs"]
mod inbox;
#[path = "../../../src/mixin/green/watchdog.rs"]
mod watchdog;
#[path = "../../../src/mixin/green/worker_status.rs"]
mod worker_status;

mod accepting;
mod group;
mod sleeping;
mod telling;

use group::Group;
