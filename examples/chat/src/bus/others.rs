//! The other servers: which are there, what they have heard, and their members.
//!
//! ```text
//! seen --beats--> live --10 s without a beat--> gone --beats--> live
//!                   +--its end is read--> ended
//! ```
//!
//! Only time in which this server could look is counted, so that nobody is gone because Redis was.

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
/// News of its members that are remembered of one server, until its next announcement: ten seconds of a crowd's arrival.
const NEWS: usize = 1_000;

/// The other servers, by their identifiers.
#[derive(Default)]
pub struct Others {
    servers: HashMap<String, Other>,
    looked: Option<Instant>,
}

/// Another server.
pub struct Other {
    /// Another one after each start.
    pub id: String,
    pub tag: String,
    /// It has all lines of this server up to this number.
    pub heard: u64,
    /// Whether it has said so yet.
    pub follows: bool,
    /// When it came, or came back.
    pub since: Instant,
    members: Vec<(Id, String)>,
    /// The number of its last line when it announced these members; none before the first.
    version: Option<u64>,
    /// What its later lines have said of its members: the number of the line, the member, and its name from now on.
    news: VecDeque<(u64, Id, Option<String>)>,
    /// Its last announcement counted so far. A Redis that has lost its last data shows an earlier one.
    beat: u64,
    /// For how long it has not changed.
    silent: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its first announcement that is seen is some seconds old: it may be the last of one that was killed.
    Seen,
    Live,
    Gone,
    Ended,
}

/// What a look has shown.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Servers whose members have changed.
    pub changed: Vec<String>,
    pub gone: Vec<String>,
    pub back: Vec<String>,
}

/// An announcement: `TIME BEAT VERSION NAME`. The version is that of the members.
struct Record {
    time: u64,
    beat: u64,
    version: u64,
    tag: String,
}

impl Others {
    /// Takes note of the announcements of all servers, at a time of Redis in ms.
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
            match other.state {
                State::Gone => {
                    looked.back.push(id.clone());
                    other.since = now;
                }
                State::Seen => other.since = now,
                _ => {}
            }
            other.state = State::Live;
            if other.version != Some(record.version) {
                looked.changed.push(id.clone());
            }
        }
        for (id, other) in &mut self.servers {
            other.silent += since_last.min(2 * BEAT);
            if other.silent > GONE && other.is_there() {
                // Nobody here has taken one for live that did not beat once.
                if other.state == State::Live {
                    looked.gone.push(id.clone());
                }
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
        let age = Duration::from_millis(time.saturating_sub(record.time));
        // One that was killed long ago has an announcement still.
        if age > GONE {
            return;
        }
        let state = if age < 2 * BEAT { State::Live } else { State::Seen };
        if self.add(id, record.tag, record.beat, state, now) {
            looked.changed.push(id.to_owned());
        }
    }

    /// A line of a server was read, which may be sooner than its announcement.
    pub fn meet(&mut self, id: &str, tag: &str, now: Instant) {
        if !self.servers.contains_key(id) {
            self.add(id, tag.to_owned(), 0, State::Live, now);
        }
    }

    fn add(&mut self, id: &str, tag: String, beat: u64, state: State, since: Instant) -> bool {
        if id.len() > ID_BYTES || self.servers.len() >= SERVERS {
            return false;
        }
        let other = Other {
            id: id.to_owned(),
            tag,
            heard: 0,
            follows: false,
            since,
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

    /// Takes note of a server's members, as it has announced them: the number of its last line then, and `ID:NAME` of each.
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
        // The later lines may have been read already.
        other.news.retain(|(number, ..)| *number > version);
        for (_, member, now) in other.news.clone() {
            other.call(member, now);
        }
    }

    /// Learns from news what a member is called from now on, until the next announcement of its server. None: it has left.
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

    /// Takes note of what the servers have heard of the lines of this one. Returns gaps, with the identifier of the server.
    pub fn hear_of<'a>(
        &mut self,
        own: &str,
        heard: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Vec<(Gap, String)> {
        let mut gaps = Vec::new();
        for (id, text) in heard {
            let Some(other) = self.servers.get_mut(id) else { continue };
            let (last, missing) = acknowledged(text, own).unwrap_or_default();
            // A Redis that has lost its last data shows less than it did; the other server has it nevertheless.
            other.heard = other.heard.max(last);
            other.follows = true;
            gaps.extend(missing.into_iter().map(|gap| (gap, id.to_owned())));
        }
        gaps
    }

    /// A server has ended.
    pub fn end(&mut self, id: &str) -> Option<&Other> {
        let other = self.servers.get_mut(id)?;
        let was_there = other.is_there();
        other.state = State::Ended;
        was_there.then_some(other)
    }

    pub fn get(&self, id: &str) -> Option<&Other> {
        self.servers.get(id)
    }

    /// All that are known, also those that are gone.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.servers.keys().map(|id| &**id)
    }

    /// The servers that are there.
    pub fn there(&self) -> impl Iterator<Item = &Other> {
        self.servers.values().filter(|other| other.is_there())
    }

    /// The servers that have to hear each line of this one.
    pub fn awaited(&self) -> impl Iterator<Item = &Other> {
        self.servers.values().filter(|other| other.state == State::Live && other.follows)
    }

    /// The name of a server that has to have a line, and had time enough.
    pub fn still_lacks(&self, line: &Line, now: Instant, patience: Duration) -> Option<&str> {
        let lacks = |other: &&Other| {
            other.heard < line.number && now.duration_since(other.since) > patience
        };
        match line.what.at() {
            None => self.awaited().find(lacks).map(|other| &*other.tag),
            Some(at) => match self.get(at) {
                Some(other) => Some(other).filter(lacks).map(|other| &*other.tag),
                // It was gone before.
                None => Some(""),
            },
        }
    }

    /// The server of a name. One that was killed, and started again under its name, is known twice for a while.
    pub fn named(&self, tag: &str) -> Option<&Other> {
        let folded = fold(tag);
        let named = self.there().filter(|other| fold(&other.tag) == folded);
        named.max_by_key(|other| other.since)
    }
}

impl Other {
    fn is_there(&self) -> bool {
        matches!(self.state, State::Seen | State::Live)
    }

    fn call(&mut self, member: Id, now: Option<String>) {
        self.members.retain(|(known, _)| *known != member);
        self.members.extend(now.map(|name| (member, name)));
    }

    /// Its members, as `name@server`.
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
        let mut words = text.splitn(4, ' ');
        let time = words.next()?.parse().ok()?;
        let beat = words.next()?.parse().ok()?;
        let version = words.next()?.parse().ok()?;
        let tag = clean(words.next()?.as_bytes());
        check_name(&tag).ok()?;
        Some(Self { time, beat, version, tag })
    }
}
