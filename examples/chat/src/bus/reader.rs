//! The reader: lines and members of the other servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use redis::RedisResult;

use super::BEAT;
use super::entry::{Entry, What};
use super::heard::{Gap, Heard, Number};
use super::link::{Link, Report, Side};
use super::others::Other;
use super::queue::{HeardUpTo, Queue, State};
use super::store::{Seen, Store};
use crate::name::check_name;
use crate::protocol::{Kind, listed, quoted};
use crate::room::Room;

/// Entries of one read: 6,000 a second over a line of 400 ms.
const BATCH: usize = 2_500;
/// Before the first entry of a stream.
const BEGINNING: &str = "0-0";
/// A server that starts reads the stream from so long before its start, in ms: the entries have the times of their writing.
const BEFORE: u64 = 5_000;

pub struct Reader {
    link: Link,
    queue: Arc<Queue>,
    room: Room,
    heard: Heard,
    started: Instant,
    /// When this server started, by Redis's clock in ms.
    start: u64,
    /// The last entry that was read. None until Redis was reached for the first time.
    place: Option<String>,
    /// The run of Redis in which it was read.
    run: String,
    /// The end of the stream at the last look.
    end: String,
    /// The end of the stream, and the numbers of the lines up to it, when this server first looked; until it has read so far.
    first: Option<(String, HashMap<String, u64>)>,
    /// Lines are missing, and the stream is read once more.
    searches: bool,
}

impl Reader {
    pub fn new(link: &Link, queue: &Arc<Queue>, room: &Room) -> Self {
        Self {
            link: link.clone(),
            queue: Arc::clone(queue),
            room: room.clone(),
            heard: Heard::default(),
            started: Instant::now(),
            start: 0,
            place: None,
            run: String::new(),
            end: String::new(),
            first: None,
            searches: false,
        }
    }

    pub fn run(mut self) {
        let link = self.link.clone();
        link.keep(Side::Reader, |store, report| self.read(store, report), || {});
    }

    /// Reads until a failure or the end.
    fn read(&mut self, store: &mut Store, report: &Report<'_>) -> RedisResult<()> {
        let seen = store.look()?;
        // A Redis that hides its run may have been restarted each time.
        if self.place.is_none() || self.run != store.run || store.run.is_empty() {
            self.run.clone_from(&store.run);
            self.start = seen.time.saturating_sub(self.started.elapsed().as_millis() as u64);
            // Another Redis, or the same one after a restart, may not have all that was read. Lines that it has are recognised.
            let before = self.start.saturating_sub(seen.offset).saturating_sub(BEFORE);
            let before = format!("{before}-0");
            self.place = Some(match &self.place {
                Some(_) => BEGINNING.to_owned(),
                None if order(&seen.end) < order(&before) => seen.end.clone(),
                None => before,
            });
            if self.queue.heard_nothing() {
                self.first = Some((seen.end.clone(), seen.last.clone()));
            }
        }
        self.look(store, seen)?;
        let mut looked = Instant::now();
        while !self.queue.is_done() {
            if looked.elapsed() >= BEAT {
                self.link.check_runs()?;
                let seen = store.look()?;
                self.look(store, seen)?;
                looked = Instant::now();
            }
            report(Ok(()));
            let place = self.place.as_deref().unwrap_or(BEGINNING);
            let time = BEAT.saturating_sub(looked.elapsed());
            let entries = store.read(place, BATCH, time)?;
            if entries.is_empty() && order(place) < order(&self.end) {
                // The entries up to the end that was seen before are gone.
                self.place = Some(self.end.clone());
            }
            for (id, fields) in entries {
                if let Some(entry) = Entry::from_fields(&fields) {
                    self.hold_back();
                    self.hear(entry);
                }
                self.place = Some(id);
            }
            self.acknowledge();
        }
        Ok(())
    }

    /// Tells the others what was read.
    fn acknowledge(&mut self) {
        let Some(place) = &self.place else { return };
        if let Some((_, last)) = self.first.take_if(|(end, _)| order(end) <= order(place)) {
            self.heard.has_read_up_to(last.iter().map(|(id, last)| (&**id, *last)));
        }
        if self.first.is_none() {
            let servers = self.queue.servers();
            let numbers = self.heard.acknowledgements(servers.iter().map(|id| &**id));
            let (run, place) = (self.run.clone(), place.clone());
            self.queue.set_heard(HeardUpTo { run, place, numbers });
        }
    }

    /// Waits while the members here have not taken what was shown before: a burst is held back here, in bounded time.
    fn hold_back(&mut self) {
        while !self.room.wait_for_outboxes(BEAT) {
            self.acknowledge();
        }
    }

    fn hear(&mut self, Entry { server, tag, number, said, what }: Entry) {
        if server == self.queue.server() || check_name(&tag).is_err() {
            return;
        }
        match self.heard.hear(&server, number) {
            Number::Again => return,
            Number::After(gap) => self.miss(&tag, gap),
            Number::New => {}
        }
        if let What::End { heard } = what {
            return self.end(&server, &heard);
        }
        // A line from before the start of this server is history.
        if said < self.start {
            return;
        }
        self.queue.lock().others.meet(&server, &tag, Instant::now());
        match what {
            What::Say { name, text } => {
                self.room.hear(Kind::Said, &format!("{name}@{tag}: {text}\n"));
            }
            What::News { member, name, text, now } => {
                let now = now.filter(|now| check_name(now).is_ok());
                self.queue.lock().others.learn(&server, number, member, now);
                self.room.hear(Kind::News, &format!("* {name}@{tag} {text}\n"));
            }
            What::Tell { from, name, to, shown, at, text } if at == self.queue.server() => {
                let line = format!("{name}@{tag} -> {shown}: {text}\n");
                if !self.room.hear_private(to, Kind::Said, &line) {
                    let here = self.queue.tag();
                    let text = format!("{shown}@{here} is not there any more: {}", quoted(&text));
                    self.queue.push(None, What::Note { to: from, at: server, text });
                }
            }
            // The author may have left meanwhile.
            What::Note { to, at, text } if at == self.queue.server() => self.room.note(to, &text),
            What::Tell { .. } | What::Note { .. } | What::End { .. } => {}
        }
    }

    /// Says that lines of a server did not arrive. It learns that by the acknowledgements.
    fn miss(&self, tag: &str, Gap { from, to }: Gap) {
        let lines = match to - from {
            0 => "a line of the server".to_owned(),
            more => format!("{} lines of the server", more + 1),
        };
        let is = if to == from { "is" } else { "are" };
        self.room.hear(Kind::News, &format!("* {lines} {tag} {is} missing here\n"));
    }

    /// Looks at the room: who is there, and whether all lines were read.
    fn look(&mut self, store: &mut Store, mut seen: Seen) -> RedisResult<()> {
        seen.servers.remove(self.queue.server());
        seen.last.remove(self.queue.server());
        let looked = self.queue.lock().others.look(&seen.servers, seen.time, Instant::now());
        for id in looked.changed {
            let members = store.members_of(&id)?;
            self.queue.lock().others.set_members(&id, &members);
        }
        for id in looked.gone {
            self.forget(&id, "is not heard of any more");
        }
        for id in looked.back {
            let state = self.queue.lock();
            let line = state.others.get(&id).map(|other| about(other, "is back"));
            drop(state);
            self.room.hear(Kind::News, &line.unwrap_or_default());
        }
        self.check_place(&seen);
        Ok(())
    }

    /// Compares the stream with what was read of it.
    fn check_place(&mut self, seen: &Seen) {
        self.end.clone_from(&seen.end);
        let Some(place) = &self.place else { return };
        let numbers = || seen.last.iter().map(|(id, last)| (&**id, *last));
        if order(place) > order(&seen.end) {
            // It has lost its last entries, and what is written now may come before the place.
            if self.first.is_some() {
                self.first = Some((seen.end.clone(), seen.last.clone()));
            } else if place != BEGINNING {
                self.place = Some(BEGINNING.to_owned());
            }
        } else if order(place) == order(&seen.end) && self.first.is_none() {
            if self.heard.is_up_to(numbers()) {
                self.searches = false;
            } else if !std::mem::replace(&mut self.searches, true) {
                self.place = Some(BEGINNING.to_owned());
            } else {
                self.searches = false;
                for (id, gap) in self.heard.has_read_up_to(numbers()) {
                    let state = self.queue.lock();
                    let tag = state.others.get(id).map(|other| other.tag.clone());
                    drop(state);
                    self.miss(&tag.unwrap_or_default(), gap);
                }
            }
        }
    }

    fn end(&self, server: &str, heard: &str) {
        let mut state = self.queue.lock();
        state.others.hear_of(self.queue.server(), [(server, heard)]);
        drop(state);
        self.forget(server, "has ended");
    }

    fn forget(&self, server: &str, why: &str) {
        let mut state = self.queue.lock();
        let State { lines, others, .. } = &mut *state;
        let other = if why == "has ended" { others.end(server) } else { others.get(server) };
        let Some(other) = other else { return };
        let (told, line) = (lines.lose(other), about(other, why));
        drop(state);
        self.room.hear(Kind::News, &line);
        self.link.tell(&told);
    }
}

/// News of a server and its members.
fn about(other: &Other, what: &str) -> String {
    let members: Vec<String> = other.names().collect();
    match &members[..] {
        [] => format!("* the server {} {what}\n", other.tag),
        members => format!("* the server {} {what}, and with it {}\n", other.tag, listed(members)),
    }
}

/// An identifier as two growing numbers: milliseconds, and a counter within them.
fn order(id: &str) -> Option<(u64, u64)> {
    let (time, number) = id.split_once('-')?;
    Some((time.parse().ok()?, number.parse().ok()?))
}
