//! Everything has a limit: [`Limits`], in one struct with finite defaults, and the [`Gate`] that keeps
//! a count below one of them.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::wait::Event;

/// What a server allows. Each default is finite, or says why it is not.
///
/// A duration says how long; [`Duration::MAX`] is never, for each of them (so is none, for `request`), and zero does not
/// wait at all. What is longer than the clock can count is never as well.
///
/// Set them by `builder().limits(..)`, and change them on a live server by
/// [`ServerContext::set_limits`](crate::ServerContext::set_limits): new requests meet the new ones,
/// running ones keep theirs.
///
/// An observer hears of each that is reached. Those that hold back or turn away are a
/// [`LimitReached`](crate::ServerEvent::LimitReached) (`live`, `per_peer`, `accept_rate`, `peer_rate`); those that end a request are the
/// [`CloseReason`](crate::CloseReason) of its end (`line_bytes`, `idle`, `read`, `write`, `request`, `handshake`,
/// `drain`, `first_read`). `outbox_bytes` is told to who sends, as an error. The bounds of the lingering close are told to nobody: the
/// request has ended by then.
///
/// ```
/// use std::time::Duration;
/// use socketserver::Limits;
///
/// let limits = Limits { idle: Duration::from_secs(5), ..Limits::default() };
/// # assert_eq!(limits.line_bytes, 65_536);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests alive at once in this server. At the limit nothing more is accepted: what comes waits
    /// in the kernel's queue. Zero is taken as one. Default 10,000, the number for which thread stacks and descriptors of an
    /// ordinary machine suffice.
    pub live: usize,
    /// Requests alive at once from one peer: an IPv4 address, or an IPv6 network of 64 bits, which is what
    /// one customer has. Each link-local address of IPv6 is a peer of its own, and so is `::1`. One more request is
    /// refused, and the `overflow` hook may say so. Zero is taken as one. Default: as many as `live`, which is no limit of its own,
    /// because many people may stand behind one proxy. Unix sockets have no such peers. Where the process has
    /// descriptors for fewer requests than `live`, this is lowered in the same proportion.
    pub per_peer: usize,
    /// How fast requests are accepted: a token bucket. Beyond it they wait in the kernel's queue. None by
    /// default: what is too fast depends on what a request costs. Those that are refused by `per_peer` or `peer_rate` do
    /// not count.
    pub accept_rate: Option<Rate>,
    /// How fast requests of one peer (as for `per_peer`) are accepted, so that one that comes again and again does
    /// not use up the rate of all. Beyond it a request is refused, as beyond `per_peer`: to leave it in the queue
    /// would be to leave there all who stand behind it. 8,192 peers are remembered, in some 400 KiB; with more of
    /// them at a time those that have asked least begin anew. None by default, because many people may stand
    /// behind one proxy.
    pub peer_rate: Option<Rate>,
    /// Bytes of one line in `next_line`, without its newline. Default 65,536: what Python's
    /// `http.server` and most line protocols take.
    pub line_bytes: usize,
    /// Bytes that may wait in an [`Outbox`](crate::Outbox) for a peer that does not take them; a send beyond it
    /// fails. Default 65,536: some hundreds of lines of a chat; who is further behind does not read.
    pub outbox_bytes: usize,
    /// How long nothing may move in either direction while a handler waits for its peer to begin something: a line, a
    /// request, whatever comes next. (For what has begun there is `read`.) The connection then ends quietly. Default 60 s: longer than a person thinks, shorter than an outage.
    ///
    /// A peer that takes what it is sent is there, although it says nothing: the end of a long answer, the lines of an
    /// [`Outbox`](crate::Outbox), what goes through a copy of the descriptor. On Linux, over TCP, it is the system that
    /// counts: what its peer acknowledges, and not what a buffer takes for a peer that is gone. Elsewhere it is what the
    /// request's own calls and its outbox have sent; copies are not seen there.
    ///
    /// From 8 s on it is noticed up to an eighth late, a quarter where something waits for the peer, and what it has
    /// ended cannot be read from again; a handler that wants to go on after a silence has a
    /// [timeout of its own](crate::StreamRequest::set_timeout), which counts nothing but what is received.
    pub idle: Duration,
    /// How long a started read may take: a line whose beginning has come, an exact number of bytes.
    /// It is one deadline for the whole, so that a byte a second does not extend it. Default 60 s.
    pub read: Duration,
    /// How long a write may make no progress, because the peer takes nothing. Progress is what the peer's system
    /// acknowledges, and room for more of what is written; where a system does not tell the first (Linux does), the
    /// second alone. A peer that takes its bytes one by one makes its system acknowledge nothing for long. A peer
    /// that takes a little, again and again, is slow and not stalled: [`request`](Self::request) is for those. Progress
    /// is noticed an eighth of the limit late at most. Default 60 s.
    pub write: Duration,
    /// How long one request may take altogether, however busy it is: from then on no read and no write of it waits any
    /// more. (A handler that only computes notices nothing.) No bound of the handler's own lifts it, but for
    /// [`set_server_deadline`](crate::Request::set_server_deadline). None by default: an upload or a
    /// chat may rightly last for hours.
    pub request: Option<Duration>,
    /// How long `wrap_request` (a TLS handshake, say) may take. Default 10 s: several round trips of
    /// the slowest network and no more.
    pub handshake: Duration,
    /// How long a connection whose peer is still sending, or may be, stays open for it to read the answer, while what
    /// it still sends is thrown away. That is so when more has come than was read, when more than 8 KiB have come
    /// without an end, when a read has ended in the middle, when the handler has failed, when the request is refused, and
    /// when the handler [says so](crate::StreamRequest::expect_more_input). Default 2 s: some round trips. Zero
    /// closes at once.
    pub linger: Duration,
    /// How much is thrown away in that time at most, in bytes. Default 16 MiB: a peer that sends more
    /// without looking for an answer will not look for this one.
    pub linger_bytes: usize,
    /// How long `server_close` waits for running requests before it forces them. Default 10 s, the
    /// grace that process managers commonly give.
    pub drain: Duration,
    /// How long a drain waits for the first request of a connection that has sent nothing yet. A proxy or a client has
    /// made that connection, is about to send its request, and may not be able to send it to another server instead. A
    /// connection between two requests is not waited for, because its peer knows that it may end at any time. Default
    /// 1 s: several round trips and a busy machine. The time is a part of `drain`, and never more than half of it, so that
    /// what comes in it can be served. Zero ends such connections at once, and with them a request that is on its way.
    pub first_read: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            live: 10_000,
            per_peer: 10_000,
            accept_rate: None,
            peer_rate: None,
            line_bytes: 65_536,
            outbox_bytes: 65_536,
            idle: Duration::from_secs(60),
            read: Duration::from_secs(60),
            write: Duration::from_secs(60),
            request: None,
            handshake: Duration::from_secs(10),
            linger: Duration::from_secs(2),
            linger_bytes: 16 * 1024 * 1024,
            drain: Duration::from_secs(10),
            first_read: Duration::from_secs(1),
        }
    }
}

impl Limits {
    /// How many requests one peer may have where there are descriptors for so many in all. None if it may have all of
    /// them: then `per_peer` is no limit of its own. What is a part of `live` stays the same part of what there is.
    pub(crate) fn per_peer_within(&self, descriptors: usize) -> Option<usize> {
        let (live, per_peer) = (self.live.max(1), self.per_peer.max(1));
        if per_peer >= live {
            return None;
        }
        let allowed = live.min(descriptors.max(1));
        let part = per_peer as u128 * allowed as u128 / live as u128;
        // It is less than `allowed`, but for the one that every peer may have.
        Some(usize::try_from(part).unwrap_or(per_peer).max(1)).filter(|max| *max < allowed)
    }
}

/// A rate with bursts: so many in a second on average, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many in a second, in the long run. At least one.
    pub per_second: u32,
    /// How many at once after a rest. At least one.
    pub burst: u32,
}

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
            |rate: Rate| Rate { per_second: rate.per_second.max(1), burst: rate.burst.max(1) };
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
        let gate = RateGate::new(Some(Rate { per_second: 1, burst: 3 }));
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
        let slow = Rate { per_second: 0, burst: 1 };
        let gate = RateGate::new(Some(slow));
        gate.pass();
        gate.set(Some(slow));
        assert!(gate.wait_until().is_some(), "the same rate, and the same tokens");
        gate.set(Some(Rate { burst: 2, ..slow }));
        assert_eq!(gate.wait_until(), None);
    }

    #[test]
    fn nobody_is_woken_when_nobody_waits() {
        let gate = Gate::new(1).unwrap();
        drop(gate.try_enter());
        assert!(!gate.event.is_set());
    }
}
