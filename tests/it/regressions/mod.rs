//! Defects that were found in use, each tested by what its user saw.

mod datagrams;
mod handlers;
mod numbers;
mod outboxes;
mod runs;

use std::time::Duration;

use socketserver::Limits;

const HOUR: Duration = Duration::from_secs(3_600);

/// Limits that do not end a test before its own patience does.
fn patient() -> Limits {
    Limits::default().idle(HOUR).read(HOUR).write(HOUR).drain(HOUR)
}
