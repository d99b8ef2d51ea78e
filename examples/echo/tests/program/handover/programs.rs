//! The program that a signal starts: another version, none, one that ends, and one that says nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use test_support::process::Process;
use test_support::program::{Program, assert_ends, assert_fails_in_one_line};
use test_support::{eventually, skip};

use super::line::{Client, Line};
use crate::ECHO;

/// Copies the program into the folder of a line, and makes a link to the copy. Returns the link, which a test can lead to
/// another file.
fn program(line: &Line) -> PathBuf {
    let (version, link) = (line.file("one"), line.file("program"));
    fs::copy(ECHO.path(), &version).unwrap();
    symlink(&version, &link).unwrap();
    link
}

/// Lets the link lead to another file, in one step.
fn turn(link: &Path, to: &Path) {
    let new = link.with_extension("new");
    symlink(to, &new).unwrap();
    fs::rename(new, link).unwrap();
}

/// How many seconds a successor may take: enough for one that does something, even on the busiest machine.
const PATIENT: &str = "60";

fn start(line: &Line, program: &Path, within: &str) -> (Process, String) {
    let mut command = line.command_of(Program(program.to_str().unwrap()), &[]);
    let server = Process::start(command.args(["--handover-within", within]));
    let address = line.listening(&server).remove(0);
    (server, address)
}

fn script(line: &Line, text: &str) -> PathBuf {
    let path = line.file("script");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_new_version_at_the_same_path_is_the_one_that_runs() {
    let line = Line::at(&["127.0.0.1:0"]);
    let link = program(&line);
    let (first, address) = start(&line, &link, PATIENT);
    fs::copy(ECHO.path(), line.file("two")).unwrap();
    turn(&link, &line.file("two"));
    fs::remove_file(line.file("one")).unwrap();
    first.send_signal(libc::SIGUSR2);
    assert_eq!(line.listening(&first), [&*address]);
    let old = first.id();
    assert_ends(&first.ended_before_its_output(), 0);
    let new = line.started_by(old);
    assert_eq!(fs::read_link(format!("/proc/{new}/exe")).unwrap(), line.file("two"));
    let arguments = fs::read_to_string(format!("/proc/{new}/cmdline")).unwrap();
    assert!(
        arguments.starts_with(link.to_str().unwrap()) && arguments.contains("--handover-within")
    );
    Client::of(&address).asks("after");
    line.stop();
}

/// The program has the connection to its predecessor, and never says anything.
#[test]
fn a_program_that_says_nothing_is_given_up_and_the_server_goes_on() {
    let line = Line::at(&["127.0.0.1:0"]);
    let link = program(&line);
    let (first, address) = start(&line, &link, "0.5");
    turn(&link, &script(&line, "exec sleep 600"));
    first.send_signal(libc::SIGUSR2);
    let said = first.err_line();
    assert!(said.contains("not heard of within 0.5 s"), "{said}");
    Client::of(&address).asks("after");
    first.send_signal(libc::SIGTERM);
    assert_ends(&first.end(), 0);
}

#[test]
fn a_program_that_cannot_be_its_successor_leaves_the_server_as_it_was() {
    let line = Line::at(&["127.0.0.1:0", "unix:FOLDER/s"]);
    let link = program(&line);
    let (first, address) = start(&line, &link, PATIENT);
    for (text, why) in [
        ("exit 3", "ended before it was ready (exit status: 3)"),
        ("kill -9 $$", "ended before it was ready (signal: 9"),
        // `bash`, because other shells cannot write to a descriptor above 9.
        ("exec bash -c \"echo hello >&${SOCKETSERVER_HANDOVER%:*}; exec sleep 600\"", "no message"),
    ] {
        turn(&link, &script(&line, text));
        first.send_signal(libc::SIGUSR2);
        let said = first.err_line();
        assert!(said.contains(why), "{said}, not {why}");
        Client::of(&address).asks("after");
        fs::remove_file(line.file("script")).unwrap();
    }
    // The link leads nowhere.
    first.send_signal(libc::SIGUSR2);
    let said = first.err_line();
    assert!(said.contains("cannot start") && said.contains("this server goes on"), "{said}");
    turn(&link, &line.file("one"));
    first.send_signal(libc::SIGUSR2);
    assert_eq!(line.listening(&first)[0], address);
    assert_ends(&first.ended_before_its_output(), 0);
    Client::of(&address).asks("after");
    line.stop();
    assert!(!line.file("s").exists() && !line.file("h").exists());
}

#[test]
fn a_stop_in_the_middle_is_meant_for_the_program_that_it_has_started_as_well() {
    let line = Line::at(&["127.0.0.1:0", "unix:FOLDER/s"]);
    let link = program(&line);
    let (first, _) = start(&line, &link, PATIENT);
    let started = line.file("started");
    turn(
        &link,
        &script(
            &line,
            &format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600", started.display()),
        ),
    );
    first.send_signal(libc::SIGUSR2);
    eventually("it has started", || started.exists());
    let child = fs::read_to_string(&started).unwrap();
    first.send_signal(libc::SIGTERM);
    assert_ends(&first.ended_before_its_output(), 0);
    let child = PathBuf::from(format!("/proc/{}/exe", child.trim()));
    eventually("it is told to stop", || fs::read_link(&child).is_err());
    assert!(!line.file("s").exists() && !line.file("h").exists());
}

#[test]
fn twenty_processes_one_after_the_other_keep_the_port_and_the_files() {
    let line = Line::at(&["127.0.0.1:0", "udp:127.0.0.1:0", "unix:FOLDER/s"]);
    let first = line.start(&[]);
    let addresses = line.listening(&first);
    let mut running = first.id();
    for _ in 0..20 {
        test_support::system::send_signal(running, libc::SIGUSR2);
        assert_eq!(line.listening(&first), addresses);
        eventually("the one before has ended", || {
            first.has_ended() && !line.processes().contains(&running)
        });
        running = line.started_by(running);
        addresses.iter().for_each(|address| Client::of(address).asks("hello"));
    }
    // The handovers have added no descriptors to the three standard ones and those of a server with three sockets.
    let open = fs::read_dir(format!("/proc/{running}/fd")).unwrap().count();
    assert!(open < 40, "{open} descriptors");
    line.stop();
    assert!(!line.file("s").exists() && !line.file("h").exists());
}

#[test]
fn the_socket_is_for_processes_of_the_same_user() {
    const NOBODY: u32 = 65_534;
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return skip("only root can start processes of other users");
    }
    let line = Line::at(&["127.0.0.1:0"]);
    fs::set_permissions(line.file(""), fs::Permissions::from_mode(0o777)).unwrap();
    let program = line.file("program");
    fs::copy(ECHO.path(), &program).unwrap();
    let command = || {
        let mut command = line.command_of(Program(program.to_str().unwrap()), &[]);
        command.stdin(Stdio::null());
        command
    };
    let first = Process::start(&mut command());
    let address = line.listening(&first).remove(0);
    assert_eq!(fs::metadata(line.file("h")).unwrap().mode() & 0o777, 0o600);
    let refused = Process::start(command().uid(NOBODY).gid(NOBODY)).end();
    assert_fails_in_one_line(&refused, 1, &["cannot ask for the sockets", "Permission denied"]);
    // Somebody has given everybody the right to connect.
    fs::set_permissions(line.file("h"), fs::Permissions::from_mode(0o666)).unwrap();
    let refused = Process::start(command().uid(NOBODY).gid(NOBODY)).end();
    assert_fails_in_one_line(&refused, 1, &["a server of user 0", "user 65534"]);
    let said = first.err_line();
    assert!(said.contains("user 65534 may not have the sockets"), "{said}");
    Client::of(&address).asks("after");
    drop(first);
    // A server of another user is not believed, not even by root.
    fs::remove_file(line.file("h")).unwrap();
    let theirs = Process::start(command().uid(NOBODY).gid(NOBODY));
    line.listening(&theirs);
    assert_fails_in_one_line(&line.start(&[]).end(), 1, &["a server of user 65534"]);
    let mut stop = Command::new("kill");
    assert!(stop.arg(theirs.id().to_string()).status().unwrap().success());
    assert_ends(&theirs.ended_before_its_output(), 0);
}
