//! The count: each line at each member.

use std::fmt;

use crate::members::State;

/// The fate of all lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lines that were said to all.
    pub lines: usize,
    /// Members that are there and read.
    pub receivers: usize,
    /// Lines times members: how often lines have to be heard.
    pub expected: usize,
    /// Of `expected`, those that were not heard, and whose author was told.
    pub told: usize,
    /// Of `expected`, those that were not heard, and whose author was not told.
    pub untold: usize,
    /// Of `expected`, those that were not heard, and whose author's server was killed, or ended before it took the line.
    pub orphans: usize,
    /// Lines that were heard again.
    pub duplicates: usize,
    /// Lines that were heard after a later one of the same author.
    pub disorder: usize,
    /// Lines that were heard at a server that was started after they were said.
    pub old: usize,
    /// Lines that everybody has heard, although their author was told that they may not have arrived.
    pub needless: usize,
    /// Members that read, whose connection ended, and whose server did not.
    pub dropped: usize,
    /// Private lines that were not heard, and whose author was not told.
    pub private_untold: usize,
    /// Private lines that were heard twice, or by somebody else.
    pub private_wrong: usize,
    /// The first faults, in words.
    pub examples: Vec<String>,
}

/// The most examples that are kept.
const EXAMPLES: usize = 12;

impl Tally {
    /// Counts what has been heard so far.
    pub fn of(state: &State) -> Self {
        let mut tally = Self::default();
        let listening = |index: &usize| state.members[*index].listens();
        let receivers: Vec<usize> = (0..state.members.len()).filter(listening).collect();
        tally.receivers = receivers.len();
        for (index, author) in state.members.iter().enumerate() {
            tally.lines += author.said.len();
            let mut not_heard = std::collections::HashSet::new();
            for receiver in receivers.iter().filter(|receiver| **receiver != index) {
                tally.count(state, index, *receiver, &mut not_heard);
            }
            tally.needless += author.told.iter().filter(|line| !not_heard.contains(*line)).count();
        }
        for member in &state.members {
            for (author, heard) in &member.heard {
                tally.duplicates += heard.duplicates as usize;
                tally.disorder += heard.disorder as usize;
                if heard.duplicates + heard.disorder > 0 {
                    let author = &state.members[*author].name;
                    tally.example(|| format!("{} heard of {author}: {heard:?}", member.name));
                }
            }
            tally.old += member.old as usize;
            if member.closed.is_some() && !member.excused && member.reads() {
                tally.dropped += 1;
                let last = member.news.last();
                tally.example(|| format!("{} was dropped: {last:?}", member.name));
            }
        }
        tally.count_private(state);
        tally
    }

    fn count(
        &mut self,
        state: &State,
        index: usize,
        receiver: usize,
        not_heard: &mut std::collections::HashSet<u32>,
    ) {
        let (author, receiver) = (&state.members[index], &state.members[receiver]);
        let joined = receiver.joined.expect("it listens");
        let first = author.said.partition_point(|said| *said < joined);
        self.expected += author.said.len() - first;
        let (first, end) = (first as u32, author.said.len() as u32);
        let nothing = crate::heard::Heard::default();
        let heard = receiver.heard.get(&index).unwrap_or(&nothing);
        for number in heard.missing(first, end) {
            not_heard.insert(number);
            if author.told.contains(&number) {
                self.told += 1;
            } else if author.killed || (author.closed.is_some() && !was_taken(state, index, number))
            {
                self.orphans += 1;
            } else {
                self.untold += 1;
                let names = [&author.name, &receiver.name];
                self.example(|| format!("#{}.{number} was not heard by {}", names[0], names[1]));
            }
        }
    }

    fn count_private(&mut self, state: &State) {
        for line in &state.private {
            let (author, to) = (&state.members[line.from], &state.members[line.to]);
            let is_lost = line.heard_by.is_empty() && !line.told && author.closed.is_none();
            let is_wrong = line.heard_by.len() > 1 || line.heard_by.iter().any(|by| *by != line.to);
            self.private_untold += usize::from(is_lost);
            self.private_wrong += usize::from(is_wrong);
            if is_lost || is_wrong {
                let by = &line.heard_by;
                let number = line.number;
                let names = (&author.name, &to.name);
                self.example(|| format!("~{}.{number} for {}: heard by {by:?}", names.0, names.1));
            }
        }
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(text());
        }
    }

    /// Whether every line was heard by all, or its author told.
    pub fn is_settled(&self) -> bool {
        self.untold + self.private_untold == 0
    }

    /// Whether the promise was kept: every line is [settled](Self::is_settled), none was heard twice, in disorder, old or by
    /// a wrong member, and no member was dropped.
    pub fn is_kept(&self) -> bool {
        let wrong = self.duplicates + self.disorder + self.old + self.private_wrong;
        self.is_settled() && wrong + self.dropped == 0
    }

    /// Whether everything was heard, and nobody was told otherwise.
    pub fn is_clean(&self) -> bool {
        self.is_kept() && self.told + self.needless == 0
    }
}

/// Whether a server has taken a line: then the author's companions there have heard it.
fn was_taken(state: &State, author: usize, number: u32) -> bool {
    let host = &state.members[author].host;
    let mut companions = state.members.iter().filter(|member| member.host == *host);
    companions.any(|member| member.heard.get(&author).is_some_and(|heard| heard.has(number)))
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} lines to {} members: lost {}, told {}, untold {}, of ended servers {}, twice {}, \
             in disorder {}, old {}, told in vain {}, dropped {}",
            self.lines,
            self.receivers,
            self.told + self.untold + self.orphans,
            self.told,
            self.untold,
            self.orphans,
            self.duplicates,
            self.disorder,
            self.old,
            self.needless,
            self.dropped,
        )?;
        if self.private_untold + self.private_wrong > 0 {
            write!(f, ", private untold {}, wrong {}", self.private_untold, self.private_wrong)?;
        }
        Ok(())
    }
}
