//! A Redis that dies, forgets, is full, or stands still.

use std::thread::sleep;
use std::time::Duration;

use room::redis::Keeps;
use room::talk::{Talk, Talking};
use room::world::{Plan, REDIS, SPARE, World};

use crate::{Case, news_of};

pub const CASES: &[Case] = &[
    Case("redis_killed_with_its_data", killed_with_its_data),
    Case("redis_killed_without_its_data", killed_without_its_data),
    Case("redis_stopped_in_order_with_its_data", stopped_with_its_data),
    Case("redis_stopped_in_order_without_its_data", stopped_without_its_data),
    Case("redis_killed_with_the_end_of_its_log_cut_off", log_cut_off),
    Case("redis_killed_with_its_last_snapshot", last_snapshot),
    Case("redis_away_for_longer_than_lines_wait", away_for_long),
    Case("redis_back_without_data_that_one_server_had_not_read", behind_and_rebooted),
    Case("redis_back_empty_after_many_lines", many_lines_and_rebooted),
    Case("redis_starts_after_the_servers", starts_after_the_servers),
    Case("redis_that_loads_its_data", loads_its_data),
    Case("redis_full_for_a_while", full_for_a_while),
    Case("redis_full_for_longer_than_lines_wait", full_for_long),
    Case("redis_stands_still", stands_still),
    Case("redis_sleeps_in_a_command", sleeps_in_a_command),
    Case("redis_kills_its_clients", kills_its_clients),
    Case("redis_asks_for_a_password_for_a_while", asks_for_a_password),
    Case("redis_flushed", flushed),
    Case("redis_made_a_replica_for_a_while", made_a_replica),
    Case("failover_to_a_replica", failover),
    Case("failover_to_a_replica_that_is_behind", failover_behind),
    Case("old_lines_after_a_failover", old_lines_after_a_failover),
    Case("old_lines_after_a_snapshot", old_lines_after_a_snapshot),
    Case("old_lines_after_a_log_that_is_cut_off", old_lines_after_a_cut_log),
];

fn plan(keeps: Keeps, options: &[&str]) -> Plan {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    Plan { keeps, options, ..Plan::default() }
}

fn all_talk(world: &World) -> Talking {
    Talk::new(300, 8.0).start(&world.members, &world.present(None))
}

/// Lets a fault happen, with a moment of talk before and after it.
fn around(world: &mut World, fault: impl FnOnce(&mut World)) {
    let talking = all_talk(world);
    sleep(Duration::from_secs(2));
    fault(world);
    sleep(Duration::from_secs(3));
    talking.stop();
}

fn restart(world: &mut World, down: Duration) {
    world.redis.kill();
    sleep(down);
    world.redis.start();
    world.redis.ready();
}

fn stop_and_start(world: &mut World) {
    world.redis.stop();
    sleep(Duration::from_secs(1));
    world.redis.start();
    world.redis.ready();
}

fn stopped_with_its_data() {
    let mut world = World::start(plan(Keeps::Log, &[]));
    around(&mut world, stop_and_start);
    world.assert_clean();
}

fn stopped_without_its_data() {
    let mut world = World::start(plan(Keeps::Nothing, &[]));
    around(&mut world, stop_and_start);
    world.assert_clean();
}

fn killed_with_its_data() {
    let mut world = World::start(plan(Keeps::Log, &[]));
    around(&mut world, |world| restart(world, Duration::from_secs(1)));
    world.assert_clean();
}

fn killed_without_its_data() {
    let mut world = World::start(plan(Keeps::Nothing, &[]));
    around(&mut world, |world| {
        restart(world, Duration::ZERO);
        sleep(Duration::from_secs(3));
        restart(world, Duration::from_secs(1));
    });
    world.assert_clean();
}

fn log_cut_off() {
    let mut world = World::start(plan(Keeps::Log, &[]));
    around(&mut world, |world| {
        world.redis.kill();
        world.redis.truncate(3000);
        world.redis.start();
        world.redis.ready();
    });
    world.assert_clean();
}

fn last_snapshot() {
    let mut world = World::start(plan(Keeps::Snapshots, &[]));
    around(&mut world, |world| {
        world.redis.ask(&["SAVE"]);
        sleep(Duration::from_secs(2));
        restart(world, Duration::from_secs(1));
    });
    world.assert_clean();
}

/// Authors are told of their lines; but nobody is said to be gone, because nobody is.
fn away_for_long() {
    let mut world = World::start(plan(Keeps::Log, &["--bus-wait", "5"]));
    around(&mut world, |world| restart(world, Duration::from_secs(13)));
    let tally = world.assert_kept();
    assert!(tally.told > 0, "Redis was to be away for longer than lines wait: {tally}");
    nobody_seems_gone(&world);
}

fn nobody_seems_gone(world: &World) {
    world.all_know_all();
    let state = world.members.state();
    for member in 0..state.members.len() {
        let wrong = news_of(&state, member).find(|line| line.contains("not heard of"));
        assert!(wrong.is_none(), "{} was told {wrong:?}", state.members[member].name);
    }
}

/// Starts Redis, and lets everybody say something.
fn comes_back(world: &mut World) {
    world.redis.start();
    world.redis.ready();
    Talk::new(5, 10.0).say(&world.members, &world.present(None));
}

fn behind_and_rebooted() {
    let mut world = World::start(plan(Keeps::Nothing, &["--bus-wait", "8"]));
    let said_at_one = world.present(Some(0));
    world.network.cut("m2");
    Talk::new(20, 20.0).say(&world.members, &said_at_one);
    sleep(Duration::from_secs(1));
    world.redis.kill();
    world.network.mend("m2");
    sleep(Duration::from_secs(11));
    comes_back(&mut world);
    world.assert_kept();
}

/// Redis loses 1,800 lines that m2 has not heard. m1 still has all of them, because its queue has room.
fn many_lines_and_rebooted() {
    let mut world = World::start(plan(Keeps::Nothing, &["--bus-queue", "3000"]));
    let said_at_one = world.present(Some(0));
    world.network.cut("m2");
    Talk::new(600, 250.0).say(&world.members, &said_at_one);
    world.redis.kill();
    world.network.mend("m2");
    sleep(Duration::from_secs(1));
    comes_back(&mut world);
    world.assert_clean();
}

fn starts_after_the_servers() {
    let mut world = World::build(Plan::default());
    for server in 0..3 {
        world.start_server(server);
    }
    let talking = Talk::new(60, 5.0).start(&world.members, &world.present(None));
    sleep(Duration::from_secs(6));
    world.redis.start();
    world.redis.ready();
    talking.finish();
    world.all_know_all();
    world.assert_clean();
}

fn loads_its_data() {
    // Redis takes 2 ms for each of 1,500 keys, and answers clients after each kilobyte.
    let redis_options =
        vec!["--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024"];
    let mut world = World::start(Plan { redis_options, ..plan(Keeps::Snapshots, &[]) });
    world.redis.ask(&["DEBUG", "POPULATE", "1500", "other", "1000"]);
    Talk::new(10, 10.0).say(&world.members, &world.present(None));
    world.redis.ask(&["SAVE"]);
    Talk::new(10, 10.0).say(&world.members, &world.present(None));
    world.network.cut("m2");
    Talk::new(20, 20.0).say(&world.members, &world.present(Some(0)));
    sleep(Duration::from_millis(500));
    world.redis.kill();
    world.redis.start();
    world.network.mend("m2");
    Talk::new(20, 10.0).say(&world.members, &world.present(None));
    world.redis.ready();
    Talk::new(5, 10.0).say(&world.members, &world.present(None));
    world.assert_clean();
}

fn full_for_a_while() {
    let mut world = World::start(plan(Keeps::Log, &[]));
    around(&mut world, |world| {
        world.redis.ask(&["CONFIG", "SET", "maxmemory", "1mb"]);
        sleep(Duration::from_secs(5));
        world.redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    });
    world.assert_clean();
}

fn full_for_long() {
    let mut world = World::start(plan(Keeps::Log, &["--bus-wait", "5"]));
    around(&mut world, |world| {
        world.redis.ask(&["CONFIG", "SET", "maxmemory", "1mb"]);
        sleep(Duration::from_secs(15));
        world.redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    });
    let tally = world.assert_kept();
    assert!(tally.told > 0, "Redis was to be full for longer than lines wait: {tally}");
    nobody_seems_gone(&world);
}

fn stands_still() {
    let mut world = World::start(plan(Keeps::Log, &[]));
    around(&mut world, |world| {
        world.redis.machine().pause();
        // Longer than a server may be silent before it is gone.
        sleep(Duration::from_secs(15));
        world.redis.machine().resume();
    });
    world.assert_clean();
    nobody_seems_gone(&world);
}

fn sleeps_in_a_command() {
    let mut world = World::start(plan(Keeps::Log, &[]));
    around(&mut world, |world| drop(world.redis.ask(&["DEBUG", "SLEEP", "7"])));
    world.assert_clean();
}

fn kills_its_clients() {
    let mut world = World::start(plan(Keeps::Log, &[]));
    around(&mut world, |world| {
        for _ in 0..40 {
            world.redis.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
            sleep(Duration::from_millis(150));
        }
    });
    world.assert_clean();
}

/// Redis asks for a password that the servers do not have. Servers that are connected stay, until their connections end.
fn asks_for_a_password() {
    const PASSWORD: &str = "s3cr3t";
    let mut world = World::start(plan(Keeps::Log, &[]));
    around(&mut world, |world| {
        world.redis.ask(&["CONFIG", "SET", "requirepass", PASSWORD]);
        world.redis.ask_with(PASSWORD, &["CLIENT", "KILL", "TYPE", "normal"]);
        // The operator sees a new reason after 10 s at the earliest.
        sleep(Duration::from_secs(13));
        world.redis.ask_with(PASSWORD, &["CONFIG", "SET", "requirepass", ""]);
    });
    world.assert_clean();
    nobody_seems_gone(&world);
    for server in &world.servers {
        let said = server.said();
        assert!(said.contains("NOAUTH") && said.contains("--bus-password-file"), "{said}");
    }
}

fn flushed() {
    let mut world = World::start(plan(Keeps::Log, &[]));
    around(&mut world, |world| {
        world.redis.ask(&["FLUSHALL"]);
        sleep(Duration::from_secs(2));
        world.redis.ask(&["FLUSHALL"]);
    });
    world.assert_clean();
}

fn made_a_replica() {
    let mut world = World::start(plan(Keeps::Log, &[]));
    around(&mut world, |world| {
        // The master of this replica does not answer.
        world.redis.ask(&["REPLICAOF", "10.77.0.99", "6379"]);
        sleep(Duration::from_secs(4));
        world.redis.ask(&["REPLICAOF", "NO", "ONE"]);
    });
    world.assert_clean();
}

/// Starts the replica, and waits until it follows the Redis.
fn with_replica(world: &mut World) {
    world.spare.start();
    world.spare.ready();
    world.spare.follow(REDIS);
}

/// Promotes the replica: the Redis is gone, and the replica has its address.
fn promote(world: &mut World) {
    world.network.cut(REDIS);
    world.redis.kill();
    world.spare.ask(&["REPLICAOF", "NO", "ONE"]);
    world.network.move_address(REDIS, SPARE);
}

fn failover() {
    let mut world = World::start(plan(Keeps::Nothing, &[]));
    with_replica(&mut world);
    around(&mut world, |world| {
        promote(world);
        sleep(Duration::from_secs(2));
    });
    world.assert_clean();
}

fn failover_behind() {
    let mut world = World::start(plan(Keeps::Nothing, &[]));
    with_replica(&mut world);
    around(&mut world, |world| {
        world.network.cut(SPARE);
        sleep(Duration::from_secs(4));
        promote(world);
        world.network.mend(SPARE);
    });
    world.assert_clean();
}

/// Members talk and leave, and their servers are started anew, so that what they said is history.
fn history(world: &mut World) {
    Talk::new(50, 50.0).say(&world.members, &world.present(None));
    world.assert_clean();
    // A line counts as old if it was said well before a server was started.
    sleep(Duration::from_secs(2));
    for server in 0..3 {
        world.stop_server(server);
        world.start_server(server);
    }
    world.all_know_all();
}

fn old_lines_after_a_failover() {
    let mut world = World::start(plan(Keeps::Nothing, &[]));
    Talk::new(50, 50.0).say(&world.members, &world.present(None));
    with_replica(&mut world);
    history(&mut world);
    around(&mut world, |world| {
        world.network.cut(SPARE);
        sleep(Duration::from_secs(4));
        promote(world);
        world.network.mend(SPARE);
    });
    world.assert_clean();
}

fn old_lines_after_a_snapshot() {
    let mut world = World::start(plan(Keeps::Snapshots, &[]));
    Talk::new(20, 20.0).say(&world.members, &world.present(None));
    history(&mut world);
    world.redis.ask(&["SAVE"]);
    around(&mut world, |world| restart(world, Duration::from_secs(1)));
    world.assert_clean();
}

fn old_lines_after_a_cut_log() {
    let mut world = World::start(plan(Keeps::Log, &[]));
    history(&mut world);
    around(&mut world, |world| {
        world.redis.kill();
        world.redis.truncate(3000);
        world.redis.start();
        world.redis.ready();
    });
    world.assert_clean();
}
