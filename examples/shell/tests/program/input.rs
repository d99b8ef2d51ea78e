//! The input that is piped to a client is its command's.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;
use std::thread;

use super::{Server, shell};
use test_support::eventually;
use test_support::process::Process;
use test_support::program::*;

/// Starts a client with these arguments, whose stdin is a pipe.
fn client(server: &Server, arguments: &[&str]) -> Process {
    let mut command = shell(server.folder.path(), &["connect", &server.address]);
    Process::start(command.args(arguments).stdin(Stdio::piped()))
}

#[test]
fn what_is_piped_to_a_client_reaches_its_command() {
    for mixin in MIXINS {
        for server in [Server::start(&["--mixin", mixin]), Server::on_a_path(&["--mixin", mixin])] {
            let mut client = client(&server, &["--", "sort; echo status $?"]);
            client.type_in("two\none\nthree");
            let ended = client.end();
            assert_ends(&ended, 0);
            assert_eq!((&*ended.out, &*ended.err), ("one\nthree\ntwo\nstatus 0\n", ""), "{mixin}");
        }
    }
    // The same holds without a shell.
    let server = Server::start(&["--allow", "cat"]);
    let mut client = client(&server, &["--", "cat", "-"]);
    client.type_in("as it is");
    assert_eq!(client.end().out, "as it is");
}

#[test]
fn input_comes_as_it_is_typed_and_its_end_is_told() {
    let server = Server::start(&[]);
    let mut client = client(&server, &["--", "while read line; do echo got $line; done; echo end"]);
    for word in ["one", "two"] {
        client.ask(word);
        assert_eq!(client.line(), format!("got {word}"));
    }
    client.close_stdin();
    assert_eq!(client.line(), "end");
    assert_ends(&client.end(), 0);
}

#[test]
fn every_byte_of_a_large_input_arrives_in_order_and_nothing_grows() {
    let server = Server::start(&[]);
    let mut bytes = vec![0; 5_000_000];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let path = server.folder.path().join("input");
    std::fs::write(&path, &bytes).unwrap();
    let mut command = shell(server.folder.path(), &["connect", &server.address]);
    // The command reads late at first: the window is full, and then has room again.
    command.args(["--", "sleep 0.3; head -c 1000000; sleep 0.1; cat"]);
    let mut client = command.stdin(File::open(&path).unwrap()).spawn().unwrap();
    let mut stdout = client.stdout.take().unwrap();
    let mut came = Vec::new();
    stdout.read_to_end(&mut came).unwrap();
    assert!(client.wait().unwrap().success());
    assert!(came == bytes, "{} bytes of {}", came.len(), bytes.len());
}

#[test]
fn a_command_that_leaves_its_input_alone_ends_as_ever() {
    let server = Server::start(&[]);
    for (line, out, status) in [
        ("head -n 1", "y\n", 0),
        ("exec <&-; sleep 0.2; echo closed", "closed\n", 0),
        ("sleep 0.2; exit 7", "", 7),
        ("kill -9 $$", "", 137),
    ] {
        let mut command = shell(server.folder.path(), &["connect", &server.address]);
        let mut child = command.args(["--", line]).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // The client gets more input than any window holds, for as long as it lives.
        let endless =
            thread::spawn(move || while stdin.write_all(&b"y\n".repeat(10_000)).is_ok() {});
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stdout), (Some(status), out.into()), "{line}");
        endless.join().unwrap();
    }
    // The client ends with a command that reads nothing, though its input has no end yet.
    let ended = client(&server, &["--", "echo at once"]).end();
    assert_eq!(ended.out, "at once\n");
}

#[test]
fn ctrl_c_is_not_behind_the_input() {
    let server = Server::start(&[]);
    let mut command = shell(server.folder.path(), &["connect", &server.address]);
    command.args(["--", "echo $$; while :; do sleep 0.01; done"]);
    let client = Process::start(command.stdin(File::open("/dev/zero").unwrap()));
    let pid = client.line();
    client.send_signal(libc::SIGINT);
    assert_ends(&client.end(), 130);
    super::assert_gone(&[pid]);
}

#[test]
fn stdin_is_left_alone_where_that_is_asked_for_and_where_it_is_a_prompts() {
    let server = Server::start(&[]);
    let path = server.folder.path().join("lines");
    std::fs::write(&path, "one\ntwo\n").unwrap();
    for option in ["-n", "--no-input"] {
        let mut command = shell(server.folder.path(), &["connect", &server.address, option]);
        command.args(["--", "cat; echo end"]).stdin(File::open(&path).unwrap());
        assert_eq!(Process::start(&mut command).end().out, "end\n");
    }
    assert_eq!(server.types("cat; echo first\necho second\n").out, "first\nsecond\n");
}

#[test]
fn input_that_the_documents_wire_cannot_carry_is_refused_aloud() {
    let options = ["--no-auth", "--wire", "document"];
    let server = Server::start(&options);
    let path = server.folder.path().join("lines");
    std::fs::write(&path, "one\n").unwrap();
    let ran = server.folder.path().join("ran");
    let line = format!("touch {}; cat", ran.display());
    let run = |options: &[&str], stdin: Stdio| {
        let mut command = shell(server.folder.path(), &["connect", &server.address]);
        command.args(options).args(["--", &line]).stdin(stdin);
        Process::start(&mut command).end()
    };
    let ended = run(&options, File::open(&path).unwrap().into());
    assert_fails_in_one_line(&ended, 2, &["no input for a command", "--no-input"]);
    assert!(!ran.exists());
    let no_input = [&options[..], &["-n"]].concat();
    assert_ends(&run(&no_input, File::open(&path).unwrap().into()), 0);
    // A stdin that is empty, and one that is open and silent, have nothing that could be lost.
    assert_ends(&run(&options, File::open("/dev/null").unwrap().into()), 0);
    assert_ends(&client(&server, &[&options[..], &["--", "true"]].concat()).end(), 0);
    // Input that arrives after the check is reported later.
    let mut late = client(
        &server,
        &[&options[..], &["--", &format!("touch {}-2; sleep 0.5", ran.display())]].concat(),
    );
    eventually("it runs", || server.folder.path().join("ran-2").exists());
    late.type_in("late\n");
    assert_fails_in_one_line(&late.end(), 2, &["no input for a command"]);
}

#[test]
fn a_client_that_sends_more_input_than_it_may_is_refused() {
    use socketserver::Address;
    use test_support::connect_any;
    let server = Server::on_a_path(&[]);
    let path = server.address.strip_prefix("unix:").unwrap();
    let mut stream = connect_any(&Address::Unix(path.into()));
    let message = |body: &[u8]| [&(body.len() as u32).to_be_bytes()[..], body].concat();
    let hello = message(&[1, 1, 0]);
    stream.write_all(&[hello, message(&[4]), message(b"\x0bsleep 1000")].concat()).unwrap();
    let piece = message(&[&[12][..], &[0; 60_000]].concat());
    while stream.write_all(&piece).is_ok() {}
    let logged = server.process.err_line();
    assert!(logged.contains("more input than there is room for"), "{logged}");
    assert_ends(&server.run("true"), 0);
}
