//! Rooms of several servers, joined through Redis.

use std::io::Read;
use std::net::SocketAddr;

use super::redis::{Redis, Store, no_redis};
use super::{Member, open_room, operator_hears, operator_sees};
use crate::CHAT;
use test_support::process::Process;
use test_support::program::*;
use test_support::skip_if;

/// A server of the shared room. It has joined the others when it is returned.
fn server(redis: &Redis, tag: &str, options: &[&str]) -> (Process, SocketAddr) {
    let (server, address) = server_alone(redis, tag, options);
    sees_beginning(&server, "* joined with the other servers at redis://127.0.0.1:");
    (server, address)
}

fn server_alone(redis: &Redis, tag: &str, options: &[&str]) -> (Process, SocketAddr) {
    let bus = ["--bus", &redis.room(), "--server", tag, "--pace", "0"];
    // Nothing is given up because the machine is slow.
    let patience: &[&str] =
        if options.contains(&"--bus-wait") { &[] } else { &["--bus-wait", "600"] };
    open_room(&[&bus, patience, options].concat())
}

fn sees_beginning(server: &Process, beginning: &str) {
    while !server.line().starts_with(beginning) {}
}

const LOST: &str = "* the other servers cannot be reached: redis://";
const JOINED: &str = "* joined with the other servers at redis://";
/// The members' news of the bus, without any word of Redis.
const LOST_TO_MEMBERS: &str = "* the other servers cannot be reached";
const JOINED_TO_MEMBERS: &str = "* joined with the other servers; this one is called one";

/// Says numbered lines.
fn say(member: &Member, numbers: std::ops::Range<u32>) {
    numbers.for_each(|number| member.say(&format!("line {number}")));
}

/// Hears them, each once and in order, and nothing else.
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
    // The same name as at another server, which does not matter: each is called after its server.
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
    // It does not receive its own lines.
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
    // A private line never goes to a member of another server by guess.
    assert_eq!(bob.hears(), "alice@one -> BOB: in capitals");
    assert_eq!(operator_hears(&two), "alice@one -> operator: good evening");
    for member in [&mut bob, &mut carol] {
        assert_eq!(member.hears(), "alice@one: for all");
    }
    assert_eq!(alice.hears(), "alice -> alice: to myself");
    alice.sees("* no other server here is called three");
    alice.sees("* nobody here is called dave");
    alice.sees("* nobody here is called bob; write @bob@two TEXT");
    alice.sees("* nobody there is called dave@two");
    bob.say("@alice@one answer");
    assert_eq!(alice.hears(), "bob@two -> alice: answer");
    one.ask("/kick carol@two");
    operator_sees(&one, "* the operator of two may do that");
}

/// A conversation in the middle of which Redis is killed and started again.
fn redis_is_killed_and_comes_back(store: Store) {
    if skip_if(no_redis()) {
        return;
    }
    let mut redis = Redis::start(store);
    let (one, at_one) = server(&redis, "one", &[]);
    let (two, at_two) = server(&redis, "two", &[]);
    let mut alice = Member::join(at_one, "alice");
    let mut bob = Member::join(at_two, "bob");
    let mut carol = Member::join(at_one, "carol");
    if store == Store::Nothing {
        // As after a clock that was set back: the new store's entries are before the last one that was read.
        let late =
            ::redis::cmd("XADD").arg("chat:room").arg("9999999999999-0").arg(&["a", "b"]).clone();
        late.exec(&mut redis.connect()).unwrap();
    }
    let mut said = 0;
    for _ in 0..2 {
        say(&alice, said..said + 20);
        say(&bob, said..said + 20);
        redis.kill();
        say(&alice, said + 20..said + 40);
        say(&bob, said + 20..said + 40);
        // The room at hand goes on without it.
        hears_alice(&mut carol, said..said + 40);
        sees_beginning(&one, LOST);
        sees_beginning(&two, LOST);
        redis.restart();
        say(&alice, said + 40..said + 60);
        say(&bob, said + 40..said + 60);
        hears_alice(&mut carol, said + 40..said + 60);
        hears(&mut bob, "alice@one", said..said + 60);
        hears_bob(&mut alice, said..said + 60);
        sees_beginning(&one, JOINED);
        sees_beginning(&two, JOINED);
        said += 60;
    }
    // No line arrives a second time.
    alice.say("the end");
    assert_eq!(bob.hears(), "alice@one: the end");
    bob.say("the end");
    assert_eq!(hear_of(&mut alice, "bob@two: "), "bob@two: the end");
}

fn hear_of(member: &mut Member, beginning: &str) -> String {
    loop {
        let line = member.hears();
        if line.starts_with(beginning) {
            return line;
        }
    }
}

fn hears_alice(carol: &mut Member, numbers: std::ops::Range<u32>) {
    for number in numbers {
        assert_eq!(hear_of(carol, "alice: "), format!("alice: line {number}"));
    }
}

fn hears_bob(alice: &mut Member, numbers: std::ops::Range<u32>) {
    for number in numbers {
        assert_eq!(hear_of(alice, "bob@two: "), format!("bob@two: line {number}"));
    }
}

#[test]
fn each_line_arrives_once_when_redis_is_killed_and_keeps_its_data() {
    redis_is_killed_and_comes_back(Store::Everything);
}

#[test]
fn each_line_arrives_once_when_redis_is_killed_and_loses_its_data() {
    redis_is_killed_and_comes_back(Store::Nothing);
}

#[test]
fn a_line_that_was_written_twice_is_heard_once() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let (one, at_one) = server(&redis, "one", &[]);
    let (_two, at_two) = server(&redis, "two", &[]);
    let alice = Member::join(at_one, "alice");
    let mut bob = Member::join(at_two, "bob");
    say(&alice, 0..1);
    hears(&mut bob, "alice@one", 0..1);
    // An entry whose write was not confirmed is written again.
    let mut connection = redis.connect();
    let entries: Vec<(String, Vec<(String, String)>)> =
        ::redis::cmd("XRANGE").arg("chat:room").arg("-").arg("+").query(&mut connection).unwrap();
    assert!(entries.len() >= 3, "{entries:?}");
    for (_, fields) in entries {
        ::redis::cmd("XADD").arg("chat:room").arg("*").arg(fields).exec(&mut connection).unwrap();
    }
    say(&alice, 1..2);
    hears(&mut bob, "alice@one", 1..2);
    // The same happens when Redis hangs: its socket accepts a line, and the answer does not arrive in time.
    redis.send_signal(libc::SIGSTOP);
    say(&alice, 2..3);
    sees_beginning(&one, LOST);
    say(&alice, 3..4);
    redis.send_signal(libc::SIGCONT);
    sees_beginning(&one, JOINED);
    say(&alice, 4..5);
    hears(&mut bob, "alice@one", 2..5);
}

#[test]
fn what_redis_has_confirmed_and_lost_is_written_again() {
    if skip_if(no_redis()) {
        return;
    }
    let mut redis = Redis::start(Store::Nothing);
    let (one, at_one) = server(&redis, "one", &[]);
    let (two, at_two) = server(&redis, "two", &[]);
    let alice = Member::join(at_one, "alice");
    let mut bob = Member::join(at_two, "bob");
    // The other server hangs. The bytes that it waits for are in its socket with the first line; the second one is
    // nowhere but in Redis.
    two.send_signal(libc::SIGSTOP);
    for number in 0..2 {
        say(&alice, number..number + 1);
        let mut connection = redis.connect();
        loop {
            let last: Vec<(String, std::collections::HashMap<String, String>)> =
                ::redis::cmd("XREVRANGE")
                    .arg(&["chat:room", "+", "-", "COUNT", "1"])
                    .query(&mut connection)
                    .unwrap();
            if last.first().is_some_and(|(_, entry)| entry["text"] == format!("line {number}")) {
                break;
            }
        }
    }
    redis.kill();
    sees_beginning(&one, LOST);
    redis.restart();
    sees_beginning(&one, JOINED);
    two.send_signal(libc::SIGCONT);
    say(&alice, 2..3);
    hears(&mut bob, "alice@one", 0..3);
}

#[test]
fn a_stream_that_begins_anew_under_a_connection_is_heard() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let mut connection = redis.connect();
    // As after a clock that was ahead: the entries of a new stream are before all that were read.
    let late = ["chat:room", "9999999999999-0", "a", "b"];
    ::redis::cmd("XADD").arg(&late).exec(&mut connection).unwrap();
    let (_one, at_one) = server(&redis, "one", &[]);
    let (_two, at_two) = server(&redis, "two", &[]);
    let mut alice = Member::join(at_one, "alice");
    let mut bob = Member::join(at_two, "bob");
    say(&alice, 0..3);
    hears(&mut bob, "alice@one", 0..3);
    say(&bob, 0..3);
    hears(&mut alice, "bob@two", 0..3);
    for round in 1..3 {
        ::redis::cmd("DEL").arg("chat:room").exec(&mut connection).unwrap();
        say(&alice, round * 3..round * 3 + 3);
        hears(&mut bob, "alice@one", round * 3..round * 3 + 3);
        say(&bob, round * 3..round * 3 + 3);
        hears(&mut alice, "bob@two", round * 3..round * 3 + 3);
        ::redis::cmd("XADD").arg(&late).exec(&mut connection).unwrap();
        say(&alice, 100..101);
        hears(&mut bob, "alice@one", 100..101);
    }
}

#[test]
fn a_sender_is_told_when_redis_stays_away() {
    if skip_if(no_redis()) {
        return;
    }
    let mut redis = Redis::start(Store::Nothing);
    let (one, at_one) = server(&redis, "one", &["--bus-wait", "1"]);
    let mut alice = Member::join(at_one, "alice");
    let mut bob = Member::join(at_one, "bob");
    redis.kill();
    sees_beginning(&one, LOST);
    alice.say("is anybody there");
    assert_eq!(bob.hears(), "alice: is anybody there");
    let told = "* a line of yours may not have reached the other servers";
    alice.sees(told);
    one.ask("nor this");
    operator_sees(&one, told);
    // The author of a line that cannot wait any longer is told at once.
    for number in 0..1_002 {
        bob.say(&number.to_string());
    }
    bob.sees("* this line did not reach the other servers: too many wait for Redis already");
    // When it comes back, the other servers do as well.
    redis.restart();
    sees_beginning(&one, JOINED);
    let (_two, at_two) = server(&redis, "two", &[]);
    let mut carol = Member::join(at_two, "carol");
    alice.say("back again");
    while carol.hears() != "alice@one: back again" {}
    one.send_signal(libc::SIGTERM);
    assert_ends(&one.end(), 0);
}

#[test]
fn a_redis_that_takes_no_entries_is_lost_once_and_senders_are_told() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let (one, at_one) = server(&redis, "one", &["--bus-wait", "2"]);
    let (_two, at_two) = server(&redis, "two", &[]);
    let mut bob = Member::join(at_two, "bob");
    let mut alice = Member::join(at_one, "alice");
    let mut connection = redis.connect();
    for (breaks, mends, why) in [
        // It still takes beats in the first case, and nothing in the second.
        ("ACL SETUSER default -xadd", "ACL SETUSER default +xadd", "xadd"),
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "maxmemory"),
    ] {
        let mut configure = |text: &str| {
            let words: Vec<&str> = text.split(' ').collect();
            ::redis::cmd(words[0]).arg(&words[1..]).exec(&mut connection).unwrap();
        };
        // All that was said before is written.
        alice.say("good morning");
        while bob.hears() != "alice@one: good morning" {}
        configure(breaks);
        alice.say("hello");
        let mut news = Vec::new();
        loop {
            let line = alice.line();
            if line == "* a line of yours may not have reached the other servers" {
                break;
            }
            news.push(line);
        }
        news.retain(|line| [LOST_TO_MEMBERS, JOINED_TO_MEMBERS].contains(&&**line));
        assert_eq!(news, [LOST_TO_MEMBERS]);
        // Where Redis is and what it says is for the operator.
        let lost = loop {
            let line = one.line();
            if line.starts_with(LOST) {
                break line;
            }
        };
        assert!(lost.contains(why) && lost.len() < 400, "{lost}");
        configure(mends);
        alice.sees(JOINED_TO_MEMBERS);
    }
    alice.say("good evening");
    while bob.hears() != "alice@one: good evening" {}
}

#[test]
fn a_redis_that_does_not_answer_is_reported_and_the_room_goes_on() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bus = format!("redis://{}/room", silent.local_addr().unwrap());
    let (server, address) = open_room(&["--bus", &bus]);
    let mut alice = Member::join(address, "alice");
    let bob = Member::join(address, "bob");
    bob.say("hello");
    assert_eq!(alice.hears(), "bob: hello");
    alice.sees(LOST_TO_MEMBERS);
    operator_sees(
        &server,
        &format!("{LOST_TO_MEMBERS}: {bus}: it does not answer within 2 s; trying again"),
    );
    bob.say("never mind");
    assert_eq!(alice.hears(), "bob: never mind");
    drop(server);
}

#[test]
fn who_names_all_members_of_a_server_with_a_thousand() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let (_one, at_one) = server(&redis, "one", &[]);
    let mut alice = Member::join(at_one, "alice");
    let names: Vec<String> = (0..1_000).map(|number| format!("somebody-{number}")).collect();
    let shown = format!("1\ntwo\n{} \u{202e}mallory", names.join(" "));
    let mut connection = redis.connect();
    ::redis::cmd("HSET").arg(&["chat:room:servers", "id", &shown]).exec(&mut connection).unwrap();
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
    let (one, at_one) = server(&redis, "one", &[]);
    let (two, at_two) = server(&redis, "two", &[]);
    let mut alice = Member::join(at_one, "alice");
    let mut bob = Member::join(at_two, "bob");
    say(&alice, 0..10);
    hears(&mut bob, "alice@one", 0..10);
    say(&bob, 0..10);
    hears(&mut alice, "bob@two", 0..10);
    while alice.asks_who() != "* 2 here: alice, bob@two" {}
    two.send_signal(libc::SIGKILL);
    assert_eq!(two.end().status.code(), None);
    // Its member knows by the end of its connection that a line may be lost.
    assert_eq!(bob.rest(), "");
    say(&alice, 10..20);
    // A new one hears what is said from now on, and only that.
    let (two, at_two) = server(&redis, "two", &[]);
    let mut bob = Member::join(at_two, "bob");
    say(&alice, 20..30);
    // Some of what was said before may still have been on its way.
    let first = bob.hears();
    let first: u32 = first.strip_prefix("alice@one: line ").unwrap().parse().unwrap();
    assert!((10..=20).contains(&first), "{first}");
    hears(&mut bob, "alice@one", first + 1..30);
    say(&bob, 10..20);
    hears(&mut alice, "bob@two", 10..20);
    alice.sees("* the server two is not heard of any more, and with it bob@two");
    // And one that ends in order says so, after the last of its lines.
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
    // It may be a reset: some of her lines may not even have been read.
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
    ] {
        let mut command = ::redis::cmd("XADD");
        command.arg("chat:room").arg("*");
        for (field, value) in fields {
            command.arg(*field).arg(*value);
        }
        command.exec(&mut connection).unwrap();
    }
    assert_eq!(alice.hears(), "�[31mmallory�@evil: �[2J��* alice has left");
    assert_eq!(alice.hears().len(), "mallory@evil: ".len() + 8_192);
    // A key that is no stream is an error like a lost connection, and is over when it is gone.
    ::redis::cmd("SET").arg("chat:room").arg("text").exec(&mut connection).unwrap();
    alice.say("hello");
    alice.sees(LOST_TO_MEMBERS);
    while !one.line().contains("WRONGTYPE") {}
    ::redis::cmd("DEL").arg("chat:room").exec(&mut connection).unwrap();
    alice.sees(JOINED_TO_MEMBERS);
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
    let forking = ["serve", "--bind", "127.0.0.1:0", "--mixin", "forking", "--bus", bus];
    assert_fails_in_one_line(&CHAT.run(&forking), 2, &["a bus does not help"]);
}
