//! The writer: appends the lines of this server to the stream, and announces its members.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{RedisResult, cmd};

use super::BEAT;
use super::entry::Entry;
use super::link::{Link, Place, Side};
use super::queue::Queue;
use super::wire::Wire;
use crate::room::Room;

/// Entries of one write.
const BATCH: usize = 64;

pub struct Writer {
    link: Link,
    queue: Arc<Queue>,
    room: Room,
    place: Place,
    beats: u64,
    /// About how many entries the stream keeps.
    length: usize,
}

impl Writer {
    pub fn new(link: &Link, queue: &Arc<Queue>, room: &Room, length: usize) -> Self {
        let (link, queue, room) = (link.clone(), Arc::clone(queue), room.clone());
        Self { link, queue, room, place: Place::default(), beats: 0, length }
    }

    pub fn run(mut self) {
        let (link, queue, room) = (self.link.clone(), Arc::clone(&self.queue), self.room.clone());
        let give_up = || {
            for who in queue.give_up() {
                room.note(who, "a line of yours may not have reached the other servers");
            }
        };
        link.keep(Side::Writer, |connection, works| self.write(connection, works), give_up);
    }

    /// Writes until a failure, or until the closed queue is empty.
    fn write(&mut self, connection: &mut Wire, works: &dyn Fn()) -> RedisResult<()> {
        if !self.place.is_kept(connection, &self.link.stream())? {
            self.queue.write_again();
        }
        let mut next_beat = Instant::now();
        loop {
            if Instant::now() >= next_beat {
                self.beat(connection)?;
                if self.place.is_ahead(connection, &self.link.stream())? {
                    self.place.last.clear();
                    self.queue.write_again();
                }
                next_beat = Instant::now() + BEAT;
            }
            // A Redis that accepts announcements and no entries (its memory is full, say) counts as lost.
            if !self.queue.is_waiting() {
                works();
            }
            let until_beat = next_beat.saturating_duration_since(Instant::now());
            let entries = self.queue.next(BATCH, until_beat.max(Duration::from_millis(1)));
            if entries.is_empty() {
                if self.queue.is_closing() {
                    return self.leave(connection);
                }
                continue;
            }
            self.place.last = self.append(connection, &entries)?;
            self.queue.confirm(entries);
            works();
        }
    }

    /// Returns the identifier of the last one.
    fn append(&self, connection: &mut Wire, entries: &[Entry]) -> RedisResult<String> {
        let stream = self.link.stream();
        let mut pipe = redis::pipe();
        for entry in entries {
            pipe.cmd("XADD").arg(&stream).arg("MAXLEN").arg("~").arg(self.length).arg("*");
            for (field, value) in entry.to_fields() {
                pipe.arg(field).arg(value);
            }
        }
        let ids: Vec<String> = pipe.query(connection)?;
        Ok(ids.into_iter().next_back().unwrap_or_default())
    }

    /// Announces this server and its members.
    fn beat(&mut self, connection: &mut Wire) -> RedisResult<()> {
        self.beats += 1;
        let members = self.room.names().into_iter().map(|(id, name)| format!("{id}:{name}"));
        let members = members.collect::<Vec<_>>().join(" ");
        let shown = format!("{}\n{}\n{members}", self.beats, self.queue.tag());
        let servers = self.link.servers();
        cmd("HSET").arg(servers).arg(self.queue.server()).arg(shown).exec(connection)
    }

    fn leave(&self, connection: &mut Wire) -> RedisResult<()> {
        cmd("HDEL").arg(self.link.servers()).arg(self.queue.server()).exec(connection)
    }
}
