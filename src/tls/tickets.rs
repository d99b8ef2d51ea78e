//! [`Tickets`]: the keys of session tickets, and when they change.
//!
//! rustls' own rotation checks the clock when a ticket is made or read. Under `Forking` that is in a child, and a key
//! that the child makes would end with it. So here neither the making nor the reading of a ticket changes a key. Instead
//! the process that accepts checks before each connection (`rotate_if_due`): under `Forking` the parent, before the fork.
//!
//! ```text
//! time      0h          6h          12h
//! current   K1          K2          K3        makes tickets, and reads them
//! previous  -           K1          K2        reads them
//! ```
//!
//! The times are those of a server that always has clients. After a pause the next connection changes the keys.
//!
//! Invariant: a ticket is good for at least `KEY_PERIOD`, and for less than three times that, in the process that has made
//! it, in its parent, and in all children that the parent forks meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use rustls::crypto::ring;
use rustls::server::ProducesTickets;

use crate::error::{Error, Result};

/// How long one key makes tickets.
pub(super) const KEY_PERIOD: Duration = Duration::from_secs(6 * 60 * 60);

/// Keys that change with time. A server shares them with all its children.
#[derive(Debug)]
pub(super) struct Tickets {
    /// Read for each ticket that is made or shown, written once in a period.
    keys: RwLock<Keys>,
    /// The zero of `due`. An `Instant` cannot be stored in an atomic.
    began: Instant,
    /// Seconds after `began` at which the next key is due.
    due: AtomicU64,
    /// [`KEY_PERIOD`], or less in a test.
    period: Duration,
}

/// The two keys. They change together, so that no ticket falls between them.
#[derive(Debug)]
struct Keys {
    /// Makes tickets, and reads its own.
    current: Arc<dyn ProducesTickets>,
    /// Reads the tickets that it has made as the current one. None in the first period, and after a long idle time.
    previous: Option<Arc<dyn ProducesTickets>>,
}

impl Tickets {
    /// Keys that change after each `period`, of which the first is made here.
    pub(super) fn new(period: Duration) -> Result<Arc<Self>> {
        let keys = RwLock::new(Keys { current: new_key()?, previous: None });
        let due = AtomicU64::new(period.as_secs());
        Ok(Arc::new(Self { keys, began: Instant::now(), due, period }))
    }

    /// Makes a new key if its time has come. If the machine has no randomness, the old key stays.
    pub(super) fn rotate_if_due(&self) {
        // Almost every connection ends here, after a look at the clock and a load.
        let now = self.began.elapsed().as_secs();
        let due = self.due.load(Ordering::Relaxed);
        if now < due {
            return;
        }
        let next = now + self.period.as_secs().max(1);
        // Of several threads that find the key due, only one changes it.
        if self.due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        // The key is made before the lock is taken: handshakes go on with the old keys meanwhile.
        if let Ok(key) = new_key() {
            let keys = &mut *self.keys.write();
            // If the server had no clients for two periods, even the current key is too old to become the previous
            // one.
            let is_stale = now >= due + self.period.as_secs();
            let old = std::mem::replace(&mut keys.current, key);
            keys.previous = (!is_stale).then_some(old);
        }
    }

    /// Makes the next key due at once.
    #[cfg(test)]
    pub(super) fn set_due(&self) {
        self.due.store(0, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn is_due(&self) -> bool {
        self.due.load(Ordering::Relaxed) == 0
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// The longest that a client should keep a ticket, in seconds.
    fn lifetime(&self) -> u32 {
        u32::try_from(self.period.as_secs() * 2).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.read().current.encrypt(plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys.read();
        let by_previous = || keys.previous.as_ref().and_then(|key| key.decrypt(ticket));
        // A ticket of another server, or an old one, is not an error: the client gets a full handshake.
        keys.current.decrypt(ticket).or_else(by_previous)
    }
}

/// Makes a key, by rustls. The key also rotates by itself, six hours after it was made. By then the next key of this file
/// has replaced it, and as the previous key it still reads the tickets that it has made. Only where nothing calls
/// `rotate_if_due` (STARTTLS under `Forking`) does each child make a key of its own from then on, which ends with the child.
fn new_key() -> Result<Arc<dyn ProducesTickets>> {
    let key = ring::Ticketer::new().map_err(|error| {
        Error::io("make a key for", "session tickets", std::io::Error::other(error))
    })?;
    // The key accepts no ticket that is longer than the longest ticket it has made. In a new child it would have made none,
    // and would accept none. So it makes a long ticket here, before any fork.
    let _ = key.encrypt(&[0; LONGEST_STATE]);
    Ok(key)
}

/// The length of the longest state of a session: it contains the client's certificates.
const LONGEST_STATE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_outlives_one_change_of_the_key_and_not_two() {
        // The period is long, so nothing is due by itself: the test sets `due` back in place of a wait.
        let tickets = Tickets::new(Duration::from_secs(1_000)).unwrap();
        let ticket = tickets.encrypt(b"state").unwrap();
        let read = || tickets.decrypt(&ticket).as_deref() == Some(b"state");
        tickets.rotate_if_due();
        assert!(read(), "nothing is due");
        for good in [true, false] {
            tickets.set_due();
            tickets.rotate_if_due();
            assert_eq!(read(), good);
            assert!(tickets.decrypt(&tickets.encrypt(b"new").unwrap()).is_some());
        }
        assert_eq!(tickets.lifetime(), 2_000);
    }
}
