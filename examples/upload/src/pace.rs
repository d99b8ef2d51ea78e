//! The least speed of a client.

use std::io;
use std::time::{Duration, Instant};

/// How many bytes have to arrive within the time that a client may be silent: with the default of a minute about a
/// KiB a second.
pub const PACE_BYTES: usize = 64 * 1024;

/// Measures how long the server waits for a client's bytes, however these are cut into messages: a byte now and then does
/// not count as activity.
pub struct Pace {
    /// The longest time for [`PACE_BYTES`].
    idle: Duration,
    /// The time that the waits for the present bytes have taken. The time of the server's disk does not count.
    taken: Duration,
    /// How many of the present [`PACE_BYTES`] have arrived.
    bytes: usize,
}

impl Pace {
    pub fn new(idle: Duration) -> Self {
        Self { idle, taken: Duration::ZERO, bytes: 0 }
    }

    /// Counts the time of a wait for the client.
    pub fn watch<R>(&mut self, wait: impl FnOnce() -> R) -> R {
        let began = Instant::now();
        let result = wait();
        self.taken += began.elapsed();
        result
    }

    /// Counts bytes that have arrived.
    ///
    /// # Errors
    ///
    /// `TimedOut` if they took too long.
    pub fn add(&mut self, bytes: usize) -> io::Result<()> {
        self.bytes += bytes;
        if self.bytes >= PACE_BYTES {
            (self.taken, self.bytes) = (Duration::ZERO, 0);
        } else if self.taken > self.idle {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}
