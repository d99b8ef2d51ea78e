//! The name of the host of Redis: a resolver that does not answer, and a name with an address that is dead.

use std::path::Path;
use std::time::Duration;

use room::members::State;
use room::names::{Names, REDIS_NAME};
use room::talk::Talk;
use room::world::{Plan, REDIS, SOON, World};

use crate::{Case, news_of};

pub const CASES: &[Case] = &[
    Case("a_resolver_that_does_not_answer_at_the_start", silent_at_the_start),
    Case("a_resolver_that_does_not_answer_any_more", silent_later),
    Case("a_dead_first_address_of_two", dead_first_address),
];

/// The last byte of a dead address, which each server's resolver puts before the address of Redis, 10. A resolver puts
/// first the addresses that share the most leading bits with its own: 1, 2 and 3 share more with 4 than with 10.
const DEAD: u8 = 4;

/// Machines whose Redis is known by a name, and a silent name server. Redis runs, but no server of the room yet. `None` on
/// a system without a `resolv.conf`.
fn named() -> Option<(World, Names)> {
    if !Path::new("/etc/resolv.conf").exists() {
        println!("skipped: there is no /etc/resolv.conf, which tells a resolver what to ask");
        return None;
    }
    let options = ["--bus-wait", "3"].map(str::to_owned).to_vec();
    let mut world = World::build(Plan { options, ..Plan::default() });
    let names = Names::silent(&world.network, &["m1", "m2", "m3"]);
    for server in &mut world.servers {
        server.bus = format!("redis://{REDIS_NAME}/room");
    }
    world.redis.start();
    world.redis.ready();
    Some((world, names))
}

fn address_of_redis(world: &World) -> std::net::IpAddr {
    world.network.address(REDIS, 0).ip()
}

/// Lets each member that is there say a line, and waits until it is told that the others may not have the line. The servers
/// tell it without waiting for the resolver, and answer `/who` without it too.
#[track_caller]
fn all_are_told(world: &World) {
    let authors = world.present(None);
    let said = |state: &State, author: usize| state.members[author].said.len() as u32;
    Talk::new(1, 20.0).say(&world.members, &authors);
    world.members.wait("each author is told of its last line", SOON, |state| {
        let is_told = |author: &usize| {
            let last = said(state, *author) - 1;
            state.members[*author].told.contains(&last)
        };
        authors.iter().all(is_told).then_some(())
    });
    for asks in [authors[0], authors[authors.len() - 1]] {
        let before = world.members.state().members[asks].news.len();
        world.members.type_in(asks, "/who");
        world.members.wait("/who tells that it is cut off", SOON, |state| {
            let mut news = news_of(state, asks).skip(before);
            news.find(|line| line.contains("not been reached")).map(drop)
        });
    }
}

/// Fails unless all hear each other.
#[track_caller]
fn all_talk(world: &World) {
    world.all_know_all();
    let told = |world: &World| {
        let state = world.members.state();
        state.members.iter().map(|member| member.told.len()).sum::<usize>()
    };
    let before = told(world);
    Talk::new(5, 10.0).say(&world.members, &world.present(None));
    world.assert_kept();
    assert_eq!(told(world), before, "the others are reached again");
}

/// Servers start, serve their members, tell authors that lines may not arrive, and end, all without the resolver. They are
/// one room as soon as the name is known.
fn silent_at_the_start() {
    let Some((mut world, names)) = named() else { return };
    for server in 0..3 {
        world.start_server(server);
    }
    names.is_asked_by(3);
    all_are_told(&world);
    world.stop_server(2);
    names.answer(&[address_of_redis(&world)]);
    world.start_server(2);
    all_talk(&world);
}

/// The connections to Redis end, and for the next ones the name cannot be resolved.
fn silent_later() {
    let Some((mut world, names)) = named() else { return };
    names.answer(&[address_of_redis(&world)]);
    for server in 0..3 {
        world.start_server(server);
    }
    all_talk(&world);
    names.fall_silent();
    world.redis.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    names.is_asked_by(3);
    all_are_told(&world);
    world.stop_server(2);
    world.start_server(2);
    all_are_told(&world);
    names.answer(&[address_of_redis(&world)]);
    all_talk(&world);
}

/// The first address of Redis takes packets and answers none. It is tried first at each connection, and nobody notices;
/// when the second one is dead as well, the authors are told.
fn dead_first_address() {
    let Some((mut world, names)) = named() else { return };
    world.network.host("dead", DEAD);
    for server in &world.servers {
        world.network.block("dead", &server.host);
    }
    names.answer(&[world.network.address("dead", 0).ip(), address_of_redis(&world)]);
    for server in 0..3 {
        world.start_server(server);
    }
    for _ in 0..2 {
        all_talk(&world);
        world.redis.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    }
    for server in &world.servers {
        let host = &server.host;
        assert!(world.network.has_tried(host, DEAD), "{host} has not tried the dead address");
    }
    all_talk(&world);
    world.network.cut(REDIS);
    std::thread::sleep(Duration::from_secs(1));
    all_are_told(&world);
    world.network.mend(REDIS);
    all_talk(&world);
}
