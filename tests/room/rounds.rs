//! Rounds of faults that are drawn from seeds. At the end of each round the promise must have been kept.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::link::Weather;
use crate::members::Reading;
use crate::redis::Redis;
use crate::schedule::{Fault, REDIS_LINK, SERVERS, Schedule, Step};
use crate::talk::{Talk, Talking};
use crate::tally::Tally;
use crate::world::{Plan, REDIS, SPARE, World};

/// Members of each server.
const MEMBERS: usize = 3;
/// The most lines that a member says in a round.
const LINES: usize = 400;

struct Round {
    world: World,
    schedule: Schedule,
    chance: Chance,
    is_promoted: bool,
    talking: Vec<Talking>,
}

/// The beginning or the end of a step: when it is, whether it is the beginning, and the step.
type Turn = (Duration, bool, Step);

/// Plays the round of this seed. Returns the count, or a report if the promise was not kept or something has panicked.
pub fn play(seed: u64) -> Result<Tally, String> {
    let schedule = Schedule::draw(seed);
    let played = catch_unwind(AssertUnwindSafe(|| Round::begin(schedule.clone()).play()));
    let failed = match played {
        Ok(Ok(tally)) => return Ok(tally),
        Ok(Err(report)) => report,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or_else(|| panic.downcast_ref().copied()).unwrap_or("a panic").to_owned()
        }
    };
    Err(format!("{schedule}\n  {failed}"))
}

impl Round {
    fn begin(schedule: Schedule) -> Self {
        let options = ["--bus-wait".to_owned(), schedule.bus_wait.to_string()].to_vec();
        let keeps = schedule.keeps;
        let plan = Plan {
            servers: SERVERS,
            members: MEMBERS,
            keeps,
            options,
            has_links: true,
            ..Plan::default()
        };
        let world = World::start(plan);
        if schedule.has_replica {
            world.redis.ask(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
        }
        let chance = Chance::new(schedule.seed);
        let mut round = Self { world, schedule, chance, is_promoted: false, talking: Vec::new() };
        if round.schedule.has_replica {
            round.world.spare.start();
            round.world.spare.ready();
            round.world.spare.follow(REDIS);
        }
        round
    }

    fn play(mut self) -> Result<Tally, String> {
        let mut turns: Vec<Turn> = Vec::new();
        for step in &self.schedule.steps {
            turns.push((step.at, true, *step));
            turns.push((step.at + step.lasts, false, *step));
        }
        turns.sort_by_key(|turn| turn.0);
        let all = self.world.present(None);
        self.talk(&all);
        let began = Instant::now();
        for (when, begins, step) in turns {
            while began.elapsed() < when {
                sleep((when - began.elapsed()).min(Duration::from_millis(500)));
                self.world.write_to_each_other(1, &mut self.chance);
            }
            if begins { self.wrong(step.fault) } else { self.right(step.fault) }
        }
        self.world.write_to_each_other(5, &mut self.chance);
        sleep(Duration::from_secs(2));
        self.talking.clear();
        let tally = self.world.settle();
        if !tally.is_kept() {
            return Err(self.world.report(&tally));
        }
        self.world.all_know_all();
        Ok(tally)
    }

    fn talk(&mut self, who: &[usize]) {
        let talk = Talk::new(LINES, self.schedule.per_second as f64);
        self.talking.push(talk.start(&self.world.members, who));
    }

    /// The Redis that the servers use.
    fn redis(&mut self) -> &mut Redis {
        if self.is_promoted { &mut self.world.spare } else { &mut self.world.redis }
    }

    fn host(&self, place: usize) -> String {
        match place {
            REDIS_LINK if self.is_promoted => SPARE.to_owned(),
            REDIS_LINK => REDIS.to_owned(),
            server => format!("m{}", server + 1),
        }
    }

    fn wrong(&mut self, fault: Fault) {
        match fault {
            Fault::Cut(place) => self.world.network.cut(&self.host(place)),
            Fault::Weather(place, weather) => self.world.links[place].set(weather),
            Fault::KillServer(server) => self.world.kill_server(server),
            Fault::StopServer(server) => self.world.stop_server(server),
            Fault::PauseServer(server) => self.world.pause_server(server),
            Fault::KillRedis(bytes) => {
                let keeps_all = self.schedule.keeps == crate::redis::Keeps::Snapshots;
                if keeps_all && self.chance.percent(50) {
                    self.redis().ask(&["SAVE"]);
                }
                self.redis().kill();
                // A Redis that has taken the place of another one keeps no log.
                if bytes > 0 && !self.is_promoted {
                    self.redis().truncate(bytes);
                }
            }
            Fault::PauseRedis => self.redis().machine().pause(),
            Fault::Fill => drop(self.redis().ask(&["CONFIG", "SET", "maxmemory", "1mb"])),
            Fault::Refuse => {
                drop(self.redis().ask(&["CONFIG", "SET", "min-replicas-to-write", "9"]));
            }
            Fault::KillClients => {
                drop(self.redis().ask(&["CLIENT", "KILL", "TYPE", "normal"]));
            }
            Fault::Flush => drop(self.redis().ask(&["FLUSHALL"])),
            Fault::Promote => {
                self.world.network.cut(REDIS);
                self.world.redis.kill();
                self.world.spare.ask(&["REPLICAOF", "NO", "ONE"]);
                self.world.network.move_address(REDIS, SPARE);
                self.is_promoted = true;
            }
        }
    }

    fn right(&mut self, fault: Fault) {
        match fault {
            Fault::Cut(REDIS_LINK) => {
                // The Redis may have been on another machine when it was cut off.
                let _ = [REDIS, SPARE].map(|host| self.world.network.mend(host));
            }
            Fault::Cut(place) => self.world.network.mend(&self.host(place)),
            Fault::Weather(place, _) => self.world.links[place].set(Weather::default()),
            Fault::KillServer(server) | Fault::StopServer(server) => {
                self.world.servers[server].start();
                self.world.servers[server].listens();
                let joined = self.world.join(server, MEMBERS, Reading::Everything);
                self.talk(&joined);
            }
            Fault::PauseServer(server) => self.world.resume_server(server),
            Fault::KillRedis(_) => {
                self.redis().start();
                self.redis().ready();
            }
            Fault::PauseRedis => self.redis().machine().resume(),
            Fault::Fill => drop(self.redis().ask(&["CONFIG", "SET", "maxmemory", "0"])),
            Fault::Refuse => {
                drop(self.redis().ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]));
            }
            Fault::KillClients | Fault::Flush | Fault::Promote => {}
        }
    }
}
