//! Lines to one member: each reaches the member for whom it was meant, once, or its author is told.

use std::thread::sleep;
use std::time::Duration;

use room::redis::Keeps;
use room::talk::Talk;
use room::world::{Plan, SOON, World};

use crate::{Case, news_of};

pub const CASES: &[Case] = &[
    Case("private_lines_arrive", arrive),
    Case("private_lines_across_renames_in_a_partition", across_renames),
    Case("private_lines_to_a_member_that_has_left", to_one_that_left),
    Case("private_lines_to_a_server_that_was_killed", to_a_killed_server),
    Case("private_lines_to_a_server_that_was_restarted", to_a_restarted_server),
    Case("private_lines_while_redis_forgets", while_redis_forgets),
    Case("private_lines_to_a_server_that_is_cut_off", to_one_cut_off),
];

fn plan(options: &[&str], keeps: Keeps) -> Plan {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    Plan { options, keeps, ..Plan::default() }
}

/// Each member writes to one member of each other server.
fn everybody_writes(world: &World) {
    for from in 0..3 {
        for to in (0..3).filter(|to| *to != from) {
            for (author, receiver) in world.present(Some(from)).iter().zip(world.present(Some(to)))
            {
                world.members.tell(*author, receiver, Some(&world.servers[to].name));
            }
        }
    }
}

fn all_heard(world: &World) {
    world.members.wait("all private lines are heard", SOON, |state| {
        state.private.iter().all(|line| !line.heard_by.is_empty()).then_some(())
    });
    assert!(world.members.state().private.iter().all(|line| !line.told), "told in vain");
}

fn arrive() {
    let world = World::start(Plan::default());
    for _ in 0..5 {
        everybody_writes(&world);
    }
    let companions = world.present(Some(0));
    world.members.tell(companions[0], companions[1], None);
    all_heard(&world);
    world.assert_clean();
}

/// While lines are on their way, a receiver and its companion swap their names, and so do the author and its companion.
fn across_renames() {
    let world = World::start(Plan::default());
    let (authors, receivers) = (world.present(Some(0)), world.present(Some(2)));
    world.network.cut("m3");
    world.members.tell(authors[0], receivers[0], Some("m3"));
    world.members.tell(receivers[1], authors[1], Some("m1"));
    let name = |member: usize| world.members.state().members[member].name.clone();
    for (first, second) in [(receivers[0], receivers[1]), (authors[1], authors[0])] {
        let (first_name, second_name) = (name(first), name(second));
        for (member, new) in [(first, "other"), (second, &*first_name), (first, &*second_name)] {
            let before = world.members.state().members[member].news.len();
            world.members.type_in(member, &format!("/nick {new}"));
            world.members.wait("a member has its new name", SOON, |state| {
                news_of(state, member).skip(before).find(|line| line.contains(new)).map(drop)
            });
        }
    }
    sleep(Duration::from_secs(1));
    world.network.mend("m3");
    world.assert_kept();
    all_heard(&world);
}

/// The author has another name by now, and is told all the same. Nobody else hears the line, or a note about it.
fn to_one_that_left() {
    let world = World::start(Plan::default());
    let (authors, receivers) = (world.present(Some(0)), world.present(Some(2)));
    world.network.cut("m3");
    world.members.tell(authors[0], receivers[0], Some("m3"));
    let left = world.members.state().members[receivers[0]].name.clone();
    world.members.quit(receivers[0]);
    world.members.type_in(receivers[1], &format!("/nick {left}"));
    world.members.type_in(authors[0], "/nick somebody");
    sleep(Duration::from_secs(1));
    world.network.mend("m3");
    world.assert_kept();
    let state = world.members.state();
    let line = &state.private[0];
    assert!(line.told && line.heard_by.is_empty(), "{line:?}");
    let others = state.members.iter().enumerate().filter(|(index, _)| *index != authors[0]);
    for (_, member) in others {
        assert!(!member.news.iter().any(|(_, line)| line.contains('~')), "{}", member.name);
    }
}

fn to_a_killed_server() {
    let mut world = World::start(Plan::default());
    let (authors, receivers) = (world.present(Some(0)), world.present(Some(2)));
    world.kill_server(2);
    world.members.tell(authors[0], receivers[0], Some("m3"));
    sleep(Duration::from_secs(1));
    world.members.tell(authors[1], receivers[1], Some("m3"));
    world.assert_kept();
    assert!(world.members.state().private.iter().all(|line| line.told), "the server was killed");
}

fn to_a_restarted_server() {
    let mut world = World::start(Plan::default());
    let (authors, receivers) = (world.present(Some(0)), world.present(Some(2)));
    world.kill_server(2);
    world.members.tell(authors[0], receivers[0], Some("m3"));
    let joined = world.start_server(2);
    // The new member takes the name of the member that the line was for.
    let name = world.members.state().members[receivers[0]].name.clone();
    world.members.type_in(joined[0], &format!("/nick {name}"));
    world.members.tell(authors[1], receivers[1], Some("m3"));
    world.assert_kept();
}

fn while_redis_forgets() {
    let mut world = World::start(plan(&[], Keeps::Nothing));
    Talk::new(5, 10.0).say(&world.members, &world.present(None));
    for _ in 0..3 {
        everybody_writes(&world);
        world.redis.kill();
        everybody_writes(&world);
        world.redis.start();
        world.redis.ready();
        everybody_writes(&world);
    }
    world.assert_kept();
    all_heard(&world);
}

fn to_one_cut_off() {
    let world = World::start(plan(&["--bus-wait", "4"], Keeps::Log));
    world.network.cut("m3");
    everybody_writes(&world);
    sleep(Duration::from_secs(6));
    everybody_writes(&world);
    world.network.mend("m3");
    world.assert_kept();
}
