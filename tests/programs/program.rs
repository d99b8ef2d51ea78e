//! A program as its user has it: started as a process, with its first lines read.

#![allow(dead_code, reason = "each group of tests uses its part of this")]

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use socket2::{Domain, Socket, Type};

use crate::support::SOON;
use crate::support::process::{Ended, Process};
use crate::support::system::undo_ignored_signals;

pub const MIXINS: [&str; 4] = ["inline", "threading", "pool", "forking"];

/// `cargo test` builds the examples beside the tests: target/PROFILE/examples/NAME, as this binary is
/// target/PROFILE/deps/programs-HASH. With `--test programs` alone it does not, and what was built before
/// would be tested in the place of what is there now.
pub fn example(name: &str) -> PathBuf {
    undo_ignored_signals();
    let this = std::env::current_exe().unwrap();
    let path = this.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    // Cargo writes beside it what it was built from. The documents among it change no program.
    let sources = std::fs::read_to_string(path.with_extension("d")).unwrap_or_default();
    let sources = sources.split_once(": ").map_or("", |(_, sources)| sources).split_whitespace();
    let sources = sources.filter(|source| !source.ends_with(".md"));
    let changed = |source: &str| std::fs::metadata(source).and_then(|data| data.modified()).ok();
    let built = path.metadata().and_then(|data| data.modified()).ok();
    assert!(
        built.is_some() && built >= sources.map(changed).max().flatten(),
        "{} is missing or older than its source: run the whole `cargo test`, or `cargo build --examples` first",
        path.display()
    );
    path
}

pub fn command(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(example(name));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// A server at these addresses, listening, and where it says that it listens.
pub fn serve(name: &str, addresses: &[&str], options: &[&str]) -> (Process, Vec<String>) {
    let mut command = command(name, &["serve"]);
    command.args(addresses.iter().flat_map(|address| ["--bind", *address])).args(options);
    let server = Process::start(&mut command);
    let listening = addresses.iter().map(|_| listening(&server)).collect();
    (server, listening)
}

pub fn listening(server: &Process) -> String {
    let line = server.line();
    line.strip_prefix("listening on ").unwrap_or_else(|| panic!("not an address: {line}")).into()
}

/// A client that types `input` and then the end of input.
pub fn ask(name: &str, address: &str, input: &str) -> Ended {
    let mut client = Process::start(command(name, &["connect", address]).stdin(Stdio::piped()));
    client.type_in(input);
    client.end()
}

/// A program that is to end by itself.
pub fn run(name: &str, args: &[&str]) -> Ended {
    Process::start(&mut command(name, args)).end()
}

#[track_caller]
pub fn assert_ends(ended: &Ended, status: i32) {
    assert_eq!(ended.status.code(), Some(status), "{ended:?}");
}

#[track_caller]
pub fn assert_fails_in_one_line(ended: &Ended, status: i32, says: &[&str]) {
    assert_ends(ended, status);
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    assert_eq!(ended.out, "");
    for words in says {
        assert!(ended.err.contains(words), "{words:?} is not in {:?}", ended.err);
    }
}

/// A connection from an address of its own: 127.0.0.2, say, of which Linux has all.
pub fn connect_from(ip: [u8; 4], server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    socket.connect_timeout(&server.into(), SOON).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}
