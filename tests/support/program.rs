//! A program as its user has it: started as a process, with its first lines read.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use socket2::{Domain, Socket, Type};

use crate::SOON;
use crate::process::{Ended, Process};
use crate::system::undo_ignored_signals;

/// The words of `--mixin`.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub const MIXINS: [&str; 5] = ["inline", "threading", "pool", "forking", "green"];

/// The words of `--mixin` on other systems, without coroutines.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub const MIXINS: [&str; 4] = ["inline", "threading", "pool", "forking"];

/// The executable at this path below target/PROFILE (this test binary is in its `deps`). Cargo does not build the executable
/// when only a test is built, so the test could run an old one. It is compared with its sources; `how` says how to build it.
pub fn built(path: &Path, how: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let path = this.parent().and_then(Path::parent).unwrap().join(path);
    // Cargo writes the names of the sources beside it. The documents among them change no program.
    let sources = std::fs::read_to_string(path.with_extension("d")).unwrap_or_default();
    let sources = sources.split_once(": ").map_or("", |(_, sources)| sources).split_whitespace();
    let sources = sources.filter(|source| !source.ends_with(".md"));
    let changed = |source: &str| std::fs::metadata(source).and_then(|data| data.modified()).ok();
    let built = path.metadata().and_then(|data| data.modified()).ok();
    assert!(
        built.is_some() && built >= sources.map(changed).max().flatten(),
        "{} is missing or older than its source: run `{how}` first",
        path.display()
    );
    path
}

/// An executable, by its path. Tests of a program have it from Cargo, which builds it before them:
/// `Program(env!("CARGO_BIN_EXE_web"))`.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a>(pub &'a str);

impl Program<'_> {
    /// The path of the executable.
    pub fn path(&self) -> &Path {
        undo_ignored_signals();
        Path::new(self.0)
    }

    /// The command that runs it with these arguments, without input, and with its stdout to be read here.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.path());
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    /// Starts a server at these addresses. Returns it, and the addresses at which it says that it listens.
    pub fn serve(&self, addresses: &[&str], options: &[&str]) -> (Process, Vec<String>) {
        let mut command = self.command(&["serve"]);
        command.args(addresses.iter().flat_map(|address| ["--bind", *address])).args(options);
        let server = Process::start(&mut command);
        let listening = addresses.iter().map(|_| listening(&server)).collect();
        (server, listening)
    }

    /// Runs a client whose user types `input` and then ends the input.
    pub fn ask(&self, address: &str, input: &str) -> Ended {
        let mut client = Process::start(self.command(&["connect", address]).stdin(Stdio::piped()));
        client.type_in(input);
        client.end()
    }

    /// Runs it until it ends by itself.
    pub fn run(&self, args: &[&str]) -> Ended {
        Process::start(&mut self.command(args)).end()
    }
}

/// The next address at which a server says that it listens.
pub fn listening(server: &Process) -> String {
    let line = server.line();
    line.strip_prefix("listening on ").unwrap_or_else(|| panic!("not an address: {line}")).into()
}

/// Fails unless it has ended with this status.
#[track_caller]
pub fn assert_ends(ended: &Ended, status: i32) {
    assert_eq!(ended.status.code(), Some(status), "{ended:?}");
}

/// Fails unless it has ended with this status, nothing on stdout, and one line on stderr that has these words in it.
#[track_caller]
pub fn assert_fails_in_one_line(ended: &Ended, status: i32, says: &[&str]) {
    assert_ends(ended, status);
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    assert_eq!(ended.out, "");
    for words in says {
        assert!(ended.err.contains(words), "{words:?} is not in {:?}", ended.err);
    }
}

/// Connects from an address of its own: 127.0.0.2, say. On Linux every address that begins with 127 is there.
pub fn connect_from(ip: [u8; 4], server: SocketAddr) -> TcpStream {
    connect_with(server, |socket| socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap())
}

/// Connects with a small receive buffer: a server that keeps sending soon finds no room.
pub fn connect_with_small_buffer(server: SocketAddr) -> TcpStream {
    connect_with(server, |socket| socket.set_recv_buffer_size(16 * 1024).unwrap())
}

fn connect_with(server: SocketAddr, prepare: impl FnOnce(&Socket)) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    prepare(&socket);
    socket.connect_timeout(&server.into(), SOON).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}
