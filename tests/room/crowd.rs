//! A crowd: how many lines a second a room of many members carries, how late they are, and how much memory that takes.

use std::fmt::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::members::Reading;
use crate::talk::Talk;
use crate::tally::Tally;
use crate::world::{Plan, World};

/// Members that come at the same time: more of them would count as a crowd that says nothing.
const AT_ONCE: usize = 50;
/// Members that talk.
const TALKERS: usize = 40;
/// How long they talk at each pace.
const TIME: Duration = Duration::from_secs(10);
/// Bytes of a line beyond its number.
const BYTES: usize = 60;
/// Lines a second of all together. The last one that is kept up with is the answer.
const PACES: [usize; 7] = [5, 10, 20, 40, 80, 160, 320];
/// The longest that a line takes while a room keeps up, for 99 of 100.
const KEEPS_UP: Duration = Duration::from_secs(2);

/// One pace, as it was measured.
struct Row {
    pace: usize,
    seconds: f64,
    said: usize,
    heard: usize,
    middle: Duration,
    late: Duration,
    servers: usize,
    redis: usize,
    work: [f64; 3],
}

/// Measures so many members over so many servers, at growing paces until the room does not keep up. Returns the page.
pub fn measure(members: usize, servers: usize, mixin: &str) -> String {
    let most = (members + 10).to_string();
    let options = ["--max-clients", &most, "--max-per-peer", &most].map(str::to_owned);
    let more = ["--mixin", mixin, "--bus-wait", "60"].map(str::to_owned);
    let options = [&options[..], &more].concat();
    let plan = Plan { servers, members: 0, options, ..Plan::default() };
    let mut world = World::start(plan);
    let began = Instant::now();
    let each = members / servers;
    for server in 0..servers {
        let mut left = each;
        while left > 0 {
            let now = left.min(AT_ONCE);
            world.join(server, now, Reading::Everything);
            left -= now;
        }
    }
    world.all_know_all();
    let came = began.elapsed();
    let idle = memory(&mut world);
    eprintln!("{members} members came in {:.1} s", came.as_secs_f64());
    let deaf: Vec<usize> =
        (0..servers).map(|server| world.join(server, 1, Reading::Nothing)[0]).collect();

    let mut rows = Vec::new();
    for pace in PACES {
        let row = at_pace(&mut world, pace);
        let keeps_up = row.late <= KEEPS_UP;
        eprintln!("{}", row.line());
        rows.push(row);
        if !keeps_up {
            break;
        }
    }
    let tally = world.settle();
    let ended = |member: &usize| {
        world.members.set_reading(*member, Reading::Everything);
        world.members.wait_or_not(Duration::from_secs(20), |state| state.members[*member].closed)
    };
    let dropped = deaf.iter().filter_map(ended).count();
    page(members, servers, mixin, &rows, (came, idle, dropped), &tally)
}

fn at_pace(world: &mut World, pace: usize) -> Row {
    let all = world.present(None);
    let talkers: Vec<usize> = all.iter().copied().step_by(all.len().div_ceil(TALKERS)).collect();
    let before = {
        let mut state = world.members.state();
        state.is_timed = true;
        state.lateness.clear();
        state.members.iter().map(|member| member.said.len()).sum::<usize>()
    };
    let work_before = work(world);
    let began = Instant::now();
    let per_second = pace as f64 / talkers.len() as f64;
    let talk = Talk { bytes: BYTES, ..Talk::new(usize::MAX, per_second) };
    let talking = talk.start(&world.members, &talkers);
    sleep(TIME);
    talking.stop();
    let said_in = began.elapsed().as_secs_f64();
    // The lines that are late count as well.
    world.members.wait_or_not(Duration::from_secs(60), |state| {
        let listeners = state.members.iter().filter(|member| member.listens()).count();
        let said: usize = state.members.iter().map(|member| member.said.len()).sum();
        let of_each_host = listeners - listeners / world.servers.len();
        (state.lateness.len() >= (said - before) * of_each_host).then_some(())
    });
    let seconds = began.elapsed().as_secs_f64();
    let work_after = work(world);
    let (servers, redis) = memory(world);
    let mut state = world.members.state();
    let said: usize = state.members.iter().map(|member| member.said.len()).sum();
    state.is_timed = false;
    state.lateness.sort_unstable();
    let late = &state.lateness;
    let part =
        |part: f64| late.get((late.len() as f64 * part) as usize).copied().unwrap_or_default();
    let work: Vec<f64> = work_after
        .iter()
        .zip(work_before)
        .map(|(after, before)| (after - before) / seconds)
        .collect();
    Row {
        pace,
        seconds: said_in,
        said: said - before,
        heard: late.len(),
        middle: part(0.5),
        late: part(0.99),
        servers,
        redis,
        work: [work[0], work[1], work[2]],
    }
}

impl Row {
    fn line(&self) -> String {
        let per_second = |count: usize| count as f64 / self.seconds;
        format!(
            "| {} | {:.1} | {:.0} | {:.1} ms | {:.1} ms | {:.1} MiB | {:.1} MiB | {:.2} | {:.2} | {:.2} |",
            self.pace,
            per_second(self.said),
            per_second(self.heard),
            self.middle.as_secs_f64() * 1e3,
            self.late.as_secs_f64() * 1e3,
            self.servers as f64 / 1024.0,
            self.redis as f64 / 1024.0,
            self.work[0],
            self.work[1],
            self.work[2],
        )
    }
}

/// Seconds of a processor that the servers, the Redis and this process have taken.
fn work(world: &mut World) -> [f64; 3] {
    let servers: Vec<u32> = world.servers.iter_mut().map(|server| server.machine().id()).collect();
    let of = |id: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // The name of the program, in brackets, may have blanks.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64
    };
    let redis = world.redis.machine().id();
    [servers.into_iter().map(of).sum(), of(redis), of(std::process::id())]
}

/// KiB of all servers, and of the Redis.
fn memory(world: &mut World) -> (usize, usize) {
    let of = |id: u32| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
    };
    let servers: Vec<u32> = world.servers.iter_mut().map(|server| server.machine().id()).collect();
    (servers.into_iter().map(of).sum(), of(world.redis.machine().id()))
}

fn page(
    members: usize,
    servers: usize,
    mixin: &str,
    rows: &[Row],
    (came, idle, dropped): (Duration, (usize, usize), usize),
    tally: &Tally,
) -> String {
    let mut page = format!(
        "# A room of {members} members over {servers} servers\n\n\
         Measured by `cargo run --release -p room -- --crowd {members} --servers {servers} --mixin {mixin}`: servers, their \
         Redis and all members on one machine with {} processors, so that the harness takes its share of them. {TALKERS} \
         members talk, {} bytes a line; everybody hears everything. On each server one member reads nothing.\n\n\
         All came in {:.1} s, after which the servers had {:.1} MiB together, {:.1} KiB a member. Of the {servers} members \
         that read nothing {dropped} were dropped. At the end: {tally}.\n\n\
         | lines a second | said | heard by members of other servers, a second | half are heard within | 99 of 100 within | \
         memory of all servers | of Redis | processors: servers | Redis | harness |\n\
         |--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        std::thread::available_parallelism().map_or(1, usize::from),
        BYTES + 12,
        came.as_secs_f64(),
        idle.0 as f64 / 1024.0,
        idle.0 as f64 / members as f64,
    );
    for row in rows {
        writeln!(page, "{}", row.line()).expect("a string grows");
    }
    let kept = rows.iter().filter(|row| row.late <= KEEPS_UP).map(|row| row.pace).max();
    let kept = kept.map_or("none of them".to_owned(), |pace| format!("{pace} lines a second"));
    writeln!(page, "\nThe room keeps up with {kept}: 99 of 100 lines come within {KEEPS_UP:?}.")
        .expect("a string grows");
    page
}
