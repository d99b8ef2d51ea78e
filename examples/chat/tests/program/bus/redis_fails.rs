//! Redis is killed, hangs, refuses or loses its data, and the rooms go on.

use super::*;

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
        // The identifier is that of a late time, as if the clock had been set back afterwards: the new store's entries come
        // before the last one that was read.
        let late = ::redis::cmd("XADD").arg(STREAM).arg("9999999999999-0").arg(&["a", "b"]).clone();
        late.exec(&mut redis.connect()).unwrap();
    }
    let mut said = 0;
    for _ in 0..2 {
        say(&alice, said..said + 20);
        say(&bob, said..said + 20);
        redis.kill();
        say(&alice, said + 20..said + 40);
        say(&bob, said + 20..said + 40);
        // The room of each server goes on without Redis.
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
    let [(one, alice), (_two, mut bob)] = alice_and_bob(&redis);
    say(&alice, 0..1);
    hears(&mut bob, "alice@one", 0..1);
    // All entries are written again, as a server does with an entry whose write was not confirmed.
    let mut connection = redis.connect();
    let entries: Vec<(String, Vec<(String, String)>)> =
        ::redis::cmd("XRANGE").arg(STREAM).arg("-").arg("+").query(&mut connection).unwrap();
    assert!(entries.len() >= 3, "{entries:?}");
    for (_, fields) in entries {
        ::redis::cmd("XADD").arg(STREAM).arg("*").arg(fields).exec(&mut connection).unwrap();
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
    let [(one, alice), (two, mut bob)] = alice_and_bob(&redis);
    // The server two is stopped. The first line reaches its socket, as the answer that it waits for; the second line is
    // in Redis alone.
    two.send_signal(libc::SIGSTOP);
    for number in 0..2 {
        say(&alice, number..number + 1);
        let mut connection = redis.connect();
        loop {
            let last: Vec<(String, std::collections::HashMap<String, String>)> =
                ::redis::cmd("XREVRANGE")
                    .arg(&[STREAM, "+", "-", "COUNT", "1"])
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
fn lines_that_are_gone_from_the_stream_are_missed_aloud() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let [(_one, mut alice), (two, mut bob)] = alice_and_bob(&redis);
    say(&alice, 0..1);
    hears(&mut bob, "alice@one", 0..1);
    // The server two is stopped, and the lines that are written then are trimmed away before it goes on. Only the first of
    // them may reach its socket, if the server was already waiting for an answer.
    two.send_signal(libc::SIGSTOP);
    for number in 1..5 {
        say(&alice, number..number + 1);
        let text = format!("line {number}");
        eventually("it is written", || {
            let last: Vec<(String, std::collections::HashMap<String, String>)> =
                ::redis::cmd("XREVRANGE")
                    .arg(&[STREAM, "+", "-", "COUNT", "1"])
                    .query(&mut redis.connect())
                    .unwrap();
            last.first().is_some_and(|(_, entry)| entry.get("text") == Some(&text))
        });
    }
    let mut connection = redis.connect();
    ::redis::cmd("XTRIM").arg(&[STREAM, "MAXLEN", "0"]).exec(&mut connection).unwrap();
    two.send_signal(libc::SIGCONT);
    let missing = loop {
        if let Some(count) = bob.line().strip_suffix(" lines of the server one are missing here") {
            break count.trim_start_matches("* ").parse::<u32>().unwrap();
        }
    };
    assert!([3, 4].contains(&missing), "{missing}");
    for number in 5 - missing..5 {
        alice.sees(&format!(
            "* a line of yours may not have reached the server two: \"line {number}\""
        ));
    }
    say(&alice, 5..6);
    bob.sees("alice@one: line 5");
}

#[test]
fn a_stream_that_begins_anew_under_a_connection_is_heard() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let mut connection = redis.connect();
    // The identifier is that of a late time, as if the clock had been ahead: the entries of a new stream come before all
    // that were read.
    let late = [STREAM, "9999999999999-0", "a", "b"];
    ::redis::cmd("XADD").arg(&late).exec(&mut connection).unwrap();
    let [(_one, mut alice), (_two, mut bob)] = alice_and_bob(&redis);
    say(&alice, 0..3);
    hears(&mut bob, "alice@one", 0..3);
    say(&bob, 0..3);
    hears(&mut alice, "bob@two", 0..3);
    for round in 1..3 {
        ::redis::cmd("DEL").arg(STREAM).exec(&mut connection).unwrap();
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
    let (one, at_one) = server(&redis, "one", &["--bus-wait", "2", "--bus-queue", "1000"]);
    let mut alice = Member::join(at_one, "alice");
    let mut bob = Member::join(at_one, "bob");
    redis.kill();
    sees_beginning(&one, LOST);
    alice.say("is anybody there");
    assert_eq!(bob.hears(), "alice: is anybody there");
    let told = |line: &str| {
        format!("* a line of yours may not have reached the other servers: \"{line}\"")
    };
    alice.sees(&told("is anybody there"));
    one.ask("nor this");
    operator_sees(&one, &told("nor this"));
    // The author of a line for which the queue has no room is told at once.
    for number in 0..1_002 {
        bob.say(&number.to_string());
    }
    // The authors of earlier lines are told when the time of those lines is over.
    let refused =
        "* too many lines wait for Redis already: this line did not reach the other servers: ";
    while !bob.line().starts_with(refused) {}
    // When Redis comes back, so do the other servers.
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
        // In both cases Redis still takes announcements, but no lines.
        ("ACL SETUSER default -xadd", "ACL SETUSER default +xadd", "can't run this command"),
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "maxmemory"),
    ] {
        let mut configure = |text: &str| {
            let words: Vec<&str> = text.split(' ').collect();
            ::redis::cmd(words[0]).arg(&words[1..]).exec(&mut connection).unwrap();
        };
        // When bob hears this line, all earlier lines have been written.
        alice.say("good morning");
        while bob.hears() != "alice@one: good morning" {}
        configure(breaks);
        alice.say("hello");
        let mut news = Vec::new();
        loop {
            let line = alice.line();
            if line == "* a line of yours may not have reached the other servers: \"hello\"" {
                break;
            }
            news.push(line);
        }
        news.retain(|line| [LOST_TO_MEMBERS, JOINED_TO_MEMBERS].contains(&&**line));
        assert_eq!(news, [LOST_TO_MEMBERS]);
        // The address and the words of Redis are for the operator alone.
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
    let beginning = format!("{LOST_TO_MEMBERS}: {bus}: ");
    while !matches!(server.line().strip_prefix(&*beginning), Some(why) if why.contains(" within 2"))
    {
    }
    bob.say("never mind");
    assert_eq!(alice.hears(), "bob: never mind");
    drop(server);
}
