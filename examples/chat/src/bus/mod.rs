//! One room on several servers: a line that is said at one reaches all, through a stream of Redis.
//!
//! ```text
//! room -> queue -> writer thread -- append --> stream of Redis -- XREAD --> reader thread -> room
//!          ^       |                                                       |
//!          |       +<-- what the others have heard <-- Redis <-- heard ----+   (of each other server)
//!          +-- the author is told
//! ```
//!
//! A line arrives once at each member, or its author is told that it may not have arrived. The servers keep this promise
//! between them: each counts its lines, and keeps them until all others have acknowledged them. Redis is a pipe that may
//! lose what it has confirmed. The protocol, its reasons and its limits are in `DESIGN.md` of this program.
//!
//! Read the files in this order: `lines.rs` (the states of a line), `heard.rs`, `others.rs`, `ledger.rs` (which compares them),
//! `place.rs`, `store.rs` with the scripts, `writer.rs`, `reader.rs`.
//!
//! Members elsewhere are always called `name@server`, so that servers need not agree about names. Answers of Redis are
//! bounded before they are kept (`wire.rs`). The address and the password are hidden from the members (`access.rs`).

mod access;
mod address;
mod channel;
mod claim;
mod clock;
mod enter;
mod entry;
mod heard;
mod ledger;
mod lines;
mod link;
mod options;
mod others;
mod place;
mod queue;
mod reader;
mod store;
mod wire;
mod writer;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::name::{OPERATOR, fold};
use crate::room::{Id, Room, Who};
use access::BusAddress;
use claim::{Claim, Holder};
use common::Failure;
use entry::What;
use link::Link;
pub use options::{BusArguments, BusOptions};
use others::Other;
use queue::Queue;
use store::Store;

/// How often a server announces itself and reads the announcements of the others.
const BEAT: Duration = Duration::from_secs(1);
/// A server without an announcement for this time counts as gone.
const GONE: Duration = Duration::from_secs(10);

/// The room's side of the bus. None of its methods waits.
pub struct Relay {
    queue: Arc<Queue>,
    link: Link,
}

/// A member of another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The identifier of its server, which is new after each start.
    pub server: String,
    /// Its number at that server.
    pub member: Who,
    /// Its name, to be shown.
    pub name: String,
    /// The name of its server, to be shown.
    pub tag: String,
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.tag)
    }
}

/// The members of the other servers, as far as this server knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// As `name@server`, sorted.
    pub names: Vec<String>,
    /// Set if the other servers cannot be reached now.
    pub cut_off: Option<CutOff>,
}

/// The state of a server that does not reach the others: for how long, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutOff {
    pub time: Duration,
    /// The last reason, in the words of Redis or of the system: for the operator alone.
    pub why: String,
}

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the other servers have not been reached for {} s", self.time.as_secs())
    }
}

/// The threads, and the state that they share: the writer and the reader, each of which may wait for Redis or for the
/// system's resolver, and the clock, which gives up lines whose time is over and waits for neither.
pub struct Bus {
    queue: Arc<Queue>,
    link: Link,
}

impl Bus {
    /// Connects a room to those of the other servers, as soon as Redis can be reached.
    pub fn start(options: &BusOptions, room: &Room) -> std::io::Result<Self> {
        // The identifier is random, because a hasher's keys are. It need not be secret.
        let server = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        let tag = options.server.clone().unwrap_or_else(|| server[..4].to_owned());
        let queue = Arc::new(Queue::new(server, tag, options.queue, options.wait));
        let link = Link::new(&options.address, room, &queue);
        room.set_bus(Relay { queue: Arc::clone(&queue), link: link.clone() });
        let writer = writer::Writer::new(&link, &queue, room, options.length);
        let reader = reader::Reader::new(&link, &queue, room);
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        named("bus writer").spawn(move || writer.run())?;
        named("bus reader").spawn(move || reader.run())?;
        let (clock, tells) = (Arc::clone(&queue), link.clone());
        named("bus clock").spawn(move || {
            while !clock.is_closing() {
                clock.pause(BEAT);
                tells.tell(&clock.settle());
            }
        })?;
        Ok(Self { queue, link })
    }

    /// Refuses a name that a running server of the room has. If Redis does not answer, or if the server that had the
    /// name does not announce itself any more, this server starts, and takes the name later.
    pub fn check_name(options: &BusOptions) -> Result<(), Failure> {
        /// The longest wait of a start: the system's resolver may take any time.
        const TIME: Duration = Duration::from_secs(5);
        let Some(tag) = options.server.clone() else { return Ok(()) };
        let (address, (send, receive)) = (options.address.clone(), mpsc::channel());
        let watch = move || {
            // The send fails if nobody waits for the result any more.
            let _ = send.send(is_taken(&address, &tag).then(|| {
                Failure::Other(format!(
                    "another server of {address} is called {tag}, and it is running: give this one another \
                     name by --server"
                ))
            }));
        };
        let thread = thread::Builder::new().name("bus name".to_owned()).spawn(watch);
        thread.map_err(|error| Failure::Other(format!("cannot start a thread: {error}")))?;
        receive.recv_timeout(TIME).ok().flatten().map_or(Ok(()), Err)
    }

    /// Announces the end of this server behind its queued lines, and waits until the other servers have them.
    pub fn close(&self) -> Result<(), Failure> {
        /// The longest wait: longer than a reachable Redis takes.
        const TIME: Duration = Duration::from_secs(2);
        self.queue.push(None, What::End { heard: self.queue.heard("") });
        let told = self.queue.close(TIME);
        let count = told.len();
        self.link.tell(&told);
        match count {
            0 => Ok(()),
            count => Err(Failure::Other(format!(
                "the last {} may not have reached the other servers: not all of them answered within {} s",
                if count == 1 { "line".to_owned() } else { format!("{count} lines") },
                TIME.as_secs()
            ))),
        }
    }
}

/// Whether a running server has the name `tag`.
fn is_taken(address: &BusAddress, tag: &str) -> bool {
    /// How long the server is watched: longer than the time between two announcements.
    const TIME: Duration = Duration::from_millis(2_500);
    const PAUSE: Duration = Duration::from_millis(250);
    let Ok(mut store) = Store::open(address) else { return false };
    let (mut claim, until) = (Claim::default(), Instant::now() + TIME);
    while Instant::now() < until {
        let Ok(Some((holder, shown))) = store.holder_of(&fold(tag)) else { return false };
        if claim.watch(&holder, &shown, Duration::ZERO, Instant::now()) == Holder::Beats {
            return true;
        }
        thread::sleep(PAUSE);
    }
    false
}

impl Relay {
    /// Relays a line to all servers.
    pub fn say(&self, from: Who, name: &str, text: &str) -> Result<(), String> {
        self.push(from, What::Say { name: name.to_owned(), text: text.to_owned() })
    }

    /// Finds a member of another server by the member's name and the server's. The error says which of them is not there.
    pub fn find(&self, name: &str, tag: &str) -> Result<Remote, String> {
        let state = self.queue.lock();
        let Some(server) = state.ledger.others.named(tag) else {
            return Err(format!("no other server here is called {tag}"));
        };
        let (member, shown) = match server.member(name) {
            Some((id, shown)) => (Who::Member(id), shown),
            None if fold(name) == OPERATOR => (Who::Operator, OPERATOR),
            None => return Err(format!("nobody there is called {name}@{}", server.tag)),
        };
        let (name, tag, server) = (shown.to_owned(), server.tag.clone(), server.id.clone());
        Ok(Remote { server, member, name, tag })
    }

    /// Relays a line to one member of another server. If the member is not there any more when the line arrives, the author
    /// gets a note.
    pub fn tell(&self, from: Who, name: &str, to: &Remote, text: &str) -> Result<(), String> {
        let (name, shown, text) = (name.to_owned(), to.name.clone(), text.to_owned());
        let (to, at, tag) = (to.member, to.server.clone(), to.tag.clone());
        self.push(from, What::Tell { from, name, to, shown, at, tag, text })
    }

    /// Relays news of a member: that it has joined, for example. `now` is its name from now on, and `None` if it has
    /// left: other servers can address it by that name before the next announcement. If the news is lost, nobody gets a
    /// note: news has no author, and the next announcement corrects the others' lists.
    pub fn announce(&self, member: Id, name: &str, news: &str, now: Option<&str>) {
        let (name, text, now) = (name.to_owned(), news.to_owned(), now.map(str::to_owned));
        self.queue.push(None, What::News { member, name, text, now });
    }

    /// The name of this server.
    pub fn tag(&self) -> &str {
        self.queue.tag()
    }

    /// Some members of other servers with this name, as `name@server`.
    pub fn namesakes(&self, name: &str) -> Vec<String> {
        const SOME: usize = 5;
        let folded = fold(name);
        let mut members = self.members().names;
        members
            .retain(|member| member.split_once('@').is_some_and(|(name, _)| fold(name) == folded));
        members.truncate(SOME);
        members
    }

    /// Whether the other servers cannot be reached now.
    pub fn cut_off(&self) -> Option<CutOff> {
        self.link.cut_off()
    }

    /// The members of all other servers.
    pub fn members(&self) -> Elsewhere {
        let cut_off = self.link.cut_off();
        let state = self.queue.lock();
        let mut names: Vec<String> = state.ledger.others.there().flat_map(Other::names).collect();
        drop(state);
        names.sort_unstable();
        Elsewhere { names, cut_off }
    }

    /// Queues an entry. The error says why the line is refused; the caller quotes the line.
    fn push(&self, from: Who, what: What) -> Result<(), String> {
        if self.queue.push(Some(from), what) {
            return Ok(());
        }
        Err("too many lines wait for Redis already".to_owned())
    }
}
