//! A room at one pace: how late its lines are, what that costs, and where the figures go.

use std::fmt::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::members::{Member, State};
use crate::talk::Talk;
use crate::tally::Tally;
use crate::world::World;

/// How many bytes of a line follow its number.
pub const BYTES: usize = 60;
/// While a room keeps up, 99 of 100 lines are heard within this time.
pub const KEEPS_UP: Duration = Duration::from_secs(2);
/// How long late lines are waited for when none comes.
const SILENCE: Duration = Duration::from_secs(5);

/// One pace, as it was measured.
#[derive(Clone, Debug)]
pub struct Row {
    /// Lines a second that were to be said.
    pub pace: usize,
    /// Lines that were said.
    pub said: usize,
    /// How often a line was heard by a member of another server.
    pub heard: usize,
    /// For how long lines were said.
    pub seconds: f64,
    /// Half of the lines are heard within this time.
    pub middle: Duration,
    /// 99 of 100 lines are heard within this time.
    pub late: Duration,
    /// Members that read nothing and were dropped in that time.
    pub dropped: usize,
    /// Members that read, and were dropped all the same: too much came for this process, or for its machine.
    pub lost: usize,
    /// KiB of memory of all servers, and of the Redis.
    pub memory: [usize; 2],
    /// How many processors the servers, the Redis and this process used.
    pub work: [f64; 3],
}

/// Lets some members talk for a while, all together at this pace, and measures how late the lines are and what they cost.
pub fn at_pace(world: &mut World, talkers: &[usize], pace: usize, time: Duration) -> Row {
    let (said_before, dropped_before, lost_before) = {
        let mut state = world.members.state();
        state.is_timed = true;
        state.lateness.clear();
        (said(&state), dropped(&state), lost(&state))
    };
    let work_before = work(world);
    let began = Instant::now();
    let talk = Talk { bytes: BYTES, ..Talk::new(usize::MAX, pace as f64 / talkers.len() as f64) };
    let talking = talk.start(&world.members, talkers);
    sleep(time);
    talking.stop();
    let seconds = began.elapsed().as_secs_f64();
    wait_for_late(world, said_before);
    let whole = began.elapsed().as_secs_f64();
    let work_after = work(world);
    let memory = memory(world);
    let mut state = world.members.state();
    state.is_timed = false;
    state.lateness.sort_unstable();
    let late = &state.lateness;
    let part =
        |part: f64| late.get((late.len() as f64 * part) as usize).copied().unwrap_or_default();
    Row {
        pace,
        said: said(&state) - said_before,
        heard: late.len(),
        seconds,
        middle: part(0.5),
        late: part(0.99),
        dropped: dropped(&state) - dropped_before,
        lost: lost(&state) - lost_before,
        memory,
        work: std::array::from_fn(|index| (work_after[index] - work_before[index]) / whole),
    }
}

/// Waits for the lines that are late, which count as well.
fn wait_for_late(world: &World, said_before: usize) {
    let mut last = (0, Instant::now());
    let came = |state: &State| {
        let listeners = state.members.iter().filter(|member| member.listens()).count();
        let of_other_servers = listeners - listeners / world.servers.len();
        if state.lateness.len() > last.0 {
            last = (state.lateness.len(), Instant::now());
        }
        let are_all = last.0 >= (said(state) - said_before) * of_other_servers;
        (are_all || last.1.elapsed() > SILENCE).then_some(())
    };
    world.members.wait_or_not(Duration::from_secs(60), came);
}

fn said(state: &State) -> usize {
    state.members.iter().map(|member| member.said.len()).sum()
}

/// Members that read, and whose connection has ended.
fn lost(state: &State) -> usize {
    let is_lost = |member: &&Member| member.reads() && member.closed.is_some();
    state.members.iter().filter(is_lost).count()
}

/// Members that read nothing, and whose end was announced.
fn dropped(state: &State) -> usize {
    let Some(listener) = state.members.iter().find(|member| member.listens()) else { return 0 };
    let deaf = state.members.iter().filter(|member| !member.reads());
    let is_told = |name: &str| {
        let tells = |news: &str| news.contains("was dropped") && news.contains(&format!(" {name}"));
        listener.news.iter().any(|(_, news)| tells(news))
    };
    deaf.filter(|member| is_told(&member.name)).count()
}

impl Row {
    /// Whether the room keeps up: at least 80 of 100 lines could be said, 99 of 100 are heard soon, and no member that
    /// reads was dropped.
    pub fn keeps_up(&self) -> bool {
        self.lost == 0
            && self.late <= KEEPS_UP
            && self.said as f64 >= 0.8 * self.pace as f64 * self.seconds
    }

    /// A line of a table under [`HEAD`].
    pub fn line(&self) -> String {
        let per_second = |count: usize| count as f64 / self.seconds;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let mib = self.memory.map(|kib| kib as f64 / 1024.0);
        format!(
            "| {} | {:.1} | {:.0} | {:.1} ms | {:.1} ms | {} | {} | {:.1} MiB | {:.1} MiB | {:.2} | {:.2} | {:.2} |",
            self.pace,
            per_second(self.said),
            per_second(self.heard),
            ms(self.middle),
            ms(self.late),
            self.dropped,
            self.lost,
            mib[0],
            mib[1],
            self.work[0],
            self.work[1],
            self.work[2],
        )
    }
}

/// The head of a table of rows.
pub const HEAD: &str = "| lines a second | said | heard by members of other servers, a second | half are heard within | \
     99 of 100 within | silent members dropped | others dropped | memory of all servers | of Redis | processors: servers | Redis | harness |\n\
     |--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";

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

/// KiB of memory of all servers, and of the Redis.
pub fn memory(world: &mut World) -> [usize; 2] {
    let of = |id: u32| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
    };
    let servers: Vec<u32> = world.servers.iter_mut().map(|server| server.machine().id()).collect();
    [servers.into_iter().map(of).sum(), of(world.redis.machine().id())]
}

/// The machine, as it is now, and the count at the end: two sentences for a page.
pub fn circumstances(load: &str, tally: &Tally) -> String {
    let mut text = String::new();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    write!(
        text,
        "Servers, their Redis and all members are on one machine with {processors} processors"
    )
    .and_then(|()| {
        write!(text, ", so that the harness takes its share of them; load average before: {load}. ")
    })
    .and_then(|()| write!(text, "At the end: {tally}."))
    .expect("a string grows");
    text
}

/// The load average of the last minute.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Puts a section into a page, in the place of the one with the same heading.
///
/// # Errors
///
/// If the page cannot be written.
pub fn put(page: &str, heading: &str, text: &str) -> std::io::Result<()> {
    let before =
        std::fs::read_to_string(page).unwrap_or_else(|_| "# Rooms over several servers\n".into());
    let mut sections: Vec<String> =
        before.split("\n## ").map(|part| part.trim().to_owned()).collect();
    let section = format!("{heading}\n\n{}", text.trim());
    let is_same = |part: &String| part.lines().next() == Some(heading);
    match sections.iter().position(is_same) {
        Some(place) => sections[place] = section,
        None => sections.push(section),
    }
    std::fs::write(page, sections.join("\n\n## ") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_the_place_of_the_one_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let page = folder.path().join("page.md");
        let page = page.to_str().expect("a path");
        put(page, "One", "1").expect("it is written");
        put(page, "Two", "2\n\n3").expect("it is written");
        put(page, "One", "4").expect("it is written");
        let text = std::fs::read_to_string(page).expect("it is there");
        assert_eq!(text, "# Rooms over several servers\n\n## One\n\n4\n\n## Two\n\n2\n\n3\n");
    }
}
