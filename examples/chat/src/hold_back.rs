//! The hold-back: a burst of lines from other servers waits at the bus until the members here have taken the lines
//! before it.
//!
//! A server that was cut off gets minutes of talk at once, more than an outbox holds. A member that reads is not dropped
//! for that: while an outbox is more than half full, the bus's reader waits. The other half is for lines of this server,
//! which nothing holds back.
//!
//! ```text
//! stream of Redis -> reader: wait_for_outboxes -> room -> outbox of each member
//!                    waits while an outbox is more than half full and its member is awaited
//! ```
//!
//! A member for which the bus waits delays the lines of the bus for all members here, so there are two bounds:
//!
//! - The bus waits [`GRACE`] for one member, and longer only while that member takes [`RATE`] bytes a second. A member
//!   that reads nothing delays a burst by 2 s, once. Then the burst fills its outbox, and the member is dropped, as with
//!   local lines. The time counts from when the member was last seen to take something. So a silent member whose outbox
//!   fills at the room's usual pace delays nobody.
//! - The bus waits [`MOST`] for all members together after a pause, and a tenth of the time in the long run. After that
//!   it waits for nobody, and a member whose outbox is full is dropped.
//!
//! So a member gets the whole of a burst of 1 MB (10,000 lines of 100 bytes) if it takes 75 KB a second: within 10 s it
//! takes all but the 256 KiB that its outbox holds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::room::{Id, OUTBOX_BYTES};

/// An outbox with more than this is crowded.
pub const CROWDED_BYTES: usize = OUTBOX_BYTES / 2;
/// An outbox with more than this is watched, to see whether its member takes anything.
pub const WATCHED_BYTES: usize = CROWDED_BYTES / 16;
/// How many bytes may be shown between two checks of the outboxes, so that not every line needs a check: a small part of
/// the free half. Much of the rest of that half is for one long line of the bus's own, with the names of a lost server's
/// members.
const LOOK_BYTES: usize = OUTBOX_BYTES / 16;
/// How long the bus waits for a member that takes nothing: longer than a lost packet takes to be sent again.
const GRACE: Duration = Duration::from_secs(2);
/// How many bytes a second a member takes at least while the bus waits for it: half of what a slow mobile link carries.
const RATE: u64 = 32 * 1024;
/// How long the bus waits for all members together after a pause: less than the default of `--bus-wait`, after which
/// authors get a note that their lines may not have arrived.
const MOST: Duration = Duration::from_secs(10);
/// In the long run the bus waits for at most this fraction of the time: one part in so many.
const SHARE: u32 = 10;

/// How much was shown, and how long members may be awaited.
#[derive(Default)]
pub struct HoldBack {
    /// Bytes shown since the last check of the outboxes.
    shown: AtomicUsize,
    /// Locked by a thread of the bus while it waits, and by no other thread.
    pub patience: Mutex<Patience>,
}

/// How long members may be awaited.
pub struct Patience {
    /// The members that were watched at the last check.
    slow: HashMap<Id, Slow>,
    /// How long members may be awaited from now on, and the moment at which this was computed.
    left: Duration,
    counted: Instant,
}

/// The present state of a member whose outbox holds more than [`WATCHED_BYTES`].
#[derive(Clone, Copy)]
pub struct Watched {
    pub id: Id,
    /// How many bytes it has taken.
    pub taken: u64,
    pub is_crowded: bool,
}

/// The history of a member that is watched. It begins anew when the member has taken something, unless its outbox was
/// crowded at the last check.
#[derive(Clone, Copy)]
struct Slow {
    since: Instant,
    /// How many bytes it had taken at the moment `since`.
    taken: u64,
    is_crowded: bool,
}

impl HoldBack {
    /// Counts this many bytes as shown.
    pub fn add(&self, bytes: usize) {
        self.shown.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether so many bytes were shown that the outboxes have to be checked.
    pub fn is_due(&self) -> bool {
        self.shown.load(Ordering::Relaxed) >= LOOK_BYTES
    }

    /// Lets the bus go on, and counts the shown bytes from zero.
    pub fn go_on(&self) {
        self.shown.store(0, Ordering::Relaxed);
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self { slow: HashMap::new(), left: MOST, counted: Instant::now() }
    }
}

impl Patience {
    /// Chooses a member to wait for among those whose outboxes are crowded, and how long at most. Returns `None` if the
    /// bus may go on.
    pub fn awaited(&mut self, watched: &[Watched], now: Instant) -> Option<(Id, Duration)> {
        // A new map, so that members that are not watched any more are forgotten.
        let before = std::mem::take(&mut self.slow);
        self.slow
            .extend(watched.iter().map(|one| (one.id, one.since_last(before.get(&one.id), now))));
        let passed = now.saturating_duration_since(self.counted);
        self.left = (self.left + passed / SHARE).min(MOST);
        self.counted = now;
        let mut crowded = watched.iter().filter(|one| one.is_crowded);
        crowded.find_map(|Watched { id, taken, .. }| {
            let left = self.slow.get(id)?.patience(*taken, now).min(self.left);
            (!left.is_zero()).then_some((*id, left))
        })
    }

    /// Counts the time for which the bus has waited for a member.
    pub fn waited(&mut self, from: Instant, to: Instant) {
        self.left = self.left.saturating_sub(to.saturating_duration_since(from));
        self.counted = to;
    }
}

impl Watched {
    /// Continues the member's history from the last check, or begins one.
    fn since_last(&self, last: Option<&Slow>, now: Instant) -> Slow {
        let &Self { taken, is_crowded, .. } = self;
        match last {
            Some(last) if last.is_crowded || last.taken == taken => Slow { is_crowded, ..*last },
            _ => Slow { since: now, taken, is_crowded },
        }
    }
}

impl Slow {
    /// How long the bus may still wait for this member, when it has taken this much.
    fn patience(&self, taken: u64, now: Instant) -> Duration {
        let earned = Duration::from_millis(taken.saturating_sub(self.taken) * 1000 / RATE);
        (GRACE + earned).saturating_sub(now.saturating_duration_since(self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    /// Waits for members that take these numbers of KiB a second, at most for a minute. Returns how long it waited.
    fn waits_for(patience: &mut Patience, now: &mut Instant, rates: &[u64]) -> Duration {
        let (start, tick) = (*now, Duration::from_millis(100));
        let minute = Duration::from_secs(60);
        while now.duration_since(start) < minute {
            let seconds = now.duration_since(start).as_millis() as u64;
            let taken = rates.iter().map(|rate| rate * KIB * seconds / 1000);
            let crowded = |(id, taken)| Watched { id, taken, is_crowded: true };
            let crowded: Vec<Watched> = (0..).zip(taken).map(crowded).collect();
            let Some((_, time)) = patience.awaited(&crowded, *now) else { break };
            let from = *now;
            *now += time.min(tick);
            patience.waited(from, *now);
        }
        // No outbox is crowded any more, so the histories are forgotten.
        assert_eq!(patience.awaited(&[], *now), None);
        now.duration_since(start)
    }

    fn fresh() -> (Patience, Instant) {
        let patience = Patience::default();
        let now = patience.counted;
        (patience, now)
    }

    #[test]
    fn a_member_that_takes_nothing_is_awaited_for_two_seconds() {
        let (mut patience, mut now) = fresh();
        assert_eq!(waits_for(&mut patience, &mut now, &[0]), GRACE);
        // The limit holds for all members together, too.
        assert_eq!(waits_for(&mut patience, &mut now, &[0; 500]), GRACE);
    }

    #[test]
    fn a_member_that_takes_a_little_is_awaited_a_little_longer() {
        let (mut patience, mut now) = fresh();
        let time = waits_for(&mut patience, &mut now, &[16]);
        assert!((3_900..=4_100).contains(&time.as_millis()), "{time:?}");
    }

    #[test]
    fn members_that_take_enough_are_awaited_for_ten_seconds_and_then_for_a_tenth_of_the_time() {
        let (mut patience, mut now) = fresh();
        assert_eq!(waits_for(&mut patience, &mut now, &[64, 0, 40]), MOST);
        assert_eq!(waits_for(&mut patience, &mut now, &[64]), Duration::ZERO);
        now += Duration::from_secs(30);
        let time = waits_for(&mut patience, &mut now, &[64]);
        assert!((2_900..=3_100).contains(&time.as_millis()), "{time:?}");
    }

    #[test]
    fn a_silent_member_whose_outbox_fills_slowly_delays_nobody() {
        let (mut patience, mut now) = fresh();
        let look = |patience: &mut Patience, now: &mut Instant, taken, is_crowded| {
            *now += Duration::from_millis(500);
            patience.awaited(&[Watched { id: 1, taken, is_crowded }], *now)
        };
        for _ in 0..5 {
            assert_eq!(look(&mut patience, &mut now, 0, false), None);
        }
        assert_eq!(look(&mut patience, &mut now, 0, true), None);
        // A member that takes something is awaited for the whole grace, each time its outbox is crowded.
        let (mut patience, mut now) = fresh();
        for round in 0..3 {
            for looks in 0..5 {
                assert_eq!(look(&mut patience, &mut now, 8 * round + looks, false), None);
            }
            assert_eq!(look(&mut patience, &mut now, 8 * round + 6, true), Some((1, GRACE)));
        }
    }
}
