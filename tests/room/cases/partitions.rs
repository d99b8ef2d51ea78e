//! Machines that cannot reach each other for a while, and links that are slow or lose what they carry.

use std::thread::sleep;
use std::time::Duration;

use room::link::Weather;
use room::talk::Talk;
use room::world::{Plan, REDIS, SOON, World};

use crate::{Case, news_of};

pub const CASES: &[Case] = &[
    Case("nothing_happens", nothing_happens),
    Case("a_partition_of_each_server_in_turn", each_server_in_turn),
    Case("a_partition_of_redis", of_redis),
    Case("a_server_that_cannot_reach_redis_alone", blocked),
    Case("a_partition_longer_than_lines_wait", longer_than_lines_wait),
    Case("a_link_that_comes_and_goes", comes_and_goes),
    Case("a_machine_whose_cable_is_pulled", cable_is_pulled),
    Case("a_link_that_loses_frames", loses_frames),
    Case("a_link_that_reorders_frames", reorders_frames),
    Case("a_slow_link_keeps_up", slow_link_keeps_up),
];

fn nothing_happens() {
    let world = World::start(Plan::default());
    Talk::new(50, 50.0).say(&world.members, &world.present(None));
    world.assert_clean();
}

fn each_server_in_turn() {
    let world = World::start(Plan::default());
    let talking = Talk::new(200, 10.0).start(&world.members, &world.present(None));
    for host in ["m1", "m2", "m3"] {
        world.network.cut(host);
        sleep(Duration::from_secs(2));
        world.network.mend(host);
        sleep(Duration::from_secs(1));
    }
    talking.stop();
    world.assert_clean();
}

fn of_redis() {
    let world = World::start(Plan::default());
    let talking = Talk::new(200, 10.0).start(&world.members, &world.present(None));
    world.network.cut(REDIS);
    sleep(Duration::from_secs(5));
    world.network.mend(REDIS);
    talking.stop();
    world.assert_clean();
}

fn blocked() {
    let world = World::start(Plan::default());
    let talking = Talk::new(200, 10.0).start(&world.members, &world.present(None));
    world.network.block("m2", REDIS);
    sleep(Duration::from_secs(5));
    world.network.unblock("m2", REDIS);
    talking.stop();
    world.assert_clean();
}

/// Authors are told of lines that may not have arrived, and the server that is away is announced as gone and as back.
fn longer_than_lines_wait() {
    let options = ["--bus-wait", "6"].map(str::to_owned).to_vec();
    let world = World::start(Plan { options, ..Plan::default() });
    let talking = Talk::new(200, 5.0).start(&world.members, &world.present(None));
    world.network.cut("m3");
    let there = world.present(Some(0))[0];
    world.members.wait("m3 is missed", SOON, |state| {
        news_of(state, there).find(|line| line.contains("the server m3")).map(drop)
    });
    let before = world.members.state().members[there].news.len();
    let away = world.present(Some(2))[0];
    world.members.type_in(away, "/who");
    world.members.wait("/who tells that it is cut off", SOON, |state| {
        news_of(state, away).find(|line| line.contains("not been reached")).map(drop)
    });
    world.network.mend("m3");
    world.members.wait("m3 is back", SOON, |state| {
        let mut news = news_of(state, there).skip(before);
        news.find(|line| line.contains("the server m3")).map(drop)
    });
    talking.stop();
    let tally = world.assert_kept();
    assert!(tally.told > 0, "the partition was to be longer than lines wait: {tally}");
    world.all_know_all();
}

fn comes_and_goes() {
    let world = World::start(Plan::default());
    let talking = Talk::new(300, 20.0).start(&world.members, &world.present(None));
    for turn in 0..12 {
        let host = ["m1", "m3", REDIS][turn % 3];
        world.network.cut(host);
        sleep(Duration::from_millis(400));
        world.network.mend(host);
        sleep(Duration::from_millis(400));
    }
    talking.stop();
    world.assert_clean();
}

/// Unlike a partition, a pulled cable is noticed by the machine's system: routes are gone, and new connections fail at once.
fn cable_is_pulled() {
    let world = World::start(Plan::default());
    let talking = Talk::new(200, 10.0).start(&world.members, &world.present(None));
    for host in ["m3", REDIS] {
        world.network.unplug(host);
        sleep(Duration::from_secs(4));
        world.network.plug_in(host);
        sleep(Duration::from_secs(1));
    }
    talking.stop();
    world.assert_clean();
}

/// A world whose third server, with its members, is behind a link with this weather.
fn behind(weather: Weather, options: &[&str]) -> World {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    let world = World::start(Plan { options, has_links: true, ..Plan::default() });
    world.links[2].set(weather);
    world
}

fn loses_frames() {
    let weather = Weather { delay: Duration::from_millis(10), loss: 50, ..Weather::default() };
    let world = behind(weather, &[]);
    Talk::new(100, 10.0).say(&world.members, &world.present(None));
    world.assert_kept();
}

fn reorders_frames() {
    let (delay, jitter) = (Duration::from_millis(30), Duration::from_millis(15));
    let world = behind(Weather { delay, jitter, loss: 5, reorder: 100 }, &[]);
    Talk::new(100, 10.0).say(&world.members, &world.present(None));
    world.assert_kept();
}

/// A round trip to Redis takes 400 ms, and the stream keeps far fewer lines than are said: a server that fell behind would
/// lose lines.
fn slow_link_keeps_up() {
    let weather = Weather { delay: Duration::from_millis(200), ..Weather::default() };
    let world = behind(weather, &["--bus-length", "2000"]);
    let others = [world.present(Some(0)), world.present(Some(1))].concat();
    Talk::new(1000, 150.0).say(&world.members, &others);
    let tally = world.assert_kept();
    assert_eq!(tally.told, 0, "a reader on a slow link falls behind: {tally}");
}
