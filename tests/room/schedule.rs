//! The faults of a round, drawn from its seed.

use std::fmt;
use std::time::Duration;

use crate::chance::Chance;
use crate::link::Weather;
use crate::redis::Keeps;

/// Servers of a round.
pub const SERVERS: usize = 3;
/// The index of the Redis's link: the links of the servers come before it.
pub const REDIS_LINK: usize = SERVERS;

/// Something that goes wrong, and is put right after a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// A machine is cut off: a server, or the Redis.
    Cut(usize),
    /// A link is slow, or loses frames.
    Weather(usize, Weather),
    /// A server is killed, and started again.
    KillServer(usize),
    /// A server is ended in order, and started again.
    StopServer(usize),
    /// A server stands still.
    PauseServer(usize),
    /// The Redis is killed, with this many bytes of its log cut off, and started again.
    KillRedis(u64),
    /// The Redis stands still.
    PauseRedis,
    /// The memory of the Redis is full.
    Fill,
    /// The Redis takes no writes.
    Refuse,
    /// The Redis ends all connections, once.
    KillClients,
    /// The Redis loses all it has, once.
    Flush,
    /// The Redis is gone for good, and its replica takes its place.
    Promote,
}

/// A fault, when it begins, and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// When the fault begins, counted from the beginning of the round.
    pub at: Duration,
    /// How long the fault lasts until it is put right.
    pub lasts: Duration,
    /// The fault.
    pub fault: Fault,
}

/// A round.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// The seed that it is drawn from.
    pub seed: u64,
    /// The data that the Redis keeps.
    pub keeps: Keeps,
    /// The `--bus-wait` of the servers, in seconds.
    pub bus_wait: u64,
    /// About how many lines a second each member says.
    pub per_second: u64,
    /// Whether the Redis has a replica.
    pub has_replica: bool,
    /// The faults, in the order of their beginnings.
    pub steps: Vec<Step>,
}

/// All faults begin within so many ms from the beginning of the round.
const BEGINS: u64 = 12_000;

impl Fault {
    /// The part of the world that fails: two faults of one part never overlap.
    fn part(&self) -> (&'static str, usize) {
        match self {
            Self::Cut(link) | Self::Weather(link, _) => ("link", *link),
            Self::KillServer(server) | Self::StopServer(server) | Self::PauseServer(server) => {
                ("server", *server)
            }
            _ => ("redis", 0),
        }
    }

    fn draw(chance: &mut Chance, keeps: Keeps, has_replica: bool) -> Self {
        let place = chance.between(0, REDIS_LINK as u64) as usize;
        let server = chance.between(0, SERVERS as u64 - 1) as usize;
        match chance.between(0, 15) {
            0..=2 => Self::Cut(place),
            3..=4 => Self::Weather(place, weather(chance)),
            5 => Self::KillServer(server),
            6 => Self::StopServer(server),
            7 => Self::PauseServer(server),
            8..=9 => {
                let cuts = keeps == Keeps::Log && chance.percent(50);
                Self::KillRedis(if cuts { chance.between(1, 8000) } else { 0 })
            }
            10 => Self::PauseRedis,
            11 => Self::Fill,
            12 => Self::Refuse,
            13 => Self::KillClients,
            14 if has_replica => Self::Promote,
            _ => Self::Flush,
        }
    }
}

fn weather(chance: &mut Chance) -> Weather {
    let delay = Duration::from_millis(chance.one_of(&[1, 10, 50, 100, 200]));
    let jitter = delay / chance.one_of(&[2, 5, 100]);
    Weather {
        delay,
        jitter,
        loss: chance.one_of(&[0, 0, 10, 50]),
        reorder: chance.one_of(&[0, 50]),
    }
}

impl Schedule {
    /// The round of this seed.
    pub fn draw(seed: u64) -> Self {
        let chance = &mut Chance::new(seed);
        let keeps = chance.one_of(&[Keeps::Nothing, Keeps::Snapshots, Keeps::Log]);
        let (bus_wait, per_second) = (chance.one_of(&[4, 8, 30]), chance.one_of(&[2, 5, 15]));
        let has_replica = chance.percent(50);
        let mut steps: Vec<Step> = Vec::new();
        for _ in 0..chance.between(1, 5) {
            let at = Duration::from_millis(chance.between(0, BEGINS));
            // Most faults are short, and some last so long that a silent server counts as gone.
            let lasts = Duration::from_millis(match chance.between(0, 9) {
                0..=3 => chance.between(50, 1_000),
                4..=7 => chance.between(1_000, 5_000),
                8 => chance.between(5_000, 10_000),
                _ => chance.between(10_000, 16_000),
            });
            let fault = Fault::draw(chance, keeps, has_replica);
            let step = Step { at, lasts, fault };
            let overlaps = |other: &Step| {
                // A promotion is for good.
                let is_last = fault == Fault::Promote || other.fault == Fault::Promote;
                let apart = other.at + other.lasts < at || at + lasts < other.at;
                fault.part() == other.fault.part() && (is_last || !apart)
            };
            if !steps.iter().any(overlaps) {
                steps.push(step);
            }
        }
        steps.sort_by_key(|step| step.at);
        Self { seed, keeps, bus_wait, per_second, has_replica, steps }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, keeps, bus_wait, per_second, .. } = self;
        let replica = if self.has_replica { ", with a replica" } else { "" };
        write!(f, "seed {seed}: Redis keeps {keeps:?}{replica}, lines wait {bus_wait} s, ")?;
        write!(f, "{per_second} a second of each member")?;
        for Step { at, lasts, fault } in &self.steps {
            write!(f, "\n    at {:.1} s ", at.as_secs_f64())?;
            write!(f, "for {:.1} s {fault:?}", lasts.as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_schedule() {
        let all: Vec<Schedule> = (0..500).map(Schedule::draw).collect();
        assert_eq!(all[7], Schedule::draw(7));
        let kinds = all
            .iter()
            .flat_map(|round| &round.steps)
            .map(|step| std::mem::discriminant(&step.fault));
        assert_eq!(kinds.collect::<std::collections::HashSet<_>>().len(), 12);
    }
}
