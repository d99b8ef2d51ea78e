//! Ctrl-C, as a signal to the client and as a key at a terminal.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use super::{Server, assert_gone, shell};
use crate::SHELL;
use test_support::process::Process;
use test_support::program::*;
use test_support::{eventually, skip};

/// A loop that lasts until Ctrl-C. A shell that is starting a program obeys Ctrl-C only when that
/// program has ended, so no program here may stay for long.
const STAY: &str = "while :; do sleep 0.01; done";

#[test]
fn ctrl_c_ends_the_command_and_gives_its_status() {
    for mixin in MIXINS {
        let server = Server::start(&["--mixin", mixin]);
        let client = server.client(&["--", &format!("echo $$; {STAY}")]);
        let pid = client.line();
        client.send_signal(libc::SIGINT);
        assert_ends(&client.end(), 130);
        assert_gone(&[pid]);
    }
}

#[test]
fn a_command_may_take_ctrl_c_in_its_own_way() {
    let server = Server::start(&[]);
    let line = "trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.01; done";
    let client = server.client(&["--", line]);
    assert_eq!(client.line(), "ready");
    client.send_signal(libc::SIGINT);
    assert_eq!(client.line(), "caught");
    assert_ends(&client.end(), 7);
}

#[test]
fn a_second_ctrl_c_ends_the_client_and_with_it_the_command() {
    let server = Server::start(&[]);
    let line = "trap 'echo not yet' INT; echo $$; while :; do sleep 0.01; done";
    let client = server.client(&["--", line]);
    let pid = client.line();
    client.send_signal(libc::SIGINT);
    assert_eq!(client.line(), "not yet");
    client.send_signal(libc::SIGINT);
    assert_ends(&client.end(), 130);
    assert_gone(&[pid]);
}

#[test]
fn ctrl_c_reaches_a_command_whose_output_nobody_takes() {
    let server = Server::start(&[]);
    let mut command = shell(server.folder.path(), &["connect", &server.address]);
    command.args(["--", "echo $$ >&2; while :; do echo y; done"]);
    // Nobody reads the client's output.
    let (reader, writer) = UnixStream::pair().unwrap();
    let client = Process::start(command.stdout(OwnedFd::from(writer)));
    drop(command);
    let pid = client.err_line();
    client.send_signal(libc::SIGINT);
    assert_gone(&[pid]);
    drop(reader);
}

#[test]
fn ctrl_c_between_lines_of_a_script_ends_it() {
    let server = Server::start(&[]);
    let mut command = shell(server.folder.path(), &["connect", &server.address]);
    let client = Process::start(command.stdin(Stdio::piped()));
    client.ask(&format!("echo ready; {STAY}"));
    client.ask("echo never");
    assert_eq!(client.line(), "ready");
    client.send_signal(libc::SIGINT);
    let ended = client.end();
    assert_ends(&ended, 130);
    assert_eq!(ended.out, "");
}

#[test]
fn at_a_terminal_ctrl_c_ends_the_command_and_at_the_prompt_it_clears_the_line() {
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("python3 is not installed");
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/program/terminal.py");
    // The tutorial's wire has no status, and no way to end a command alone.
    for (options, status) in [(&[][..], 1), (&["--no-auth", "--wire", "document"], 0)] {
        let server = Server::start(options);
        let mut command = Command::new("python3");
        command.arg(script).arg(SHELL.path()).args(["connect", &server.address]).args(options);
        command.env("XDG_STATE_HOME", server.folder.path()).stdin(Stdio::null());
        let ended = Process::start(command.stdout(Stdio::piped())).end();
        assert_ends(&ended, 0);
        assert_eq!(ended.out, format!("status {status}\n"), "{ended:?}");
    }
}

#[test]
fn ctrl_c_ends_a_client_of_the_documents_wire_and_with_it_the_command() {
    let options = ["--no-auth", "--wire", "document"];
    let server = Server::start(&options);
    let pid = server.folder.path().join("pid");
    let line = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", pid.display());
    let mut command = shell(server.folder.path(), &["connect", &server.address]);
    let client = Process::start(command.args(options).stdin(Stdio::piped()));
    client.ask(&line);
    eventually("the command runs", || pid.exists());
    client.send_signal(libc::SIGINT);
    assert_ends(&client.end(), 130);
    assert_gone(&[std::fs::read_to_string(pid).unwrap().trim().to_owned()]);
}
