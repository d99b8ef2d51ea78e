//! The reader: lines and members of the other servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use redis::{RedisResult, cmd};

use super::entry::{Entry, Fields, Heard, What};
use super::link::{Link, Place, Side};
use super::queue::Queue;
use super::wire::Wire;
use super::{BEAT, GONE, Server, Servers};
use crate::name::{check_name, fold};
use crate::protocol::{Kind, clean, listed, quoted};
use crate::room::Room;

/// Entries of one read.
const BATCH: usize = 256;
/// Bounds for announcements, which may be false: servers, bytes of a server's name, and members' names of all servers.
const SERVERS: usize = 1_000;
const SERVER_BYTES: usize = 64;
const NAMES: usize = 100_000;
/// Before the first entry of a stream.
const BEGINNING: &str = "0-0";

pub struct Reader {
    link: Link,
    queue: Arc<Queue>,
    room: Room,
    servers: Servers,
    heard: Heard,
    /// None until Redis was reached for the first time.
    place: Option<Place>,
    /// Another server has this one's name; said once.
    has_namesake: bool,
}

/// The answer of `XREAD`: streams with their entries; none if there are no entries.
type Answer = Option<Vec<(String, Vec<(String, Fields)>)>>;

impl Reader {
    pub fn new(link: &Link, queue: &Arc<Queue>, room: &Room, servers: Servers) -> Self {
        let (link, queue, room) = (link.clone(), Arc::clone(queue), room.clone());
        let heard = Heard::default();
        Self { link, queue, room, servers, heard, place: None, has_namesake: false }
    }

    pub fn run(mut self) {
        let link = self.link.clone();
        link.keep(Side::Reader, |connection, works| self.read(connection, works), || {});
    }

    /// Reads until a failure or the end.
    fn read(&mut self, connection: &mut Wire, works: &dyn Fn()) -> RedisResult<()> {
        let stream = self.link.stream();
        let mut place = match self.place.clone() {
            // Lines from before the start of this server are not shown.
            None => Place::end_of(connection, &stream)?,
            Some(mut place) => {
                if !place.is_kept(connection, &stream)? {
                    // Entries that it has read already are recognised by their numbers.
                    place.last.clear();
                }
                place
            }
        };
        self.place = Some(place.clone());
        let mut next_look = Instant::now();
        while !self.queue.is_closing() {
            if Instant::now() >= next_look {
                self.look_who_is_there(connection)?;
                if place.is_ahead(connection, &stream)? {
                    // Entries that it has read already are recognised by their numbers.
                    place.last.clear();
                }
                next_look = Instant::now() + BEAT;
            }
            works();
            let from = if place.last.is_empty() { BEGINNING } else { &place.last };
            let answer: Answer = cmd("XREAD")
                .arg("COUNT")
                .arg(BATCH)
                .arg("BLOCK")
                .arg(BEAT.as_millis() as u64)
                .arg("STREAMS")
                .arg(&stream)
                .arg(from)
                .query(connection)?;
            // What comes in a burst is held back here.
            self.room.wait_for_outboxes(BEAT);
            for (id, fields) in answer.into_iter().flatten().flat_map(|(_, entries)| entries) {
                if let Some(entry) = Entry::from_fields(&fields) {
                    self.hear(entry);
                }
                place.last = id;
            }
            self.place = Some(place.clone());
        }
        Ok(())
    }

    fn hear(&mut self, Entry { server, tag, number, what }: Entry) {
        let ours = server == self.queue.server();
        if ours || !self.heard.is_new(&server, number) || check_name(&tag).is_err() {
            return;
        }
        match what {
            What::Say { name, text } => {
                self.room.hear(Kind::Said, &format!("{name}@{tag}: {text}\n"));
            }
            What::News { member, name, text, now } => {
                let now = now.filter(|now| check_name(now).is_ok());
                if let Some(server) = self.servers.lock().get_mut(&server) {
                    server.learn(member, now);
                }
                self.room.hear(Kind::News, &format!("* {name}@{tag} {text}\n"));
            }
            What::Tell { from, name, to, shown, at, text } if at == self.queue.server() => {
                let line = format!("{name}@{tag} -> {shown}: {text}\n");
                if !self.room.hear_private(to, Kind::Said, &line) {
                    let text = format!(
                        "{shown}@{} is not there any more: {}",
                        self.queue.tag(),
                        quoted(&text)
                    );
                    self.queue.push(None, What::Note { to: from, at: server, text });
                }
            }
            // The author may have left meanwhile.
            What::Note { to, at, text } if at == self.queue.server() => self.room.note(to, &text),
            What::Tell { .. } | What::Note { .. } => {}
            What::End => self.forget(&server, "has ended"),
        }
    }

    fn look_who_is_there(&mut self, connection: &mut Wire) -> RedisResult<()> {
        let shown: HashMap<String, Vec<u8>> =
            cmd("HGETALL").arg(self.link.servers()).query(connection)?;
        let mut servers = self.servers.lock();
        let mut room =
            NAMES - servers.values().map(|server| server.members.len()).sum::<usize>().min(NAMES);
        for (server, shown) in shown.into_iter().filter(|(id, _)| id != self.queue.server()) {
            let text = String::from_utf8_lossy(&shown);
            let mut parts = text.splitn(3, '\n');
            let (Some(beat), Some(tag), Some(names)) = (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            let (beat, tag) = (clean(beat.as_bytes()), clean(tag.as_bytes()));
            let known = servers.get(&server);
            let is_known = known.is_some();
            if check_name(&tag).is_err()
                || known.is_some_and(|known| known.beat == beat)
                || (!is_known && (server.len() > SERVER_BYTES || servers.len() >= SERVERS))
            {
                continue;
            }
            room += known.map_or(0, |known| known.members.len());
            let members = names.split(' ').filter_map(|member| {
                let (id, name) = member.split_once(':')?;
                Some((id.parse().ok()?, name.to_owned())).filter(|_| check_name(name).is_ok())
            });
            let members: Vec<_> = members.take(room).collect();
            room -= members.len();
            servers.insert(server, Server { tag, members, beat, when: Instant::now() });
        }
        let gone: Vec<String> = servers
            .iter()
            .filter(|(_, server)| server.when.elapsed() > GONE)
            .map(|(id, _)| id.clone())
            .collect();
        let own = fold(self.queue.tag());
        let namesake = servers.values().any(|server| fold(&server.tag) == own);
        drop(servers);
        for server in gone {
            cmd("HDEL").arg(self.link.servers()).arg(&server).exec(connection)?;
            self.forget(&server, "is not heard of any more");
        }
        if namesake && !std::mem::replace(&mut self.has_namesake, true) {
            let tag = self.queue.tag();
            let line = format!(
                "* another server is called {tag} as well; start one of them with another --server\n"
            );
            self.room.hear(Kind::News, &line);
        }
        Ok(())
    }

    fn forget(&self, server: &str, why: &str) {
        let Some(server) = self.servers.lock().remove(server) else { return };
        let tag = &server.tag;
        let members: Vec<String> = server.names().collect();
        let line = match &members[..] {
            [] => format!("* the server {tag} {why}\n"),
            members => format!("* the server {tag} {why}, and with it {}\n", listed(members)),
        };
        self.room.hear(Kind::News, &line);
    }
}
