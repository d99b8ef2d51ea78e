//! Servers that are far from their Redis: how late lines are, by the time of a round trip.

use std::thread::sleep;
use std::time::Duration;

use crate::link::Weather;
use crate::measure::{self, Row, at_pace};
use crate::world::{Plan, World};

/// Round trips between a server and its Redis, in ms.
const ROUND_TRIPS: [u64; 5] = [0, 50, 100, 200, 400];
/// Lines a second of all members together.
const PACES: [usize; 3] = [1, 20, 1000];
/// How long the members talk at each pace.
const TIME: Duration = Duration::from_secs(15);
/// The number of servers.
const SERVERS: usize = 3;
/// The number of each server's members.
const MEMBERS: usize = 2;

/// Measures how late lines are. Returns the heading of a section, and its text.
pub fn measure() -> (String, String) {
    let load = measure::load();
    let options = ["--bus-queue", "100000"].map(str::to_owned).to_vec();
    let plan =
        Plan { servers: SERVERS, members: MEMBERS, has_links: true, options, ..Plan::default() };
    let mut world = World::start(plan);
    let talkers = world.present(None);
    let mut table = String::from("| round trip |");
    table.extend(
        PACES.iter().map(|pace| format!(" {pace} lines a second: half within | 99 of 100 |")),
    );
    table += "\n|--:|";
    table.extend(PACES.iter().map(|_| "--:|--:|"));
    for ms in ROUND_TRIPS {
        let delay = Duration::from_millis(ms) / 2;
        let of_servers = world.links.len() - 1;
        let links = world.links[..of_servers].iter();
        links.for_each(|link| link.set(Weather { delay, ..Weather::default() }));
        sleep(Duration::from_secs(3));
        table += &format!("\n| {ms} ms |");
        for pace in PACES {
            let Row { middle, late, .. } = at_pace(&mut world, &talkers, pace, TIME);
            let line = format!(" {:.0} ms | {:.0} ms |", millis(middle), millis(late));
            eprintln!("{ms} ms, {pace} lines a second:{line}");
            table += &line;
        }
    }
    let tally = world.settle();
    let text = format!(
        "`cargo run --release -p room -- --far yes`\n\n{SERVERS} servers with {MEMBERS} members each, and a Redis that is so \
         far from each of them; a line goes from a server to Redis, and from there to the two others. {}\n\n{table}",
        measure::circumstances(&load, &tally),
    );
    ("How late lines are, by the time of a round trip".to_owned(), text)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
