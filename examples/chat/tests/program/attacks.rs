//! Members that harm each other and the server.

use std::collections::VecDeque;
use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use super::{Member, open_room, operator_hears, operator_sees};
use crate::CHAT;
use test_support::eventually;
use test_support::process::Process;
use test_support::program::{assert_ends, connect_from};
use test_support::system::{descriptor_limits, set_descriptor_limits};

#[test]
fn a_member_that_reads_nothing_delays_nobody_and_is_dropped() {
    let (server, address) = open_room(&["--pace", "0"]);
    let mut alice = Member::join(address, "alice");
    let mut bob = Member::join(address, "bob");
    let mut stalled = Member::join(address, "stalled");
    alice.sees("* stalled has joined");
    bob.sees("* stalled has joined");
    let line = "x".repeat(8_000);
    // These are more lines than fit into the kernel's buffers and the outbox. The member that reads receives each of them,
    // whatever happens to the member that does not.
    let dropped = "* stalled was dropped: it does not take what is sent to it";
    let mut lines = 0;
    loop {
        lines += 1;
        assert!(lines < 8_000, "64 MB wait for a member that reads nothing");
        alice.say(&line);
        let heard = bob.line();
        if heard == dropped {
            break;
        }
        assert!(heard.starts_with("alice: x"), "{}", &heard[..40.min(heard.len())]);
    }
    alice.sees(dropped);
    operator_sees(&server, dropped);
    assert_eq!(alice.asks_who(), "* 2 here: alice, bob");
    // The connection of the stalled member is at its end.
    let mut rest = Vec::new();
    let _ = stalled.stream.read_to_end(&mut rest);
    bob.say("at last");
    assert_eq!(alice.hears(), "bob: at last");
}

#[test]
fn a_line_without_end_is_cut_off_and_its_member_told() {
    let (server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    // The endless line comes once from a member, and once from a client that has not joined.
    let mut endless = Member::join(address, "endless");
    endless.send(&[b'x'; 8_194]);
    let told = endless.rest();
    assert!(told.ends_with("* you: had to leave: a line may have 8192 bytes\n"), "{told}");
    alice.sees("* endless had to leave: a line may have 8192 bytes");
    operator_sees(&server, "* endless had to leave: a line may have 8192 bytes");

    let mut stream = test_support::connect(address);
    let (block, mut sent) = ([b'x'; 65_536], 0_usize);
    while sent < 1 << 30 && stream.write_all(&block).is_ok() {
        sent += block.len();
    }
    // Some input is discarded while the server waits until its last line is read.
    assert!(sent < 64 << 20, "the server has taken {sent} bytes");
    // The longest line that is allowed passes whole, with either ending.
    let bob = Member::join(address, "bob");
    let longest = "y".repeat(8_192);
    bob.send(format!("{longest}\r\n{longest}\n").as_bytes());
    assert_eq!(alice.hears(), format!("bob: {longest}"));
    assert_eq!(alice.hears(), format!("bob: {longest}"));
}

#[test]
fn nothing_that_controls_a_terminal_is_passed_on() {
    let (server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    let mut mallory = Member::connect(address);
    mallory.send(b"/nick \x1b[31mred\n");
    assert!(mallory.line().starts_with("* a name has 1 to 32 letters"));
    mallory.send(b"/nick mallory\n");
    let line = "\u{1b}]0;title\u{7}\u{1b}[2J\ra\tb\u{9b}1A\u{202e}c\0";
    mallory.send(&[line.as_bytes(), b"\xff\xfe\n"].concat());
    mallory.send(b"@operator \x1b[2J\n/nick \x1b[1m\n/\x1b[2J\n");
    let cleaned = "mallory: �]0;title��[2J�a b�1A�c���";
    assert_eq!(alice.hears(), cleaned);
    assert_eq!(operator_hears(&server), cleaned);
    assert_eq!(operator_hears(&server), "mallory -> operator: �[2J");
    mallory.say("/quit");
    let told = mallory.rest();
    assert!(!told.chars().any(|one| one.is_control() && one != '\n'), "{told:?}");
    // No member can pass for the server or for another member.
    let mallory = Member::join(address, "mallory");
    mallory.say("* alice has left");
    assert_eq!(alice.hears(), "mallory: * alice has left");
}

#[test]
fn a_thousand_who_come_at_once_are_let_in_by_and_by_and_up_to_a_bound() {
    let (soft, hard) = descriptor_limits();
    set_descriptor_limits(hard.min(4_096).max(soft), hard);
    let (_server, address) = open_room(&["--members", "300", "--max-per-peer", "300"]);
    let mut alice = Member::join(address, "alice");
    let mut bob = Member::join(address, "bob");
    let crowd: Vec<TcpStream> = (0..1_000)
        .map(|_| {
            let mut stream = test_support::connect(address);
            stream.write_all(b"\n").unwrap();
            stream
        })
        .collect();
    // Two members go on talking in the crowd.
    for number in 0..20 {
        alice.say(&format!("to bob {number}"));
        assert_eq!(bob.hears(), format!("alice: to bob {number}"));
        bob.say(&format!("to alice {number}"));
        assert_eq!(alice.hears(), format!("bob: to alice {number}"));
    }
    while !alice.asks_who().starts_with("* 300 here: ") {}
    // There are never more than 300 members. When the crowd is gone, others may join.
    drop(crowd);
    let mut member = None;
    eventually("there is room again", || alice_is_alone(address));
    member.get_or_insert(bob).say("quiet again");
    assert_eq!(alice.hears(), "bob: quiet again");
}

#[test]
fn an_operator_who_reads_nothing_delays_nobody_and_not_the_end() {
    let (mut screen, stdout) = UnixStream::pair().unwrap();
    let mut command = CHAT.command(&["serve", "--bind", "127.0.0.1:0", "--pace", "0"]);
    let server = Process::start(command.stdin(Stdio::piped()).stdout(OwnedFd::from(stdout)));
    let line = test_support::read_line(&mut screen);
    let address = line.trim_end().strip_prefix("listening on ").unwrap().parse().unwrap();
    let alice = Member::join(address, "alice");
    let mut bob = Member::join(address, "bob");
    // These 20 MB are more than the pipe and the queue for the screen hold.
    let rest = "x".repeat(4_000);
    for number in 0..5_000 {
        alice.say(&format!("{number} {rest}"));
        assert_eq!(bob.hears(), format!("alice: {number} {rest}"));
    }
    server.send_signal(libc::SIGTERM);
    assert!(bob.rest().ends_with("* the server stops; goodbye\n"));
    assert_ends(&server.end(), 0);
}

#[test]
fn silent_connections_keep_nobody_out() {
    let (server, address) = open_room(&["--max-clients", "200", "--max-per-peer", "100"]);
    // From one address 600 clients connect and stay silent: more than the server takes.
    let silent: Vec<TcpStream> = (0..600).map(|_| test_support::connect(address)).collect();
    // A client of another address is served at once, and one of the same address after some silent ones were ended.
    let mut alice = Member::of(connect_from([127, 0, 0, 2], address));
    alice.say("/nick alice");
    assert_eq!(alice.line(), "* you are alice; there are 0 others");
    eventually("bob is let in", || {
        let mut member = Member::connect(address);
        // bob may be turned away before it has spoken.
        let _ = member.stream.get_ref().write_all(b"/nick bob\n");
        let mut line = String::new();
        let is_in = member.stream.read_line(&mut line).is_ok_and(|count| count > 0);
        is_in && line == "* you are bob; there is 1 other\n"
    });
    alice.sees("* bob has joined");
    let (mut told, mut closed) = (0, 0);
    for mut stream in silent {
        stream.set_nonblocking(true).unwrap();
        let mut said = String::new();
        // A client may have been turned away by a reset, or may still be there.
        match stream.read_to_string(&mut said) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => closed += 1,
        }
        told += usize::from(said.starts_with("* you had to make room for others"));
    }
    assert!(closed >= 500 && told > 0, "{closed} {told}");
    server.ask("/quit");
    assert!(alice.rest().ends_with("* the server stops; goodbye\n"));
}

/// The operator's list of silent clients, once so many of them have arrived. Nobody is in the room.
fn list_of_silent(server: &Process, count: usize) -> String {
    // The clients say nothing, so the operator asks until all of them have arrived.
    let list = loop {
        server.ask("/who");
        let who = server.line();
        assert_eq!(who, "* nobody is here");
        server.ask("/help");
        let next = server.line();
        if next.starts_with(&format!("* {count} without a word yet: ")) {
            break next;
        }
        if !next.starts_with("* there are ") {
            assert!(server.line().starts_with("* there are "));
        }
    };
    assert!(server.line().starts_with("* there are "));
    list
}

#[test]
fn a_full_hall_ends_the_client_that_is_silent_for_longest_and_not_the_newcomer() {
    let (server, address) = open_room(&["--max-clients", "8", "--max-per-peer", "8"]);
    // Each client has an address of its own, so no address has more clients than another. The hall has room for four.
    let connect = |number| Member::of(connect_from([127, 0, 0, number], address));
    let mut silent = VecDeque::new();
    for number in 2..22 {
        silent.push_back(connect(number));
        if let Some(mut oldest) = (silent.len() > 4).then(|| silent.pop_front()).flatten() {
            let told = "* you had to make room for others: say something sooner\n";
            assert_eq!(oldest.rest(), told, "{number}");
        }
        list_of_silent(&server, silent.len());
    }
}

#[test]
fn the_operator_sees_and_ends_those_who_have_not_said_a_word() {
    let (server, address) = open_room(&[]);
    let silent = [[127, 0, 0, 1], [127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 3]].map(|ip| {
        // They connect in this order, and are accepted in it.
        Member::of(connect_from(ip, address))
    });
    let places = silent.each_ref().map(|one| one.stream.get_ref().local_addr().unwrap());
    let list = list_of_silent(&server, 4);
    let numbers = places.map(|place| {
        let at = list.find(&format!(" {place} (")).unwrap_or_else(|| panic!("{place}: {list}"));
        list[..at].rsplit_once('#').unwrap().1.to_owned()
    });
    let told = "* you were kicked by the operator\n";
    let [one, another, second, third] = silent;
    for (which, count, ended) in [
        (format!("#{}", numbers[0]), "1 client that had not said a word was kicked", vec![one]),
        ("#127.0.0.2".to_owned(), "1 client that had not said a word was kicked", vec![second]),
        ("#127.0.0.9".to_owned(), "0 clients that had not said a word were kicked", vec![]),
        ("#".to_owned(), "2 clients that had not said a word were kicked", vec![another, third]),
    ] {
        server.ask(&format!("/kick {which}"));
        assert_eq!(server.line(), format!("* {count}"));
        for mut client in ended {
            assert_eq!(client.rest(), told);
        }
    }
    // A member is not in the hall any more, so no number means it.
    let _alice = Member::join(address, "alice");
    server.ask("/kick #5");
    operator_sees(&server, "* 0 clients that had not said a word were kicked");
}

#[test]
fn a_first_word_has_a_time_however_many_bytes_come_before_it() {
    let (_server, address) = open_room(&["--first-word", "1"]);
    let told = "* you have not said a word within 1 s; goodbye\n";
    assert_eq!(Member::connect(address).rest(), told);
    // This client is never silent for long enough to end a message, and never ends a line.
    let mut slow = Member::connect(address);
    let writer = slow.stream.get_ref().try_clone().unwrap();
    std::thread::spawn(move || {
        while (&writer).write_all(b"x").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    let rest = slow.rest_before_reset();
    assert!(rest.is_empty() || rest == told, "{rest}");
    // Once a client is in, it may be silent for as long as it likes.
    let mut alice = Member::join(address, "alice");
    let mut silent = Member::connect(address);
    assert_eq!(silent.rest(), told);
    alice.say("@alice still here");
    alice.sees("alice -> alice: still here");
}

/// Whether only alice, bob and the asking client are in the room.
fn alice_is_alone(address: SocketAddr) -> bool {
    let mut carol = Member::connect(address);
    carol.say("");
    carol.asks_who().starts_with("* 3 here: ")
}
