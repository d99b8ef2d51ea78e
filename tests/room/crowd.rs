//! A crowd: how many lines a second a room with many members (or with few) carries, how late the lines are, and how much
//! memory the servers take.

use std::time::{Duration, Instant};

use crate::measure::{self, BYTES, HEAD, KEEPS_UP, Row, at_pace};
use crate::members::Reading;
use crate::world::{Plan, SOON, World};

/// The most members that connect at the same time. They say nothing until all of them are connected, and a server ends
/// connections that say nothing if they are too many.
const AT_ONCE: usize = 50;
/// The most members that talk.
const TALKERS: usize = 40;
/// How long the members talk at each pace.
const TIME: Duration = Duration::from_secs(10);
/// How many paces are tried between the fastest with which the room keeps up and the slowest with which it does not.
const BETWEEN: usize = 2;
/// The bytes of the kernel's send buffers on a server's machine: the least, the usual and the most. With the system's own
/// limit, 4 MiB for each connection, it would take minutes until members that read nothing are noticed.
const KERNEL: &str = "4096 16384 131072";

/// A crowd, and what it is to do.
#[derive(Clone, Debug)]
pub struct Crowd {
    /// The number of all members.
    pub members: usize,
    /// The number of servers.
    pub servers: usize,
    /// The mixin of the servers.
    pub mixin: String,
    /// The first pace, in lines a second. Each next pace is twice as fast, until the room does not keep up.
    pub from: usize,
}

/// Measures a crowd at growing paces until the room does not keep up. Returns the heading of a section, and its text.
pub fn measure(crowd: &Crowd) -> (String, String) {
    let Crowd { members, servers, mixin, from } = crowd;
    let load = measure::load();
    let most = (members + 10).to_string();
    let options = ["--max-clients", &most, "--max-per-peer", &most, "--mixin", mixin];
    let options = [&options[..], &["--bus-wait", "60", "--bus-queue", "100000"]].concat();
    let options = options.into_iter().map(str::to_owned).collect();
    let mut world =
        World::start(Plan { servers: *servers, members: 0, options, ..Plan::default() });
    let began = Instant::now();
    let silent = come(&world, *members);
    let came = began.elapsed();
    let idle = measure::memory(&mut world)[0];
    eprintln!("{members} members came in {:.1} s", came.as_secs_f64());
    let present = world.present(None);
    let present: Vec<usize> = present.into_iter().filter(|one| !silent.contains(one)).collect();
    let talkers: Vec<usize> =
        present.iter().copied().step_by(present.len().div_ceil(TALKERS)).collect();
    let rows = rows(&mut world, &talkers, *from);
    let tally = world.settle();
    let each = idle as f64 / *members as f64;
    let silence = match &silent[..] {
        [] => String::new(),
        silent => format!(
            " On each server one member reads nothing. Of these {} members {} were dropped, by the limit of their outboxes (the \
             kernel keeps at most 128 KiB more for a connection here).",
            silent.len(),
            rows.iter().map(|row| row.dropped).sum::<usize>()
        ),
    };
    let table: String = rows.iter().map(|row| row.line() + "\n").collect();
    let text = format!(
        "`cargo run --release -p room -- --crowd {members} --servers {servers} --mixin {mixin} --from {from}`\n\n{} members \
         talk, {} bytes a line; everybody hears everything.{silence} All came in {:.1} s, after which the servers had {:.1} \
         MiB together, {each:.1} KiB a member. {}\n\n{HEAD}{table}\n{}",
        talkers.len(),
        BYTES + 12,
        came.as_secs_f64(),
        idle as f64 / 1024.0,
        measure::circumstances(&load, &tally),
        verdict(&rows),
    );
    (format!("{members} members over {servers} servers"), text)
}

/// Lets all members join, and in a crowd one more at each server, which reads nothing. Returns the indices of the members
/// that read nothing.
fn come(world: &World, members: usize) -> Vec<usize> {
    let servers = world.servers.len();
    for server in 0..servers {
        let host = &world.servers[server].host;
        let set = || std::fs::write("/proc/sys/net/ipv4/tcp_wmem", KERNEL);
        world.network.inside(host, set).expect("a machine has a limit of its own");
        let mut left = (server + 1) * members / servers - server * members / servers;
        while left > 0 {
            let now = left.min(AT_ONCE);
            world.join(server, now, Reading::Everything);
            left -= now;
        }
    }
    world.all_know_all();
    let is_crowd = members >= 10 * servers;
    let silent = |server| world.join(server, 1, Reading::Nothing)[0];
    if is_crowd { (0..servers).map(silent).collect() } else { Vec::new() }
}

fn rows(world: &mut World, talkers: &[usize], from: usize) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let (mut pace, mut kept, mut not_kept, mut between) = (from, 0, None, 0);
    while between <= BETWEEN {
        let row = at_pace(world, talkers, pace, TIME);
        eprintln!("{}", row.line());
        if row.keeps_up() {
            kept = pace;
        } else {
            not_kept = Some(pace);
        }
        rows.push(row);
        // Late lines must not burden the next pace.
        world.settle_within(SOON);
        pace = not_kept.map_or(pace * 2, |not_kept| kept.midpoint(not_kept));
        between += usize::from(not_kept.is_some());
        if kept == 0 && not_kept.is_some() {
            break;
        }
    }
    rows.sort_by_key(|row| row.pace);
    rows
}

fn verdict(rows: &[Row]) -> String {
    let kept = rows.iter().filter(|row| row.keeps_up()).map(|row| row.pace).max();
    let not_kept = rows.iter().filter(|row| !row.keeps_up()).map(|row| row.pace).min();
    let kept = kept.map_or("none of them".to_owned(), |pace| format!("{pace} lines a second"));
    let not_kept = not_kept.map_or(String::new(), |pace| format!(", and not with {pace}"));
    format!("The room keeps up with {kept}{not_kept}: 99 of 100 lines come within {KEEPS_UP:?}.")
}
