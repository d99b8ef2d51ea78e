//! How fast a client has to be.

use std::io;
use std::time::{Duration, Instant};

/// How much has to come within the time that a client may be silent: with the default of a minute that is a
/// KiB in a second.
pub const PACE_BYTES: usize = 64 * 1024;

/// How long a client takes for its bytes, however it cuts them into messages: a byte now and then is as good as
/// none.
pub struct Pace {
    /// What it may take for so many bytes.
    idle: Duration,
    /// What it has taken for the bytes that have come. The disk's time is not its own.
    taken: Duration,
    bytes: usize,
}

impl Pace {
    pub fn new(idle: Duration) -> Self {
        Self { idle, taken: Duration::ZERO, bytes: 0 }
    }

    /// Counts the time for which the client is waited for.
    pub fn watch<R>(&mut self, wait: impl FnOnce() -> R) -> R {
        let began = Instant::now();
        let result = wait();
        self.taken += began.elapsed();
        result
    }

    /// So many have come.
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
