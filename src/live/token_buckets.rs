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

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::time::{Duration, Instant};

use crate::limits::Rate;

/// The buckets of the peers that have connected lately.
#[derive(Debug)]
pub(super) struct TokenBuckets<K> {
    /// `Limits::peer_rate`. A new rate gets a new table.
    rate: Rate,
    /// `SETS` sets of `WAYS` places each. The hash of a peer chooses its set.
    places: Box<[Option<PeerBucket<K>>]>,
    /// Seeded at random, so that nobody can choose addresses that fall into one set.
    hasher: RandomState,
}

/// 8,192 peers, in some 400 KiB. A peer that is not in the table has a full bucket. In a full set a new peer replaces
/// the peer whose bucket will be full the soonest, because forgetting that one changes least.
const SETS: usize = 1_024;
const WAYS: usize = 8;

#[derive(Debug)]
struct PeerBucket<K> {
    /// The peer itself and not its hash: two peers with the same hash have two buckets.
    peer: K,
    /// When the bucket will be full again. The time until then says how many tokens are missing.
    full_at: Instant,
}

impl<K: Hash + Eq> TokenBuckets<K> {
    /// An empty table, in which every peer has a full bucket.
    pub(super) fn new(rate: Rate) -> Self {
        let places = (0..SETS * WAYS).map(|_| None).collect();
        Self { rate, places, hasher: RandomState::new() }
    }

    /// The rate that the buckets fill at.
    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes a token from the peer's bucket. False: it is empty, and nothing has changed.
    pub(super) fn admit(&mut self, peer: K, now: Instant) -> bool {
        // With 10 per second and a burst of 3, a token is worth 100 ms. A bucket that is full only after more than 200
        // ms has none left.
        let each = Duration::from_secs(1) / self.rate.per_second.max(1);
        let most = each.saturating_mul(self.rate.burst.max(1) - 1);
        let set = self.hasher.hash_one(&peer) as usize % SETS;
        let places = &mut self.places[set * WAYS..][..WAYS];
        let known =
            places.iter().position(|place| place.as_ref().is_some_and(|at| at.peer == peer));
        let place = match known {
            Some(known) => &mut places[known],
            // An empty place is less than any other.
            None => match places.iter_mut().min_by_key(|place| place.as_ref().map(|at| at.full_at))
            {
                Some(place) => {
                    *place = None;
                    place
                }
                None => return true,
            },
        };
        let bucket = place.get_or_insert(PeerBucket { peer, full_at: now });
        // A bucket whose moment has passed is full.
        let full_at = bucket.full_at.max(now);
        let has_one = full_at.duration_since(now) <= most;
        if has_one {
            bucket.full_at = full_at + each;
        }
        has_one
    }
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
        let (mut rates, begin) = (TokenBuckets::new(RATE), Instant::now());
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
        let (mut rates, begin) = (TokenBuckets::new(RATE), Instant::now());
        let came = [500, 500, 500, 400, 0].map(|millis| rates.admit(1, after(begin, millis)));
        assert_eq!(came, [true, true, true, false, false]);
    }

    #[test]
    fn the_table_holds_so_many_and_forgets_who_has_least_to_wait_for() {
        let (mut rates, begin) = (TokenBuckets::new(RATE), Instant::now());
        let greedy = u64::MAX;
        for _ in 0..3 {
            assert!(rates.admit(greedy, begin));
        }
        // A hundred thousand others, none of which has asked as often.
        for peer in 0..100_000 {
            assert!(rates.admit(peer, begin));
        }
        assert_eq!(rates.places.len(), SETS * WAYS);
        assert!(!rates.admit(greedy, begin), "it was forgotten");
    }

    #[test]
    fn extreme_rates_neither_overflow_nor_stop_everybody() {
        let most = u32::MAX;
        for (per_second, burst) in [(0, 0), (1, most), (most, 1), (most, most), (1, 1)] {
            let mut rates = TokenBuckets::new(Rate::per_second(per_second).burst(burst));
            assert!(rates.admit(1, Instant::now()), "{per_second} {burst}");
        }
    }
}
