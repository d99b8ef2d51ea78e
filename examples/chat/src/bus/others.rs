//! The other servers: which are there, what they have heard, and their members.
//!
//! ```text
//! seen --beats--> live --10 s without a beat--> gone --beats--> live
//!                   +--its end is read--> ended
//! ```
//!
//! Only the time in which this server could look is counted, so that no server seems gone because Redis was away.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::heard::{Gap, acknowledged};
use super::lines::Line;
use super::{BEAT, GONE};
use crate::name::{check_name, fold};
use crate::protocol::clean;
use crate::room::Id;

/// Bounds for announcements, which may be false: servers, bytes of an identifier, members of all servers.
const SERVERS: usize = 1_000;
const ID_BYTES: usize = 64;
const MEMBERS: usize = 100_000;
/// How many news items about a server's members are remembered until its next announcement: those of ten seconds in which
/// a crowd arrives.
const NEWS: usize = 1_000;

/// The other servers, by their identifiers.
#[derive(Default)]
pub struct Others {
    servers: HashMap<String, Other>,
    looked: Option<Instant>,
}

/// Another server.
pub struct Other {
    /// The identifier of the server, which is new after each start.
    pub id: String,
    pub tag: String,
    /// The number up to which it has the lines of this server.
    pub heard: u64,
    /// When it started: lines that were said before are not for it. `None` until its first announcement is seen.
    start: Option<Instant>,
    /// When it came, or came back.
    pub since: Instant,
    /// Whether it was ever taken for live.
    pub was_live: bool,
    members: Vec<(Id, String)>,
    /// The number of its last line when it announced these members; `None` before the first announcement.
    version: Option<u64>,
    /// The news of its members in its later lines: the number of the line, the member, and its name from now on.
    news: VecDeque<(u64, Id, Option<String>)>,
    /// The number of its newest announcement so far. A Redis that has lost its newest data shows an older one, which is
    /// ignored.
    beat: u64,
    /// For how long `beat` has not changed.
    silent: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The first announcement that was seen is some seconds old: it may be the last one of a server that was killed.
    Seen,
    Live,
    Gone,
    Ended,
}

/// The result of a look at the announcements.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Servers whose members have changed.
    pub changed: Vec<String>,
    /// Servers that are waited for from now on, with all lines that were said since their starts.
    pub came: Vec<String>,
    pub gone: Vec<String>,
    /// Servers that were killed before this one looked for the first time.
    pub faded: Vec<String>,
    pub back: Vec<String>,
}

/// An announcement: `TIME BEAT VERSION UPTIME NAME`. The version is that of the members, and the times are in ms.
struct Record {
    time: u64,
    beat: u64,
    version: u64,
    uptime: u64,
    tag: String,
}

impl Others {
    /// Takes note of the announcements of all servers. `time` is the room's time in ms.
    pub fn look(&mut self, shown: &HashMap<String, String>, time: u64, now: Instant) -> Looked {
        let since_last = self.looked.map_or(Duration::ZERO, |then| now.duration_since(then));
        self.looked = Some(now);
        let mut looked = Looked::default();
        for (id, text) in shown {
            let Some(record) = Record::parse(text) else { continue };
            let Some(other) = self.servers.get_mut(id) else {
                self.see(id, record, time, now, &mut looked);
                continue;
            };
            if record.beat <= other.beat || other.state == State::Ended {
                continue;
            }
            other.beat = record.beat;
            other.silent = Duration::ZERO;
            if !other.was_live || other.start.is_none() {
                looked.came.push(id.clone());
            }
            // The earliest start counts, because a request that was delayed makes the server seem younger. An
            // announcement that seems old was made before Redis's clock was set, and says nothing of the start.
            let start = if record.age(time) > GONE { now } else { record.start(time, now) };
            other.start = Some(other.start.map_or(start, |known| known.min(start)));
            match other.state {
                State::Gone if other.was_live => {
                    looked.back.push(id.clone());
                    other.since = now;
                }
                State::Seen | State::Gone => other.since = now,
                _ => {}
            }
            (other.state, other.was_live) = (State::Live, true);
            if other.version != Some(record.version) {
                looked.changed.push(id.clone());
            }
        }
        for (id, other) in &mut self.servers {
            other.silent += since_last.min(2 * BEAT);
            if other.silent > GONE && other.is_there() {
                // A server that was only seen, and has not beaten since, was never taken for live here.
                let gone = if other.was_live { &mut looked.gone } else { &mut looked.faded };
                gone.push(id.clone());
                other.state = State::Gone;
            }
        }
        self.servers.retain(|id, other| {
            !matches!(other.state, State::Gone | State::Ended)
                || shown.contains_key(id)
                || other.silent < 2 * GONE
        });
        looked
    }

    fn see(&mut self, id: &str, record: Record, time: u64, now: Instant, looked: &mut Looked) {
        let age = record.age(time);
        // A server that was killed long ago still has an announcement.
        if age > GONE {
            return;
        }
        let state = if age < 2 * BEAT { State::Live } else { State::Seen };
        let start = Some(record.start(time, now));
        if self.add(id, record.tag, record.beat, state, start, now) {
            looked.changed.push(id.to_owned());
            looked.came.extend((state == State::Live).then(|| id.to_owned()));
        }
    }

    /// Notes that a line of a server was read, which may be sooner than its announcement.
    pub fn meet(&mut self, id: &str, tag: &str, now: Instant) {
        if !self.servers.contains_key(id) {
            self.add(id, tag.to_owned(), 0, State::Live, None, now);
        }
    }

    fn add(
        &mut self,
        id: &str,
        tag: String,
        beat: u64,
        state: State,
        start: Option<Instant>,
        since: Instant,
    ) -> bool {
        if id.len() > ID_BYTES || self.servers.len() >= SERVERS {
            return false;
        }
        let other = Other {
            id: id.to_owned(),
            tag,
            heard: 0,
            start,
            since,
            was_live: state == State::Live,
            members: Vec::new(),
            version: None,
            news: VecDeque::new(),
            beat,
            silent: Duration::ZERO,
            state,
        };
        self.servers.insert(id.to_owned(), other);
        true
    }

    /// Takes note of a server's members as it has announced them: `VERSION ID:NAME ID:NAME ..`, where the version is the
    /// number of its last line at that time.
    pub fn set_members(&mut self, id: &str, text: &str) {
        let all: usize = self.servers.values().map(|other| other.members.len()).sum();
        let Some(other) = self.servers.get_mut(id) else { return };
        let mut words = text.split(' ');
        let Some(version) = words.next().and_then(|word| word.parse().ok()) else { return };
        let room = MEMBERS.saturating_sub(all - other.members.len());
        let members = words.filter_map(|word| {
            let (id, name) = word.split_once(':')?;
            Some((id.parse().ok()?, name.to_owned())).filter(|_| check_name(name).is_ok())
        });
        other.members = members.take(room).collect();
        other.version = Some(version);
        // News from later lines may have been read already.
        other.news.retain(|(number, ..)| *number > version);
        for (_, member, now) in other.news.clone() {
            other.call(member, now);
        }
    }

    /// Learns from news what a member is called from now on, until the next announcement of its server. `now` is `None`
    /// if it has left.
    pub fn learn(&mut self, id: &str, number: u64, member: Id, now: Option<String>) {
        let all: usize = self.servers.values().map(|other| other.members.len()).sum();
        let Some(other) = self.servers.get_mut(id) else { return };
        if all >= MEMBERS {
            return;
        }
        if other.news.len() >= NEWS {
            other.news.pop_front();
        }
        other.news.push_back((number, member, now.clone()));
        other.call(member, now);
    }

    /// Notes which of this server's lines the others have heard. Returns the gaps, each with the identifier of the server that
    /// missed those lines.
    pub fn hear_of<'a>(
        &mut self,
        own: &str,
        heard: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Vec<(Gap, String)> {
        let mut gaps = Vec::new();
        for (id, text) in heard {
            let Some(other) = self.servers.get_mut(id) else { continue };
            let (last, missing) = acknowledged(text, own).unwrap_or_default();
            // A Redis that has lost its newest data shows less than before; the other server has the lines nevertheless.
            other.heard = other.heard.max(last);
            gaps.extend(missing.into_iter().map(|gap| (gap, id.to_owned())));
        }
        gaps
    }

    /// Notes that a server has ended. Returns it if it was there.
    pub fn end(&mut self, id: &str) -> Option<&Other> {
        let other = self.servers.get_mut(id)?;
        let was_there = other.is_there();
        other.state = State::Ended;
        was_there.then_some(other)
    }

    pub fn get(&self, id: &str) -> Option<&Other> {
        self.servers.get(id)
    }

    /// The identifiers of all servers that are known, also of those that are gone.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.servers.keys().map(|id| &**id)
    }

    /// The servers that are there, which are neither gone nor ended.
    pub fn there(&self) -> impl Iterator<Item = &Other> {
        self.servers.values().filter(|other| other.is_there())
    }

    /// The servers that have to hear what was said since their starts, each from its first announcement on.
    fn awaited(&self) -> impl Iterator<Item = &Other> {
        self.servers.values().filter(|other| other.state == State::Live)
    }

    /// Whether a server has to hear lines of this one.
    pub fn awaits(&self, id: &str) -> bool {
        self.get(id).is_some_and(|other| other.state == State::Live)
    }

    /// Whether all servers that have to hear a line have it.
    pub fn all_have(&self, line: &Line) -> bool {
        let has = |other: &Other| {
            other.heard >= line.number || other.start.is_some_and(|start| line.said < start)
        };
        self.awaited().all(has)
    }

    /// Whether a server has the lines up to this number.
    pub fn has(&self, id: &str, number: u64) -> bool {
        self.get(id).is_some_and(|other| other.heard >= number)
    }

    /// The name of a server that should have a line by now, and does not; empty if the server of a private line is not
    /// known any more.
    pub fn still_lacks(&self, line: &Line, now: Instant, patience: Duration) -> Option<&str> {
        let lacks = |other: &&Other| {
            other.heard < line.number && now.duration_since(other.since) > patience
        };
        match line.what.at() {
            None => self
                .awaited()
                .filter(|other| other.was_up(line))
                .find(lacks)
                .map(|other| &*other.tag),
            Some(at) => match self.get(at) {
                Some(other) => Some(other).filter(lacks).map(|other| &*other.tag),
                // The server is not known any more.
                None => Some(""),
            },
        }
    }

    /// The server with this name. A server that was killed, and started again under its name, is known twice for a while:
    /// then this is the later one.
    pub fn named(&self, tag: &str) -> Option<&Other> {
        let folded = fold(tag);
        let named = self.there().filter(|other| fold(&other.tag) == folded);
        named.max_by_key(|other| other.since)
    }
}

impl Other {
    /// Whether the server is known to have been up when a line was said.
    pub fn was_up(&self, line: &Line) -> bool {
        self.start.is_some_and(|start| start <= line.said)
    }

    fn is_there(&self) -> bool {
        matches!(self.state, State::Seen | State::Live)
    }

    fn call(&mut self, member: Id, now: Option<String>) {
        self.members.retain(|(known, _)| *known != member);
        self.members.extend(now.map(|name| (member, name)));
    }

    /// The members of the server, as `name@server`.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.members.iter().map(|(_, name)| format!("{name}@{}", self.tag))
    }

    /// A member by its name.
    pub fn member(&self, name: &str) -> Option<(Id, &str)> {
        let folded = fold(name);
        let mut members = self.members.iter();
        members.find(|(_, name)| fold(name) == folded).map(|(id, name)| (*id, &**name))
    }
}

impl Record {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(5, ' ');
        let mut number = || words.next()?.parse().ok();
        let (time, beat, version, uptime) = (number()?, number()?, number()?, number()?);
        let tag = clean(words.next()?.as_bytes());
        check_name(&tag).ok()?;
        Some(Self { time, beat, version, uptime, tag })
    }

    /// The age of the announcement when the room's time is `time`.
    fn age(&self, time: u64) -> Duration {
        Duration::from_millis(time.saturating_sub(self.time))
    }

    /// When its server started. `time` is the room's time at the moment `now`.
    fn start(&self, time: u64, now: Instant) -> Instant {
        let up = Duration::from_millis(self.uptime).saturating_add(self.age(time));
        now.checked_sub(up).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(others: &mut Others, beat: u64, at: Instant) -> Looked {
        let shown = HashMap::from([("b".to_owned(), format!("100000 {beat} 3 0 bee"))]);
        others.look(&shown, 100_000, at)
    }

    #[test]
    fn a_server_is_gone_when_it_was_looked_for_and_did_not_beat() {
        let (mut others, start) = (Others::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(look(&mut others, 1, start).changed, ["b"]);
        // For a minute this server could not look.
        assert_eq!(look(&mut others, 1, after(60)).gone, [""; 0]);
        let gone: Vec<_> = (61..80).flat_map(|at| look(&mut others, 1, after(at)).gone).collect();
        assert_eq!(gone, ["b"]);
        assert_eq!(others.there().count(), 0);
        // A Redis that has lost its last data shows an earlier announcement.
        assert_eq!(look(&mut others, 0, after(80)), Looked::default());
        assert_eq!(look(&mut others, 2, after(81)).back, ["b"]);
        assert_eq!(others.there().count(), 1);
        assert!(others.end("b").is_some() && others.end("b").is_none());
        assert_eq!(look(&mut others, 3, after(82)), Looked::default());
    }

    #[test]
    fn one_that_was_killed_before_this_server_started_is_not_awaited() {
        let (mut others, now) = (Others::default(), Instant::now());
        let shown = |time: u64| HashMap::from([("b".to_owned(), format!("{time} 1 3 0 bee"))]);
        // Its last announcement is first a minute old, and then a few seconds.
        others.look(&shown(40_000), 100_000, now);
        assert_eq!(others.there().count(), 0);
        others.look(&shown(95_000), 100_000, now);
        others.hear_of("a", [("b", "1-0 a:1")]);
        assert_eq!((others.there().count(), others.awaited().count()), (1, 0));
    }

    #[test]
    fn the_start_of_a_server_is_known_by_its_announcements_and_not_by_a_clock_that_was_set() {
        let (mut others, zero) = (Others::default(), Instant::now());
        let after = |seconds| zero + Duration::from_secs(seconds);
        let record = |words: &str| HashMap::from([("b".to_owned(), format!("{words} bee"))]);
        others.meet("b", "bee", after(100));
        others.look(&record("500000 7 3 7000"), 501_000, after(100));
        assert_eq!(others.get("b").unwrap().start, Some(after(92)));
        // One announcement was delayed on its way, and before the next look the clock is set.
        others.look(&record("504000 8 3 8000"), 504_000, after(103));
        others.look(&record("505000 9 3 12000"), 4_105_000, after(104));
        assert_eq!(others.get("b").unwrap().start, Some(after(92)));
        others.look(&record("4106000 10 3 14000"), 4_106_000, after(105));
        assert_eq!(others.get("b").unwrap().start, Some(after(91)));
    }

    #[test]
    fn members_are_those_of_the_announcement_and_of_later_news() {
        let (mut others, now) = (Others::default(), Instant::now());
        look(&mut others, 1, now);
        others.learn("b", 4, 7, Some("old".to_owned()));
        others.learn("b", 6, 8, Some("carol".to_owned()));
        others.learn("b", 7, 9, None);
        others.set_members("b", "5 7:bob 9:dave 10:\u{202e}mallory x:y");
        let bee = others.named("BEE").unwrap();
        assert_eq!(bee.names().collect::<Vec<_>>(), ["bob@bee", "carol@bee"]);
        assert_eq!(bee.member("BOB"), Some((7, "bob")));
    }

    #[test]
    fn false_announcements_are_bounded() {
        let (mut others, now) = (Others::default(), Instant::now());
        let long = "x".repeat(ID_BYTES + 1);
        let ids = (0..2 * SERVERS).map(|id| id.to_string()).chain([long]);
        let shown = ids.map(|id| (id, "0 1 1 1 evil".to_owned())).collect();
        others.look(&shown, 0, now);
        assert_eq!(others.there().count(), SERVERS);
        for text in ["", "x", "0 1 1 evil", "0 1 1 1 \u{1b}[2J", "-1 1 1 1 evil"] {
            assert!(Record::parse(text).is_none(), "{text}");
        }
    }
}
