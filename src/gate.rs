//! [`Gate`], which keeps a count at or below a maximum, and [`RateGate`], which does the same for a rate.
//!
//! A gate's count, and the wake-up of the loops that wait, are in `gate/room.rs`; here is its interface, for mixins. A rate
//! needs no wake-up, because the moment of the next request is known.

mod room;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::room::Room;
use crate::limits::Rate;
use crate::wait::Event;

/// A token bucket: it fills at the rate, up to the burst, and each request takes a token.
///
/// Only the accept loop takes tokens, and at a close the thread that takes the backlog. Any thread may set another rate. The
/// bucket has no event: the moment at which the next token is earned is known, and the loop sleeps until then.
#[derive(Debug)]
pub(crate) struct RateGate {
    /// Whether there is a bucket. Most servers have none, and take no lock here.
    limits: AtomicBool,
    /// None without a rate. Locked for a few computations.
    bucket: Mutex<Option<Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    /// Rate and burst are at least one: with zero per second there would be no next moment.
    rate: Rate,
    /// Whole requests and the part of the next one that has been earned, as of `filled`.
    /// May be a little below zero: see [`pass`](RateGate::pass).
    tokens: f64,
    /// When the tokens were last counted up.
    filled: Instant,
}

impl RateGate {
    /// A gate that begins with a full bucket. Without a rate it lets everything pass.
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        // There is no bucket until `set` makes one, which is full.
        let gate = Self { limits: AtomicBool::new(false), bucket: Mutex::default() };
        gate.set(rate);
        gate
    }

    /// Sets the rate. A different rate begins with a full bucket. The same rate keeps its tokens, so that a program
    /// that often sets other limits does not lift this one.
    pub(crate) fn set(&self, rate: Option<Rate>) {
        // A rate or burst of zero counts as one, because a request must be able to pass at some time.
        let rate = rate.map(|it| Rate::per_second(it.per_second.max(1)).burst(it.burst.max(1)));
        let mut bucket = self.bucket.lock();
        if bucket.as_ref().map(|bucket| bucket.rate) != rate {
            let filled = Instant::now();
            *bucket = rate.map(|rate| Bucket { rate, tokens: f64::from(rate.burst), filled });
        }
        // Stored after the bucket is made, so that a loop that reads true finds the bucket.
        self.limits.store(rate.is_some(), Ordering::Release);
    }

    /// Whether there is a rate at all.
    pub(crate) fn is_on(&self) -> bool {
        self.limits.load(Ordering::Acquire)
    }

    /// None if a request may pass now, otherwise the moment at which the next one may. Takes no token: the request may
    /// still be refused, or no request may be waiting.
    pub(crate) fn wait_until(&self) -> Option<Instant> {
        if !self.is_on() {
            return None;
        }
        let mut bucket = self.bucket.lock();
        let Bucket { rate, tokens, filled } = bucket.as_mut()?;
        let now = Instant::now();
        let per_second = f64::from(rate.per_second);
        // With 10 per second, 50 ms earn half a token.
        let gained = now.saturating_duration_since(*filled).as_secs_f64() * per_second;
        *tokens = (*tokens + gained).min(f64::from(rate.burst));
        *filled = now;
        if *tokens >= 1.0 {
            return None;
        }
        // The time in which the missing part of one token is earned.
        Some(now + Duration::from_secs_f64((1.0 - *tokens) / per_second))
    }

    /// Takes the token of a request that has passed. If a server has several loops, a second loop may take a token that
    /// is not earned yet; the next request then waits longer.
    ///
    /// Called after [`wait_until`](Self::wait_until) has returned `None` and the request is accepted.
    pub(crate) fn pass(&self) {
        if !self.is_on() {
            return;
        }
        if let Some(bucket) = &mut *self.bucket.lock() {
            bucket.tokens -= 1.0;
        }
    }
}

/// Keeps a count at or below a maximum, and wakes a loop that waits for room.
///
/// A permit is taken before the counted action (before accepting, for example), so that the maximum is
/// exact. For mixins: [`ready`](crate::mixin::Mixin::ready) is [`is_open`](Self::is_open),
/// [`event_fd`](crate::mixin::Mixin::event_fd) is [`event_fd`](Self::event_fd), and
/// [`service_actions`](crate::mixin::Mixin::service_actions) calls [`settle`](Self::settle).
///
/// ```
/// use socketserver::mixin::Gate;
///
/// # fn main() -> std::io::Result<()> {
/// let gate = Gate::new(1)?;
/// let permit = gate.try_enter().expect("there is room");
/// assert!(!gate.is_open() && gate.try_enter().is_none());
/// drop(permit);
/// assert!(gate.is_open());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Gate {
    room: Room,
}

impl Gate {
    /// A gate for at most `max` permits at once. With zero it is always closed.
    ///
    /// # Errors
    ///
    /// If there is no descriptor for its event.
    pub fn new(max: usize) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self::unshared(max)?))
    }

    /// A gate inside a value that is itself shared: the server's context. It saves a reference count for each permit.
    pub(crate) fn unshared(max: usize) -> io::Result<Self> {
        Ok(Self { room: Room::new(max, Event::new()?) })
    }

    /// How many permits are taken now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.room.count()
    }

    /// The maximum.
    #[must_use]
    pub fn max(&self) -> usize {
        self.room.max()
    }

    /// Changes the maximum. Permits that are taken stay valid, even if they are now more than the maximum.
    pub fn set_max(&self, max: usize) {
        self.room.set_max(max);
    }

    /// Takes a permit, if there is room. Dropping it gives it back.
    #[must_use]
    pub fn try_enter(self: &Arc<Self>) -> Option<Permit> {
        self.enter().then(|| Permit { gate: Arc::clone(self) })
    }

    /// Adds one to the count, if there is room. The caller has to keep the gate alive, and to call
    /// [`leave`](Self::leave) later.
    pub(crate) fn enter(&self) -> bool {
        self.room.enter()
    }

    /// Gives back what [`enter`](Self::enter) has counted.
    pub(crate) fn leave(&self) {
        self.room.leave();
    }

    /// Whether there is room. After it has returned false, [`event_fd`](Self::event_fd) becomes readable as soon as
    /// there is room.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.room.is_open()
    }

    /// Becomes readable when there is room again after [`is_open`](Self::is_open) has returned false.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.room.event.waiting().fd
    }

    /// Forgets the permits, which are the parent's, in a forked child that goes on as a server of its own.
    pub(crate) fn enter_process(&self) -> io::Result<()> {
        if self.room.event.is_of_noted_process() {
            return Ok(());
        }
        self.room.event.own()?;
        self.room.forget_permits();
        Ok(())
    }

    /// Makes the event unreadable again. A mixin with a gate calls it in its `service_actions`; until then every wait of
    /// the loop returns at once.
    pub fn settle(&self) {
        self.room.take_notice();
    }
}

/// One of the permits of a [`Gate`], given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    /// The gate lives for as long as one of its permits does.
    gate: Arc<Gate>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::{hint, thread};

    use super::*;
    use crate::sys;

    #[test]
    fn a_gate_admits_exactly_its_maximum_and_wakes_a_waiting_loop() {
        let gate = Gate::new(2).unwrap();
        let first = gate.try_enter().unwrap();
        let _second = gate.try_enter().unwrap();
        assert!(gate.try_enter().is_none());
        assert!(!gate.is_open() && !gate.room.event.is_set());
        drop(first);
        assert!(gate.room.event.is_set() && gate.is_open());
        gate.set_max(1);
        assert!(gate.try_enter().is_none());
    }

    /// Two loops of a server wait for room, and one change makes room for both. Each keeps its permit until the other one has
    /// its own, so that no second wake-up comes. The loop that clears the event must not lose the other loop's wake-up.
    #[test]
    fn two_loops_that_wait_for_room_both_get_in() {
        const ROUNDS: u64 = 2_000;
        let (gate, turn) = (Gate::new(0).unwrap(), Barrier::new(3));
        let forgotten = Mutex::new(None);
        // Read between turns only, so that all three threads see the same value.
        let goes_on = || forgotten.lock().is_none();
        let spin = |times: u64| (0..times).for_each(|_| hint::spin_loop());
        let enter = |round| loop {
            if let Some(permit) = gate.is_open().then(|| gate.try_enter()).flatten() {
                return permit;
            }
            let mut event = [sys::PollFd::readable(gate.event_fd())];
            let deadline = Instant::now() + Duration::from_secs(5);
            if !sys::poll(&mut event, Some(deadline)).unwrap() {
                *forgotten.lock() = Some(round);
            }
        };
        let run_loop = |step: u64| {
            for round in (0..ROUNDS).take_while(|_| goes_on()) {
                turn.wait();
                spin(round * step % 1_009);
                let permit = enter(round);
                turn.wait();
                drop(permit);
                turn.wait();
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| run_loop(0));
            scope.spawn(|| run_loop(7));
            for round in (0..ROUNDS).take_while(|_| goes_on()) {
                turn.wait();
                spin(round * 5 % 1_013);
                gate.set_max(2);
                turn.wait();
                gate.set_max(0);
                turn.wait();
            }
        });
        assert_eq!(
            *forgotten.lock(),
            None,
            "the round in which a loop slept on beside an open gate"
        );
    }

    #[test]
    fn a_permit_from_before_a_fork_does_not_close_the_gate_when_it_is_dropped() {
        let gate = Gate::new(1).unwrap();
        let early = gate.try_enter().unwrap();
        // As `enter_process` does.
        gate.room.forget_permits();
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
    fn the_event_is_not_notified_when_nothing_waits() {
        let gate = Gate::new(1).unwrap();
        drop(gate.try_enter());
        assert!(!gate.room.event.is_set());
    }
}
