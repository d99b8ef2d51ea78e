//! The reader: shows the lines of the other servers here, and watches which servers and members are there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::RedisResult;

use super::BEAT;
use super::entry::{Entry, What};
use super::heard::{Gap, Number};
use super::link::{Link, Report, Side, name_is_taken};
use super::others::Other;
use super::place::{Place, Seen};
use super::queue::Queue;
use super::store::Store;
use crate::name::{check_name, fold};
use crate::protocol::{Kind, listed, quoted};
use crate::room::Room;

/// The most entries of one read: over a link with a round trip of 400 ms that is 6,000 a second.
const BATCH: usize = 2_500;

/// How many servers get a line each after one look; the others are counted in one line. A false Redis may announce a
/// thousand servers that never existed.
const SINGLY: usize = 10;
/// The most bytes of names in the news of a server: a hundred members with ordinary names.
const NAMED: usize = 2 * 1024;

pub struct Reader {
    link: Link,
    queue: Arc<Queue>,
    room: Room,
    place: Place,
}

impl Reader {
    pub fn new(link: &Link, queue: &Arc<Queue>, room: &Room) -> Self {
        let (link, queue, room) = (link.clone(), Arc::clone(queue), room.clone());
        Self { link, queue, room, place: Place::default() }
    }

    pub fn run(mut self) {
        let link = self.link.clone();
        link.keep(Side::Reader, |store, report| self.read(store, report));
    }

    /// Reads until a failure or the end.
    fn read(&mut self, store: &mut Store, report: &Report<'_>) -> RedisResult<()> {
        let Some(seen) = self.first_look(store)? else { return Ok(()) };
        self.place.connect(&store.run, &seen, self.queue.uptime());
        self.look(store, seen)?;
        let mut looked = Instant::now();
        while !self.queue.is_done() {
            if looked.elapsed() >= BEAT {
                self.link.check_runs()?;
                self.look_again(store)?;
                looked = Instant::now();
            }
            report(Ok(()));
            let time = BEAT.saturating_sub(looked.elapsed());
            let entries = store.read(self.place.at(), BATCH, time)?;
            if entries.is_empty() {
                self.place.nothing_follows();
            }
            if looked.elapsed() > 2 * BEAT {
                // This process was stopped, and another server may have this one's name by now.
                self.look_again(store)?;
                looked = Instant::now();
            }
            for (id, fields) in entries {
                if let Some(entry) = Entry::from_fields(&fields) {
                    self.hold_back();
                    self.hear(entry);
                }
                self.place.pass(id);
            }
            self.acknowledge();
        }
        Ok(())
    }

    /// Waits until this server has its name, which the writer takes, and looks at the room. Returns `None` if this server
    /// stops first.
    fn first_look(&self, store: &mut Store) -> RedisResult<Option<Seen>> {
        let mut pause = Duration::from_millis(25);
        loop {
            let seen = store.look(&fold(self.queue.tag()))?;
            self.check_name_of(&seen)?;
            if seen.holder == self.queue.server() {
                return Ok(Some(seen));
            }
            if self.queue.is_closing() {
                return Ok(None);
            }
            pause = BEAT.min(pause * 2);
            self.queue.pause(pause);
        }
    }

    fn look_again(&mut self, store: &mut Store) -> RedisResult<()> {
        let seen = store.look(&fold(self.queue.tag()))?;
        self.check_name_of(&seen)?;
        self.look(store, seen)
    }

    /// Fails if another server has this one's name: this one is then left out of the room.
    fn check_name_of(&self, seen: &Seen) -> RedisResult<()> {
        if seen.holder.is_empty() || seen.holder == self.queue.server() {
            return Ok(());
        }
        Err(name_is_taken(self.queue.tag()))
    }

    /// Hands to the writer what was read, so that it tells the others.
    fn acknowledge(&mut self) {
        let servers = self.queue.servers();
        if let Some(heard) = self.place.heard(servers.iter().map(|id| &**id)) {
            self.queue.set_heard(heard);
        }
    }

    /// Waits while the members here have not taken what was shown before: so a burst is held back, for a bounded time.
    fn hold_back(&mut self) {
        while !self.room.wait_for_outboxes(BEAT) {
            self.acknowledge();
        }
    }

    fn hear(&mut self, Entry { server, tag, number, said, what }: Entry) {
        if server == self.queue.server() || check_name(&tag).is_err() {
            return;
        }
        let (news, is_history) = self.place.hear(&server, number, said);
        match news {
            Number::Again => return,
            Number::After(gap) => self.miss(Some(&tag), gap),
            Number::New => {}
        }
        if let What::End { heard } = what {
            return self.end(&server, &heard);
        }
        if is_history {
            return;
        }
        self.queue.lock().ledger.others.meet(&server, &tag, Instant::now());
        match what {
            What::Say { name, text } => {
                self.room.hear(Kind::Said, &format!("{name}@{tag}: {text}\n"));
            }
            What::News { member, name, text, now } => {
                let now = now.filter(|now| check_name(now).is_ok());
                self.queue.lock().ledger.others.learn(&server, number, member, now);
                self.room.hear(Kind::News, &format!("* {name}@{tag} {text}\n"));
            }
            What::Tell { from, name, to, shown, at, text, .. } if at == self.queue.server() => {
                let line = format!("{name}@{tag} -> {shown}: {text}\n");
                if !self.room.hear_private(to, Kind::Said, &line) {
                    let here = self.queue.tag();
                    let line = quoted(&format!("@{shown}@{here} {text}"));
                    let text = format!("{shown}@{here} is not there any more: {line}");
                    self.queue.push(None, What::Note { to: from, at: server, text });
                }
            }
            // The author may have left.
            What::Note { to, at, text } if at == self.queue.server() => self.room.note(to, &text),
            What::Tell { .. } | What::Note { .. } | What::End { .. } => {}
        }
    }

    /// Says that lines of a server did not arrive. That server learns it from the acknowledgements.
    fn miss(&self, tag: Option<&str>, Gap { from, to }: Gap) {
        let server = match tag {
            Some(tag) => format!("the server {tag}"),
            // The server is not known any more.
            None => "another server".to_owned(),
        };
        let lines = match to - from {
            0 => format!("a line of {server}"),
            more => format!("{} lines of {server}", more + 1),
        };
        let is = if to == from { "is" } else { "are" };
        self.room.hear(Kind::News, &format!("* {lines} {is} missing here\n"));
    }

    /// Looks at the room: who is there, and whether all lines were read.
    fn look(&mut self, store: &mut Store, mut seen: Seen) -> RedisResult<()> {
        seen.servers.remove(self.queue.server());
        seen.last.remove(self.queue.server());
        let (looked, told) =
            self.queue.lock().ledger.look(&seen.servers, seen.time, Instant::now());
        for id in looked.changed {
            let members = store.members_of(&id)?;
            self.queue.lock().ledger.others.set_members(&id, &members);
        }
        self.tell_of(&looked.gone, ["is", "are"], "not heard of any more");
        self.tell_of(&looked.back, ["is", "are"], "back");
        self.link.tell(&told);
        let gaps = self.place.look(&seen);
        let more = gaps.len().saturating_sub(SINGLY);
        for (id, gap) in gaps.into_iter().take(SINGLY) {
            let state = self.queue.lock();
            let tag = state.ledger.others.get(&id).map(|other| other.tag.clone());
            drop(state);
            self.miss(tag.as_deref(), gap);
        }
        if more > 0 {
            self.room
                .hear(Kind::News, &format!("* lines of {more} more servers are missing here\n"));
        }
        Ok(())
    }

    /// Tells the members here what has become of servers. The first ones are named, and the others are counted.
    fn tell_of(&self, servers: &[String], [one_is, they_are]: [&str; 2], what: &str) {
        for id in servers.iter().take(SINGLY) {
            let state = self.queue.lock();
            let line = state.ledger.others.get(id).map(|it| about(it, &format!("{one_is} {what}")));
            drop(state);
            self.room.hear(Kind::News, &line.unwrap_or_default());
        }
        let line = match servers.len().saturating_sub(SINGLY) {
            0 => return,
            1 => format!("* 1 more server {one_is} {what}\n"),
            more => format!("* {more} more servers {they_are} {what}\n"),
        };
        self.room.hear(Kind::News, &line);
    }

    fn end(&self, server: &str, heard: &str) {
        let mut state = self.queue.lock();
        let Some(told) = state.ledger.end(server, heard) else { return };
        let line = state.ledger.others.get(server).map(|other| about(other, "has ended"));
        drop(state);
        self.room.hear(Kind::News, &line.unwrap_or_default());
        self.link.tell(&told);
    }
}

/// News of a server and its members.
fn about(other: &Other, what: &str) -> String {
    let members: Vec<String> = other.names().collect();
    match &members[..] {
        [] => format!("* the server {} {what}\n", other.tag),
        members => {
            let members = listed(members, NAMED);
            format!("* the server {} {what}, and with it {members}\n", other.tag)
        }
    }
}
