//! Commands and their output.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use super::Server;
use crate::SHELL;
use test_support::process::Process;
use test_support::program::*;
use test_support::{eventually, folder, has_ipv6};

#[test]
fn output_errors_and_status_come_back_apart() {
    let server = Server::start(&[]);
    let ended = server.run("echo out; echo err >&2; exit 3");
    assert_ends(&ended, 3);
    assert_eq!((&*ended.out, &*ended.err), ("out\n", "err\n"));
    assert_ends(&server.run("true"), 0);
}

#[test]
fn a_command_that_a_signal_ends_has_a_shells_status() {
    let server = Server::start(&[]);
    assert_ends(&server.run("kill -9 $$"), 128 + 9);
    let ended = server.run("no-such-program-anywhere");
    assert_ends(&ended, 127);
    assert!(ended.err.contains("no-such-program-anywhere"), "{ended:?}");
}

#[test]
fn output_comes_as_it_is_printed_and_both_kinds_in_their_order() {
    let server = Server::start(&[]);
    let go = server.folder.path().join("go");
    let wait = format!("while ! test -e {}; do sleep 0.01; done", go.display());
    let client = server.client(&["--", &format!("echo one; {wait}; echo two >&2; echo three")]);
    // The command waits for the file, and so the line is here before the command has ended.
    assert_eq!(client.line(), "one");
    fs::write(&go, "").unwrap();
    assert_eq!(client.err_line(), "two");
    assert_eq!(client.line(), "three");
    assert_ends(&client.end(), 0);
}

#[test]
fn many_clients_run_commands_at_once() {
    let server = Server::start(&[]);
    let path = server.folder.path().display().to_string();
    // Each command waits for all the others.
    let meet =
        "touch $D/$N; while test $(ls $D | grep -c ^here) -lt 5; do sleep 0.01; done; echo $N";
    let clients: Vec<_> = (0..5)
        .map(|number| {
            let line = format!("D={path}; N=here{number}; {meet}");
            server.client(&["--", &line])
        })
        .collect();
    for (number, client) in clients.into_iter().enumerate() {
        let ended = client.end();
        assert_ends(&ended, 0);
        assert_eq!(ended.out, format!("here{number}\n"));
    }
}

#[test]
fn every_byte_of_a_large_output_arrives() {
    let server = Server::start(&[]);
    let ended = server.run("seq 1 300000");
    assert_ends(&ended, 0);
    let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    assert!(ended.out == expected, "{} bytes instead of {}", ended.out.len(), expected.len());
}

#[test]
fn lines_of_stdin_are_commands_and_no_prompt_is_shown_to_a_pipe() {
    let server = Server::start(&[]);
    let ended = server.types("echo one\n\n  echo two \nsh -c 'exit 4'\nexit\necho three\n");
    assert_ends(&ended, 4);
    assert_eq!((&*ended.out, &*ended.err), ("one\ntwo\n", ""));
    // The last line may lack its newline, and an end of input is an exit.
    let ended = server.types("false\necho last");
    assert_ends(&ended, 0);
    assert_eq!(ended.out, "last\n");
}

#[test]
fn several_arguments_reach_the_program_as_they_are() {
    let server = Server::start(&[]);
    let ended = server.client(&["--", "printf", "%s|", "a b", "$HOME", "it's", "", "-x"]).end();
    assert_ends(&ended, 0);
    assert_eq!(ended.out, "a b|$HOME|it's||-x|");
    // A line that looks like an option is a line.
    assert_ends(&server.run("-x"), 127);
}

/// The output of a client with these arguments and this input.
fn given(server: &Server, input: &[u8], arguments: &[&std::ffi::OsStr]) -> Vec<u8> {
    let mut command = super::shell(server.folder.path(), &["connect", &server.address]);
    let mut client = command.args(arguments).stdin(Stdio::piped()).spawn().unwrap();
    client.stdin.take().unwrap().write_all(input).unwrap();
    client.wait_with_output().unwrap().stdout
}

#[test]
fn the_bytes_of_a_line_stay_what_they_are() {
    let allowing = Server::start(&["--allow", "printf"]);
    for server in [Server::start(&[]), allowing] {
        // The lines have bytes that are not UTF-8, and escaped blanks at their end.
        for (line, printed) in [
            (&b"printf [%s] caf\xe9"[..], &b"[caf\xe9]"[..]),
            (b"printf [%s] a\\ ", b"[a ]"),
            (b"\tprintf [%s] a\\\t", b"[a\t]"),
            (b"printf [%s] \xff\xfe\\ \\ ", b"[\xff\xfe  ]"),
        ] {
            let shown = String::from_utf8_lossy(line);
            assert_eq!(given(&server, &[line, b"\n"].concat(), &[]), printed, "{shown:?}");
            assert_eq!(given(&server, line, &[]), printed, "{shown:?} without a newline");
            let arguments = ["--".as_ref(), std::ffi::OsStr::from_bytes(line)];
            assert_eq!(given(&server, b"", &arguments), printed, "{shown:?} as an argument");
        }
        let words = [&b"--"[..], b"printf", b"[%s]", b"caf\xe9 \\ "];
        let words = words.map(std::ffi::OsStr::from_bytes);
        assert_eq!(given(&server, b"", &words), b"[caf\xe9 \\ ]");
        // A line that cannot be a command is refused, and no other line runs in its place.
        assert_eq!(given(&server, b"printf a\0b\n", &[]), b"");
    }
}

#[test]
fn the_input_of_a_command_is_at_its_end() {
    let server = Server::start(&[]);
    let ended = server.types("cat; echo after\necho next\n");
    assert_eq!(ended.out, "after\nnext\n");
}

#[test]
fn every_transport_is_served_under_every_mixin() {
    for mixin in MIXINS {
        let mut servers = vec![
            Server::start(&["--mixin", mixin]),
            Server::on_a_path(&["--mixin", mixin]),
            Server::at(&format!("unix:@{}", unique_name()), &["--mixin", mixin]),
        ];
        if has_ipv6() {
            servers.push(Server::at("[::1]:0", &["--mixin", mixin]));
        }
        for server in servers {
            let ended = server.run("echo out; echo err >&2; exit 5");
            assert_ends(&ended, 5);
            assert_eq!((&*ended.out, &*ended.err), ("out\n", "err\n"), "{mixin}");
            let ended = server.stop();
            assert_ends(&ended, 0);
            assert_eq!(ended.err, "", "{mixin}");
        }
    }
}

/// A name that no other test has.
fn unique_name() -> String {
    let folder = folder();
    folder.path().file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_reader_that_has_enough_ends_the_client_and_the_command() {
    let server = Server::start(&[]);
    let pid = server.folder.path().join("pid");
    let line = format!("echo $$ > {}; exec yes", pid.display());
    let client = SHELL.path();
    let pipe = format!(
        "XDG_STATE_HOME={} {} connect {} -- '{line}' | head -n 2",
        server.folder.path().display(),
        client.display(),
        server.address
    );
    let output = Command::new("sh").args(["-c", &pipe]).output().unwrap();
    assert_eq!(output.stdout, b"y\ny\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let pid = fs::read_to_string(pid).unwrap().trim().to_owned();
    eventually("the command ends", || !super::is_running(&pid));
}

#[test]
fn output_in_another_encoding_is_shown_as_utf_8() {
    let server = Server::start(&[]);
    let line = r"printf '\304\343'; sleep 0.05; printf '\272'; sleep 0.05; printf '\303\n'";
    let ended = server.client(&["--encoding", "gbk", "--", line]).end();
    assert_ends(&ended, 0);
    // The second character has arrived in two pieces.
    assert_eq!(ended.out, "你好\n");
    // An incomplete character is visible.
    let ended = server.client(&["--encoding", "gbk", "--", r"printf '\304'"]).end();
    assert_eq!(ended.out, "\u{fffd}");
    let ended = server.client(&["--encoding", "no such", "--", "true"]).end();
    assert_ends(&ended, 2);
}

#[test]
fn a_server_sends_another_encoding_if_it_is_told_to() {
    let server = Server::start(&["--encoding", "shift_jis"]);
    let ended = server.client(&["--encoding", "shift_jis", "--", "echo こんにちは"]).end();
    assert_eq!(ended.out, "こんにちは\n");
    let ended = server.run("echo é | wc -c; printf あ | od -An -tx1");
    assert_eq!(ended.out, "3\n e3 81 82\n", "the commands themselves print UTF-8");
    let ended = SHELL.run(&["serve", "--encoding", "utf-16le"]);
    assert_ends(&ended, 2);
}

#[test]
fn a_command_has_no_descriptor_but_its_own_three() {
    for mixin in MIXINS {
        let server = Server::start(&["--mixin", mixin]);
        // The fourth descriptor is that of the folder that `ls` reads.
        assert_eq!(server.run("ls /proc/self/fd").out, "0\n1\n2\n3\n", "{mixin}");
    }
}

#[test]
fn a_command_inherits_nothing_of_what_the_servers_starter_has_made() {
    // The starter has a file open under two numbers, ignores signals, and sets a limit, which the server raises for itself.
    let starter = "trap '' HUP INT QUIT USR1 TERM CHLD; ulimit -Sn 256; exec 9>\"$0\"; exec \"$@\"";
    for mixin in MIXINS {
        let folder = folder();
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{starter} 200>&9")]).arg(folder.path().join("lock"));
        command.arg(SHELL.path()).args(["serve", "--bind", "127.0.0.1:0", "--mixin", mixin]);
        command.env("XDG_STATE_HOME", folder.path()).stdin(Stdio::null()).stdout(Stdio::piped());
        let process = Process::start(&mut command);
        let address = listening(&process);
        let server = Server { process, address, folder };
        assert_eq!(server.run("ls /proc/self/fd").out, "0\n1\n2\n3\n", "{mixin}");
        assert_eq!(server.run("ulimit -Sn").out, "256\n", "{mixin}");
        let signals = server.run("grep -E '^Sig(Ign|Blk)' /proc/self/status").out;
        assert_eq!(signals.lines().count(), 2);
        for line in signals.lines() {
            let set = u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap();
            // The C library keeps two signals for itself.
            assert_eq!(set & !(0b11 << 31), 0, "{mixin}: {signals}");
        }
        // Ctrl-C ends a command, though the server itself was started with SIGINT ignored.
        let client = server.client(&["--", "echo begun; while :; do sleep 0.01; done"]);
        assert_eq!(client.line(), "begun");
        client.send_signal(libc::SIGINT);
        assert_ends(&client.end(), 130);
        // A process that the server has started for itself does not have the file open, either.
        let lock = server.folder.path().join("lock");
        eventually("the server alone has the file", || holders(&lock) == [server.process.id()]);
    }
}

/// The processes that have a file open.
fn holders(file: &std::path::Path) -> Vec<u32> {
    let has_it = |process: &fs::DirEntry| {
        let descriptors = fs::read_dir(process.path().join("fd")).into_iter().flatten();
        let mut targets = descriptors.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        targets.any(|target| target == file)
    };
    let processes = fs::read_dir("/proc").unwrap().flatten().filter(has_it);
    processes.filter_map(|process| process.file_name().to_str()?.parse().ok()).collect()
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let server = Server::start(&["--allow", "no-such-program"]);
    let ended = server.run("no-such-program");
    assert_fails_in_one_line(
        &ended,
        127,
        &["the command was not run", "no-such-program", "No such file"],
    );
}

#[test]
fn a_command_has_a_session_of_its_own_and_so_not_the_operators_terminal() {
    let server = Server::start(&[]);
    // The sixth field is the session, which is the supervisor's. The seventh is the terminal, and zero means none.
    let ended = server.run("echo $PPID 0; cut -d' ' -f6,7 /proc/$$/stat");
    let lines: Vec<&str> = ended.out.lines().collect();
    assert_eq!(lines[0], lines[1]);
}

#[test]
fn datagrams_are_refused_by_both_sides() {
    for arguments in
        [["connect", "udp:127.0.0.1:9"].as_slice(), &["serve", "--bind", "udp:127.0.0.1:0"]]
    {
        assert_fails_in_one_line(&SHELL.run(arguments), 2, &["needs a stream"]);
    }
    for arguments in [["connect", "nonsense"].as_slice(), &["serve", "--bind", "nonsense"]] {
        let unclear = SHELL.run(arguments);
        assert_ends(&unclear, 2);
        assert!(unclear.err.contains("write HOST:PORT or unix:PATH\n"), "{unclear:?}");
    }
}
