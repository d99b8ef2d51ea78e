//! The promises to members of a room on several servers: catching up drops no member that reads, private lines reach
//! the member for whom they were meant, and a server that stops says which lines were not relayed.

use super::*;
use std::thread;
use std::time::{Duration, Instant};

/// Stops a server until this value is dropped.
pub struct Stopped<'a>(&'a Process);

impl<'a> Stopped<'a> {
    pub fn now(server: &'a Process) -> Self {
        server.send_signal(libc::SIGSTOP);
        Self(server)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.send_signal(libc::SIGCONT);
    }
}

/// Reads alice's lines slowly. Returns how many of them came, in order, and all news.
fn reads_slowly(mut member: Member, lines: u32, pause: Duration) -> (u32, Vec<String>) {
    let (mut next, mut news) = (0, Vec::new());
    while next < lines {
        let line = member.line();
        match line.strip_prefix("alice@one: ").and_then(|line| line.split(' ').next()) {
            Some(number) if number.parse() == Ok(next) => next += 1,
            _ if line.starts_with("* ") => news.push(line),
            _ => break,
        }
        if next % 8 == 0 {
            thread::sleep(pause);
        }
    }
    (next, news)
}

#[test]
fn catching_up_drops_no_member_that_reads_and_waits_for_none_that_does_not() {
    catching_up("threading");
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn catching_up_is_the_same_under_green() {
    catching_up("green");
}

/// The server two is stopped while alice says many lines at the server one.
fn catching_up(mixin: &str) {
    /// How many lines alice says, and the bytes of each: together 6 MB, twice what the outbox and the system's buffers hold.
    const LINES: u32 = 1_500;
    const BYTES: usize = 4_000;
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let (_one, at_one) = server(&redis, "one", &["--bus-queue", "10000"]);
    let (two, at_two) = server(&redis, "two", &["--mixin", mixin]);
    let mut alice = Member::join(at_one, "alice");
    let readers = [("bob", 1), ("carol", 5)].map(|(name, pause)| {
        let member = Member::of(connect_with_small_buffer(at_two)).called(name);
        move || reads_slowly(member, LINES, Duration::from_millis(pause))
    });
    let _reads_nothing = Member::join(at_two, "mallory");
    let connection = std::cell::RefCell::new(redis.connect());
    {
        let _stopped = Stopped::now(&two);
        let text = "x".repeat(BYTES);
        (0..LINES).for_each(|number| alice.say(&format!("{number} {text}")));
        eventually("all lines are in the stream", || {
            let length = ::redis::cmd("XLEN").arg(STREAM).query(&mut *connection.borrow_mut());
            length.unwrap_or(0) >= LINES
        });
    }
    let began = Instant::now();
    for reader in readers.map(thread::spawn) {
        let (heard, news) = reader.join().unwrap();
        assert_eq!(heard, LINES, "{news:?}");
        let dropped: Vec<_> = news.iter().filter(|line| line.contains("dropped")).collect();
        assert_eq!(dropped, ["* mallory was dropped: it does not take what is sent to it"]);
    }
    println!("caught up after {:?}", began.elapsed());
    // The other server announces the drop, too.
    alice.sees("* mallory@two was dropped: it does not take what is sent to it");
}

#[test]
fn a_private_line_reaches_the_member_that_had_the_name_when_it_was_said() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let [(_one, mut alice), (two, mut bob)] = alice_and_bob(&redis);
    let at_two = bob.stream.get_ref().peer_addr().unwrap();
    let mut dave = Member::join(at_two, "dave");
    alice.sees("* dave@two has joined");
    {
        let _stopped = Stopped::now(&two);
        alice.say("@bob@two to the first");
        alice.asks_who();
        bob.say("/nick robert");
        dave.say("/nick bob");
    }
    assert_eq!(bob.hears(), "alice@one -> bob: to the first");
    alice.sees("* bob@two is now called robert");
    // The first attempt may have come before the name was free.
    dave.say("/nick bob");
    alice.sees("* dave@two is now called bob");
    // The other server knows a new name from the news, before the next announcement.
    alice.say("@bob@two to the second");
    alice.say("@ROBERT@two to the first again");
    assert_eq!(dave.hears(), "alice@one -> bob: to the second");
    assert_eq!(bob.hears(), "alice@one -> robert: to the first again");
    dave.leave();
    alice.sees("* bob@two has left");
    alice.say("@bob@two are you there");
    alice.sees(
        "* nobody there is called bob@two: this line was not sent: \"@bob@two are you there\"",
    );
}

#[test]
fn a_private_line_to_a_server_that_was_killed_comes_back_to_its_author() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let (_one, at_one) = server(&redis, "one", &["--bus-wait", "5"]);
    let (two, at_two) = server(&redis, "two", &[]);
    let mut alice = Member::join(at_one, "alice");
    let _bob = Member::join(at_two, "bob");
    alice.sees("* bob@two has joined");
    two.send_signal(libc::SIGKILL);
    two.end();
    alice.say("@bob@two are you there");
    // The line was not meant for another server of this name, nor for another bob.
    let bind = format!("{at_two}");
    let bus = ["serve", "--bind", &bind, "--bus", &redis.room(), "--server", "two"];
    let two = Process::start(CHAT.command(&bus).stdin(std::process::Stdio::piped()));
    sees_beginning(&two, JOINED);
    let mut bob = Member::join(at_two, "bob");
    alice.sees("* a line of yours may not have reached the server two: \"@bob@two are you there\"");
    alice.sees("* bob@two has joined");
    alice.say("@bob@two now");
    assert_eq!(bob.hears(), "alice@one -> bob: now");
}

#[test]
fn a_server_that_stops_while_it_is_cut_off_says_first_which_lines_were_not_relayed() {
    if skip_if(no_redis()) {
        return;
    }
    for how in ["a signal", "/quit", "drain"] {
        let redis = Redis::start(Store::Nothing);
        let folder = test_support::folder();
        let control = folder.path().join("control").display().to_string();
        let (one, at_one) = server(&redis, "one", &["--control", &control]);
        let (_two, at_two) = server(&redis, "two", &[]);
        let mut alice = Member::join(at_one, "alice");
        let mut bob = Member::join(at_two, "bob");
        alice.say("relayed");
        assert_eq!(bob.hears(), "alice@one: relayed");
        all_have_arrived(&redis);
        redis.send_signal(libc::SIGSTOP);
        let long = "y".repeat(100);
        ["first", &long].iter().for_each(|line| alice.say(line));
        alice.asks_who();
        match how {
            "a signal" => one.send_signal(libc::SIGTERM),
            "/quit" => one.ask("/quit"),
            _ => {
                let asked = CHAT.run(&["control", &control, "drain"]);
                assert_ends(&asked, 0);
            }
        }
        // alice goes on talking while the server stops, and each line is refused at once.
        let stopping = eventually_stops(&mut alice);
        assert!(stopping.iter().any(|line| line.ends_with(": \"late\"")), "{stopping:?}");
        let rest = alice.rest();
        let told = "* a line of yours may not have reached the other servers: ";
        for quote in ["\"first\"".to_owned(), format!("\"{}..\"", &long[..60])] {
            assert!(rest.contains(&format!("{told}{quote}\n")), "{how}: {rest}");
        }
        assert!(!rest.contains("relayed\""), "{rest}");
        assert!(rest.ends_with("* the server stops; goodbye\n"), "{rest}");
        let ended = one.end();
        assert_ends(&ended, 1);
        assert!(ended.err.contains(" lines may not have reached the other servers"), "{ended:?}");
        redis.send_signal(libc::SIGCONT);
    }
}

/// Says lines until one is refused because the server stops. Returns all lines that the member received.
fn eventually_stops(member: &mut Member) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        member.say("late");
        let line = loop {
            member.say("/who");
            let line = member.line();
            told.push(line.clone());
            if line.contains(" here: ") || line.starts_with("* the server stops: ") {
                break line;
            }
        };
        if line.starts_with("* the server stops: ") {
            return told;
        }
    }
}

#[test]
fn who_at_a_server_that_is_cut_off_says_so_and_the_operator_sees_the_last_reason() {
    if skip_if(no_redis()) {
        return;
    }
    let mut redis = Redis::start(Store::Nothing);
    let [(one, mut alice), (_two, _bob)] = alice_and_bob(&redis);
    while alice.asks_who() != "* 2 here: alice, bob@two" {}
    redis.kill();
    alice.sees(LOST_TO_MEMBERS);
    assert_eq!(alice.asks_who(), "* 2 here: alice, bob@two");
    let cut_off = alice.line();
    let since = cut_off.strip_prefix("* the other servers have not been reached for ").unwrap();
    assert!(since.ends_with(" s: their members are listed as last known"), "{cut_off}");
    alice.say("@carol@two are you there");
    let nobody = "* nobody there is called carol@two; the other servers have not been reached for ";
    assert!(alice.line().starts_with(nobody));
    // The operator sees the last reason, and not the first one.
    eventually("the last attempt was refused", || {
        one.ask("/who");
        sees_beginning(&one, "* the other servers have not been reached for ");
        one.line().contains("Connection refused")
    });
    redis.restart();
    alice.sees(JOINED_TO_MEMBERS);
    alice.asks_who();
    alice.say("@alice to myself");
    // After the answer to `/who` no line about a lost bus follows.
    assert_eq!(alice.line(), "alice -> alice: to myself");
}

#[test]
fn a_server_that_takes_the_place_of_another_has_its_name() {
    if skip_if(no_redis()) {
        return;
    }
    let redis = Redis::start(Store::Nothing);
    let folder = test_support::folder();
    let path = folder.path().join("handover").display().to_string();
    let (old, address) = server(&redis, "one", &["--handover", &path]);
    let (_two, at_two) = server(&redis, "two", &[]);
    let mut alice = Member::join(address, "alice");
    let mut bob = Member::join(at_two, "bob");
    alice.say("before");
    assert_eq!(bob.hears(), "alice@one: before");
    let bind = address.to_string();
    let args = ["serve", "--bind", &bind, "--bus", &redis.room(), "--server", "one"];
    let mut command = CHAT.command(&args);
    let new = command.args(["--handover", &path]).stdin(std::process::Stdio::piped());
    let new = Process::start(new);
    sees_beginning(&new, JOINED);
    assert!(alice.rest().ends_with("* the server stops; goodbye\n"));
    assert_ends(&old.end(), 0);
    let mut alice = Member::join(address, "alice");
    alice.say("after");
    assert_eq!(bob.hears(), "alice@one: after");
    bob.say("@alice@one welcome back");
    assert_eq!(alice.hears(), "bob@two -> alice: welcome back");
}
