//! Rooms of several servers, joined through Redis.

mod left_out;
mod members;
mod redis_fails;

use std::collections::HashMap;
use std::io::Read;
use std::net::SocketAddr;

use super::redis::{Redis, Store, no_redis};
use super::{Member, open_room, operator_hears, operator_sees};
use crate::CHAT;
use test_support::process::Process;
use test_support::program::*;
use test_support::{eventually, skip_if};

/// The keys of the room's stream, of the servers' announcements, and of their members.
const STREAM: &str = "chat:{room}:lines";
const SERVERS: &str = "chat:{room}:servers";
const MEMBERS: &str = "chat:{room}:members";

/// The time a second from now, in ms of Redis's clock.
fn later() -> String {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    (now.as_millis() + 1_000).to_string()
}

/// A server of the shared room, which has joined the others.
fn server(redis: &Redis, tag: &str, options: &[&str]) -> (Process, SocketAddr) {
    let (server, address) = server_alone(redis, tag, options);
    sees_beginning(&server, "* joined with the other servers at redis://127.0.0.1:");
    (server, address)
}

fn server_alone(redis: &Redis, tag: &str, options: &[&str]) -> (Process, SocketAddr) {
    let bus = ["--bus", &redis.room(), "--server", tag, "--pace", "0"];
    // No line is given up because the machine is slow.
    let patience: &[&str] =
        if options.contains(&"--bus-wait") { &[] } else { &["--bus-wait", "600"] };
    open_room(&[&bus, patience, options].concat())
}

/// The texts that the servers have written under a key, by the servers' identifiers. An announcement, for example, is
/// `TIME BEAT VERSION UPTIME NAME`.
fn said_by_servers(redis: &Redis, key: &str) -> HashMap<String, String> {
    ::redis::cmd("HGETALL").arg(key).query(&mut redis.connect()).unwrap()
}

/// Waits until all lines so far have arrived at all servers, and each sender knows it.
fn all_have_arrived(redis: &Redis) {
    let heard = || said_by_servers(redis, "chat:{room}:heard");
    let last = || said_by_servers(redis, "chat:{room}:last");
    eventually("all is heard", || {
        let (last, heard) = (last(), heard());
        let lines = last.iter().filter(|(id, _)| *id != "clock");
        lines.into_iter().all(|(id, number)| {
            let mut others = heard.iter().filter(|(other, _)| *other != id);
            heard.len() > 1 && others.all(|(_, text)| text.contains(&format!(" {id}:{number}")))
        })
    });
    // The answer to an announcement says what the others have heard, so two more announcements suffice.
    let beats = || -> HashMap<String, u64> {
        let beat = |text: String| text.split(' ').nth(1).unwrap().parse().unwrap();
        said_by_servers(redis, SERVERS).into_iter().map(|(id, text)| (id, beat(text))).collect()
    };
    let before = beats();
    eventually("it is known", || beats().iter().all(|(id, beat)| *beat > before[id] + 1));
}

/// A server called one with the member alice, and a server called two with the member bob.
fn alice_and_bob(redis: &Redis) -> [(Process, Member); 2] {
    let (one, at_one) = server(redis, "one", &[]);
    let (two, at_two) = server(redis, "two", &[]);
    [(one, Member::join(at_one, "alice")), (two, Member::join(at_two, "bob"))]
}

fn sees_beginning(server: &Process, beginning: &str) {
    while !server.line().starts_with(beginning) {}
}

const LOST: &str = "* the other servers cannot be reached: redis://";

const JOINED: &str = "* joined with the other servers at redis://";

/// The news of the bus that members get: no word of it comes from Redis.
const LOST_TO_MEMBERS: &str = "* the other servers cannot be reached";

const JOINED_TO_MEMBERS: &str = "* joined with the other servers; this one is called one";

/// Says numbered lines.
fn say(member: &Member, numbers: std::ops::Range<u32>) {
    numbers.for_each(|number| member.say(&format!("line {number}")));
}

/// Hears the numbered lines of a speaker, each once and in order, and nothing else.
fn hears(member: &mut Member, speaker: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        assert_eq!(member.hears(), format!("{speaker}: line {number}"));
    }
}

#[test]
fn a_line_that_is_said_at_one_server_is_heard_at_all_of_them_once() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let (one, at_one) = server(&redis, "one", &[]);
    let (two, at_two) = server(&redis, "two", &[]);
    let (_three, at_three) = server(&redis, "three", &[]);
    let mut alice = Member::join(at_one, "alice");
    let mut bob = Member::join(at_two, "bob");
    alice.sees("* bob@two has joined");
    // The same name may be taken at several servers, because each member is called after its server, too.
    let mut alice_too = Member::join(at_three, "alice");
    alice.sees("* alice@three has joined");
    alice.say("hello");
    assert_eq!(bob.hears(), "alice@one: hello");
    assert_eq!(alice_too.hears(), "alice@one: hello");
    assert_eq!(operator_hears(&one), "alice: hello");
    assert_eq!(operator_hears(&two), "alice@one: hello");
    two.ask("from the operator");
    assert_eq!(alice.hears(), "operator@two: from the operator");
    assert_eq!(bob.hears(), "operator: from the operator");
    assert_eq!(alice_too.hears(), "operator@two: from the operator");
    alice_too.leave();
    alice.sees("* alice@three has left");
    say(&alice, 0..100);
    hears(&mut bob, "alice@one", 0..100);
    // bob does not receive its own lines.
    say(&bob, 0..100);
    hears(&mut alice, "bob@two", 0..100);
}

#[test]
fn who_and_private_lines_reach_across_servers() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let (one, at_one) = server(&redis, "one", &[]);
    let (two, at_two) = server(&redis, "two", &[]);
    let mut alice = Member::join(at_one, "alice");
    let mut bob = Member::join(at_two, "bob");
    let mut carol = Member::join(at_two, "carol");
    while alice.asks_who() != "* 3 here: alice, bob@two, carol@two" {}
    alice.say("@bob@two between us");
    alice.say("@operator@two good evening");
    alice.say("@alice@one to myself");
    alice.say("@dave@two are you there");
    alice.say("@dave@three are you there");
    alice.say("@dave are you there");
    alice.say("@bob is that you");
    alice.say("@BOB@TWO in capitals");
    alice.say("for all");
    assert_eq!(bob.hears(), "alice@one -> bob: between us");
    // A private line never goes to a member of another server on a guess.
    assert_eq!(bob.hears(), "alice@one -> bob: in capitals");
    assert_eq!(operator_hears(&two), "alice@one -> operator: good evening");
    for member in [&mut bob, &mut carol] {
        assert_eq!(member.hears(), "alice@one: for all");
    }
    assert_eq!(alice.hears(), "alice -> alice: to myself");
    for (why, to, text) in [
        ("nobody there is called dave@two", "dave@two", "are you there"),
        ("no other server here is called three", "dave@three", "are you there"),
        ("nobody here is called dave", "dave", "are you there"),
        ("nobody here is called bob; write @bob@two TEXT", "bob", "is that you"),
    ] {
        alice.sees(&format!("* {why}: this line was not sent: \"@{to} {text}\""));
    }
    bob.say("@alice@one answer");
    assert_eq!(alice.hears(), "bob@two -> alice: answer");
    one.ask("/kick carol@two");
    operator_sees(&one, "* the operator of two may do that");
}

#[test]
fn who_names_all_members_of_a_server_with_a_thousand() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let (_one, at_one) = server(&redis, "one", &[]);
    let mut alice = Member::join(at_one, "alice");
    let names: Vec<String> =
        (0..1_000).map(|number| format!("{number}:somebody-{number}")).collect();
    let members = format!("1 {} 1000:\u{202e}mallory", names.join(" "));
    let shown = format!("{} 1 1 0 two", later());
    let mut connection = redis.connect();
    ::redis::cmd("HSET").arg(&[MEMBERS, "id", &members]).exec(&mut connection).unwrap();
    ::redis::cmd("HSET").arg(&[SERVERS, "id", &shown]).exec(&mut connection).unwrap();
    let answer = loop {
        let answer = alice.asks_who();
        if !answer.starts_with("* 1 here: ") {
            break answer;
        }
    };
    assert!(answer.starts_with("* 1001 here: alice, "), "{}", &answer[..60]);
    assert!(answer.contains("somebody-999@two") && !answer.contains("mallory"));
}

#[test]
fn a_server_that_is_killed_and_started_again_goes_on_with_the_others() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let [(one, mut alice), (two, mut bob)] = alice_and_bob(&redis);
    say(&alice, 0..10);
    hears(&mut bob, "alice@one", 0..10);
    say(&bob, 0..10);
    hears(&mut alice, "bob@two", 0..10);
    while alice.asks_who() != "* 2 here: alice, bob@two" {}
    two.send_signal(libc::SIGKILL);
    assert_eq!(two.end().status.code(), None);
    // The member of the killed server knows by the end of its connection that a line may be lost.
    assert_eq!(bob.rest(), "");
    say(&alice, 10..20);
    // A new server takes the name when the old one is gone. It hears what is said from now on, and only that.
    let (two, at_two) = server(&redis, "two", &[]);
    alice.sees("* the server two is not heard of any more, and with it bob@two");
    let mut bob = Member::join(at_two, "bob");
    say(&alice, 20..30);
    // Some lines that were said before may still have been on their way.
    let first = bob.hears();
    let first: u32 = first.strip_prefix("alice@one: line ").unwrap().parse().unwrap();
    assert!((10..=20).contains(&first), "{first}");
    hears(&mut bob, "alice@one", first + 1..30);
    say(&bob, 10..20);
    hears(&mut alice, "bob@two", 10..20);
    // A server that ends in order says so, after the last of its lines.
    bob.say("the last word");
    bob.asks_who();
    two.ask("/quit");
    assert_ends(&two.end(), 0);
    assert_eq!(alice.hears(), "bob@two: the last word");
    alice.sees("* the server two has ended, and with it bob@two");
    operator_sees(&one, "* the server two has ended, and with it bob@two");
    assert_eq!(alice.asks_who(), "* 1 here: alice");
}

#[test]
fn lines_of_a_server_that_is_killed_arrive_once_or_their_senders_see_its_end() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let (one, at_one) = server(&redis, "one", &[]);
    let (_two, at_two) = server(&redis, "two", &[]);
    let alice = Member::join(at_one, "alice");
    let mut bob = Member::join(at_two, "bob");
    say(&alice, 0..50);
    hears(&mut bob, "alice@one", 0..1);
    one.send_signal(libc::SIGKILL);
    one.end();
    let mut rest = Vec::new();
    // The connection may end with a reset, because the server may not even have read all of alice's lines.
    let _ = alice.stream.into_inner().read_to_end(&mut rest);
    let (_one, at_one) = server(&redis, "one", &[]);
    let alice = Member::join(at_one, "alice");
    alice.say("again");
    let mut number = 1;
    loop {
        match bob.hears() {
            line if line == "alice@one: again" => break,
            line => assert_eq!(line, format!("alice@one: line {number}")),
        }
        number += 1;
    }
}

#[test]
fn a_server_that_starts_before_redis_joins_when_it_is_there() {
    if skip_if(no_redis()) {
        return;
    }
    let mut redis = Redis::at_rest(Store::Nothing);
    let (one, at_one) = server_alone(&redis, "one", &[]);
    sees_beginning(&one, LOST);
    let mut alice = Member::join(at_one, "alice");
    let bob = Member::join(at_one, "bob");
    bob.say("alone for now");
    assert_eq!(alice.hears(), "bob: alone for now");
    redis.restart();
    sees_beginning(&one, JOINED);
    let (_two, at_two) = server(&redis, "two", &[]);
    let carol = Member::join(at_two, "carol");
    carol.say("here I am");
    assert_eq!(alice.hears(), "carol@two: here I am");
}

#[test]
fn what_others_write_into_the_stream_does_no_harm() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let (one, at_one) = server(&redis, "one", &[]);
    let mut alice = Member::join(at_one, "alice");
    let mut connection = redis.connect();
    let long = "x".repeat(100_000);
    for fields in [
        &[("nonsense", &b"\xff\xfe"[..])][..],
        &[("kind", b"say"), ("server", b"s"), ("tag", b"evil"), ("number", b"-1")],
        &[("kind", b"say"), ("server", b"s"), ("tag", b"\x1b[2J"), ("number", b"1")],
        &[("kind", b"tell"), ("server", b"s"), ("tag", b"evil"), ("number", b"2"), ("at", b"one")],
        &[("kind", b"end"), ("server", b"nobody"), ("tag", b"evil"), ("number", b"3")],
        &[
            ("kind", b"say"),
            ("server", b"s"),
            ("tag", b"evil"),
            ("number", b"4"),
            ("name", b"\x1b[31mmallory\xff"),
            ("text", b"\x1b[2J\xff\n* alice has left"),
        ],
        &[
            ("kind", b"say"),
            ("server", b"s"),
            ("tag", b"evil"),
            ("number", b"5"),
            ("name", b"mallory"),
            ("text", long.as_bytes()),
        ],
        &[
            ("kind", b"say"),
            ("server", b"s"),
            ("tag", b"evil"),
            ("number", b"6"),
            ("name", long.as_bytes()),
            ("text", b"here I am"),
        ],
    ] {
        let mut command = ::redis::cmd("XADD");
        command.arg(STREAM).arg("*").arg("said").arg(later());
        for (field, value) in fields {
            command.arg(*field).arg(*value);
        }
        command.exec(&mut connection).unwrap();
    }
    assert_eq!(alice.hears(), "�[31mmallory�@evil: �[2J��* alice has left");
    assert_eq!(alice.hears().len(), "mallory@evil: ".len() + 8_192);
    assert_eq!(alice.hears().len(), 512 + "@evil: here I am".len());
    // A key that is not a stream counts as a lost connection, until it is removed.
    ::redis::cmd("SET").arg(STREAM).arg("text").exec(&mut connection).unwrap();
    alice.say("hello");
    alice.sees(LOST_TO_MEMBERS);
    let why = format!("WRONGTYPE the key {STREAM} is a string, and has to be a stream: remove it");
    while !one.line().contains(&why) {}
    ::redis::cmd("DEL").arg(STREAM).exec(&mut connection).unwrap();
    alice.sees(JOINED_TO_MEMBERS);
}

/// False announcements name servers that never existed, with many members. The news that these are gone is short.
#[test]
fn false_servers_are_told_of_in_a_few_lines() {
    const SERVERS_OF_NAMES: usize = 30;
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let (_one, at_one) = server(&redis, "one", &[]);
    let mut alice = Member::join(at_one, "alice");
    let mut connection = redis.connect();
    let members: Vec<String> =
        (0..500).map(|number| format!("{number}:a-name-of-thirty-letters-{number:04}")).collect();
    let members = format!("1 {}", members.join(" "));
    for number in 0..SERVERS_OF_NAMES {
        let id = format!("id-{number}");
        ::redis::cmd("HSET").arg(&[MEMBERS, &id, &members]).exec(&mut connection).unwrap();
        let shown = format!("{} 1 1 0 false-{number}", later());
        ::redis::cmd("HSET").arg(&[SERVERS, &id, &shown]).exec(&mut connection).unwrap();
    }
    let all = format!("* {} here: ", SERVERS_OF_NAMES * 500 + 1);
    while !alice.asks_who().starts_with(&all) {}
    let mut told = Vec::new();
    let rest = loop {
        let line = alice.line();
        if line.contains(" more server") {
            break line;
        }
        told.push(line);
    };
    // Some servers may count as gone a second later than others.
    assert!(rest.ends_with(" not heard of any more"), "{rest}");
    assert!((10..SERVERS_OF_NAMES).contains(&told.len()), "{told:?}");
    for line in told {
        let names = line.strip_prefix("* the server false-").expect("news of a server");
        assert!(names.contains(" is not heard of any more, and with it a-name-of-"), "{line}");
        assert!(names.ends_with(" more") && line.len() < 3_000, "{line}");
    }
}

#[test]
fn a_name_that_a_running_server_has_is_refused() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let (one, _) = server(&redis, "one", &[]);
    let serve = ["serve", "--bind", "127.0.0.1:0", "--bus", &redis.room(), "--server", "ONE"];
    assert_fails_in_one_line(
        &CHAT.run(&serve),
        1,
        &["another server of redis://127.0.0.1:", "is called ONE", "--server"],
    );
    // A server that ends in order gives its name back at once.
    one.ask("/quit");
    assert_ends(&one.end(), 0);
    server(&redis, "ONE", &[]);
}

#[test]
fn a_wrong_bus_is_wrong_use() {
    for bus in [
        "localhost:6379/room",
        "redis://localhost:6379",
        "redis://localhost/a b",
        "redis://x:y/room",
    ] {
        let ended = CHAT.run(&["serve", "--bind", "127.0.0.1:0", "--bus", bus]);
        assert_ends(&ended, 2);
        assert!(ended.err.contains("redis://HOST:PORT/ROOM"), "{ended:?}");
    }
    let ended = CHAT.run(&["serve", "--bind", "127.0.0.1:0", "--server", "one"]);
    assert_ends(&ended, 2);
    let bus = "redis://127.0.0.1:1/room";
    for wait in ["0", "1.9"] {
        let serve = ["serve", "--bind", "127.0.0.1:0", "--bus", bus, "--bus-wait", wait];
        let ended = CHAT.run(&serve);
        assert_ends(&ended, 2);
        assert!(
            ended.err.contains("--bus-wait") && ended.err.contains("at least 2 s"),
            "{ended:?}"
        );
    }
    let forking = ["serve", "--bind", "127.0.0.1:0", "--mixin", "forking", "--bus", bus];
    assert_fails_in_one_line(&CHAT.run(&forking), 2, &["a bus does not help"]);
}
