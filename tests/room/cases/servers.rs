//! Servers that are killed, stand still, end in order, and come back.

use std::thread::sleep;
use std::time::Duration;

use room::members::Reading;
use room::talk::Talk;
use room::world::{Plan, REDIS, SOON, World};

use crate::{Case, news_of};

pub const CASES: &[Case] = &[
    Case("a_server_killed_and_started_again", killed_and_started),
    Case("every_server_killed_and_started_again", every_server_killed),
    Case("servers_restarted_in_turn", restarted_in_turn),
    Case("a_server_stands_still", stands_still),
    Case("a_server_stands_still_until_it_is_missed", stands_still_for_long),
    Case("an_orderly_stop", orderly_stop),
    Case("an_orderly_stop_while_cut_off", stop_while_cut_off),
    Case("an_orderly_stop_while_redis_is_down", stop_while_redis_is_down),
    Case("a_server_whose_name_is_taken", name_is_taken),
    Case("a_server_that_gets_its_name_back", gets_its_name_back),
    Case("a_server_killed_while_it_is_cut_off", killed_while_cut_off),
];

/// Fails unless lines of a killed server that reached one of these members reach all of them.
#[track_caller]
fn assert_agreement(world: &World, of: &[usize], at: &[usize]) {
    let all_or_none = world.members.wait_or_not(SOON, |state| {
        let agree = |author: &usize| {
            (0..state.members[*author].said.len() as u32).all(|number| {
                let heard = |member: &&usize| {
                    let heard = state.members[**member].heard.get(author);
                    heard.is_some_and(|heard| heard.has(number))
                };
                let count = at.iter().filter(heard).count();
                count == 0 || count == at.len()
            })
        };
        of.iter().all(agree).then_some(())
    });
    assert!(all_or_none.is_some(), "some have heard lines of a killed server that others have not");
}

fn killed_and_started() {
    let mut world = World::start(Plan::default());
    let (of_it, others) =
        (world.present(Some(2)), [world.present(Some(0)), world.present(Some(1))].concat());
    let talking = Talk::new(200, 20.0).start(&world.members, &world.present(None));
    sleep(Duration::from_secs(2));
    world.kill_server(2);
    sleep(Duration::from_secs(2));
    world.start_server(2);
    Talk::new(20, 10.0).say(&world.members, &world.present(Some(2)));
    talking.stop();
    world.assert_kept();
    assert_agreement(&world, &of_it, &others);
    world.all_know_all();
}

fn every_server_killed() {
    let mut world = World::start(Plan::default());
    Talk::new(50, 50.0).say(&world.members, &world.present(None));
    world.assert_clean();
    sleep(Duration::from_secs(2));
    (0..3).for_each(|server| world.kill_server(server));
    for server in 0..3 {
        world.start_server(server);
    }
    Talk::new(20, 10.0).say(&world.members, &world.present(None));
    world.all_know_all();
    world.assert_kept();
}

fn restarted_in_turn() {
    let mut world = World::start(Plan::default());
    for server in 0..3 {
        let talking = Talk::new(200, 10.0).start(&world.members, &world.present(None));
        sleep(Duration::from_secs(1));
        world.stop_server(server);
        world.start_server(server);
        sleep(Duration::from_secs(1));
        talking.stop();
    }
    Talk::new(10, 10.0).say(&world.members, &world.present(None));
    world.all_know_all();
    world.assert_kept();
}

fn stands_still() {
    let mut world = World::start(Plan::default());
    let talking = Talk::new(200, 10.0).start(&world.members, &world.present(None));
    world.pause_server(1);
    sleep(Duration::from_secs(5));
    world.resume_server(1);
    talking.stop();
    world.assert_clean();
}

/// A server that stands still is announced as gone, and authors are told of lines that it has not shown. It shows the lines
/// that it can still get when it is back.
fn stands_still_for_long() {
    let mut world = World::start(Plan::default());
    let talking = Talk::new(200, 5.0).start(&world.members, &world.present(None));
    let there = world.present(Some(0))[0];
    world.pause_server(1);
    world.members.wait("m2 is missed", SOON, |state| {
        news_of(state, there).find(|line| line.contains("the server m2")).map(drop)
    });
    sleep(Duration::from_secs(2));
    world.resume_server(1);
    sleep(Duration::from_secs(2));
    talking.stop();
    world.assert_kept();
    world.all_know_all();
}

fn orderly_stop() {
    let mut world = World::start(Plan::default());
    Talk::new(50, 50.0).say(&world.members, &world.present(None));
    world.stop_server(1);
    let tally = world.assert_kept();
    assert_eq!(tally.told, 0, "what was said was to be relayed before the end: {tally}");
}

/// Waits until this server has taken everything that its members say.
fn taken(world: &World, server: usize) {
    let members = world.present(Some(server));
    world.members.wait("a server takes its members' lines", SOON, |state| {
        let heard = |author: &usize| {
            let said = state.members[*author].said.len() as u32;
            let mut companions = members.iter().filter(|member| *member != author);
            companions.all(|member| {
                let heard = state.members[*member].heard.get(author);
                said == 0 || heard.is_some_and(|heard| heard.has(said - 1))
            })
        };
        members.iter().all(heard).then_some(())
    });
}

fn stop_while_cut_off() {
    let mut world = World::start(Plan::default());
    Talk::new(5, 10.0).say(&world.members, &world.present(None));
    world.network.cut("m3");
    Talk::new(10, 10.0).say(&world.members, &world.present(Some(2)));
    taken(&world, 2);
    world.stop_server(2);
    world.network.mend("m3");
    let tally = world.assert_kept();
    assert_eq!(tally.orphans, 0, "the authors were there until the end: {tally}");
}

fn stop_while_redis_is_down() {
    let mut world = World::start(Plan::default());
    Talk::new(5, 10.0).say(&world.members, &world.present(None));
    world.redis.kill();
    Talk::new(10, 10.0).say(&world.members, &world.present(Some(2)));
    taken(&world, 2);
    world.stop_server(2);
    world.redis.start();
    world.redis.ready();
    let tally = world.assert_kept();
    assert_eq!(tally.orphans, 0, "the authors were there until the end: {tally}");
}

/// The second of two servers with one name ends, and says which name it was; the first is not disturbed.
fn name_is_taken() {
    let mut world = World::start(Plan { members: 1, ..Plan::default() });
    world.stop_server(2);
    world.servers[2].name = "M2".to_owned();
    world.servers[2].start();
    let status = world.servers[2].machine().end_within(SOON);
    let said = world.servers[2].said();
    assert!(!status.success(), "a second server called m2: {status}, {said}");
    assert!(said.to_lowercase().contains("m2"), "the error names the name: {said}");
    Talk::new(5, 10.0).say(&world.members, &world.present(None));
    world.assert_kept();
}

/// A server is killed and started again at once, under its name, which Redis still keeps for the killed process. Its
/// members' lines reach the others as soon as the name is free, or their authors are told.
fn gets_its_name_back() {
    let mut world = World::start(Plan::default());
    world.kill_server(0);
    world.start_server(0);
    Talk::new(40, 3.0).say(&world.members, &world.present(None));
    world.all_know_all();
    world.assert_kept();
}

fn killed_while_cut_off() {
    let mut world = World::start(Plan::default());
    let talking = Talk::new(200, 10.0).start(&world.members, &world.present(None));
    world.network.cut("m3");
    sleep(Duration::from_secs(2));
    world.kill_server(2);
    world.network.mend("m3");
    world.start_server(2);
    // Redis is away as well, for a moment.
    world.network.cut(REDIS);
    sleep(Duration::from_secs(2));
    world.network.mend(REDIS);
    world.join(2, 1, Reading::Everything);
    talking.stop();
    world.assert_kept();
    world.all_know_all();
}
