//! The chat program: its room, its operator, its clients, and what attacks it.

#![allow(clippy::duplicate_mod, reason = "tests of a room run once more in `under_green.rs`")]

mod attacks;
mod bus;
mod codec;
mod deployment;
mod document;
mod false_redis;
mod passwords;
mod redis;
mod room;
mod terminal;
mod tls;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod under_green;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Stdio;

use test_support::process::Process;
use test_support::program::*;
use test_support::promises::{self, SpeaksFirst};

const CHAT: Program<'_> = Program(env!("CARGO_BIN_EXE_chat"));

#[test]
fn the_readme_names_every_option() {
    promises::the_readme_names_every_option(
        CHAT,
        &["serve", "connect"],
        include_str!("../../README.md"),
    );
}

#[test]
fn the_help_says_where_it_listens() {
    promises::the_help_says_where_it_listens(CHAT, "127.0.0.1:8000", false);
}

#[test]
fn a_client_whose_reader_has_had_enough_ends_without_a_word() {
    promises::a_client_whose_reader_has_had_enough_ends_without_a_word(CHAT, "127.0.0.1:0");
}

#[test]
fn a_client_that_cannot_write_says_so_and_does_not_blame_the_connection() {
    promises::a_client_that_cannot_write_says_so_and_does_not_blame_the_connection(
        CHAT,
        "127.0.0.1:0",
    );
}

#[test]
fn a_connection_that_breaks_is_told_with_its_server() {
    promises::a_connection_that_breaks_is_told_with_its_server(CHAT, SpeaksFirst::Client);
}

/// A room with an operator, and its address.
fn open_room(options: &[&str]) -> (Process, SocketAddr) {
    let mut command = CHAT.command(&["serve", "--bind", "127.0.0.1:0"]);
    let server = Process::start(command.args(options).stdin(Stdio::piped()));
    let address = listening(&server).parse().unwrap();
    (server, address)
}

/// The next line that the operator sees of the conversation; joins and leaves are skipped.
fn operator_hears(server: &Process) -> String {
    loop {
        let line = server.line();
        if !line.starts_with("* ") {
            return line;
        }
    }
}

/// Reads what the operator sees, up to this line.
fn operator_sees(server: &Process, line: &str) {
    while server.line() != line {}
}

/// A client that knows lines.
struct Member {
    stream: BufReader<TcpStream>,
}

impl Member {
    /// Joins under a free name.
    fn join(address: SocketAddr, name: &str) -> Self {
        Self::connect(address).called(name)
    }

    fn called(mut self, name: &str) -> Self {
        self.say(&format!("/nick {name}"));
        let welcome = self.line();
        assert!(welcome.starts_with(&format!("* you are {name};")), "{welcome}");
        self
    }

    fn connect(address: SocketAddr) -> Self {
        Self::of(test_support::connect(address))
    }

    fn of(stream: TcpStream) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    fn say(&self, line: &str) {
        self.send(format!("{line}\n").as_bytes());
    }

    fn send(&self, bytes: &[u8]) {
        self.stream.get_ref().write_all(bytes).unwrap();
    }

    /// The next line, without its newline; empty at the end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line in time");
        line.trim_end_matches('\n').to_owned()
    }

    /// The next line of the conversation; joins and leaves are skipped.
    fn hears(&mut self) -> String {
        loop {
            let line = self.line();
            if !line.starts_with("* ") {
                return line;
            }
        }
    }

    /// Reads up to this line.
    fn sees(&mut self, expected: &str) {
        loop {
            let line = self.line();
            assert!(!line.is_empty(), "the end, before: {expected}");
            if line == expected {
                return;
            }
        }
    }

    /// Returns the answer to `/who`. By then all earlier messages of this member have been handled.
    fn asks_who(&mut self) -> String {
        self.say("/who");
        loop {
            let line = self.line();
            if line.contains(" here: ") {
                return line;
            }
        }
    }

    /// Everything up to the end of the connection.
    fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest).expect("the end in time");
        rest
    }

    /// Everything up to the end, for a member that still sends, and so may lose the last lines to a reset.
    fn rest_before_reset(&mut self) -> String {
        let mut rest = String::new();
        while matches!(self.stream.read_line(&mut rest), Ok(1..)) {}
        rest
    }

    fn leave(mut self) {
        self.stream.get_ref().shutdown(Shutdown::Write).unwrap();
        self.rest();
    }
}
