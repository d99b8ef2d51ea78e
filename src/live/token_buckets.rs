//! How often each peer may connect: a token bucket per peer, in a table of fixed size.
//!
//! A bucket is one moment: when it will be full again. So no bucket has to be filled as time goes by, and a full
//! bucket needs no memory. With 10 per second and a burst of 3, a token is worth 100 ms:
//!
//! | at | event | full at | tokens left |
//! |---|---|---|---|
//! | 0 ms | three requests pass | 300 ms | 0 |
//! | 50 ms | one is refused: less than 100 ms are earned | 300 ms | 0 |
//! | 100 ms | one passes | 400 ms | 0 |
//! | 300 ms | none | 400 ms | 2 |
//! | 1 s | none | long ago | 3 |
//!
//! Under `Forking` the table is in memory that the parent and its children have in common: behind a proxy only the child
//! knows its client. A child may be killed at any moment, so nothing is locked. A place has two words:
//!
//! | word | content | changes |
//! |---|---|---|
//! | 0 | the hash of the peer; 0 if the place is free | when another peer takes the place |
//! | 1 | when the peer's bucket is full again, in nanoseconds since the table was made | when a token is taken |
//!
//! Each change is a compare-and-exchange from the value that was seen:
//!
//! ```text
//! look at the set          word 1, then word 0, of each place: the moment is of that hash, or of an earlier owner
//!   the peer is there        take a token
//!   it is not                take the place that is full the soonest: word 0 (if it has changed, look again),
//!                            then word 1, unless another process has taken a token there meanwhile
//! ```
//!
//! A new peer that comes to two processes at once gets one bucket, because both choose the same place. Two cases are
//! not exact. If a process is killed between its writes of the two words, the peer has the bucket of the place's last
//! owner, until that is full. And if a second new peer takes a place before the first one has written word 1, the two
//! may share a bucket, which gives or costs one token. For that, two new peers of one set have to choose one place
//! within some nanoseconds.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::limits::Rate;
use crate::sys::Common;

/// The buckets of the peers that have connected lately.
#[derive(Debug)]
pub(super) struct TokenBuckets {
    /// `Limits::peer_rate`. A new rate gets a new table.
    rate: Rate,
    places: Places,
    /// Seeded at random, so that nobody can choose addresses that fall into one set, or have one hash. By chance, two
    /// peers in the table practically never have the same hash of 64 bits.
    hasher: RandomState,
    /// The moments count from here.
    made: Instant,
}

/// `SETS` sets of `WAYS` places each. The hash of a peer chooses its set.
#[derive(Debug)]
enum Places {
    Own(Box<[Place]>),
    Common(Common<2>),
}

type Place = [AtomicU64; 2];

/// The table has places for 8,192 peers, in 128 KiB. A peer that is not in the table has a full bucket. In a full set a
/// new peer replaces the peer whose bucket will be full the soonest, because forgetting that one changes least.
const SETS: usize = 1_024;
const WAYS: usize = 8;

/// How many tries a new peer has for a place in the table: a try fails if another process takes the place first.
const MAX_PROBES: usize = 64;

impl TokenBuckets {
    /// An empty table, in which every peer has a full bucket.
    pub(super) fn new(rate: Rate) -> Self {
        let place = || [const { AtomicU64::new(0) }; 2];
        Self::of(rate, Places::Own((0..SETS * WAYS).map(|_| place()).collect()))
    }

    /// An empty table, in memory that this process has in common with the children that it forks from here on.
    ///
    /// # Errors
    ///
    /// If the memory cannot be mapped.
    pub(super) fn common(rate: Rate) -> io::Result<Self> {
        Ok(Self::of(rate, Places::Common(Common::new(SETS * WAYS)?)))
    }

    fn of(rate: Rate, places: Places) -> Self {
        Self { rate, places, hasher: RandomState::new(), made: Instant::now() }
    }

    /// The rate that the buckets fill at.
    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    fn places(&self) -> &[Place] {
        match &self.places {
            Places::Own(places) => places,
            Places::Common(common) => common.rows(),
        }
    }

    /// Takes a token from the peer's bucket. Returns false if the bucket is empty; nothing has changed then.
    pub(super) fn admit(&self, peer: impl Hash, now: Instant) -> bool {
        let now = nanos(now.saturating_duration_since(self.made));
        // With 10 per second and a burst of 3, a token is worth 100 ms. A bucket that is full only after more than 200
        // ms has none left.
        let each = Duration::from_secs(1) / self.rate.per_second.max(1);
        let most = nanos(each.saturating_mul(self.rate.burst.max(1) - 1));
        let each = nanos(each);
        // Zero stands for a free place.
        let hash = self.hasher.hash_one(&peer).max(1);
        // A peer for which there is no place is not refused.
        let Some([_, full_at]) = self.place(hash, now) else { return true };
        let taken = full_at.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |full_at| {
            // A bucket whose moment has passed is full.
            let full_at = full_at.max(now);
            (full_at - now <= most).then(|| full_at.saturating_add(each))
        });
        taken.is_ok()
    }

    /// The place of a peer. A peer without a place gets one, with a full bucket. `None` if other processes were faster
    /// at every try.
    fn place(&self, hash: u64, now: u64) -> Option<&Place> {
        let set = &self.places()[hash as usize % SETS * WAYS..][..WAYS];
        for _ in 0..MAX_PROBES {
            // Two new peers that come at once mostly begin at different places. A place that was just taken still looks
            // full, so that from the same beginning both would choose it.
            let begin = (hash >> 32) as usize % WAYS;
            let in_turn = set[begin..].iter().chain(&set[..begin]);
            // The order of the two loads counts: see the diagram at the top of the file.
            let seen = in_turn.map(|place| {
                let full_at = place[1].load(Ordering::SeqCst);
                (place[0].load(Ordering::SeqCst), full_at, place)
            });
            let mut soonest = None;
            for (whose, full_at, place) in seen {
                if whose == hash {
                    return Some(place);
                }
                if soonest.is_none_or(|(_, other, _)| full_at < other) {
                    soonest = Some((whose, full_at, place));
                }
            }
            let (whose, full_at, place) = soonest?;
            let [owner, moment] = place;
            if owner.compare_exchange(whose, hash, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                // A full bucket: its moment has come.
                let _ = moment.compare_exchange(full_at, now, Ordering::SeqCst, Ordering::SeqCst);
                return Some(place);
            }
        }
        None
    }
}

/// A time in nanoseconds. 64 bits are enough for 580 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate::per_second(10).burst(3);

    fn after(begin: Instant, millis: u64) -> Instant {
        begin + Duration::from_millis(millis)
    }

    #[test]
    fn each_peer_has_a_burst_and_then_the_rate() {
        let (rates, begin) = (TokenBuckets::new(RATE), Instant::now());
        for peer in ["one", "other"] {
            let came = |millis| rates.admit(peer, after(begin, millis));
            let at_once = [0, 0, 0, 0].map(came);
            assert_eq!(at_once, [true, true, true, false], "{peer}");
        }
        // One token is back after 100 ms, and all are after 300.
        assert!(!rates.admit("one", after(begin, 99)) && rates.admit("one", after(begin, 100)));
        assert!(!rates.admit("one", after(begin, 100)));
        let later = [1_000; 4].map(|millis| rates.admit("one", after(begin, millis)));
        assert_eq!(later, [true, true, true, false]);
    }

    #[test]
    fn a_clock_that_goes_back_lends_no_tokens() {
        let (rates, begin) = (TokenBuckets::new(RATE), Instant::now());
        let came = [500, 500, 500, 400, 0].map(|millis| rates.admit(1, after(begin, millis)));
        assert_eq!(came, [true, true, true, false, false]);
    }

    #[test]
    fn the_table_holds_so_many_and_forgets_who_has_least_to_wait_for() {
        let (rates, begin) = (TokenBuckets::new(RATE), Instant::now());
        let greedy = u64::MAX;
        for _ in 0..3 {
            assert!(rates.admit(greedy, begin));
        }
        // A hundred thousand other peers ask once each, and so have fuller buckets than the greedy one.
        for peer in 0..100_000 {
            assert!(rates.admit(peer, begin));
        }
        assert_eq!(rates.places().len(), SETS * WAYS);
        assert!(!rates.admit(greedy, begin), "it was forgotten");
    }

    #[test]
    fn processes_that_share_a_table_give_a_peer_one_bucket() {
        const RATE: Rate = Rate::per_second(1).burst(50);
        let table = TokenBuckets::common(RATE).unwrap();
        let (barrier, now) = (std::sync::Barrier::new(8), Instant::now());
        // Threads stand for processes. They come at once, and each peer is new to the table.
        for peer in 0..500 {
            let came = || {
                barrier.wait();
                (0..20).filter(|_| table.admit(peer, now)).count()
            };
            let passed: usize = std::thread::scope(|scope| {
                let all: Vec<_> = (0..8).map(|_| scope.spawn(came)).collect();
                all.into_iter().map(|one| one.join().unwrap()).sum()
            });
            assert_eq!(passed, 50, "{peer}");
        }
    }

    #[test]
    fn extreme_rates_neither_overflow_nor_stop_everybody() {
        let most = u32::MAX;
        for (per_second, burst) in [(0, 0), (1, most), (most, 1), (most, most), (1, 1)] {
            let rates = TokenBuckets::new(Rate::per_second(per_second).burst(burst));
            assert!(rates.admit(1, Instant::now()), "{per_second} {burst}");
        }
    }
}
