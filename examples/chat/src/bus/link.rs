//! The connections to Redis, and the news about them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{RedisError, RedisResult, Value, cmd};

use super::address::BusAddress;
use super::entry::Fields;
use super::queue::Queue;
use super::wire::{PATIENCE, Wire};
use crate::protocol::clean;
use crate::room::Room;

/// The pauses between attempts: 100 ms, 200 ms and so on up to 3 s.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// The state that reader and writer share. Clones are the same one.
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

struct Health {
    works: [bool; 2],
    told: Told,
    /// When both sides last worked; at first, the start.
    since: Instant,
}

#[derive(Default, PartialEq, Eq)]
enum Told {
    #[default]
    Nothing,
    Joined,
    Lost,
}

/// A place in the stream, by which a stream that has lost data is recognised.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The last known entry; none before the first.
    pub last: String,
    /// The run of Redis in which it was read.
    run: String,
}

impl Link {
    pub fn new(address: &BusAddress, room: &Room, queue: &Arc<Queue>) -> Self {
        let (address, room, queue) = (address.clone(), room.clone(), Arc::clone(queue));
        let health = Health { works: [false; 2], told: Told::Nothing, since: Instant::now() };
        Self { address, room, queue, health: Arc::new(Mutex::new(health)) }
    }

    /// For how long the other servers cannot be reached; none if they can.
    pub fn cut_off(&self) -> Option<Duration> {
        let health = self.health.lock();
        (health.told != Told::Joined).then(|| health.since.elapsed())
    }

    /// The key of the stream.
    pub fn stream(&self) -> String {
        format!("chat:{}", self.address.room)
    }

    /// The key of the servers' announcements.
    pub fn servers(&self) -> String {
        format!("chat:{}:servers", self.address.room)
    }

    /// Runs one side until the end: connects, works until a failure, reports it, and tries again.
    pub fn keep(
        &self,
        side: Side,
        mut work: impl FnMut(&mut Wire, &dyn Fn()) -> RedisResult<()>,
        mut meanwhile: impl FnMut(),
    ) {
        let mut pause = FIRST_PAUSE;
        loop {
            let worked = || self.set_health(side, Ok(()));
            let result = Wire::open(&self.address).and_then(|mut wire| work(&mut wire, &worked));
            let Err(error) = result else { return };
            if self.health.lock().works[side as usize] {
                pause = FIRST_PAUSE;
            }
            self.set_health(side, Err(&error));
            meanwhile();
            if self.queue.is_closing() {
                return;
            }
            self.queue.pause(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Announces that the bus is lost or back, once for both sides. Only the operator learns the address and the error.
    fn set_health(&self, side: Side, now: Result<(), &RedisError>) {
        let mut health = self.health.lock();
        if health.works == [true; 2] {
            health.since = Instant::now();
        }
        health.works[side as usize] = now.is_ok();
        let address = &self.address;
        let (news, more) = match now {
            Err(error) if health.told != Told::Lost => {
                health.told = Told::Lost;
                let why = clean(address.without_password(&words_of(error)).as_bytes());
                ("the other servers cannot be reached", format!(": {address}: {why}; trying again"))
            }
            Ok(()) if health.told != Told::Joined && health.works == [true; 2] => {
                health.told = Told::Joined;
                ("joined with the other servers", format!(" at {address}"))
            }
            _ => return,
        };
        let tag = match health.told {
            Told::Joined => format!("; this one is called {}", self.queue.tag()),
            _ => String::new(),
        };
        drop(health);
        self.room.news(&format!("* {news}{tag}\n"), &format!("* {news}{more}{tag}\n"));
    }
}

/// The error as a part of a line: a pipeline repeats the same error for each of its commands.
fn words_of(error: &RedisError) -> String {
    if error.is_timeout() {
        return format!("it does not answer within {} s", PATIENCE.as_secs());
    }
    let text = error.to_string();
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}

impl Place {
    /// Whether Redis, after a reconnection, still has the stream up to this place. If not, it has lost its data, or the last
    /// of it; or it was restarted, and the place was trimmed away.
    pub fn is_kept(&mut self, connection: &mut Wire, stream: &str) -> RedisResult<bool> {
        let run = run_of(connection)?;
        let same_run = std::mem::replace(&mut self.run, run) == self.run;
        if same_run || self.last.is_empty() {
            return Ok(true);
        }
        let found: Vec<Value> =
            cmd("XRANGE").arg(stream).arg(&self.last).arg(&self.last).query(connection)?;
        Ok(!found.is_empty())
    }

    /// Whether the stream was deleted while the connection held: it is empty, or its last entry is before this place. A
    /// stream that is only trimmed keeps its last entry.
    pub fn is_ahead(&self, connection: &mut Wire, stream: &str) -> RedisResult<bool> {
        let last = Self::last_of(connection, stream)?;
        Ok(number_of(&self.last) > number_of(&last))
    }

    /// The end of a stream.
    pub fn end_of(connection: &mut Wire, stream: &str) -> RedisResult<Self> {
        let run = run_of(connection)?;
        Ok(Self { last: Self::last_of(connection, stream)?, run })
    }

    /// The identifier of the last entry; empty if there is none.
    fn last_of(connection: &mut Wire, stream: &str) -> RedisResult<String> {
        let last: Vec<(String, Fields)> =
            cmd("XREVRANGE").arg(stream).arg("+").arg("-").arg("COUNT").arg(1).query(connection)?;
        Ok(last.into_iter().next().map_or_else(String::new, |(id, _)| id))
    }
}

/// An identifier as two growing numbers: milliseconds, and a counter within them. None is before all of them.
fn number_of(id: &str) -> Option<(u64, u64)> {
    let (time, number) = id.split_once('-')?;
    Some((time.parse().ok()?, number.parse().ok()?))
}

/// The identifier of a run of Redis.
fn run_of(connection: &mut Wire) -> RedisResult<String> {
    let text: String = cmd("INFO").arg("server").query(connection)?;
    let run = text.lines().find_map(|line| line.strip_prefix("run_id:"));
    Ok(run.unwrap_or_default().trim().to_owned())
}
