//! Clients without lines, like the tutorial's: they send a message without an end, read once, and ask their user again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Member, open_room, operator_hears};
use test_support::process::Process;
use test_support::program::assert_ends;
use test_support::{folder, skip_if};

pub fn no_python() -> Option<&'static str> {
    let there = Command::new("python3").arg("--version").output().is_ok();
    (!there).then_some("python3 is not installed")
}

fn python(program: &Path, args: &[String]) -> Process {
    let mut command = Command::new("python3");
    command.arg(program).args(args).env("PYTHONUNBUFFERED", "1").env("PYTHONIOENCODING", "utf-8");
    Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))
}

/// A client of the project's own that behaves like the tutorial's. It prints each answer as a line: the number of its
/// bytes, and its text.
fn one_answer_client(address: SocketAddr) -> Process {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program/one_answer.py");
    python(&program, &[address.ip().to_string(), address.port().to_string()])
}

/// The lines of the client's next answer.
fn hears(client: &Process) -> Vec<String> {
    let answer = client.line();
    let (length, text) = answer.split_once(' ').unwrap();
    assert!(length.parse::<usize>().unwrap() <= 1024, "{answer}");
    text.split('|').map(str::to_owned).collect()
}

/// Lets the client say something, after which it listens. Returns when alice has heard the message.
fn says(client: &Process, message: &str, alice: &mut Member) {
    client.ask(message);
    while alice.hears() != format!("guest-2: {message}") {}
}

#[test]
fn a_client_without_newlines_hears_what_others_say_after_its_question() {
    if skip_if(no_python()) {
        return;
    }
    let (server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    let guest = one_answer_client(address);
    // The server sends neither the client's own lines nor the greeting alone: after them the client would stop listening.
    says(&guest, "hello", &mut alice);
    server.ask("welcome");
    assert_eq!(hears(&guest), ["* you are guest-2; there is 1 other", "operator: welcome"]);
    // Lines from before the client's message are sent together with a line from after it, and do not replace that line.
    alice.say("one");
    while operator_hears(&server) != "alice: one" {}
    server.ask("two");
    alice.sees("operator: two");
    says(&guest, "and?", &mut alice);
    server.ask("the answer");
    assert_eq!(hears(&guest), ["alice: one", "operator: two", "operator: the answer"]);
    // Joins and leaves are not an answer.
    says(&guest, "anybody?", &mut alice);
    Member::join(address, "bob").leave();
    alice.sees("* bob has left");
    alice.say("me");
    assert_eq!(hears(&guest), ["* bob has joined", "* bob has left", "alice: me"]);
    guest.ask("@alice 你好");
    assert_eq!(alice.hears(), "guest-2 -> alice: 你好");
    alice.say("@guest-2 between us");
    assert_eq!(hears(&guest), ["alice -> guest-2: between us"]);
    // The server answers the client's requests.
    for (question, answer) in [
        ("/who", "* 2 here: alice, guest-2"),
        (
            "@nobody hello",
            "* nobody here is called nobody: this line was not sent: \"@nobody hello\"",
        ),
        ("@guest-2 note", "guest-2 -> guest-2: note"),
        ("/kick alice", "* only the operator may do that"),
        ("/nick alice", "* the name alice is taken"),
        ("/nick carol", "* guest-2 is now called carol"),
        ("/nick carol", "* you are carol already"),
    ] {
        guest.ask(question);
        assert_eq!(hears(&guest).last().unwrap(), answer);
    }
    // This is the tutorial's word for leaving.
    guest.ask("q");
    assert_ends(&guest.end(), 0);
    alice.sees("* carol has left");
}

#[test]
fn a_client_without_newlines_whose_first_word_is_a_question_to_the_server_is_answered() {
    if skip_if(no_python()) {
        return;
    }
    let (_server, address) = open_room(&[]);
    for (question, answer) in
        [("/who", "* 1 here: guest-1"), ("/nick bob", "* you are bob; there are 0 others")]
    {
        let guest = one_answer_client(address);
        guest.ask(question);
        assert_eq!(hears(&guest).last().unwrap(), answer);
        guest.ask("q");
        assert_ends(&guest.end(), 0);
    }
}

#[test]
fn what_was_said_before_a_question_comes_in_the_end_where_nobody_answers() {
    if skip_if(no_python()) {
        return;
    }
    let (_server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    let guest = one_answer_client(address);
    says(&guest, "hello", &mut alice);
    alice.say("one");
    assert_eq!(hears(&guest).last().unwrap(), "alice: one");
    alice.say("two");
    alice.asks_who();
    says(&guest, "and?", &mut alice);
    assert_eq!(hears(&guest), ["alice: two"]);
}

#[test]
fn what_is_said_after_a_question_comes_before_what_does_not_fit_with_it() {
    if skip_if(no_python()) {
        return;
    }
    let (server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    let guest = one_answer_client(address);
    says(&guest, "hello", &mut alice);
    alice.say("hi");
    hears(&guest);
    let long = "龍".repeat(1_000);
    alice.say(&long);
    alice.say("after it");
    alice.asks_who();
    let mut heard = String::new();
    // The long line has 3,000 bytes. It comes in pieces of at most 1,024 bytes, cut between characters, and the line after
    // it comes whole. Each piece has the operator's answer to the question in it as well.
    for number in 0..10 {
        says(&guest, &format!("more {number}"), &mut alice);
        server.ask(&number.to_string());
        let mut answer = hears(&guest);
        let of_operator = answer.iter().position(|line| *line == format!("operator: {number}"));
        answer.remove(of_operator.unwrap());
        heard += &answer.join("");
        if heard.ends_with("alice: after it") {
            break;
        }
    }
    assert_eq!(heard, format!("alice: {long}alice: after it"));
}

#[test]
fn what_waits_for_a_client_that_says_nothing_is_bounded() {
    if skip_if(no_python()) {
        return;
    }
    let (_server, address) = open_room(&["--pace", "0"]);
    let mut alice = Member::join(address, "alice");
    let guest = one_answer_client(address);
    says(&guest, "hello", &mut alice);
    for number in 0..2_000 {
        alice.say(&format!("{number:05} {}", "x".repeat(93)));
    }
    alice.asks_who();
    hears(&guest);
    guest.ask("and?");
    while alice.hears() != "guest-2: and?" {}
    alice.say("the last one");
    // The client has lost the oldest lines, and is told how many. Of lines of 107 bytes, 612 are kept.
    let answer = hears(&guest);
    assert_eq!(answer[..2], ["* 1387 older lines were left out", "alice: the last one"]);
    assert!(answer[2].starts_with("alice: 01388 "), "{answer:?}");
}

#[test]
fn a_newline_makes_a_client_one_that_knows_lines() {
    let (_server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    let mut bob = Member::connect(address);
    bob.send(b"no newline");
    assert_eq!(alice.hears(), "guest-2: no newline");
    alice.say("are you there?");
    alice.say("well?");
    alice.asks_who();
    assert_eq!(bob.line(), "* you are guest-2; there is 1 other");
    bob.say("");
    // The answer to the message had no newline at its end, and the line that has waited since follows it.
    assert_eq!(bob.hears(), "alice: are you there?alice: well?");
    alice.say("good");
    assert_eq!(bob.hears(), "alice: good");
}

/// One of the tutorial's own programs, with the port of our server in it. `None` if the document is missing, which is not
/// an error: it is not a part of this project.
fn original(name: &str, port: &str, address: SocketAddr) -> Option<(tempfile::TempDir, Process)> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/document");
    let document = std::env::var_os("SOCKETSERVER_DOCUMENT").map_or_else(beside, PathBuf::from);
    let Ok(text) = std::fs::read_to_string(document.join(name)) else {
        println!("skipped: the document's {name} is not here");
        return None;
    };
    assert!(text.contains(port), "{name} has another port");
    let folder = folder();
    let copy = folder.path().join(name);
    std::fs::write(&copy, text.replace(port, &address.port().to_string())).unwrap();
    let client = python(&copy, &[]);
    Some((folder, client))
}

#[test]
fn the_documents_own_clients_take_part() {
    if skip_if(no_python()) {
        return;
    }
    for (name, port, leave) in
        [("chat_client.py", "8000", "exit"), ("socketserver_client.py", "8080", "q")]
    {
        let (server, address) = open_room(&[]);
        let mut alice = Member::join(address, "alice");
        let Some((_folder, guest)) = original(name, port, address) else { return };
        // The tutorial's server answers each question. Ours answers with the lines of others.
        for number in 0..3 {
            guest.ask(&format!("问题 {number}"));
            assert_eq!(alice.hears(), format!("guest-2: 问题 {number}"));
            server.ask(&format!("回答 {number}"));
            alice.sees(&format!("operator: 回答 {number}"));
            let mut line = guest.line();
            if number == 0 {
                if name.starts_with("socketserver") {
                    line = guest.line();
                }
                assert_eq!(line, ">* you are guest-2; there is 1 other");
                line = guest.line();
            }
            assert_eq!(line.trim_start_matches('>'), format!("operator: 回答 {number}"));
        }
        guest.ask(leave);
        assert_ends(&guest.end(), 0);
        alice.sees("* guest-2 has left");
    }
}
