//! How the idle reaper finds waits that have been silent for as long as `Limits::idle`.
//!
//! The reaper (`idle_reaper.rs`) calls [`LiveList::end_silent`] eight times per limit. For a request that is not
//! waiting for its peer, a look costs one load and a lock that nobody else takes. For a wait, it compares the present
//! counts with those of the last look ([`LastLook`]):
//!
//! ```text
//! look 1   a wait left to the reaper          notes when, and how many bytes had come
//! look 2   as many bytes: the same wait       may anything be on its way to the peer? asks the system once
//! look n   the same wait                      only then: has the peer acknowledged more? if so, begins anew
//!          silent for as long as the limit    stores Cut::Silent, shutdown(Read)
//! ```
//!
//! The handler then sees an error of kind `TimedOut`, and may still write.
//!
//! A look races with the worker, which may just have received something. At worst the cut comes at the very moment of the
//! byte. Only the input is ended then, so the byte is still read.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::progress::Progress;
use super::{Cut, Entry, LiveList};
use crate::sys;

/// The shortest `Limits::idle` that the reaper keeps: eight looks per limit are then one a second. For a shorter limit
/// it would have to look too often, so waits under such a limit have timeouts of their own.
pub(crate) const SHORTEST_REAPED: Duration = Duration::from_secs(8);

/// The reaper's last look at a wait. Only the reaper's thread reads and writes it; the lock around it is never contended.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastLook {
    /// The moment since which no bytes have moved.
    since: Instant,
    /// How many bytes had been received at the last look. While this number is unchanged it is still the same wait,
    /// because a wait ends only when bytes have come.
    bytes_in: u64,
    /// How many bytes had been sent at the last look.
    bytes_out: u64,
    /// Whether bytes may move although none are received. `None` before the second look.
    may_move: Option<bool>,
    /// The system's answer at the last look at which it was asked.
    moved: Option<Progress>,
}

/// This bit of an activity says that the wait is left to the reaper. It is stored with the activity, in one step: two flags
/// could be seen apart.
pub(super) const LEFT_TO_REAPER: u64 = 0x80;

impl LiveList {
    /// Checks all waits that are left to the reaper, and ends those that have been silent for too long. Returns the
    /// shortest `Limits::idle` of the live requests and of the next one, not counting those below [`SHORTEST_REAPED`]. If
    /// no live request has such a limit, it calls `leave` under the lock, so that no request can enter before the call:
    /// one that enters later starts a new reaper.
    pub(crate) fn end_silent(&self, now: Instant, leave: impl FnOnce()) -> Option<Duration> {
        let slots = self.slots.lock();
        for entry in slots.live() {
            entry.end_if_silent(now);
        }
        // Waits under shorter limits have timeouts of their own.
        let is_reaped = |idle: &Duration| *idle >= SHORTEST_REAPED;
        let shortest = slots.live().map(|entry| entry.limits.idle).filter(is_reaped).min();
        let Some(shortest) = shortest else {
            leave();
            return None;
        };
        // The next request counts too: it may enter before the next look, with a shorter limit than all requests that
        // are alive.
        let next = Some(slots.limits.idle).filter(is_reaped);
        Some(next.map_or(shortest, |next| next.min(shortest)))
    }
}

impl Entry {
    /// Ends the wait if no bytes have moved for as long as the limit. A wait ends only when bytes have come, so an
    /// unchanged count of received bytes means that it is still the same wait.
    pub(super) fn end_if_silent(&self, now: Instant) {
        let mut seen = self.marks.seen.lock();
        // The request is not waiting, or its wait has a timeout of its own.
        if self.counters.activity().load(Ordering::SeqCst) & LEFT_TO_REAPER == 0 {
            *seen = None;
            return;
        }
        let (bytes_in, bytes_out) = self.bytes();
        let same_wait = seen.take().filter(|seen| seen.bytes_in == bytes_in);
        let first = LastLook { since: now, bytes_in, bytes_out, may_move: None, moved: None };
        let mut wait = same_wait.unwrap_or(first);
        if same_wait.is_some() {
            self.look_for_progress(&mut wait, bytes_out, now);
        }
        *seen = Some(wait);
        if now.saturating_duration_since(wait.since) < self.limits.idle {
            return;
        }
        // The cut is stored only if there is none yet: an earlier cut explains the end better.
        let (silent, order) = (Cut::Silent as u8, Ordering::SeqCst);
        if self.marks.cut.compare_exchange(0, silent, order, order).is_ok() {
            // Bytes that come at this moment are still read.
            self.shut_connection(Shutdown::Read);
        }
    }

    /// Asks the system how many bytes have moved. It asks only about a wait that has lasted since the last look, and
    /// only if bytes may move: some were sent since then, or are on their way to the peer, or others have the
    /// descriptor.
    fn look_for_progress(&self, wait: &mut LastLook, bytes_out: u64, now: Instant) {
        // The lock is held to the end, so that the descriptor stays open while the system is asked about it.
        let connection = self.connection.lock();
        let fd = connection.as_ref().map(AsFd::as_fd);
        // The count is noted at each look, so that the next look compares with this one.
        let sent = std::mem::replace(&mut wait.bytes_out, bytes_out) != bytes_out;
        let waits_for_peer = |fd| sys::tcp_info::unacknowledged(fd).is_ok_and(|bytes| bytes > 0);
        // Once this is true, it stays so for the wait: bytes on their way may be acknowledged at any later look.
        wait.may_move = match wait.may_move {
            Some(may_move) => Some(may_move || sent),
            None => Some(sent || self.is_lent() || fd.is_some_and(waits_for_peer)),
        };
        if wait.may_move == Some(true) {
            let moved = Some(Progress::of((wait.bytes_in, bytes_out), fd));
            // The first time the system is asked, there is no earlier answer to compare with: the silence counts from
            // here.
            if wait.moved != moved {
                (wait.moved, wait.since) = (moved, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Registration;
    use super::super::tests::request;
    use super::*;
    use crate::address::Address;
    use crate::limits::Limits;
    use crate::live::{Activity, PeerIs};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    fn at(begin: Instant, seconds: u64) -> Instant {
        begin + Duration::from_secs(seconds)
    }

    #[test]
    fn the_reaper_ends_waits_in_which_nothing_has_come_for_as_long_as_may_be() {
        let list = LiveList::new(Limits::default().idle(Duration::from_secs(60)));
        let (silent, mut ours, _theirs) = request(&list);
        let (busy, ..) = request(&list);
        let (computing, ..) = request(&list);
        silent.entry.set_left_to_reaper(Activity::Idle);
        busy.entry.set_left_to_reaper(Activity::Receiving);
        computing.entry.set_activity(Activity::Running);
        assert_eq!(silent.entry.activity(), Activity::Idle);
        let begin = Instant::now();
        for seconds in (0..60).step_by(7) {
            busy.entry.add_bytes_in(1);
            let shortest = list.end_silent(at(begin, seconds), || panic!("there are requests"));
            assert_eq!(shortest, Some(Duration::from_secs(60)));
            assert_eq!(silent.entry.cut(), None, "after {seconds} seconds");
        }
        list.end_silent(at(begin, 60), || panic!("there are requests"));
        assert_eq!(silent.entry.cut(), Some(Cut::Silent));
        assert_eq!(ours.read(&mut [0]).unwrap(), 0, "its wait is over");
        assert_eq!((busy.entry.cut(), computing.entry.cut()), (None, None));
    }

    #[test]
    fn a_wait_that_the_reaper_ends_still_gets_what_has_come_and_may_answer() {
        let list = LiveList::new(Limits::default());
        let (registration, mut ours, mut theirs) = request(&list);
        registration.entry.set_left_to_reaper(Activity::Idle);
        let begin = Instant::now();
        list.end_silent(begin, || panic!("there is a request"));
        theirs.write_all(b"late").unwrap();
        list.end_silent(at(begin, 100), || panic!("there is a request"));
        assert_eq!(registration.entry.cut(), Some(Cut::Silent));
        let mut late = [0; 4];
        ours.read_exact(&mut late).unwrap();
        ours.write_all(b"bye").unwrap();
        assert_eq!((&late, ours.read(&mut [0]).unwrap()), (b"late", 0));
    }

    /// A request over TCP, whose bytes the system counts, with both ends of its connection.
    fn request_over_tcp(list: &LiveList) -> (Registration, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        let fd = Arc::new(OwnedFd::from(ours.try_clone().unwrap()));
        let owner = Address::Unnamed;
        let now = Instant::now();
        let registration = list.enter(owner, PeerIs::Client, "Test", now, Some(fd), None);
        registration.entry.set_left_to_reaper(Activity::Idle);
        (registration, ours, theirs)
    }

    /// Lets the reaper look eight times per limit, for two limits. Returns after how many seconds it ended the wait, if
    /// it did.
    fn ended_after(list: &LiveList, entry: &Entry, mut between: impl FnMut()) -> Option<u64> {
        let begin = Instant::now();
        for look in 0..16 {
            list.end_silent(at(begin, look * 8), || panic!("there is a request"));
            if entry.cut().is_some() {
                return Some(look * 8);
            }
            between();
        }
        None
    }

    #[test]
    fn a_peer_that_takes_what_it_is_sent_is_not_silent() {
        let limits = Limits::default().idle(Duration::from_secs(64));
        let list = LiveList::new(limits);
        // The request's own outbox sends, without a copy of the descriptor.
        let (registration, mut ours, mut theirs) = request_over_tcp(&list);
        let fed = ended_after(&list, &registration.entry, || {
            ours.write_all(b"x").unwrap();
            registration.entry.add_bytes_out(1);
            theirs.read_exact(&mut [0]).unwrap();
            while sys::tcp_info::unacknowledged(ours.as_fd()).unwrap() > 0 {}
        });
        assert_eq!(fed, None);
        list.leave(&registration);
        // A copy of the descriptor is used, in either direction.
        for sends in [true, false] {
            let (registration, mut ours, mut theirs) = request_over_tcp(&list);
            registration.entry.lend();
            let moving = ended_after(&list, &registration.entry, || {
                let (from, to) =
                    if sends { (&mut ours, &mut theirs) } else { (&mut theirs, &mut ours) };
                from.write_all(b"x").unwrap();
                to.read_exact(&mut [0]).unwrap();
                while sys::tcp_info::unacknowledged(from.as_fd()).unwrap() > 0 {}
            });
            assert_eq!(moving, None, "sends: {sends}");
            list.leave(&registration);
        }
        // Over a Unix socket the request's own count is all that there is.
        let (registration, _ours, _theirs) = request(&list);
        registration.entry.set_left_to_reaper(Activity::Idle);
        let fed = ended_after(&list, &registration.entry, || registration.entry.add_bytes_out(1));
        assert_eq!(fed, None);
    }

    #[test]
    fn a_peer_that_takes_nothing_of_what_it_is_sent_is_silent() {
        let limits = Limits::default().idle(Duration::from_secs(64));
        let list = LiveList::new(limits);
        let (registration, ours, _theirs) = request_over_tcp(&list);
        // Fills the buffers of both sides: bytes in a buffer are not taken by the peer.
        ours.set_nonblocking(true).unwrap();
        let mut quiet = 0;
        while quiet < 5 {
            quiet = if (&ours).write(&[0; 65_536]).is_ok() { 0 } else { quiet + 1 };
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended = ended_after(&list, &registration.entry, || registration.entry.add_bytes_out(1));
        // The second look finds bytes on their way, and the time counts from there.
        assert_eq!(ended, Some(72));
    }

    #[test]
    fn the_reaper_leaves_when_there_is_nobody_to_look_after() {
        let list = LiveList::new(Limits::default());
        let left = || {
            let mut left = false;
            list.end_silent(Instant::now(), || left = true);
            left
        };
        assert!(left());
        let (registration, ..) = request(&list);
        assert!(!left());
        // An earlier cut explains the end.
        registration.entry.shut_down(Cut::Closed, Shutdown::Both);
        registration.entry.set_left_to_reaper(Activity::Idle);
        list.end_silent(Instant::now(), || ());
        list.end_silent(at(Instant::now(), 1_000), || ());
        assert_eq!(registration.entry.cut(), Some(Cut::Closed));
        list.leave(&registration);
        assert!(left());
    }
}
