//! Many lines that come at once, members that read slowly or not at all, and a stream that is trimmed.

use std::thread::sleep;
use std::time::Duration;

use room::link::{Link, Weather};
use room::members::Reading;
use room::talk::Talk;
use room::world::{FAR, Plan, REDIS, SOON, World};

use crate::{Case, news_of};

pub const CASES: &[Case] = &[
    Case("members_of_a_slow_link_while_their_server_catches_up", slow_link),
    Case("members_that_read_slowly_while_their_server_catches_up", slow_readers),
    Case("fast_members_while_their_server_catches_up", fast_readers),
    Case("a_member_that_reads_nothing", reads_nothing),
    Case("a_stream_that_is_trimmed_during_a_partition", trimmed),
    Case("a_queue_that_is_full", full_queue),
];

fn plan(options: &[&str]) -> Plan {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    Plan { options, ..Plan::default() }
}

/// Keeps m3 from Redis while the members of the other servers talk, and then lets it catch up.
fn behind(world: &World, talk: Talk) {
    world.network.block("m3", REDIS);
    talk.say(&world.members, &[world.present(Some(0)), world.present(Some(1))].concat());
    world.network.unblock("m3", REDIS);
}

/// Members far from their server, and the link that they are behind.
fn far_members(world: &World) -> (Link, Vec<usize>) {
    let weather = Weather { delay: Duration::from_millis(50), ..Weather::default() };
    let link = world.network.host_behind(FAR, 20, weather);
    let started = world.servers[2].started;
    let reading = Reading::Everything;
    let far = world.members.join(&world.network, [FAR, "m3"], started, 3, reading);
    (link, far)
}

fn slow_link() {
    let world = World::start(plan(&["--bus-queue", "5000"]));
    let (_link, _) = far_members(&world);
    behind(&world, Talk { bytes: 200, ..Talk::new(600, 150.0) });
    world.assert_clean();
}

/// A member takes 20 KB in a tenth of a second, so 700 KB take a few seconds.
fn slow_readers() {
    let world = World::start(plan(&["--bus-queue", "5000"]));
    world.join(2, 2, Reading::Slowly(20_000));
    behind(&world, Talk { bytes: 200, ..Talk::new(600, 150.0) });
    world.assert_clean();
}

fn fast_readers() {
    let world = World::start(plan(&["--bus-queue", "5000"]));
    behind(&world, Talk { bytes: 500, ..Talk::new(600, 150.0) });
    world.assert_clean();
}

/// A member that reads nothing is dropped, and delays nobody.
fn reads_nothing() {
    let world = World::start(Plan::default());
    let deaf = world.join(2, 1, Reading::Nothing)[0];
    // The others say more than the kernel keeps for this member, which may be 4 MiB.
    for server in [0, 2] {
        let talk = Talk { bytes: 7000, ..Talk::new(150, 40.0) };
        talk.say(&world.members, &world.present(Some(server))[..3]);
    }
    let tally = world.settle();
    assert_eq!((tally.told, tally.is_kept()), (0, true), "{}", world.report(&tally));
    // The member itself would notice its end only by reading. The others get a line about it.
    let other = world.present(Some(0))[0];
    let name = format!("{}@m3 was dropped", world.members.state().members[deaf].name);
    world.members.wait("it was dropped", SOON, |state| {
        news_of(state, other).find(|line| line.contains(&name)).map(drop)
    });
}

/// m3 misses more than ten times as many entries as the stream should keep. So the stream is trimmed although m3 has not
/// read it. m3 notices the gap and announces it, and the authors are told.
fn trimmed() {
    let world = World::start(plan(&["--bus-length", "100", "--bus-queue", "5000"]));
    behind(&world, Talk::new(400, 100.0));
    sleep(Duration::from_secs(1));
    Talk::new(10, 10.0).say(&world.members, &world.present(None));
    let tally = world.assert_kept();
    assert!(tally.told > 0, "the stream was to be trimmed: {tally}");
    let member = world.present(Some(2))[0];
    let told = {
        let state = world.members.state();
        news_of(&state, member).any(|line| line.contains("m1") && line.contains("missing"))
    };
    assert!(told, "its members are told of a gap: {}", world.report(&tally));
}

/// More lines than may wait are refused at once.
fn full_queue() {
    let world = World::start(plan(&["--bus-queue", "100"]));
    world.network.cut("m3");
    Talk::new(100, 50.0).say(&world.members, &world.present(Some(2)));
    world.network.mend("m3");
    Talk::new(10, 5.0).say(&world.members, &world.present(None));
    let tally = world.assert_kept();
    assert!(tally.told > 0, "the queue was to be full: {tally}");
}
