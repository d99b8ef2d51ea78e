//! The room and its operator.

use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use super::{Member, open_room, operator_hears, operator_sees};
use crate::CHAT;
use test_support::process::Process;
use test_support::program::*;
use test_support::{eventually, folder, has_ipv6};

#[test]
fn a_line_goes_to_all_others_and_a_pool_says_how_many_it_serves() {
    for mixin in ["threading", "pool"] {
        let (server, address) = open_room(&["--mixin", mixin]);
        if mixin == "pool" {
            let said = server.line();
            assert!(said.starts_with("a pool: each address serves "), "{said}");
        }
        let mut alice = Member::join(address, "alice");
        let mut bob = Member::join(address, "bob");
        let mut carol = Member::join(address, "carol");
        alice.say("hello, 世界");
        for member in [&mut bob, &mut carol] {
            assert_eq!(member.hears(), "alice: hello, 世界");
        }
        assert_eq!(operator_hears(&server), "alice: hello, 世界");
        // alice does not receive its own line: the first one that it hears is bob's.
        bob.say("hi");
        assert_eq!(alice.hears(), "bob: hi");
        assert_eq!(operator_hears(&server), "bob: hi");
    }
}

#[test]
fn the_operator_speaks_to_everyone_and_to_one() {
    let (server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    let mut bob = Member::join(address, "bob");
    server.ask("@bob for you");
    server.ask("for all");
    assert_eq!(bob.hears(), "operator -> bob: for you");
    assert_eq!(bob.hears(), "operator: for all");
    assert_eq!(alice.hears(), "operator: for all");
    alice.say("@operator thanks");
    assert_eq!(operator_hears(&server), "alice -> operator: thanks");
    bob.say("done");
    // The operator sees alice's private line once.
    assert_eq!(operator_hears(&server), "bob: done");
    server.ask("@nobody hello");
    operator_sees(
        &server,
        "* nobody here is called nobody: this line was not sent: \"@nobody hello\"",
    );
    server.ask("/nonsense");
    assert!(server.line().starts_with("* there is no /nonsense"));
    server.ask("/help");
    assert!(server.line().starts_with("* there are /who, "));
}

#[test]
fn a_private_line_reaches_one_alone() {
    let (server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    let mut bob = Member::join(address, "bob");
    let mut carol = Member::join(address, "carol");
    alice.say("@bob between us");
    alice.say("@dave are you there");
    alice.say("for all");
    assert_eq!(bob.hears(), "alice -> bob: between us");
    for member in [&mut bob, &mut carol] {
        assert_eq!(member.hears(), "alice: for all");
    }
    assert_eq!(operator_hears(&server), "alice: for all");
    alice.sees("* nobody here is called dave: this line was not sent: \"@dave are you there\"");
}

#[test]
fn nobody_has_a_name_that_is_longer_than_a_name_may_be() {
    let (_server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    let mut bob = Member::join(address, "bob");
    // These signs do not count in a comparison. With a few of them the name is still bob's; a name with a whole line of
    // them is not compared.
    let bob_with = |signs: usize| format!("bob{}", "\u{640}".repeat(signs));
    alice.say(&format!("@{} few", bob_with(3)));
    assert!(bob.hears().ends_with(": few"));
    for to in [bob_with(2_000), format!("bob@{}", bob_with(2_000))] {
        alice.say(&format!("@{to} many"));
        let refused = "* nobody has a name as long as that: this line was not sent: \"@bob";
        while !alice.line().starts_with(refused) {}
    }
    alice.say(&format!("/nick {}", bob_with(2_000)));
    let refused = alice.line();
    assert!(refused.starts_with("* a name has 1 to 32 letters"), "{refused}");
    alice.say("for all");
    assert_eq!(bob.hears(), "alice: for all");
}

#[test]
fn who_names_all_members_to_members_and_to_the_operator() {
    let (server, address) = open_room(&[]);
    server.ask("/who");
    operator_sees(&server, "* nobody is here");
    let mut bob = Member::join(address, "bob");
    let _alice = Member::join(address, "alice");
    assert_eq!(bob.asks_who(), "* 2 here: alice, bob");
    server.ask("/who");
    operator_sees(&server, "* 2 here: alice, bob");
}

#[test]
fn joins_renames_and_leaves_are_announced() {
    let (server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    let bob = Member::join(address, "bob");
    alice.sees("* bob has joined");
    bob.say("/nick robert");
    alice.sees("* bob is now called robert");
    bob.leave();
    alice.sees("* robert has left");
    let mut carol = Member::join(address, "carol");
    carol.say("/quit");
    carol.rest();
    alice.sees("* carol has joined");
    alice.sees("* carol has left");
    // A connection that has said nothing was never in the room.
    drop(Member::connect(address));
    alice.say("still here");
    for line in ["alice has joined", "bob has joined", "bob is now called robert"] {
        assert_eq!(server.line(), format!("* {line}"));
    }
    for line in ["* robert has left", "* carol has joined", "* carol has left", "alice: still here"]
    {
        assert_eq!(server.line(), line);
    }
}

#[test]
fn names_are_unique_bounded_and_checked() {
    let (_server, address) = open_room(&[]);
    let mut alice = Member::join(address, "Alice");
    let _jose = Member::join(address, "José");
    let long = "n".repeat(33);
    for (wish, why) in [
        ("alice", "the name alice is taken"),
        ("operator", "the name operator is the operator's"),
        ("Operator", "the name operator is the operator's"),
        ("a:b", "a name has 1 to 32 letters"),
        ("*", "a name has 1 to 32 letters"),
        (&long, "a name has 1 to 32 letters"),
        // Invisible letters.
        ("operator\u{3164}", "a name has 1 to 32 letters"),
        ("\u{1160}\u{ffa0}", "a name has 1 to 32 letters"),
        ("operator\u{13441}", "a name has 1 to 32 letters"),
        ("0perator", "the name 0perator would pass for the operator's"),
        // Names that look like a member's, or are the same in another form.
        ("a1ice", "the name a1ice looks like Alice, which is taken"),
        ("ＡＬＩＣＥ", "the name ＡＬＩＣＥ is taken"),
        ("Jose\u{301}", "the name José is taken"),
    ] {
        let mut other = Member::connect(address);
        other.say(&format!("/nick {wish}"));
        let refusal = other.line();
        assert!(refusal.starts_with(&format!("* {why}")), "{refusal}");
        let welcome = other.line();
        assert!(welcome.starts_with("* you are guest-"), "{welcome}");
        other.leave();
    }
    let bob = Member::join(address, "bob");
    // A member's own name in another spelling is free, and so is a name that was given up.
    alice.say("/nick ALICE");
    alice.say("/nick ALICE");
    alice.sees("* Alice is now called ALICE");
    alice.sees("* you are ALICE already");
    bob.say("/nick 王小明");
    alice.sees("* bob is now called 王小明");
    Member::join(address, "bob");
    bob.say("/nick alice");
    bob.say("who am I");
    assert_eq!(alice.hears(), "王小明: who am I");
}

#[test]
fn the_operator_kicks_a_member_who_is_told() {
    let (server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    let mut bob = Member::join(address, "bob");
    server.ask("/kick nobody");
    operator_sees(&server, "* nobody here is called nobody");
    server.ask("/kick bob");
    operator_sees(&server, "* bob was kicked by the operator");
    assert!(bob.rest().ends_with("* you: was kicked by the operator\n"));
    alice.sees("* bob was kicked by the operator");
    // The kick is announced once, and the name is free again.
    let _bob = Member::join(address, "bob");
    assert_eq!(alice.line(), "* bob has joined");
    alice.say("/kick bob");
    alice.sees("* only the operator may do that");
}

#[test]
fn what_a_member_had_sent_before_it_was_kicked_is_not_said_any_more() {
    let (server, address) = open_room(&["--members", "2", "--pace", "100"]);
    let mut alice = Member::join(address, "alice");
    let mallory = Member::join(address, "mallory");
    // The lines arrive at once, and are said at the allowed pace.
    let lines: String = (0..300).map(|number| format!("operator: {number}\n")).collect();
    mallory.send(lines.as_bytes());
    alice.sees("mallory: operator: 0");
    server.ask("/kick mallory");
    alice.sees("* mallory was kicked by the operator");
    // The next member has a place when the handler of the kicked member has ended.
    let bob = Member::join(address, "bob");
    bob.say("hello");
    assert_eq!(alice.line(), "* bob has joined");
    assert_eq!(alice.line(), "bob: hello");
}

#[test]
fn the_operators_quit_ends_the_server_in_order() {
    let (server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    alice.send(b"half a li");
    server.ask("/quit");
    assert!(alice.rest().ends_with("* the server stops; goodbye\n"));
    let ended = server.end();
    assert_ends(&ended, 0);
    assert_eq!(ended.err, "");
    // No line says that alice has left, because the room has no members any more.
    assert_eq!(ended.out, "* alice has joined\n");
}

#[test]
fn a_room_that_ends_does_not_wait_for_what_was_pasted() {
    let (server, address) = open_room(&["--grace", "60"]);
    let mut alice = Member::join(address, "alice");
    let bob = Member::join(address, "bob");
    // At the pace that is allowed, these lines would take almost a minute.
    bob.send("a\n".repeat(1_000).as_bytes());
    assert_eq!(alice.hears(), "bob: a");
    server.ask("/quit");
    let rest = alice.rest();
    assert!(rest.ends_with("* the server stops; goodbye\n"), "{rest}");
    let ended = server.end();
    assert_ends(&ended, 0);
    assert_eq!(ended.err, "");
}

#[test]
fn a_room_without_an_operator_goes_on() {
    let (mut server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    server.close_stdin();
    let bob = Member::join(address, "bob");
    bob.say("hello");
    assert_eq!(alice.hears(), "bob: hello");
    assert_eq!(operator_hears(&server), "bob: hello");
    server.send_signal(libc::SIGTERM);
    assert_ends(&server.end(), 0);
    // The same holds for a server with neither input nor output.
    let folder = folder();
    let path = folder.path().join("s");
    let address = format!("unix:{}", path.display());
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" <&- >&-", "sh"]).arg(CHAT.path());
    let server = Process::start(command.args(["serve", "--bind", &address]));
    eventually("it listens", || UnixStream::connect(&path).is_ok());
    assert!(CHAT.ask(&address, "hello\n/who\n").out.contains("* 1 here: guest-"));
    server.send_signal(libc::SIGTERM);
    assert_ends(&server.end(), 0);
}

#[test]
fn a_room_is_refused_where_only_one_could_be_in_it() {
    for mixin in ["inline", "forking"] {
        let ended = CHAT.run(&["serve", "--bind", "127.0.0.1:0", "--mixin", mixin]);
        assert_fails_in_one_line(&ended, 2, &[mixin, "several", "take threading"][..1]);
        assert!(ended.err.contains("a room") && ended.err.contains("take threading"), "{ended:?}");
    }
}

#[test]
fn members_of_all_transports_are_in_one_room() {
    let folder = folder();
    let mut addresses =
        vec!["127.0.0.1:0".to_owned(), format!("unix:{}", folder.path().join("s").display())];
    if has_ipv6() {
        addresses.push("[::1]:0".into());
    }
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let (server, listening) = CHAT.serve(&addresses, &[]);
    let mut alice = Member::join(listening[0].parse().unwrap(), "alice");
    for address in &listening {
        let ended = CHAT.ask(address, "hello\n@alice for you\n/who\nq\n");
        assert_ends(&ended, 0);
        assert!(ended.out.contains("* 2 here: alice, guest-"), "{ended:?}");
        assert!(alice.hears().ends_with(": hello"));
        assert!(alice.hears().ends_with(" -> alice: for you"));
    }
    server.send_signal(libc::SIGTERM);
    assert_ends(&server.end(), 0);
}

/// A client as a process, whose user is a pipe.
fn client(address: &str, name: &str) -> Process {
    Process::start(CHAT.command(&["connect", address, "--name", name]).stdin(Stdio::piped()))
}

#[test]
fn a_client_speaks_asks_renames_itself_and_quits() {
    let (_server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    for word in ["q", "exit", "/quit"] {
        let bob = client(&address.to_string(), "bob");
        assert_eq!(bob.line(), "* you are bob; there is 1 other");
        bob.ask("hello");
        assert_eq!(alice.hears(), "bob: hello");
        alice.say("hi");
        assert_eq!(bob.line(), "alice: hi");
        bob.ask("@alice psst");
        assert_eq!(alice.hears(), "bob -> alice: psst");
        bob.ask("/nick robert");
        assert_eq!(bob.line(), "* bob is now called robert");
        bob.ask("/who");
        assert_eq!(bob.line(), "* 2 here: alice, robert");
        bob.ask("//etc is a folder");
        assert_eq!(alice.hears(), "robert: /etc is a folder");
        bob.ask(&"x".repeat(9_000));
        assert!(bob.err_line().contains("this one was not sent"));
        bob.ask(word);
        let ended = bob.end();
        assert_ends(&ended, 0);
        assert_eq!((&*ended.out, &*ended.err), ("", ""));
        alice.sees("* robert has left");
    }
}

#[test]
fn a_client_whose_server_says_goodbye_ends_without_an_error() {
    let (server, address) = open_room(&[]);
    let bob = client(&address.to_string(), "bob");
    assert_eq!(bob.line(), "* you are bob; there are 0 others");
    server.ask("/quit");
    assert_eq!(bob.line(), "* the server stops; goodbye");
    let ended = bob.end();
    assert_ends(&ended, 0);
    assert_eq!((&*ended.out, &*ended.err), ("", ""));
    assert_ends(&server.end(), 0);
}

#[test]
fn a_client_says_why_it_was_ended() {
    let (server, address) = open_room(&[]);
    let bob = client(&address.to_string(), "bob");
    bob.line();
    server.ask("/kick bob");
    let ended = bob.end();
    assert_ends(&ended, 1);
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    assert!(ended.err.contains("you: was kicked by the operator"), "{ended:?}");
    assert_fails_in_one_line(
        &CHAT.run(&["connect", &address.to_string(), "--name", "a b"]),
        2,
        &["a name has 1 to 32 letters"],
    );
    let unclear = CHAT.run(&["connect", "nonsense"]);
    assert!(unclear.err.contains("write HOST:PORT or unix:PATH\n"), "{unclear:?}");
}
