//! [`LoopClock`]: the moments at which a loop has something to do beside requests.

use std::time::{Duration, Instant};

use crate::wait;
use crate::write_stall::earlier;

/// When a loop has to wake although there is no request. It reads no clock as long as nothing is set.
#[derive(Debug, Default)]
pub(super) struct LoopClock {
    /// The earliest of the moments below, for a wait.
    next: Option<Instant>,
    /// `Builder::poll_interval`, and when the next `service_actions` is due.
    tick: Option<(Duration, Instant)>,
    /// The end of a lame duck that this loop keeps, because there is no thread that closes the server.
    lame_duck: Option<Instant>,
}

/// The moments that have come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Due {
    /// `service_actions` of the hooks.
    pub(super) tick: bool,
    /// The lame duck is over.
    pub(super) lame_duck: bool,
}

impl LoopClock {
    pub(super) fn new(poll_interval: Option<Duration>) -> Self {
        let tick = |every| Some((every, Instant::now().checked_add(every)?));
        // An interval that the clock cannot count is none.
        let mut clock = Self { tick: poll_interval.and_then(tick), ..Self::default() };
        clock.set_next();
        clock
    }

    /// The end of a wait.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// From here on the loop goes on for this time, and then stops.
    pub(super) fn begin_lame_duck(&mut self, time: Duration) {
        self.lame_duck = Some(wait::moment_after(Instant::now(), time));
        self.set_next();
    }

    /// Takes the moments that have come. Each is due once; a tick again after its interval.
    pub(super) fn due(&mut self) -> Due {
        let Some(next) = self.next else { return Due::default() };
        let now = Instant::now();
        if now < next {
            return Due::default();
        }
        let has_come = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        let due = Due {
            tick: has_come(self.tick.map(|(_, at)| at)),
            lame_duck: has_come(self.lame_duck),
        };
        if due.tick {
            self.tick = self.tick.and_then(|(every, _)| Some((every, now.checked_add(every)?)));
        }
        if due.lame_duck {
            self.lame_duck = None;
        }
        self.set_next();
        due
    }

    fn set_next(&mut self) {
        self.next = earlier(self.tick.map(|(_, at)| at), self.lame_duck);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_due_once_and_a_tick_again() {
        let mut clock = LoopClock::new(Some(Duration::from_millis(1)));
        clock.begin_lame_duck(Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        let due = clock.due();
        assert!(due.tick && due.lame_duck);
        std::thread::sleep(Duration::from_millis(2));
        let due = clock.due();
        assert!(due.tick && !due.lame_duck);
        assert!(LoopClock::new(None).next().is_none());
    }
}
