//! The lines of this server, compared with what the other servers have: news of a server may decide what has become of a
//! line, and then its author may have to be told.

use std::collections::HashMap;
use std::time::Instant;

use super::lines::{Lines, Told};
use super::others::{Looked, Others};

pub struct Ledger {
    /// The identifier of this server.
    own: String,
    pub lines: Lines,
    pub others: Others,
}

impl Ledger {
    pub fn new(own: String, lines: Lines) -> Self {
        Self { own, lines, others: Others::default() }
    }

    /// Takes note of an answer of Redis: the last number that it has of this server, and what the others have heard.
    /// Returns the authors of lines that may not have arrived, or `None` if that number cannot be true.
    #[must_use]
    pub fn answered<'a>(
        &mut self,
        number: Option<u64>,
        heard: impl IntoIterator<Item = (&'a str, &'a str)>,
        now: Instant,
    ) -> Option<Vec<Told>> {
        if number.is_some_and(|number| !self.lines.redis_has(number, now)) {
            return None;
        }
        let mut told = self.miss(heard);
        told.extend(self.lines.settle(&self.others, now));
        Some(told)
    }

    /// Takes note of the announcements of the other servers. `time` is the room's time in ms.
    pub fn look(
        &mut self,
        shown: &HashMap<String, String>,
        time: u64,
        now: Instant,
    ) -> (Looked, Vec<Told>) {
        let looked = self.others.look(shown, time, now);
        for id in &looked.came {
            self.others.get(id).into_iter().for_each(|other| self.lines.wait_for(other));
        }
        let lost = looked.gone.iter().chain(&looked.faded);
        let lost = lost.filter_map(|id| self.others.get(id));
        let told = lost.flat_map(|other| self.lines.lose(other)).collect();
        (looked, told)
    }

    /// Notes that a server has ended, and what it had heard. Returns `None` if it was not there.
    pub fn end(&mut self, id: &str, heard: &str) -> Option<Vec<Told>> {
        let mut told = self.miss([(id, heard)]);
        let other = self.others.end(id)?;
        told.extend(self.lines.lose(other));
        Some(told)
    }

    /// Gives up the lines that have waited longer than the patience of `lines`. Returns the authors who have to be told.
    pub fn settle(&mut self, now: Instant) -> Vec<Told> {
        self.lines.settle(&self.others, now)
    }

    fn miss<'a>(&mut self, heard: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<Told> {
        let mut told = Vec::new();
        for (gap, id) in self.others.hear_of(&self.own, heard) {
            told.extend(
                self.others.get(&id).map_or(Vec::new(), |other| self.lines.miss(gap, other)),
            );
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::entry::What;
    use super::*;
    use crate::room::Who;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A server called a, another one called b, and a time.
    struct Pair {
        ledger: Ledger,
        now: Instant,
        /// The count of b's announcements, and how long b has been up, in ms.
        beats: u64,
        uptime: u64,
    }

    impl Pair {
        fn new() -> Self {
            let mut pair = Self::alone();
            pair.beat(true);
            pair
        }

        /// A server that knows nothing of b.
        fn alone() -> Self {
            let ledger = Ledger::new("a".to_owned(), Lines::new(10, PATIENCE));
            Self { ledger, now: Instant::now(), beats: 0, uptime: 0 }
        }

        /// Lets a second pass, in which b announces itself if `does` is true. Returns the authors that are told.
        fn beat(&mut self, does: bool) -> Vec<Told> {
            self.beats += u64::from(does);
            self.pass(1);
            let shown = format!("{} {} 0 {} bee", 100_000, self.beats, self.uptime);
            let shown = HashMap::from([("b".to_owned(), shown)]);
            let (_, mut told) = self.ledger.look(&shown, 100_000, self.now);
            told.extend(self.ledger.settle(self.now));
            told
        }

        fn pass(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
            self.uptime += seconds * 1_000;
        }

        fn say(&mut self, author: u64, text: &str) -> bool {
            let what = What::Say { name: "alice".to_owned(), text: text.to_owned() };
            self.ledger.lines.say(Some(Who::Member(author)), what, self.now)
        }

        fn tell(&mut self, author: u64, at: &str, text: &str) {
            let from = Who::Member(author);
            let what = What::Tell {
                from,
                name: "alice".to_owned(),
                to: Who::Member(7),
                shown: "bob".to_owned(),
                at: at.to_owned(),
                tag: "bee".to_owned(),
                text: text.to_owned(),
            };
            assert!(self.ledger.lines.say(Some(from), what, self.now));
        }

        fn redis_has(&mut self, number: u64) -> Vec<Told> {
            self.ledger.answered(Some(number), [], self.now).unwrap()
        }

        fn b_has(&mut self, heard: &str) -> Vec<Told> {
            self.ledger.answered(None, [("b", heard)], self.now).unwrap()
        }

        fn waiting(&self) -> Vec<u64> {
            self.ledger.lines.waiting().map(|line| line.number).collect()
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
        assert!(!pair.ledger.lines.are_done());
        assert_eq!(pair.b_has("2-0 a:2"), []);
        assert!(pair.ledger.lines.are_done());
        // No author gets a note about them later.
        assert_eq!((0..60).flat_map(|_| pair.beat(false)).collect::<Vec<_>>(), []);
        // Redis cannot have a line that was not said.
        assert!(!pair.ledger.lines.redis_has(3, pair.now));
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
        // The other server knows what it has, even if Redis does not know it any more.
        pair.b_has("0-0");
        pair.redis_has(4);
        assert_eq!(pair.b_has("9-0 a:4"), []);
        assert!(pair.ledger.lines.are_done());
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
        assert_eq!(pair.ledger.lines.give_up(), []);
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
        assert_eq!((pair.waiting(), pair.ledger.lines.base()), (vec![2], 2));
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
        pair.tell(1, "b", "x");
        pair.tell(1, "gone", "x");
        pair.redis_has(2);
        assert!(!pair.ledger.lines.are_done());
        let late: Vec<Told> = (0..32).flat_map(|_| pair.beat(true)).collect();
        assert_eq!(late, [told(1, "@bob@bee x", "bee"), told(1, "@bob@bee x", "")]);
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
        assert_eq!(pair.ledger.lines.base(), 6);
        // Redis may lose more lines than are kept. Lines that all servers have were forgotten to make room, so the others wait.
        pair.redis_has(0);
        assert_eq!((pair.ledger.lines.base(), pair.waiting()), (11, vec![11, 12, 13, 14, 15]));
    }

    #[test]
    fn a_server_is_waited_for_from_its_first_announcement_on() {
        let mut pair = Pair::new();
        // b is known before it has announced what it has heard. Another client of Redis removes the line from the stream.
        pair.say(1, "x");
        pair.redis_has(1);
        assert!(!pair.ledger.lines.are_done());
        assert_eq!(pair.b_has("1-0 a:1:1-1"), [told(1, "x", "bee")]);
        // Or b does not announce itself again.
        pair.say(2, "y");
        pair.redis_has(2);
        let gone: Vec<Told> = (0..12).flat_map(|_| pair.beat(false)).collect();
        assert_eq!(gone, [told(2, "y", "bee")]);
    }

    #[test]
    fn a_server_that_is_seen_late_was_meant_with_what_was_said_since_its_start() {
        let mut pair = Pair::alone();
        pair.say(1, "before");
        pair.redis_has(1);
        assert!(pair.ledger.lines.are_done());
        pair.pass(1);
        pair.uptime = 0;
        pair.pass(1);
        (2..=3).for_each(|author| assert!(pair.say(author, "since")));
        pair.redis_has(3);
        assert!(pair.ledger.lines.are_done());
        assert_eq!(pair.beat(true), []);
        assert!(!pair.ledger.lines.are_done());
        assert_eq!(pair.b_has("1-0 a:2:1-2"), [told(2, "since", "bee")]);
        let late: Vec<Told> = (0..32).flat_map(|_| pair.beat(true)).collect();
        assert_eq!(late, [told(3, "since", "bee")]);
    }

    #[test]
    fn a_line_that_has_arrived_is_not_told_because_one_before_it_waits_for_another_server() {
        let mut pair = Pair::new();
        pair.tell(1, "c", "x");
        pair.say(2, "y");
        pair.tell(3, "b", "z");
        pair.redis_has(3);
        pair.b_has("1-0 a:3");
        assert!(!pair.ledger.lines.are_done());
        assert_eq!(pair.ledger.lines.give_up(), [told(1, "@bob@bee x", "")]);
    }

    #[test]
    fn a_private_line_to_a_server_that_has_announced_itself_once_is_told() {
        for age in [1_000, 5_000] {
            let mut pair = Pair::alone();
            let shown = HashMap::from([("b".to_owned(), format!("{} 1 0 0 bee", 100_000 - age))]);
            let mut told_so_far = Vec::new();
            let mut look = |pair: &mut Pair| {
                pair.pass(1);
                told_so_far.extend(pair.ledger.look(&shown, 100_000, pair.now).1);
                told_so_far.extend(pair.ledger.settle(pair.now));
            };
            look(&mut pair);
            pair.tell(1, "b", "x");
            pair.redis_has(1);
            (0..12).for_each(|_| look(&mut pair));
            assert_eq!(told_so_far, [told(1, "@bob@bee x", "bee")], "{age}");
        }
    }

    #[test]
    fn the_last_acknowledgement_of_a_server_that_ends_has_gaps_as_well() {
        let mut pair = Pair::new();
        (1..=3).for_each(|author| assert!(pair.say(author, "x")));
        pair.redis_has(3);
        let gaps = pair.ledger.end("b", "1-0 a:2:1-1");
        assert_eq!(gaps, Some(vec![told(1, "x", "bee"), told(3, "x", "bee")]));
    }
}
