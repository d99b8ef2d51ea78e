//! The memory of all listings that are being made or wait to be sent. A visitor who asks and reads nothing must not
//! cost more than this, and neither must a thousand of them.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// For all listings together: some hundred that nobody reads, or thirty that are being made.
const BYTES: usize = 64 * 1024 * 1024;

/// How long a visitor waits for its turn before it is told to come again.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many bytes are left.
pub struct Budget {
    left: Mutex<usize>,
    freed: Condvar,
}

/// A part of the budget, given back when it is dropped.
pub struct Share<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: Mutex::new(BYTES), freed: Condvar::new() }
    }
}

impl Budget {
    /// Takes so many bytes, or nothing if they are not there in time.
    pub fn take(&self, bytes: usize) -> Option<Share<'_>> {
        // One that needs more than there is waits until it is alone.
        let bytes = bytes.min(BYTES);
        let until = Instant::now() + PATIENCE;
        let mut left = self.left.lock();
        while *left < bytes {
            if self.freed.wait_until(&mut left, until).timed_out() && *left < bytes {
                return None;
            }
        }
        *left -= bytes;
        Some(Share { budget: self, bytes })
    }

    fn give_back(&self, bytes: usize) {
        *self.left.lock() += bytes;
        self.freed.notify_all();
    }
}

impl Share<'_> {
    /// Gives back what turned out not to be needed.
    pub fn shrink_to(mut self, bytes: usize) -> Self {
        let spare = self.bytes.saturating_sub(bytes);
        self.bytes -= spare;
        self.budget.give_back(spare);
        self
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}
