//! A room over several servers, with its members, its Redis and their network.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::link::{Link, Weather};
use crate::members::{Members, Reading, State};
use crate::network::Network;
use crate::redis::{Keeps, Redis};
use crate::server::Server;
use crate::tally::Tally;

/// The longest that an expected event may take. It is long, so that nothing fails on a slow machine.
pub const SOON: Duration = Duration::from_secs(90);

/// The machine of the Redis.
pub const REDIS: &str = "redis";
/// The machine that may take the place of the Redis.
pub const SPARE: &str = "spare";
/// A machine for members that are far from their server.
pub const FAR: &str = "far";

/// The parts of a world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Servers, which are called m1, m2 ..
    pub servers: usize,
    /// Members of each server.
    pub members: usize,
    /// The data that the Redis keeps.
    pub keeps: Keeps,
    /// More options of `redis-server`.
    pub redis_options: Vec<&'static str>,
    /// More options of `chat serve`.
    pub options: Vec<String>,
    /// Whether servers and Redis are behind links, whose weather can change.
    pub has_links: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            servers: 3,
            members: 3,
            keeps: Keeps::Log,
            redis_options: Vec::new(),
            options: Vec::new(),
            has_links: false,
        }
    }
}

/// A room with everything around it. Cases may use its parts directly.
#[derive(Debug)]
pub struct World {
    /// The members.
    pub members: Arc<Members>,
    /// The servers.
    pub servers: Vec<Server>,
    /// The Redis that they use.
    pub redis: Redis,
    /// A Redis that may take the place of `redis`. It is not started.
    pub spare: Redis,
    /// The links of the servers, then that of the Redis, if there are links.
    pub links: Vec<Link>,
    /// The network.
    pub network: Arc<Network>,
    /// The servers that stand still, and since when.
    paused: HashMap<usize, Instant>,
    plan: Plan,
}

impl World {
    /// The machines, and nothing on them yet.
    pub fn build(plan: Plan) -> Self {
        let network = Arc::new(Network::new());
        let mut links = Vec::new();
        let mut host = |name: &str, last: u8| {
            if plan.has_links {
                links.push(network.host_behind(name, last, Weather::default()));
            } else {
                network.host(name, last);
            }
        };
        for number in 1..=plan.servers {
            host(&format!("m{number}"), number as u8);
        }
        host(REDIS, 10);
        network.host(SPARE, 11);
        let redis = Redis::at_rest(&network, REDIS, plan.keeps, &plan.redis_options);
        let spare = Redis::at_rest(&network, SPARE, Keeps::Nothing, &[]);
        let bus = format!("redis://{}/room", network.address(REDIS, 6379));
        let servers = (1..=plan.servers)
            .map(|number| Server::at_rest(&network, &format!("m{number}"), &bus, &plan.options))
            .collect();
        let members = Arc::new(Members::new());
        Self { members, servers, redis, spare, links, network, paused: HashMap::new(), plan }
    }

    /// Starts everything: all members are there, and each server knows of all of them.
    pub fn start(plan: Plan) -> Self {
        let mut world = Self::build(plan);
        world.redis.start();
        world.redis.ready();
        for server in 0..world.servers.len() {
            world.start_server(server);
        }
        world.all_know_all();
        world
    }

    /// Starts a server, and its members join.
    #[track_caller]
    pub fn start_server(&mut self, server: usize) -> Vec<usize> {
        self.servers[server].start();
        self.servers[server].listens();
        self.join(server, self.plan.members, Reading::Everything)
    }

    /// Adds members to a server, on its own machine.
    pub fn join(&self, server: usize, count: usize, reading: Reading) -> Vec<usize> {
        let Server { host, started, .. } = &self.servers[server];
        self.members.join(&self.network, [host, host], *started, count, reading)
    }

    /// Kills a server. Its members see their connections end, and the lines that were under way may be lost.
    pub fn kill_server(&mut self, server: usize) {
        self.members.excuse(&self.servers[server].host, true);
        self.servers[server].kill();
    }

    /// Makes a server stand still: its process gets no time.
    pub fn pause_server(&mut self, server: usize) {
        self.servers[server].machine().pause();
        self.paused.insert(server, Instant::now());
    }

    /// Lets a server go on. It then takes the lines that its members have said while it stood still.
    pub fn resume_server(&mut self, server: usize) {
        if let Some(since) = self.paused.remove(&server) {
            self.members.server_goes_on(&self.servers[server].host, since);
        }
        self.servers[server].machine().resume();
    }

    /// Ends a server in order. Its members see their connections end, and know which of their lines were not relayed.
    #[track_caller]
    pub fn stop_server(&mut self, server: usize) {
        self.members.excuse(&self.servers[server].host, false);
        self.servers[server].stop();
    }

    /// The members that are there, of all servers or of one.
    pub fn present(&self, server: Option<usize>) -> Vec<usize> {
        let state = self.members.state();
        let host = server.map(|server| &self.servers[server].host);
        let here = |index: &usize| {
            let member = &state.members[*index];
            member.is_open() && host.is_none_or(|host| *host == member.host)
        };
        (0..state.members.len()).filter(here).collect()
    }

    /// Lets members write at most this many private lines to each other; author and receiver of each line are drawn.
    pub fn write_to_each_other(&self, count: usize, chance: &mut Chance) {
        for _ in 0..count {
            let present = self.present(None);
            if present.is_empty() {
                return;
            }
            let (from, to) = (chance.one_of(&present), chance.one_of(&present));
            let state = self.members.state();
            let [author, receiver] = [&state.members[from].host, &state.members[to].host];
            let at = (author != receiver).then(|| receiver.clone());
            drop(state);
            if from != to {
                self.members.tell(from, to, at.as_deref());
            }
        }
    }

    /// Waits until `/who` at each server knows all members.
    #[track_caller]
    pub fn all_know_all(&self) {
        let began = Instant::now();
        let count = format!("* {} here: ", self.present(None).len());
        for server in self.servers.iter().filter(|server| server.is_up()) {
            let asked = |state: &State| {
                let there = |member: &&crate::members::Member| {
                    member.is_open() && member.host == server.host
                };
                state.members.iter().find(there).and_then(|member| state.index(&member.name))
            };
            let Some(asked) = asked(&self.members.state()) else { continue };
            loop {
                let before = self.members.state().members[asked].news.len();
                self.members.type_in(asked, "/who");
                let answer = self.members.wait("an answer to /who", SOON, |state| {
                    let news = state.members[asked].news[before..].iter();
                    news.map(|(_, line)| line).find(|line| line.contains(" here")).cloned()
                });
                if answer.starts_with(&count) {
                    break;
                }
                let late = began.elapsed() > SOON;
                assert!(!late, "{} does not know {count:?}: {answer}", server.name);
                thread::sleep(Duration::from_millis(100));
            }
        }
    }

    /// Waits until every line has been heard by all, or its author told. Then a member of each server says a last line, and
    /// this waits for that line as well. Returns the count, whatever it is.
    pub fn settle(&self) -> Tally {
        self.settle_within(SOON)
    }

    /// Settles as [`settle`](Self::settle) does, within this time.
    pub fn settle_within(&self, time: Duration) -> Tally {
        let settled = |time| {
            // Counting takes a while when there is much to count.
            let mut next = Instant::now();
            self.members.wait_or_not(time, |state| {
                if Instant::now() < next {
                    return None;
                }
                let is_settled = Tally::of(state).is_settled();
                next = Instant::now() + Duration::from_millis(50);
                is_settled.then_some(())
            })
        };
        if settled(time).is_some() {
            for server in 0..self.servers.len() {
                self.present(Some(server)).first().map(|member| self.members.say(*member, 0));
            }
            settled(time);
        }
        Tally::of(&self.members.state())
    }

    /// [Settles](Self::settle), and fails unless the promise was kept.
    #[track_caller]
    pub fn assert_kept(&self) -> Tally {
        let tally = self.settle();
        assert!(tally.is_kept(), "{}", self.report(&tally));
        println!("{tally}");
        tally
    }

    /// [Settles](Self::settle), and fails unless all have heard everything and no author was told otherwise.
    #[track_caller]
    pub fn assert_clean(&self) -> Tally {
        let tally = self.settle();
        assert!(tally.is_clean(), "{}", self.report(&tally));
        println!("{tally}");
        tally
    }

    /// The count with examples, the last news at each server, and the ends of the logs.
    pub fn report(&self, tally: &Tally) -> String {
        let mut text = format!("{tally}\n");
        tally.examples.iter().for_each(|example| text += &format!("  {example}\n"));
        let state = self.members.state();
        for server in &self.servers {
            let member = state.members.iter().rfind(|member| member.host == server.host);
            for (when, line) in member.iter().flat_map(|it| it.news.iter().rev().take(12).rev()) {
                let ago = when.elapsed().as_secs_f64();
                text += &format!("  {} {ago:.1} s ago: {line:.200}\n", server.host);
            }
            let said = server.said();
            let lines: Vec<&str> = said.lines().filter(|line| !line.contains(['#', '~'])).collect();
            for line in lines.iter().rev().take(6).rev() {
                text += &format!("  {} said: {line:.200}\n", server.host);
            }
        }
        text
    }
}
