//! The numbers of the lines that this server has heard from the other servers. From them it recognises second copies and
//! gaps, and it tells each sender which lines have arrived.
//!
//! ```text
//! number <= last      a second copy: ignored
//! number == last + 1  the next line
//! number >  last + 1  the next line, after a gap: the lines between are lost here
//! ```

use std::collections::HashMap;
use std::fmt::Write as _;

/// The most servers that are remembered. Each start of a server counts as a new one; a thousand cover a long time.
const SERVERS: usize = 1_000;
/// The most gaps that are kept, and reported to the sender, for one sender. If there are more, the oldest two become one.
const GAPS: usize = 8;

/// The numbers of the lines that were heard, by their senders.
#[derive(Debug, Default)]
pub struct Heard {
    senders: HashMap<String, Sender>,
    /// Grows with each use of a sender, to find the one that was silent for the longest time.
    turn: u64,
}

#[derive(Debug, Default)]
struct Sender {
    /// All lines up to this number were shown, or are known to be lost, or were said before this server started.
    last: u64,
    gaps: Vec<Gap>,
    /// Whether a line of this sender was read. If not, `last` was only taken over from Redis.
    was_read: bool,
    turn: u64,
}

/// The first and the last number of lines that did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub from: u64,
    pub to: u64,
}

/// The meaning of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    New,
    Again,
    /// New, after lines that are missing.
    After(Gap),
}

impl Heard {
    /// Takes note of a line that was read.
    pub fn hear(&mut self, server: &str, number: u64) -> Number {
        let sender = self.sender(server);
        if number <= sender.last {
            return Number::Again;
        }
        let gap = Gap { from: sender.last + 1, to: number - 1 };
        sender.last = number;
        let was_read = std::mem::replace(&mut sender.was_read, true);
        if gap.from > gap.to {
            return Number::New;
        }
        sender.miss(gap);
        // The first lines may have been said before this server started. Their sender knows whether this server had to
        // hear them.
        if was_read { Number::After(gap) } else { Number::New }
    }

    /// Notes that the stream has been read up to a place at which Redis knew these last numbers. Returns the gaps: lines
    /// of known senders that were not read. A gap of a sender of which no line was read is not returned: only that sender
    /// knows whether this server had to hear those lines.
    pub fn has_read_up_to<'a>(
        &mut self,
        numbers: impl IntoIterator<Item = (&'a str, u64)>,
    ) -> Vec<(&'a str, Gap)> {
        let mut gaps = Vec::new();
        for (server, number) in numbers {
            let sender = self.sender(server);
            if sender.last < number {
                let gap = Gap { from: sender.last + 1, to: number };
                sender.last = number;
                sender.miss(gap);
                if sender.was_read {
                    gaps.push((server, gap));
                }
            }
        }
        gaps
    }

    /// Whether lines up to these numbers were read. True without a comparison if there are as many senders as are
    /// remembered.
    pub fn is_up_to<'a>(&self, numbers: impl IntoIterator<Item = (&'a str, u64)>) -> bool {
        let has_read = |(server, number): (&str, u64)| {
            self.senders.get(server).is_some_and(|sender| sender.last >= number)
        };
        let numbers: Vec<_> = numbers.into_iter().take(SERVERS).collect();
        numbers.len() == SERVERS || numbers.into_iter().all(has_read)
    }

    /// The acknowledgements for these servers: `SERVER:LAST`, and with lines that are missing,
    /// `SERVER:LAST:FROM-TO:FROM-TO`.
    pub fn acknowledgements<'a>(&self, servers: impl IntoIterator<Item = &'a str>) -> String {
        let mut text = String::new();
        for server in servers {
            let Some(sender) = self.senders.get(server) else { continue };
            // Writing into a String never fails.
            let _ = write!(text, " {server}:{}", sender.last);
            for Gap { from, to } in &sender.gaps {
                let _ = write!(text, ":{from}-{to}");
            }
        }
        text
    }

    fn sender(&mut self, server: &str) -> &mut Sender {
        if self.senders.len() >= SERVERS && !self.senders.contains_key(server) {
            let oldest = self.senders.iter().min_by_key(|(_, sender)| sender.turn);
            if let Some(oldest) = oldest.map(|(server, _)| server.clone()) {
                self.senders.remove(&oldest);
            }
        }
        self.turn += 1;
        let sender = self.senders.entry(server.to_owned()).or_default();
        sender.turn = self.turn;
        sender
    }
}

impl Sender {
    fn miss(&mut self, gap: Gap) {
        if self.gaps.len() >= GAPS {
            // The lines between the two oldest gaps arrived, and count as missing now. Their sender has forgotten them by
            // now, or sends their authors a needless note.
            let first = self.gaps.remove(0);
            self.gaps[0].from = first.from;
        }
        match self.gaps.last_mut() {
            Some(last) if last.to + 1 == gap.from => last.to = gap.to,
            _ => self.gaps.push(gap),
        }
    }
}

/// Reads in another server's acknowledgements which lines of `server` it has heard: the last number, and the gaps.
pub fn acknowledged(text: &str, server: &str) -> Option<(u64, Vec<Gap>)> {
    let numbers = text.split(' ').find_map(|word| word.strip_prefix(server)?.strip_prefix(':'))?;
    let mut parts = numbers.split(':');
    let last = parts.next()?.parse().ok()?;
    let gaps = parts.take(GAPS).filter_map(|part| {
        let (from, to) = part.split_once('-')?;
        Some(Gap { from: from.parse().ok()?, to: to.parse().ok()? })
    });
    Some((last, gaps.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_new_once_and_a_missing_one_is_a_gap() {
        let mut heard = Heard::default();
        // The sender decides whether the lines before its first one are lost.
        assert_eq!(heard.hear("a", 7), Number::New);
        assert_eq!(heard.hear("a", 8), Number::New);
        assert_eq!(heard.hear("a", 7), Number::Again);
        assert_eq!(heard.hear("a", 12), Number::After(Gap { from: 9, to: 11 }));
        // A lost line that comes late is not shown, because its author has been told that it may not have arrived.
        assert_eq!(heard.hear("a", 10), Number::Again);
        assert_eq!(heard.hear("b", 1), Number::New);
        assert_eq!(heard.acknowledgements(["a", "b", "c"]), " a:12:1-6:9-11 b:1");
        let a = acknowledged("1-0 x:1 a:12:9-11 b:1", "a");
        assert_eq!(a, Some((12, vec![Gap { from: 9, to: 11 }])));
        assert_eq!(acknowledged("1-0 aa:12", "a"), None);
    }

    #[test]
    fn many_gaps_become_one_and_none_is_forgotten() {
        let mut heard = Heard::default();
        heard.hear("a", 1);
        for round in 1..=20 {
            heard.hear("a", 1 + round * 2);
        }
        let (last, gaps) = acknowledged(&heard.acknowledgements(["a"]), "a").unwrap();
        assert_eq!((last, gaps.len()), (41, GAPS));
        for missing in (2..41).step_by(2) {
            assert!(gaps.iter().any(|gap| gap.from <= missing && missing <= gap.to), "{missing}");
        }
    }

    #[test]
    fn what_redis_knows_at_the_end_of_the_stream_was_read_or_is_a_gap() {
        let mut heard = Heard::default();
        assert_eq!(heard.has_read_up_to([("a", 5)]), []);
        assert_eq!(heard.acknowledgements(["a"]), " a:5:1-5");
        // No line of `a` was read before this one, so 6 and 7 may have been said before this server started. They are
        // acknowledged as missing, but to the members here they are no gap.
        assert_eq!(heard.hear("a", 8), Number::New);
        assert_eq!(heard.acknowledgements(["a"]), " a:8:1-7");
        assert!(
            heard.is_up_to([("a", 8)])
                && !heard.is_up_to([("a", 9)])
                && !heard.is_up_to([("b", 1)])
        );
        assert_eq!(heard.has_read_up_to([("a", 9)]), [("a", Gap { from: 9, to: 9 })]);
    }

    #[test]
    fn senders_are_bounded() {
        let mut heard = Heard::default();
        heard.hear("a", 1);
        (0..SERVERS).for_each(|number| {
            heard.hear(&number.to_string(), 1);
            heard.hear("b", 1);
        });
        assert!(heard.senders.len() <= SERVERS);
        assert!(!heard.senders.contains_key("a") && heard.senders.contains_key("b"));
    }
}
