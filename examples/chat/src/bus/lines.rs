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

/// A line stays so long after it was appended, though all have it: a server that has just started is not known yet.
const KEPT: Duration = Duration::from_secs(10);

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
        let all_have = others.awaited().map(|other| other.heard).min().unwrap_or(self.last);
        let all_have = all_have.min(self.appended).max(self.acknowledged);
        let arrived = self.index_after(self.acknowledged)..self.index_after(all_have);
        self.kept.range_mut(arrived).for_each(|line| line.from = None);
        self.acknowledged = all_have;
        let mut told = Vec::new();
        let is_late = |line: &&Line| now.duration_since(line.said) > self.patience;
        let late = self.kept.iter().take_while(is_late).count();
        let appended = self.index_after(self.appended);
        for line in self.kept.range_mut(..late.min(appended)) {
            if let Some(server) = others.still_lacks(line, now, self.patience) {
                told.extend(line.tell(server));
                line.given_up = true;
            }
        }
        // What Redis did not take is not written late: an old line does not come as a new one. So its number is a gap.
        if late > appended {
            self.appended = self.base() - 1 + late as u64;
            self.acknowledged = self.acknowledged.max(self.appended);
            told.extend(self.kept.drain(..late).filter_map(|mut line| line.tell("")));
        }
        self.forget(now);
        told
    }

    /// Lines did not arrive at a server. What was said before it came was not for it.
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
