//! What members do to each other and to the server.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::{Member, open_room, operator_hears, operator_sees};
use crate::support::system::{descriptor_limits, set_descriptor_limits};
use crate::support::{self, eventually};

#[test]
fn a_member_that_reads_nothing_delays_nobody_and_is_dropped() {
    let (server, address) = open_room(&["--pace", "0"]);
    let mut alice = Member::join(address, "alice");
    let mut bob = Member::join(address, "bob");
    let mut stalled = Member::join(address, "stalled");
    alice.sees("* stalled has joined");
    bob.sees("* stalled has joined");
    let line = "x".repeat(8_000);
    // As many as fit into the kernel's buffers and the outbox, and some. Each of them is heard by who
    // reads, whatever becomes of the one who does not.
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
    // Its connection is at its end.
    let mut rest = Vec::new();
    let _ = stalled.stream.read_to_end(&mut rest);
    bob.say("at last");
    assert_eq!(alice.hears(), "bob: at last");
}

#[test]
fn a_line_without_end_is_cut_off_and_its_member_told() {
    let (server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    // Once by a member, and once by somebody who has not joined.
    let mut endless = Member::join(address, "endless");
    endless.send(&[b'x'; 8_194]);
    let told = endless.rest();
    assert!(told.ends_with("* you: had to leave: a line may have 8192 bytes\n"), "{told}");
    alice.sees("* endless had to leave: a line may have 8192 bytes");
    operator_sees(&server, "* endless had to leave: a line may have 8192 bytes");

    let mut stream = support::connect(address);
    let (block, mut sent) = ([b'x'; 65_536], 0_usize);
    while sent < 1 << 30 && stream.write_all(&block).is_ok() {
        sent += block.len();
    }
    // Some is thrown away while the server waits for its last words to be read.
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
    // Nobody can pass for the server, nor for somebody else.
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
            let mut stream = support::connect(address);
            stream.write_all(b"\n").unwrap();
            stream
        })
        .collect();
    // The conversation goes on among them.
    for number in 0..20 {
        alice.say(&format!("to bob {number}"));
        assert_eq!(bob.hears(), format!("alice: to bob {number}"));
        bob.say(&format!("to alice {number}"));
        assert_eq!(alice.hears(), format!("bob: to alice {number}"));
    }
    while !alice.asks_who().starts_with("* 300 here: ") {}
    // There are never more; when they are gone, the others have their turn.
    drop(crowd);
    let mut member = None;
    eventually("there is room again", || alice_is_alone(address));
    member.get_or_insert(bob).say("quiet again");
    assert_eq!(alice.hears(), "bob: quiet again");
}

/// Whether nobody but alice and bob is in, and whoever asks.
fn alice_is_alone(address: std::net::SocketAddr) -> bool {
    let mut carol = Member::connect(address);
    carol.say("");
    carol.asks_who().starts_with("* 3 here: ")
}
