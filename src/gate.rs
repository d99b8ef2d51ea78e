//! [`Gate`], which keeps a count at or below a limit, and [`RateGate`], which does the same for a rate.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::limits::Rate;
use crate::wait::Event;

/// A bucket of tokens: it fills at the rate, up to the burst, and each thing that happens takes one.
#[derive(Debug)]
pub(crate) struct RateGate {
    /// Whether there is a bucket: most servers have none, and are spared the lock.
    limits: AtomicBool,
    bucket: Mutex<Option<Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    tokens: f64,
    filled: Instant,
}

impl RateGate {
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        let gate = Self { limits: AtomicBool::new(false), bucket: Mutex::default() };
        gate.set(rate);
        gate
    }

    /// A new rate begins with a full bucket. The same one goes on with what is in it: whoever changes another
    /// limit, again and again, must not lift this one.
    pub(crate) fn set(&self, rate: Option<Rate>) {
        let at_least_one =
            |rate: Rate| Rate::per_second(rate.per_second.max(1)).burst(rate.burst.max(1));
        let full =
            |rate: Rate| Bucket { rate, tokens: f64::from(rate.burst), filled: Instant::now() };
        let rate = rate.map(at_least_one);
        let mut bucket = self.bucket.lock();
        if bucket.as_ref().map(|bucket| bucket.rate) != rate {
            *bucket = rate.map(full);
        }
        self.limits.store(rate.is_some(), Ordering::Release);
    }

    /// Whether there is a rate at all.
    pub(crate) fn is_on(&self) -> bool {
        self.limits.load(Ordering::Acquire)
    }

    /// None if one may pass now, and otherwise when the next one may.
    pub(crate) fn wait_until(&self) -> Option<Instant> {
        if !self.is_on() {
            return None;
        }
        let mut bucket = self.bucket.lock();
        let Bucket { rate, tokens, filled } = bucket.as_mut()?;
        let now = Instant::now();
        let per_second = f64::from(rate.per_second);
        let gained = now.saturating_duration_since(*filled).as_secs_f64() * per_second;
        *tokens = (*tokens + gained).min(f64::from(rate.burst));
        *filled = now;
        if *tokens >= 1.0 {
            return None;
        }
        Some(now + Duration::from_secs_f64((1.0 - *tokens) / per_second))
    }

    /// One has passed.
    pub(crate) fn pass(&self) {
        if !self.is_on() {
            return;
        }
        if let Some(bucket) = &mut *self.bucket.lock() {
            bucket.tokens -= 1.0;
        }
    }
}

/// Keeps a count at or below a maximum, and tells a loop that waits at the maximum when it falls.
///
/// The count is taken before the thing that it counts (before accepting, say), so that the maximum is
/// exact and the rest waits where it costs nothing. Nobody is woken unless somebody waits.
#[derive(Debug)]
pub struct Gate {
    count: AtomicUsize,
    max: AtomicUsize,
    waiting: AtomicBool,
    notified: AtomicBool,
    event: Event,
}

impl Gate {
    /// A gate for at most `max` at once.
    ///
    /// # Errors
    ///
    /// If there is no descriptor for its event.
    pub fn new(max: usize) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self::unshared(max)?))
    }

    /// A gate that is part of something else, which is shared in its place.
    pub(crate) fn unshared(max: usize) -> io::Result<Self> {
        Ok(Self {
            count: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            waiting: AtomicBool::new(false),
            notified: AtomicBool::new(false),
            event: Event::new()?,
        })
    }

    /// How many are in now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// The maximum.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max.load(Ordering::SeqCst)
    }

    /// Changes the maximum. Who is in stays in, also when that is now more than the maximum.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::SeqCst);
        self.wake();
    }

    /// Enters, if there is room; the permit's drop leaves.
    #[must_use]
    pub fn try_enter(self: &Arc<Self>) -> Option<Permit> {
        self.enter().then(|| Permit { gate: Arc::clone(self) })
    }

    /// Enters, if there is room, as somebody who has the gate anyway, and who will [`leave`](Self::leave).
    pub(crate) fn enter(&self) -> bool {
        let max = self.max();
        let enter = |count: usize| (count < max).then_some(count + 1);
        self.count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, enter).is_ok()
    }

    pub(crate) fn leave(&self) {
        if self.count.fetch_sub(1, Ordering::SeqCst) == 0 {
            // Somebody from before a fork, whom this process does not count.
            self.count.fetch_add(1, Ordering::SeqCst);
        }
        self.wake();
    }

    /// Whether there is room. A false answer promises that [`event_fd`](Self::event_fd) becomes
    /// readable as soon as there is: ask, and then wait for it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        if self.count() < self.max() {
            return true;
        }
        self.event.own_if_noted();
        // Announce the wait first and look again after it: a permit that is dropped in between sees
        // the announcement, or is seen by the second look.
        self.settle();
        self.waiting.store(true, Ordering::SeqCst);
        self.count() < self.max()
    }

    /// Becomes readable when room is made after [`is_open`](Self::is_open) said that there is none.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.waiting().fd
    }

    /// In a forked child that goes on for itself: those that are in are its parent's.
    pub(crate) fn enter_process(&self) -> io::Result<()> {
        if self.event.is_of_noted_process() {
            return Ok(());
        }
        self.event.own()?;
        self.notified.store(false, Ordering::SeqCst);
        self.count.store(0, Ordering::SeqCst);
        Ok(())
    }

    /// Makes the event unreadable again, if it is readable. A mixin with a gate does so in its
    /// `service_actions`, because the loop comes back from every wait at once until somebody does.
    pub fn settle(&self) {
        if self.notified.swap(false, Ordering::SeqCst) {
            self.event.clear();
        }
    }

    fn wake(&self) {
        // Looked at before it is taken: mostly nobody waits, and a look costs less.
        if self.waiting.load(Ordering::SeqCst) && self.waiting.swap(false, Ordering::SeqCst) {
            // In this order: the other one could leave an event that is readable and that nobody
            // knows to clear.
            self.event.notify();
            self.notified.store(true, Ordering::SeqCst);
        }
    }
}

/// One place behind a [`Gate`], given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_admits_exactly_its_maximum_and_wakes_who_waits() {
        let gate = Gate::new(2).unwrap();
        let first = gate.try_enter().unwrap();
        let _second = gate.try_enter().unwrap();
        assert!(gate.try_enter().is_none());
        assert!(!gate.is_open() && !gate.event.is_set());
        drop(first);
        assert!(gate.event.is_set() && gate.is_open());
        gate.set_max(1);
        assert!(gate.try_enter().is_none());
    }

    #[test]
    fn who_entered_before_a_fork_does_not_close_the_gate_by_leaving() {
        let gate = Gate::new(1).unwrap();
        let early = gate.try_enter().unwrap();
        // As `enter_process` does.
        gate.count.store(0, Ordering::SeqCst);
        drop(early);
        assert_eq!(gate.count(), 0);
        let own = gate.try_enter().expect("it is open");
        assert!(gate.try_enter().is_none());
        drop(own);
    }

    #[test]
    fn a_bucket_lets_a_burst_pass_and_then_the_rate() {
        let gate = RateGate::new(Some(Rate::per_second(1).burst(3)));
        for _ in 0..3 {
            assert_eq!(gate.wait_until(), None);
            gate.pass();
        }
        let next = gate.wait_until().expect("it is empty");
        assert!(next > Instant::now() && next <= Instant::now() + Duration::from_secs(1));
        gate.set(None);
        assert_eq!(gate.wait_until(), None);
    }

    #[test]
    fn a_bucket_is_filled_anew_only_for_another_rate() {
        let slow = Rate::per_second(0).burst(1);
        let gate = RateGate::new(Some(slow));
        gate.pass();
        gate.set(Some(slow));
        assert!(gate.wait_until().is_some(), "the same rate, and the same tokens");
        gate.set(Some(slow.burst(2)));
        assert_eq!(gate.wait_until(), None);
    }

    #[test]
    fn nobody_is_woken_when_nobody_waits() {
        let gate = Gate::new(1).unwrap();
        drop(gate.try_enter());
        assert!(!gate.event.is_set());
    }
}
