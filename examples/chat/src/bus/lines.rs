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
//! A line has a number. Redis knows the last number that it has; if that is less than it was before, the lines after it
//! wait again. So nothing is remembered about single writes, and each of them may be done twice.
//!
//! A line is for each server that had started when it was said, also for one that this server learns of later. So a line
//! keeps its author as long as it is kept, even if the line has arrived at all known servers: a server that is learned of later
//! may lack it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::entry::What;
use super::heard::Gap;
use super::others::{Other, Others};
use crate::room::Who;

/// How long a line is kept after it was appended, if there is room, so that it can be written again when Redis has lost
/// it: for a server that has just started and is not known yet, and for one that is cut off. The stream is kept for such
/// a server for about as long.
const KEPT: Duration = Duration::from_secs(300);

/// The lines that are kept, in the order of their numbers, without a gap.
pub struct Lines {
    kept: VecDeque<Line>,
    /// The number of the last line that was said.
    last: u64,
    /// Redis has the lines up to this number.
    appended: u64,
    /// The lines up to this number have arrived. Later ones may have arrived as well: a private line waits for one server
    /// alone.
    arrived: u64,
    most: usize,
    patience: Duration,
}

/// A line, or another entry of the stream.
pub struct Line {
    pub number: u64,
    pub what: What,
    pub said: Instant,
    /// The author, until it is told that the line may not have arrived.
    from: Option<Who>,
    appended: Option<Instant>,
    wait: Wait,
}

/// The state of the wait for the other servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Open,
    /// All live servers have it; a private line has arrived at the one server that it is for.
    Arrived,
    /// Its author has been told that a server may not have it.
    GivenUp,
}

/// An author who is told that a line may not have arrived.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    pub to: Who,
    /// The line, as its author wrote it, shortened.
    pub quote: String,
    /// The name of the server that may not have it; empty if the line did not get to Redis, or if the server is not known.
    pub server: String,
}

impl Lines {
    pub fn new(most: usize, patience: Duration) -> Self {
        let kept = VecDeque::new();
        Self { kept, last: 0, appended: 0, arrived: 0, most, patience }
    }

    /// Adds a line. Returns false if too many are kept already.
    pub fn say(&mut self, from: Option<Who>, what: What, now: Instant) -> bool {
        if self.kept.len() >= self.most {
            self.forget(None, now);
        }
        // The entry for this server's end is always accepted.
        if self.kept.len() >= self.most && !matches!(what, What::End { .. }) {
            return false;
        }
        self.last += 1;
        let (number, said) = (self.last, now);
        let wait = Wait::Open;
        self.kept.push_back(Line { number, what, said, from, appended: None, wait });
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
        self.arrived >= self.last
    }

    /// Notes that Redis has the lines of this server up to a number. The number may be less than before, when Redis has lost
    /// the last lines, or more, when an answer was lost. Returns false if no such line was said.
    #[must_use]
    pub fn redis_has(&mut self, number: u64, now: Instant) -> bool {
        if number > self.last {
            return false;
        }
        let new = self.index_after(self.appended)..self.index_after(number);
        // Redis may have lost more than what is kept.
        self.appended = number.max(self.base() - 1);
        for line in self.kept.range_mut(new.start.min(new.end)..new.end) {
            line.appended = Some(now);
        }
        true
    }

    /// Notes which lines the other servers have by now, forgets the lines that are not needed any more, and gives up the
    /// lines whose time is over. Returns the authors of the lines given up.
    pub fn settle(&mut self, others: &Others, now: Instant) -> Vec<Told> {
        self.acknowledge(others);
        let mut told = Vec::new();
        let is_late = |line: &Line| now.duration_since(line.said) > self.patience;
        let late = self.kept.partition_point(is_late);
        let appended = self.index_after(self.appended);
        let open = self.index_after(self.arrived)..late.min(appended);
        for line in self.kept.range_mut(open.start.min(open.end)..open.end) {
            let is_open = line.wait == Wait::Open;
            let lacking = if is_open { others.still_lacks(line, now, self.patience) } else { None };
            if let Some(server) = lacking {
                told.extend(line.tell(server));
                line.wait = Wait::GivenUp;
            }
        }
        // A line that Redis did not take in time is not written any more, because an old line would seem new. So its
        // number is a gap.
        if late > appended {
            self.appended = self.base() - 1 + late as u64;
            self.arrived = self.arrived.max(self.appended);
            // A line that had arrived may be missing at a server that was not known at that time.
            let late = self.kept.drain(..late);
            let late = late.filter(|line| line.wait != Wait::Arrived || !line.is_at_all(others));
            told.extend(late.filter_map(|mut line| line.tell("")));
        }
        self.forget(Some(others), now);
        told
    }

    /// Takes note of the lines that all servers have.
    fn acknowledge(&mut self, others: &Others) {
        let open = self.index_after(self.arrived)..self.index_after(self.appended);
        // Each server hears the lines in their order. So a server that lacks a line to all lacks the later ones, too.
        let mut lacks = false;
        for line in self.kept.range_mut(open.start.min(open.end)..open.end) {
            let has_arrived = line.wait == Wait::Arrived
                || match line.what.at() {
                    None => !lacks && others.all_have(line),
                    // A private line that has no author, or whose author has been told, waits only while its server is
                    // live.
                    Some(at) => {
                        others.has(at, line.number) || line.from.is_none() && !others.awaits(at)
                    }
                };
            if has_arrived {
                line.wait = Wait::Arrived;
            }
            lacks |= !has_arrived && line.what.at().is_none();
        }
        let arrived = self.kept.range(open.start.min(open.end)..open.end);
        let arrived = arrived.take_while(|line| line.wait == Wait::Arrived).count();
        self.arrived = self.arrived.max(self.base() - 1) + arrived as u64;
    }

    /// Notes a server that was not known: lines that had arrived at all others now wait for it.
    pub fn wait_for(&mut self, other: &Other) {
        let after = self.index_after(other.heard);
        let lacks = |line: &&mut Line| {
            let is_for_it = line.what.at().is_none() && other.was_up(line);
            line.wait == Wait::Arrived && line.from.is_some() && is_for_it
        };
        for line in self.kept.range_mut(after..).filter(lacks) {
            line.wait = Wait::Open;
            self.arrived = self.arrived.min(line.number - 1);
        }
    }

    /// Notes that lines did not arrive at a server, and returns their authors. A line that was said before the server
    /// started was not for it.
    pub fn miss(&mut self, gap: Gap, server: &Other) -> Vec<Told> {
        let range = self.index_after(gap.from.saturating_sub(1))..self.index_after(gap.to);
        let lines = self.kept.range_mut(range.start.min(range.end)..range.end);
        let lines = lines
            .filter(|line| server.was_up(line) && line.what.at().is_none_or(|at| at == server.id));
        lines.filter_map(|line| line.tell(&server.tag)).collect()
    }

    /// Notes that a server is gone, and returns the authors of the lines that it does not have. It may still get them,
    /// if it comes back.
    pub fn lose(&mut self, other: &Other) -> Vec<Told> {
        let after = self.index_after(other.heard);
        let lost = |line: &&mut Line| match line.what.at() {
            Some(at) => at == other.id,
            None => other.was_live && other.was_up(line),
        };
        let lines = self.kept.range_mut(after..).filter(lost);
        lines.filter_map(|line| line.tell(&other.tag)).collect()
    }

    /// Gives up, because this server stops: returns the authors of all lines that have not arrived everywhere.
    pub fn give_up(&mut self) -> Vec<Told> {
        let after = self.index_after(self.arrived);
        let lines = self.kept.range_mut(after..).filter(|line| line.wait != Wait::Arrived);
        lines.filter_map(|line| line.tell("")).collect()
    }

    /// Forgets lines that have arrived: the old ones, and younger ones where room is needed. A line does not count as
    /// old if Redis has lost it, or if a server that has come since its arrival lacks it.
    fn forget(&mut self, others: Option<&Others>, now: Instant) {
        while let Some(line) = self.kept.front() {
            let (is_done, is_appended) = match line.wait {
                Wait::Open => (false, false),
                Wait::Arrived => (true, line.number <= self.appended),
                Wait::GivenUp => (line.number <= self.appended, true),
            };
            let is_old = line.appended.is_none_or(|when| now.duration_since(when) > KEPT)
                && is_appended
                && (line.wait == Wait::GivenUp
                    || others.is_none_or(|others| line.is_at_all(others)));
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
    /// Whether all servers have the line, including those that have come since it arrived.
    fn is_at_all(&self, others: &Others) -> bool {
        self.what.at().is_some() || others.all_have(self)
    }

    /// Returns its author, to be told that the line may not have arrived; once for each line.
    fn tell(&mut self, server: &str) -> Option<Told> {
        let to = self.from.take()?;
        Some(Told { to, quote: self.what.quote(), server: server.to_owned() })
    }
}
