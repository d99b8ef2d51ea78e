//! The shell program: what it runs, how it ends, and whom it lets in.

mod codec;
mod commands;
mod document;
mod ends;
mod entry;
mod input;
mod interrupts;
mod no_command;
mod proxy;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use test_support::process::{Ended, Process};
use test_support::program::*;
use test_support::promises;
use test_support::{eventually, folder};

const SHELL: Program<'_> = Program(env!("CARGO_BIN_EXE_shell"));

#[test]
fn the_readme_names_every_option() {
    promises::the_readme_names_every_option(
        SHELL,
        &["serve", "connect"],
        include_str!("../../README.md"),
    );
}

#[test]
fn the_help_says_where_it_listens() {
    promises::the_help_says_where_it_listens(SHELL, "127.0.0.1:8000", false);
}

/// A server with a state folder of its own, where its clients find its secret.
struct Server {
    process: Process,
    address: String,
    folder: TempDir,
}

impl Server {
    fn start(options: &[&str]) -> Self {
        Self::at("127.0.0.1:0", options)
    }

    fn at(address: &str, options: &[&str]) -> Self {
        Self::in_folder(folder(), address, options)
    }

    /// Starts a server on a Unix socket in its own folder.
    fn on_a_path(options: &[&str]) -> Self {
        let folder = folder();
        let address = format!("unix:{}", folder.path().join("s").display());
        Self::in_folder(folder, &address, options)
    }

    fn in_folder(folder: TempDir, address: &str, options: &[&str]) -> Self {
        let mut command = shell(folder.path(), &["serve", "--bind", address]);
        let process = Process::start(command.args(options));
        let address = listening(&process);
        Self { process, address, folder }
    }

    fn secret(&self) -> PathBuf {
        self.folder.path().join("socketserver-shell/secret")
    }

    /// Starts a client, whose stdin is empty.
    fn client(&self, arguments: &[&str]) -> Process {
        self.client_of(&self.address, arguments)
    }

    /// Starts a client that connects to another address.
    fn client_of(&self, address: &str, arguments: &[&str]) -> Process {
        Process::start(shell(self.folder.path(), &["connect", address]).args(arguments))
    }

    /// Runs one line to its end.
    fn run(&self, line: &str) -> Ended {
        self.client(&["--", line]).end()
    }

    /// Types this at the prompt of a client, and ends the client's input.
    fn types(&self, text: &str) -> Ended {
        let mut command = shell(self.folder.path(), &["connect", &self.address]);
        let mut client = Process::start(command.stdin(Stdio::piped()));
        client.type_in(text);
        client.end()
    }

    fn stop(self) -> Ended {
        self.process.send_signal(libc::SIGTERM);
        self.process.end()
    }
}

fn shell(state: &Path, arguments: &[&str]) -> Command {
    let mut command = SHELL.command(arguments);
    command.env("XDG_STATE_HOME", state);
    command
}

/// Whether a process of this number runs: a zombie, which has ended and was not reaped,
/// is not counted.
fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, Some('Z' | 'X') | None))
}

#[track_caller]
fn assert_gone(pids: &[String]) {
    for pid in pids {
        assert!(pid.parse::<u32>().is_ok(), "{pid} is no process number");
        eventually("what the command has started is ended", || !is_running(pid));
    }
}
