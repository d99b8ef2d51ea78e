//! One room on several servers: a line that is said at one reaches all, through a stream of Redis.
//!
//! ```text
//! room -> queue -> writer thread -- XADD --> stream of Redis -- XREAD --> reader thread -> room
//!         (never waits)                                                   (of each other server)
//! ```
//!
//! Each server appends its own lines to the stream and reads those of the others, in a thread each. The reader goes on
//! after the last entry that it has read, so that a lost connection loses no line. Members elsewhere are always called
//! `name@server`, so that servers need not agree about names.
//!
//! A line arrives once at each member, or its author is told that it may not have arrived:
//!
//! - A line waits until Redis has confirmed it, at most for `--bus-wait`; then its author is told.
//! - If the answer to a write is lost, the entry is written again. Each entry has a number of its server, by which readers
//!   recognise the second copy.
//! - If Redis comes back without its data, or without the last of it, or if the stream was deleted, the servers notice it
//!   within a second by the last entry that they know. The entries of the last half minute are then written again, and the
//!   whole stream is read.
//! - A server shows the lines that are said after its start. If a server is killed, its lines that were not written are
//!   lost, and its members see their connections end.
//!
//! Answers of Redis are bounded before they are kept (`wire.rs`). The address and the password are hidden from the members
//! (`address.rs`).
//!
//! Limits: everyone who can write to the stream is believed. A server that was disconnected while more than
//! `--bus-length` entries were written shows only the last of them. Two servers may show lines that were said
//! at the same time in a different order.

mod address;
mod entry;
mod link;
mod options;
mod queue;
mod reader;
mod wire;
mod writer;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::name::fold;
use crate::protocol::clean;
use crate::room::{Room, Who};
use common::Failure;
use entry::What;
use link::Link;
pub use options::{BusArguments, BusOptions};
use queue::Queue;

/// How often a server announces itself and reads the announcements of the others.
const BEAT: Duration = Duration::from_secs(1);
/// A server without an announcement for this time counts as gone.
const GONE: Duration = Duration::from_secs(10);

/// The room's side of the bus. None of its methods waits.
pub struct Relay {
    queue: Arc<Queue>,
    servers: Servers,
}

/// The other servers, by their identifiers.
type Servers = Arc<Mutex<HashMap<String, Server>>>;

/// Another server.
struct Server {
    tag: String,
    names: Vec<String>,
    /// Its last announcement, and when that changed.
    beat: String,
    when: Instant,
}

/// The two threads, and the state that they share.
pub struct Bus {
    queue: Arc<Queue>,
}

impl Bus {
    /// Connects a room to those of the other servers, as soon as Redis can be reached.
    pub fn start(options: &BusOptions, room: &Room) -> std::io::Result<Self> {
        // A hasher's keys are random, and nothing here has to be secret.
        let server = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        let tag = options.server.clone().unwrap_or_else(|| server[..4].to_owned());
        let queue = Arc::new(Queue::new(server, tag, options.wait, options.queue));
        let servers = Servers::default();
        room.set_bus(Relay { queue: Arc::clone(&queue), servers: Arc::clone(&servers) });
        let link = Link::new(&options.address, room, &queue);
        let writer = writer::Writer::new(&link, &queue, room, options.length);
        let reader = reader::Reader::new(&link, &queue, room, servers);
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        named("bus writer").spawn(move || writer.run())?;
        named("bus reader").spawn(move || reader.run())?;
        Ok(Self { queue })
    }

    /// Announces the end of this server, after the queue has been written.
    pub fn close(&self) -> Result<(), Failure> {
        /// Longer than a reachable Redis takes.
        const TIME: Duration = Duration::from_secs(2);
        self.queue.push(None, What::End);
        match self.queue.close(TIME) {
            0 => Ok(()),
            count => Err(Failure::Other(format!(
                "the last {count} lines may not have reached the other servers: Redis did not take \
                 them within {} s",
                TIME.as_secs()
            ))),
        }
    }
}

impl Relay {
    /// Relays a line to all.
    pub fn say(&self, from: Who, name: &str, text: &str) -> Result<(), String> {
        self.push(from, What::Say { name: name.to_owned(), text: text.to_owned() })
    }

    /// Relays a line to one member of another server.
    pub fn tell(
        &self,
        from: Who,
        name: &str,
        to: &str,
        server: &str,
        text: &str,
    ) -> Result<(), String> {
        let folded = fold(server);
        let servers = self.servers.lock();
        // As it writes itself: that is what it compares with.
        let Some(at) = servers.values().map(|other| &other.tag).find(|tag| fold(tag) == folded)
        else {
            return Err(format!("no other server here is called {server}"));
        };
        let [name, to, at, text] = [name, to, at, text].map(str::to_owned);
        drop(servers);
        self.push(from, What::Tell { name, to, at, text })
    }

    /// Relays news, of a join, say. If these are lost, nobody is told: they have no author.
    pub fn announce(&self, name: &str, news: &str) {
        self.queue.push(None, What::News { name: name.to_owned(), text: news.to_owned() });
    }

    /// The name of this server.
    pub fn tag(&self) -> &str {
        self.queue.tag()
    }

    /// Members of other servers with this name, as `name@server`; not all, if they are many.
    pub fn namesakes(&self, name: &str) -> Vec<String> {
        const SOME: usize = 5;
        let folded = fold(name);
        let mut members = self.members();
        members
            .retain(|member| member.split_once('@').is_some_and(|(name, _)| fold(name) == folded));
        members.truncate(SOME);
        members
    }

    /// The members of all other servers, as `name@server`.
    pub fn members(&self) -> Vec<String> {
        let servers = self.servers.lock();
        let mut members: Vec<String> = servers.values().flat_map(Server::members).collect();
        members.sort_unstable();
        members
    }

    fn push(&self, from: Who, what: What) -> Result<(), String> {
        if self.queue.push(Some(from), what) {
            return Ok(());
        }
        Err("this line did not reach the other servers: too many wait for Redis already".to_owned())
    }
}

impl Server {
    fn members(&self) -> impl Iterator<Item = String> {
        self.names.iter().map(|name| format!("{name}@{}", self.tag))
    }
}
