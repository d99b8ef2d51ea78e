//! [`LoopClock`]: the moments at which a loop has something to do apart from requests.
//!
//! A loop waits until [`next`](LoopClock::next) at most, and asks [`due`](LoopClock::due) after each request and each wait.
//! The clock belongs to one call of the loop, so it needs no lock, and a later run begins with a new one.

use std::time::{Duration, Instant};

use crate::wait;
use crate::write_stall::earlier;

/// The moments at which a loop has to wake although there is no request. A clock without moments never reads the time.
#[derive(Debug, Default)]
pub(super) struct LoopClock {
    /// The earliest of the moments below, for a wait.
    next: Option<Instant>,
    /// `Builder::poll_interval`, and when the next `service_actions` is due.
    tick: Option<(Duration, Instant)>,
    /// How often the loop has to tell its service group that it lives, and when it has to do so next.
    beat: Option<(Duration, Instant)>,
    /// The end of a lame duck that this loop keeps itself, because no thread closes the server.
    lame_duck: Option<Instant>,
}

/// The moments that have come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Due {
    /// Whether the hook `service_actions` is due.
    pub(super) tick: bool,
    /// Whether the service group wants a sign of life from this loop.
    pub(super) beat: bool,
    /// Whether the lame duck has ended.
    pub(super) lame_duck: bool,
}

impl LoopClock {
    /// A clock for a loop that begins now. `beat_every` is `None` if no service group wants to hear of the loop.
    pub(super) fn new(poll_interval: Option<Duration>, beat_every: Option<Duration>) -> Self {
        let now = Instant::now();
        // An interval that is too long for the clock is ignored. The first moment is a whole interval away.
        let first = |every| Some((every, now.checked_add(every)?));
        let (tick, beat) = (poll_interval.and_then(first), beat_every.and_then(first));
        let mut clock = Self { tick, beat, ..Self::default() };
        clock.set_next();
        clock
    }

    /// The moment at which a wait of the loop has to end, if nothing ends it before.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Begins a lame duck: the loop goes on for this time, and then stops.
    pub(super) fn begin_lame_duck(&mut self, time: Duration) {
        // `Duration::MAX` is more than the clock can count. `moment_after` then gives a moment that no process lives to see, so
        // the lame duck lasts until a `shutdown`.
        self.lame_duck = Some(wait::moment_after(Instant::now(), time));
        self.set_next();
    }

    /// Takes the moments that have come. Each is due once; a tick is due again after its interval.
    pub(super) fn due(&mut self) -> Due {
        // The time is not read for a clock without moments.
        let Some(next) = self.next else { return Due::default() };
        let now = Instant::now();
        if now < next {
            return Due::default();
        }
        let due = Due {
            tick: has_come(&mut self.tick, now),
            beat: has_come(&mut self.beat, now),
            lame_duck: self.lame_duck.take_if(|end| now >= *end).is_some(),
        };
        self.set_next();
        due
    }

    /// Finds the earliest of the moments. Called after each change of one.
    fn set_next(&mut self) {
        let (tick, beat) = (self.tick.map(|(_, at)| at), self.beat.map(|(_, at)| at));
        self.next = earlier(earlier(tick, beat), self.lame_duck);
    }
}

/// Whether a repeated moment has come; if so, sets the next one. The interval counts from now and not from the moment
/// that was due: a loop that was away for long is late once, and has nothing to make up for.
fn has_come(repeated: &mut Option<(Duration, Instant)>, now: Instant) -> bool {
    let Some((every, _)) = repeated.filter(|(_, at)| now >= *at) else { return false };
    *repeated = now.checked_add(every).map(|at| (every, at));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_due_once_and_a_tick_again() {
        let mut clock = LoopClock::new(Some(Duration::from_millis(1)), None);
        clock.begin_lame_duck(Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        let due = clock.due();
        assert!(due.tick && due.lame_duck);
        std::thread::sleep(Duration::from_millis(2));
        let due = clock.due();
        assert!(due.tick && !due.lame_duck && !due.beat);
        assert!(LoopClock::new(None, None).next().is_none());
    }
}
