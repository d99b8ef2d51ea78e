//! The room's clock, as this server knows it from the answers to its announcements.
//!
//! A line is written with the time at which it was said, and not with its age. A request may wait in the kernel while
//! the network is cut or Redis stands still, and with an age its lines would seem younger by the length of that wait.

use std::time::{Duration, Instant};

/// The difference between the room's clock and this server's, as measured over one connection.
pub struct Clock {
    opened: Instant,
    /// The room's time at `opened`, in ms.
    offset: Option<i64>,
    /// By how much the offset may be too large, in ms.
    error: i64,
    answers: u32,
}

/// The error, in ms, above which the offset is measured again. Over most networks the error is smaller.
const ROUGH: i64 = 100;
/// After this many answers the offset is used, however large its error is.
const ANSWERS: u32 = 3;

impl Clock {
    pub fn new() -> Self {
        Self { opened: Instant::now(), offset: None, error: 0, answers: 0 }
    }

    /// Takes an answer: the room's time was `time` at some moment between the question and its answer. An answer that
    /// took long says little, and changes nothing, unless the room's clock was set in between.
    pub fn answered(&mut self, time: i64, asked: Instant, answered: Instant) {
        // A false Redis may say anything.
        let time = time.clamp(0, 1 << 53);
        let (least, most) = (time - self.since(answered), time - self.since(asked));
        // The largest offset that the answer allows, so that a line seems younger rather than older: a line that seems
        // older than a server would not be shown there.
        let offset = self.offset.map_or(most, |offset| offset.clamp(least, most));
        let before = self.offset.map_or(i64::MAX, |before| self.error - (before - offset));
        self.error = before.clamp(0, offset - least);
        self.offset = Some(offset);
        self.answers = self.answers.saturating_add(1);
    }

    /// Whether another answer is worth its time before a line is written: Redis may have stood still before its last
    /// answer, and lines would seem younger by the length of that pause.
    pub fn is_rough(&self) -> bool {
        self.error > ROUGH && self.answers < ANSWERS
    }

    /// The room's time at a moment of this server's clock, in ms. It is never negative, even if the clock of Redis has not
    /// been set yet.
    pub fn at(&self, when: Instant) -> i64 {
        (self.offset.unwrap_or(0) + self.since(when)).max(0)
    }

    fn since(&self, when: Instant) -> i64 {
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        ms(when.saturating_duration_since(self.opened))
            - ms(self.opened.saturating_duration_since(when))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_took_long_changes_nothing() {
        let mut clock = Clock::new();
        let after = |ms| clock.opened + Duration::from_millis(ms);
        let [asked, answered, said, late] = [10, 30, 100, 9_000].map(after);
        clock.answered(50_010, asked, answered);
        assert_eq!(clock.at(said), 50_100);
        // Redis read its clock at the end of the wait, almost 9 s after the question.
        clock.answered(58_900, said, late);
        assert_eq!(clock.at(said), 50_100);
        // The room's clock was set.
        clock.answered(90_000, late, late);
        assert_eq!(clock.at(late), 90_000);
    }

    #[test]
    fn a_first_answer_that_took_long_is_followed_by_another_one() {
        let mut clock = Clock::new();
        let after = |ms| clock.opened + Duration::from_millis(ms);
        let [asked, answered, again, said] = [0, 3_000, 3_010, 3_020].map(after);
        // Redis read its clock at the end of the wait.
        clock.answered(53_000, asked, answered);
        assert!(clock.is_rough());
        clock.answered(53_005, answered, again);
        assert!(!clock.is_rough());
        assert!((53_015..=53_030).contains(&clock.at(said)), "{}", clock.at(said));
        // Over a network that is always slow the question is not repeated for ever.
        let mut clock = Clock::new();
        for _ in 0..ANSWERS {
            assert!(clock.answers == 0 || clock.is_rough());
            clock.answered(53_000, asked, answered);
        }
        assert!(!clock.is_rough());
    }

    #[test]
    fn a_line_may_be_older_than_the_connection() {
        let said = Instant::now();
        let mut clock = Clock::new();
        clock.opened = said + Duration::from_millis(700);
        clock.answered(5_000, clock.opened, clock.opened);
        assert_eq!(clock.at(said), 4_300);
        // The clock of Redis started at zero (a machine without a battery), after the line was said: its time is 0, not negative.
        let mut clock = Clock::new();
        clock.opened = said + Duration::from_millis(700);
        clock.answered(300, clock.opened, clock.opened);
        assert_eq!(clock.at(said), 0);
    }
}
