//! The lines of this server, from their authors until all others have them.
//!
//! ```text
//! said --> waits ---- Redis has it ----> appended -- each live server has it --> forgotten, after a while
//!   |        |  ^                         |    |                                  ^
//!   |        |  +-- Redis has lost it ----+    |                                  |
//!   |        |                                 |                                  |
//!   +- full -+------- not in time -------------+- not in time, or its server is gone, or a gap,
//!   |        |                                 |  or this server stops
//!   v        v                                 v
//!   the author is told, once ---------------------------------------------------->+
//! ```
//!
//! A line has a number. Redis knows the last one that it has; if that is less than it was before, the lines after it wait
//! again. So nothing is remembered about single writes, and each of them may be done twice.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::entry::What;
use super::heard::Gap;
use super::others::{Other, Others};
use crate::room::Who;

/// A line stays so long after it was appended, if there is room, to be written again when Redis has lost it: for a server
/// that has just started and is not known yet, and for one that is cut off, as long as the stream is kept for it.
const KEPT: Duration = Duration::from_secs(300);

/// The lines that are kept, in the order of their numbers, without a gap.
pub struct Lines {
    kept: VecDeque<Line>,
    /// The number of the last line that was said.
    last: u64,
    /// Redis has the lines up to this one.
    appended: u64,
    /// All live servers have the lines up to this one.
    acknowledged: u64,
    most: usize,
    patience: Duration,
}

/// A line, or another entry of the stream.
pub struct Line {
    pub number: u64,
    pub what: What,
    pub said: Instant,
    /// The author, as long as it may have to be told.
    from: Option<Who>,
    appended: Option<Instant>,
    /// Nobody waits for it any more.
    given_up: bool,
}

/// An author who is told that a line may not have arrived.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    pub to: Who,
    /// The line, as its author wrote it, shortened.
    pub quote: String,
    /// The name of the server that may not have it; empty if it did not get to Redis, or if it is not known.
    pub server: String,
}

impl Lines {
    pub fn new(most: usize, patience: Duration) -> Self {
        let kept = VecDeque::new();
        Self { kept, last: 0, appended: 0, acknowledged: 0, most, patience }
    }

    /// Adds a line. False if too many are kept already.
    pub fn say(&mut self, from: Option<Who>, what: What, now: Instant) -> bool {
        if self.kept.len() >= self.most {
            self.forget(now);
        }
        // The end of this server always has a place.
        if self.kept.len() >= self.most && !matches!(what, What::End { .. }) {
            return false;
        }
        self.last += 1;
        let (number, said) = (self.last, now);
        self.kept.push_back(Line { number, what, said, from, appended: None, given_up: false });
        true
    }

    /// The number of the oldest line that is kept.
    pub fn base(&self) -> u64 {
        self.last + 1 - self.kept.len() as u64
    }

    /// The number of the last line that was said.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Whether lines wait for Redis.
    pub fn is_waiting(&self) -> bool {
        self.appended < self.last
    }

    /// The lines that wait for Redis, in their order.
    pub fn waiting(&self) -> impl Iterator<Item = &Line> {
        self.kept.range(self.index_after(self.appended)..)
    }

    /// Whether all lines have arrived everywhere.
    pub fn are_done(&self) -> bool {
        self.acknowledged >= self.last
    }

    /// Redis has the lines of this server up to a number. It may be less than before, when Redis has lost the last of them,
    /// and more, when an answer was lost. False if no such line was said.
    #[must_use]
    pub fn redis_has(&mut self, number: u64, now: Instant) -> bool {
        if number > self.last {
            return false;
        }
        let new = self.index_after(self.appended)..self.index_after(number);
        // Redis may have lost more than what is kept.
        self.appended = number.max(self.base() - 1);
        for line in self.kept.range_mut(new.start.min(new.end)..new.end) {
            line.appended.get_or_insert(now);
        }
        true
    }

    /// Takes note of what the others have, forgets lines, and gives up those whose time is over. Returns their authors.
    pub fn settle(&mut self, others: &Others, now: Instant) -> Vec<Told> {
        self.acknowledge(others);
        let mut told = Vec::new();
        let is_late = |line: &Line| now.duration_since(line.said) > self.patience;
        let late = self.kept.partition_point(is_late);
        let appended = self.index_after(self.appended);
        let open = self.index_after(self.acknowledged)..late.min(appended);
        for line in self.kept.range_mut(open.start.min(open.end)..open.end) {
            let lacking =
                if line.given_up { None } else { others.still_lacks(line, now, self.patience) };
            if let Some(server) = lacking {
                told.extend(line.tell(server));
                line.given_up = true;
            }
        }
        // A line that Redis did not take is not written late: an old line does not come as a new one. So its number is a gap.
        if late > appended {
            self.appended = self.base() - 1 + late as u64;
            self.acknowledged = self.acknowledged.max(self.appended);
            told.extend(self.kept.drain(..late).filter_map(|mut line| line.tell("")));
        }
        self.forget(now);
        told
    }

    /// Takes note of the lines that all have.
    fn acknowledge(&mut self, others: &Others) {
        let all_have = others.awaited().map(|other| other.heard).min().unwrap_or(self.last);
        let all_have = all_have.min(self.appended);
        let arrived = self.index_after(self.acknowledged)..self.index_after(all_have);
        for line in self.kept.range_mut(arrived.start.min(arrived.end)..arrived.end) {
            // One for a server that is not awaited, because it has only just come, or is gone.
            if line.from.is_some() && line.what.at().is_some_and(|at| !others.has(at, line.number))
            {
                return;
            }
            line.from = None;
            self.acknowledged = line.number;
        }
        self.acknowledged = self.acknowledged.max(all_have);
    }

    /// Lines did not arrive at a server. A line that was said before it came was not for it.
    pub fn miss(&mut self, gap: Gap, server: &Other) -> Vec<Told> {
        let range = self.index_after(gap.from.saturating_sub(1))..self.index_after(gap.to);
        let lines = self.kept.range_mut(range.start.min(range.end)..range.end);
        let lines = lines.filter(|line| {
            line.said >= server.since && line.what.at().is_none_or(|at| at == server.id)
        });
        lines.filter_map(|line| line.tell(&server.tag)).collect()
    }

    /// A server is gone: the authors of the lines that it does not have are told. They may still reach it, if it comes back.
    pub fn lose(&mut self, other: &Other) -> Vec<Told> {
        let after = if other.follows { self.index_after(other.heard) } else { 0 };
        let lost = |line: &&mut Line| match line.what.at() {
            Some(at) => at == other.id,
            None => other.follows,
        };
        let lines = self.kept.range_mut(after..).filter(lost);
        lines.filter_map(|line| line.tell(&other.tag)).collect()
    }

    /// This server stops: the authors of all lines that not all have are told.
    pub fn give_up(&mut self) -> Vec<Told> {
        let after = self.index_after(self.acknowledged);
        self.kept.range_mut(after..).filter_map(|line| line.tell("")).collect()
    }

    fn forget(&mut self, now: Instant) {
        while let Some(line) = self.kept.front() {
            let is_done =
                line.number <= self.acknowledged || (line.given_up && line.number <= self.appended);
            let is_old = line.appended.is_none_or(|when| now.duration_since(when) > KEPT);
            if !is_done || !(is_old || self.kept.len() > self.most / 2) {
                return;
            }
            self.kept.pop_front();
        }
    }

    /// The index of the first kept line after this number.
    fn index_after(&self, number: u64) -> usize {
        let index = number.saturating_add(1).saturating_sub(self.base());
        usize::try_from(index).unwrap_or(usize::MAX).min(self.kept.len())
    }
}

impl Line {
    /// Its author is told that it may not have arrived; of each line once.
    fn tell(&mut self, server: &str) -> Option<Told> {
        let to = self.from.take()?;
        Some(Told { to, quote: self.what.quote(), server: server.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A server, one other called b, and a time.
    struct Pair {
        lines: Lines,
        others: Others,
        now: Instant,
        beats: u64,
    }

    impl Pair {
        fn new() -> Self {
            let (lines, others) = (Lines::new(10, PATIENCE), Others::default());
            let mut pair = Self { lines, others, now: Instant::now(), beats: 0 };
            pair.beat(true);
            pair
        }

        /// A second passes, in which b announces itself or not. Returns the authors that are told.
        fn beat(&mut self, does: bool) -> Vec<Told> {
            self.beats += u64::from(does);
            self.now += Duration::from_secs(1);
            let shown = HashMap::from([("b".to_owned(), format!("0 {} 0 bee", self.beats))]);
            let looked = self.others.look(&shown, 0, self.now);
            let gone = looked.gone.iter().filter_map(|id| self.others.get(id));
            let mut told: Vec<Told> = gone.flat_map(|other| self.lines.lose(other)).collect();
            told.extend(self.lines.settle(&self.others, self.now));
            told
        }

        fn say(&mut self, author: u64, text: &str) -> bool {
            let what = What::Say { name: "alice".to_owned(), text: text.to_owned() };
            self.lines.say(Some(Who::Member(author)), what, self.now)
        }

        fn redis_has(&mut self, number: u64) -> Vec<Told> {
            assert!(self.lines.redis_has(number, self.now));
            self.lines.settle(&self.others, self.now)
        }

        fn b_has(&mut self, heard: &str) -> Vec<Told> {
            let gaps = self.others.hear_of("a", [("b", heard)]);
            let b = self.others.get("b").unwrap();
            let mut told: Vec<Told> =
                gaps.into_iter().flat_map(|(gap, _)| self.lines.miss(gap, b)).collect();
            told.extend(self.lines.settle(&self.others, self.now));
            told
        }

        fn waiting(&self) -> Vec<u64> {
            self.lines.waiting().map(|line| line.number).collect()
        }
    }

    fn told(author: u64, text: &str, server: &str) -> Told {
        Told { to: Who::Member(author), quote: format!("\"{text}\""), server: server.to_owned() }
    }

    #[test]
    fn a_line_waits_for_redis_and_then_for_the_other_server() {
        let mut pair = Pair::new();
        pair.b_has("0-0");
        pair.say(1, "one");
        pair.say(2, "two");
        assert_eq!(pair.waiting(), [1, 2]);
        assert_eq!(pair.redis_has(1), []);
        assert_eq!(pair.waiting(), [2]);
        assert_eq!(pair.redis_has(2), []);
        assert_eq!(pair.b_has("1-0 a:1"), []);
        assert!(!pair.lines.are_done());
        assert_eq!(pair.b_has("2-0 a:2"), []);
        assert!(pair.lines.are_done());
        // Nobody is told of them later.
        assert_eq!((0..60).flat_map(|_| pair.beat(false)).collect::<Vec<_>>(), []);
        // It has no line that was not said.
        assert!(!pair.lines.redis_has(3, pair.now));
    }

    #[test]
    fn what_redis_has_lost_waits_again() {
        let mut pair = Pair::new();
        pair.b_has("0-0");
        (1..=4).for_each(|author| assert!(pair.say(author, "x")));
        pair.redis_has(4);
        pair.b_has("1-0 a:2");
        pair.redis_has(1);
        assert_eq!(pair.waiting(), [2, 3, 4]);
        // The other server knows what it has, also if Redis does not know it any more.
        pair.b_has("0-0");
        pair.redis_has(4);
        assert_eq!(pair.b_has("9-0 a:4"), []);
        assert!(pair.lines.are_done());
    }

    #[test]
    fn authors_are_told_once_and_of_their_own_lines() {
        let mut pair = Pair::new();
        pair.b_has("0-0");
        (1..=4).for_each(|author| assert!(pair.say(author, "x")));
        pair.redis_has(4);
        assert_eq!(pair.b_has("1-0 a:3:2-2"), [told(2, "x", "bee")]);
        assert_eq!(pair.b_has("1-0 a:3:2-2"), []);
        let gone: Vec<Told> = (0..12).flat_map(|_| pair.beat(false)).collect();
        assert_eq!(gone, [told(4, "x", "bee")]);
        assert_eq!(pair.lines.give_up(), []);
    }

    #[test]
    fn a_line_that_redis_does_not_take_in_time_is_told_and_not_written_late() {
        let mut pair = Pair::new();
        pair.b_has("0-0");
        pair.say(1, "old");
        let late: Vec<Told> = (0..20).flat_map(|_| pair.beat(true)).collect();
        assert_eq!(late, []);
        pair.say(2, "new");
        let late: Vec<Told> = (0..12).flat_map(|_| pair.beat(true)).collect();
        assert_eq!(late, [told(1, "old", "")]);
        assert_eq!((pair.waiting(), pair.lines.base()), (vec![2], 2));
    }

    #[test]
    fn a_server_that_is_slow_is_named() {
        let mut pair = Pair::new();
        pair.b_has("0-0");
        pair.say(1, "x");
        pair.redis_has(1);
        let late: Vec<Told> = (0..32).flat_map(|_| pair.beat(true)).collect();
        assert_eq!(late, [told(1, "x", "bee")]);
    }

    #[test]
    fn a_private_line_waits_for_its_server_though_that_follows_nothing_yet() {
        let mut pair = Pair::new();
        let what = |at: &str| What::Tell {
            from: Who::Member(1),
            name: "alice".to_owned(),
            to: Who::Member(7),
            shown: "bob".to_owned(),
            at: at.to_owned(),
            text: "x".to_owned(),
        };
        assert!(pair.lines.say(Some(Who::Member(1)), what("b"), pair.now));
        assert!(pair.lines.say(Some(Who::Member(1)), what("gone"), pair.now));
        pair.redis_has(2);
        assert!(!pair.lines.are_done());
        let late: Vec<Told> = (0..32).flat_map(|_| pair.beat(true)).collect();
        assert_eq!(late, [told(1, "@bob x", "bee"), told(1, "@bob x", "")]);
    }

    #[test]
    fn a_full_queue_forgets_what_has_arrived_and_refuses_more_than_that() {
        let mut pair = Pair::new();
        pair.b_has("0-0");
        (1..=10).for_each(|author| assert!(pair.say(author, "x")));
        assert!(!pair.say(11, "x"));
        pair.redis_has(10);
        assert!(!pair.say(11, "x"));
        pair.b_has("1-0 a:10");
        (11..=15).for_each(|author| assert!(pair.say(author, "x")));
        assert_eq!(pair.lines.base(), 6);
        // Redis may lose more than what is kept. A line that all have makes room.
        pair.redis_has(0);
        assert_eq!((pair.lines.base(), pair.waiting()), (11, vec![11, 12, 13, 14, 15]));
    }
}
