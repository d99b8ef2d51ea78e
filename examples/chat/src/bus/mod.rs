//! Several servers, one room: what is said at one is heard at all, through a stream of Redis.
//!
//! Every server appends its own lines to the stream and reads those of the others, each in a thread of its
//! own, from the last one that it has read: a connection that was lost loses no line. Members elsewhere
//! are called `name@server`, always, so that no two servers have to agree about a name.
//!
//! A line arrives once at each member, or whoever said it is told that it may not have:
//!
//! - A line waits until Redis has confirmed it, for `--bus-wait` at most; then its sender is told.
//! - Whether a write has happened whose answer was lost, nobody knows: it is written again. Each entry has
//!   its server's number, by which who reads it knows that it has had it.
//! - A Redis that comes back without its data, or without the last of it, is found out by the last entry
//!   that one knows, and so is a stream that somebody has deleted, within a second: what was written in the last half minute is written again, and everything is read.
//! - A server that starts hears what is said from then on. What was said at one that was killed and had
//!   not been written is lost with it, and its members see their connections end.
//!
//! What Redis answers is bounded before it is kept (`wire.rs`), whatever may listen there, and where it is, with which
//! password, is no business of the members (`address.rs`).
//!
//! Limits: everyone who can write to the stream is believed. A server that was away while more than
//! [`STREAM_ENTRIES`] were written hears only the last of them. Two servers may show lines that were said
//! at the same time in a different order.

mod address;
mod entry;
mod link;
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
pub use address::{BusAddress, VARIABLE};
use common::Failure;
use entry::What;
use link::Link;
use queue::Queue;

/// About how many entries the stream keeps: days of talk, some megabytes.
const STREAM_ENTRIES: usize = 10_000;
/// How often a server shows that it is there, and looks who else is.
const BEAT: Duration = Duration::from_secs(1);
/// Without a beat for so long a server counts as gone.
const GONE: Duration = Duration::from_secs(10);

/// The room's way to the other servers. Nothing in it waits.
pub struct Relay {
    queue: Arc<Queue>,
    servers: Servers,
}

/// The other servers, by their own names for themselves.
type Servers = Arc<Mutex<HashMap<String, Server>>>;

/// Another server, as far as it is known.
struct Server {
    tag: String,
    names: Vec<String>,
    /// What it last showed, and when that was new.
    beat: String,
    when: Instant,
}

/// The threads, and what they share.
pub struct Bus {
    queue: Arc<Queue>,
}

impl Bus {
    /// Joins a room to those of the other servers: from now on, or from when Redis can be reached.
    pub fn start(
        address: &BusAddress,
        tag: Option<&str>,
        patience: Duration,
        room: &Room,
    ) -> std::io::Result<Self> {
        // A hasher's keys are random, and nothing here has to be secret.
        let server = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        let tag = tag.map_or_else(|| server[..4].to_owned(), str::to_owned);
        let queue = Arc::new(Queue::new(server, tag, patience));
        let servers = Servers::default();
        room.set_bus(Relay { queue: Arc::clone(&queue), servers: Arc::clone(&servers) });
        let link = Link::new(address, room, &queue);
        let writer = writer::Writer::new(&link, &queue, room);
        let reader = reader::Reader::new(&link, &queue, room, servers);
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        named("bus writer").spawn(move || writer.run())?;
        named("bus reader").spawn(move || reader.run())?;
        Ok(Self { queue })
    }

    /// Says that this server ends, and lets what was said reach the stream.
    pub fn close(&self) -> Result<(), Failure> {
        /// Longer than it takes a Redis that is there.
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
    /// Relays a line for everyone.
    pub fn say(&self, from: Who, name: &str, text: &str) -> Result<(), String> {
        self.push(from, What::Say { name: name.to_owned(), text: text.to_owned() })
    }

    /// Relays a line for one at another server.
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

    /// Relays that somebody has joined, say. Where it is lost nothing is said: it is nobody's line.
    pub fn announce(&self, name: &str, news: &str) {
        self.queue.push(None, What::News { name: name.to_owned(), text: news.to_owned() });
    }

    /// What this server is called.
    pub fn tag(&self) -> &str {
        self.queue.tag()
    }

    /// Members elsewhere that have this name there, as they are called here: some of them, if there are many.
    pub fn namesakes(&self, name: &str) -> Vec<String> {
        const SOME: usize = 5;
        let folded = fold(name);
        let mut members = self.members();
        members
            .retain(|member| member.split_once('@').is_some_and(|(name, _)| fold(name) == folded));
        members.truncate(SOME);
        members
    }

    /// The members at all other servers, as they are called here.
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
