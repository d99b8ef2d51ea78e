//! Clients that know of no lines, as the document's: they send a message without an end, read once, and ask
//! their user again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Member, open_room, operator_hears};
use crate::program::assert_ends;
use crate::support::process::Process;
use crate::support::{folder, skip_if};

pub fn no_python() -> Option<&'static str> {
    let there = Command::new("python3").arg("--version").output().is_ok();
    (!there).then_some("python3 is not installed")
}

fn python(program: &Path, args: &[String]) -> Process {
    let mut command = Command::new("python3");
    command.arg(program).args(args).env("PYTHONUNBUFFERED", "1").env("PYTHONIOENCODING", "utf-8");
    Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))
}

/// A client of the project's own that behaves so. Each answer is a line: its bytes, and its text.
fn one_answer_client(address: SocketAddr) -> Process {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/chat/one_answer.py");
    python(&program, &[address.ip().to_string(), address.port().to_string()])
}

/// What it is answered, line by line.
fn says(client: &Process, message: &str) -> Vec<String> {
    client.ask(message);
    let answer = client.line();
    let (length, text) = answer.split_once(' ').unwrap();
    assert!(length.parse::<usize>().unwrap() <= 1024, "{answer}");
    text.split('|').map(str::to_owned).collect()
}

#[test]
fn a_client_without_newlines_has_one_answer_for_each_message() {
    if skip_if(no_python()) {
        return;
    }
    let (server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    let guest = one_answer_client(address);
    assert_eq!(says(&guest, "hello"), ["* you are guest-2; there is 1 other", "guest-2: hello"]);
    assert_eq!(alice.hears(), "guest-2: hello");
    alice.say("one");
    alice.say("two");
    alice.asks_who();
    server.ask("three");
    assert_eq!(alice.hears(), "operator: three");
    // All that was said meanwhile comes with the answer, in one piece, and nothing before.
    let answer = says(&guest, "and?");
    assert_eq!(answer, ["alice: one", "alice: two", "operator: three", "guest-2: and?"]);
    let answer = says(&guest, "@alice 你好");
    assert_eq!(answer, ["guest-2 -> alice: 你好"]);
    assert_eq!(alice.hears(), "guest-2: and?");
    assert_eq!(alice.hears(), "guest-2 -> alice: 你好");
    assert_eq!(says(&guest, "@guest-2 note"), ["guest-2 -> guest-2: note"]);
    assert_eq!(says(&guest, "/who"), ["* 2 here: alice, guest-2"]);
    // The document's word for leaving.
    guest.ask("q");
    assert_ends(&guest.end(), 0);
    alice.sees("* guest-2 has left");
    for line in ["guest-2: hello", "alice: one", "alice: two", "guest-2: and?"] {
        assert_eq!(operator_hears(&server), line);
    }
}

#[test]
fn what_does_not_fit_into_one_answer_comes_with_the_next() {
    if skip_if(no_python()) {
        return;
    }
    let (_server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    let guest = one_answer_client(address);
    says(&guest, "hello");
    let long = "龍".repeat(1_000);
    alice.say(&long);
    alice.say("after it");
    alice.asks_who();
    let mut heard = String::new();
    // 3,000 bytes in pieces of at most 1,024, cut between characters, and the lines after them whole.
    while !heard.contains("alice: after it") {
        heard += &says(&guest, "more").join("\n");
    }
    assert!(heard.replace('\n', "").starts_with(&format!("alice: {long}")), "{heard}");
}

#[test]
fn what_waits_for_a_client_that_says_nothing_is_bounded() {
    if skip_if(no_python()) {
        return;
    }
    let (_server, address) = open_room(&["--pace", "0"]);
    let mut alice = Member::join(address, "alice");
    let guest = one_answer_client(address);
    says(&guest, "hello");
    for number in 0..2_000 {
        alice.say(&format!("{number:05} {}", "x".repeat(93)));
    }
    alice.asks_who();
    let answer = says(&guest, "and?");
    // It lost the oldest, and knows how many; of 107 bytes each, 612 are kept of 2,001.
    assert_eq!(answer[0], "* 1388 older lines were left out");
    assert!(answer[1].starts_with("alice: 01388 "), "{answer:?}");
}

#[test]
fn a_newline_makes_a_client_one_that_knows_lines() {
    let (_server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    let mut bob = Member::connect(address);
    bob.send(b"no newline");
    assert_eq!(alice.hears(), "guest-2: no newline");
    assert_eq!(bob.line(), "* you are guest-2; there is 1 other");
    alice.say("are you there?");
    alice.asks_who();
    bob.say("");
    // The end of the answer to the message, and what has waited since.
    assert_eq!(bob.hears(), "guest-2: no newlinealice: are you there?");
    alice.say("good");
    assert_eq!(bob.hears(), "alice: good");
}

/// One of the document's own programs, with the port of our server in it. None where the document is not
/// there, which is no fault of the machine: it is no part of this project.
fn original(name: &str, port: &str, address: SocketAddr) -> Option<(tempfile::TempDir, Process)> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/document");
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
        guest.ask("hello");
        assert_eq!(alice.hears(), "guest-2: hello");
        let mut line = guest.line();
        if name.starts_with("socketserver") {
            line = guest.line();
        }
        assert_eq!(line, ">* you are guest-2; there is 1 other");
        assert_eq!(guest.line(), "guest-2: hello");
        server.ask("welcome");
        assert_eq!(alice.hears(), "operator: welcome");
        guest.ask("你好");
        assert_eq!(guest.line(), ">operator: welcome");
        assert_eq!(guest.line(), "guest-2: 你好");
        assert_eq!(alice.hears(), "guest-2: 你好");
        guest.ask(leave);
        assert_ends(&guest.end(), 0);
        alice.sees("* guest-2 has left");
    }
}
