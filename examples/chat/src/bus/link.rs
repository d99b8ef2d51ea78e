//! The connections to Redis, and the news about them.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{RedisError, RedisResult};

use super::access::BusAddress;
use super::lines::Told;
use super::queue::Queue;
use super::store::Store;
use super::wire::words_of;
use super::{CutOff, GONE};
use crate::protocol::clean;
use crate::room::{Room, Who};

/// The pauses between attempts: 100 ms, 200 ms and so on up to 3 s.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// The state of the connections, which reader, writer and clock share. A clone is the same state.
#[derive(Clone)]
pub struct Link {
    address: BusAddress,
    room: Room,
    queue: Arc<Queue>,
    health: Arc<Mutex<Health>>,
}

/// The two directions of the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Writer = 0,
    Reader = 1,
}

/// A function that takes note of whether a side works.
pub type Report<'a> = dyn Fn(Result<(), &RedisError>) + 'a;

struct Health {
    works: [bool; 2],
    told: News,
    /// When both sides last worked; at first, the start.
    since: Instant,
    /// Why they do not work now: the last error, for the operator. `shown` is the error that was shown last, and when.
    why: String,
    shown: (String, Instant),
    /// The runs of Redis that the two sides are connected to, empty for a side without a connection. `apart` is the moment
    /// since which the two differ.
    runs: [String; 2],
    apart: Option<Instant>,
}

#[derive(Default, PartialEq, Eq)]
enum News {
    #[default]
    Nothing,
    Joined,
    Lost,
}

impl Link {
    pub fn new(address: &BusAddress, room: &Room, queue: &Arc<Queue>) -> Self {
        let (address, room, queue) = (address.clone(), room.clone(), Arc::clone(queue));
        let health = Health {
            works: [false; 2],
            told: News::Nothing,
            since: Instant::now(),
            why: "they have not been reached yet".to_owned(),
            shown: (String::new(), Instant::now()),
            runs: Default::default(),
            apart: None,
        };
        Self { address, room, queue, health: Arc::new(Mutex::new(health)) }
    }

    /// For how long the other servers cannot be reached, and the last reason; `None` if they can.
    pub fn cut_off(&self) -> Option<CutOff> {
        let health = self.health.lock();
        let cut_off = || CutOff { time: health.since.elapsed(), why: health.why.clone() };
        (health.told != News::Joined).then(cut_off)
    }

    /// Runs one side until the end: connects, works until a failure, reports it, and tries again.
    pub fn keep(
        &self,
        side: Side,
        mut work: impl FnMut(&mut Store, &Report<'_>) -> RedisResult<()>,
    ) {
        let mut pause = FIRST_PAUSE;
        loop {
            let report = |now: Result<(), &RedisError>| self.set_health(side, now);
            let result = Store::open(&self.address).and_then(|mut store| {
                self.health.lock().runs[side as usize].clone_from(&store.run);
                work(&mut store, &report).map_err(|error| store.explained(error))
            });
            let Err(error) = result else { return };
            if self.health.lock().works[side as usize] {
                pause = FIRST_PAUSE;
            }
            self.set_health(side, Err(&error));
            if self.queue.is_closing() {
                return;
            }
            self.queue.pause(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Fails if the two sides have been connected to two different Redises for some time: after a failover one of them
    /// may still reach the old one.
    pub fn check_runs(&self) -> RedisResult<()> {
        const TIME: Duration = Duration::from_secs(5);
        let mut health = self.health.lock();
        let [writer, reader] = &health.runs;
        if writer == reader || writer.is_empty() || reader.is_empty() {
            health.apart = None;
            return Ok(());
        }
        match health.apart.get_or_insert_with(Instant::now).elapsed() {
            apart if apart < TIME => Ok(()),
            _ => Err(refused("lines are written to one Redis and read from another".to_owned())),
        }
    }

    /// Tells authors which of their lines may not have arrived, and where. Between notices the bus waits for crowded
    /// outboxes, but not so long that the others would take this server for gone. After that an author gets one notice for
    /// all its other lines.
    pub fn tell(&self, told: &[Told]) {
        /// How many notices are sent between two checks of the outboxes, and how long a check waits for crowded ones.
        const AT_ONCE: usize = 50;
        const WAIT: Duration = Duration::from_millis(50);
        /// For how long each line gets a notice of its own.
        const WHOLE: Duration = Duration::from_secs(2);
        let until = Instant::now() + WHOLE;
        let mut more: HashMap<Who, usize> = HashMap::new();
        for told in told.chunks(AT_ONCE) {
            if Instant::now() > until {
                told.iter().for_each(|told| *more.entry(told.to).or_default() += 1);
                continue;
            }
            for Told { to, quote, server } in told {
                let place = match &**server {
                    "" => "the other servers".to_owned(),
                    server => format!("the server {server}"),
                };
                self.room
                    .note(*to, &format!("a line of yours may not have reached {place}: {quote}"));
            }
            if told.len() == AT_ONCE {
                self.room.wait_for_outboxes(WAIT);
            }
        }
        for (to, count) in more {
            let lines = if count == 1 { "line" } else { "lines" };
            self.room.note(
                to,
                &format!("{count} more {lines} of yours may not have reached the other servers"),
            );
        }
    }

    /// Announces that the bus is lost or back, once for both sides. Only the operator learns the address and the error,
    /// and also learns when the error changes.
    fn set_health(&self, side: Side, now: Result<(), &RedisError>) {
        /// The least time between two reasons that are shown: the sides may fail for different reasons, again and again.
        const BETWEEN_REASONS: Duration = Duration::from_secs(10);
        let mut health = self.health.lock();
        if health.works == [true; 2] {
            health.since = Instant::now();
        }
        health.works[side as usize] = now.is_ok();
        if now.is_err() {
            health.runs[side as usize].clear();
        }
        let address = &self.address;
        let (news, more) = match now {
            Err(error) => {
                let why = clean(address.without_password(&words_of(error)).as_bytes());
                let why = cut(&why);
                health.why.clone_from(&why);
                let was_lost = std::mem::replace(&mut health.told, News::Lost) == News::Lost;
                // A new reason is shown as well, because the first one is often no more than the end of a connection.
                let (shown, when) = &health.shown;
                if was_lost && (*shown == why || when.elapsed() < BETWEEN_REASONS) {
                    return;
                }
                health.shown = (why.clone(), Instant::now());
                let news = "the other servers cannot be reached";
                let more = format!(": {address}: {why}; trying again");
                (if was_lost { "" } else { news }, format!("{news}{more}"))
            }
            Ok(()) if health.told != News::Joined && health.works == [true; 2] => {
                health.told = News::Joined;
                let news = "joined with the other servers";
                (news, format!("{news} at {address}"))
            }
            Ok(()) => return,
        };
        let tag = match health.told {
            News::Joined => format!("; this one is called {}", self.queue.tag()),
            _ => String::new(),
        };
        drop(health);
        let to_members = if news.is_empty() { String::new() } else { format!("* {news}{tag}\n") };
        self.room.news(&to_members, &format!("* {more}{tag}\n"));
    }
}

/// Shortens an error: Redis repeats words of a command, and a program that is not Redis may say anything.
fn cut(text: &str) -> String {
    match text.char_indices().nth(500) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.to_owned(),
    }
}

/// The error by which this server is left out of the room: it neither writes to the room, nor shows what is said there.
pub fn name_is_taken(tag: &str) -> RedisError {
    refused(format!(
        "another server there is called {tag}; if it does not announce itself for {} s, this one takes its place",
        GONE.as_secs()
    ))
}

/// The error by which this server does not go on with a Redis that answers.
pub fn refused(why: String) -> RedisError {
    io::Error::new(io::ErrorKind::Unsupported, why).into()
}
