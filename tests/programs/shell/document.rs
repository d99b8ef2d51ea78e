//! The document's wire: our server with its client, our client with its server, and both with each other.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Server, shell};
use crate::program::*;
use crate::support::process::{Ended, Process};
use crate::support::{connect, eventually, folder, skip};

fn server(options: &[&str]) -> Server {
    let server = Server::start(&[&["--no-auth", "--wire", "document"], options].concat());
    assert!(server.process.err_line().contains("--no-auth"));
    server
}

fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    if !found {
        skip("python3 is not installed");
    }
    found
}

/// Asks, and has to be given this, in however many pieces.
#[track_caller]
fn ask(stream: &mut TcpStream, line: &str, output: &[u8]) {
    stream.write_all(line.as_bytes()).unwrap();
    let expected = [output.len().to_string().as_bytes(), output].concat();
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer == expected, "{:?}", String::from_utf8_lossy(&answer));
}

/// What depends on how soon a client reads, on a machine that may be busy: it need not succeed each time.
fn at_last(what: &str, succeeds: impl Fn() -> bool) {
    assert!((0..10).any(|_| succeeds()), "never in ten times: {what}");
}

#[test]
fn the_length_comes_by_itself_and_then_the_output() {
    for mixin in MIXINS {
        let server = server(&["--mixin", mixin]);
        let mut client = connect(server.address.parse().unwrap());
        // Output that begins with digits, that is empty, that is long.
        ask(&mut client, "echo 123", b"123\n");
        ask(&mut client, "true", b"");
        ask(&mut client, "echo out; echo err >&2; exit 9", b"out\nerr\n");
        let long: String = (1..=50_000).map(|number| format!("{number}\n")).collect();
        ask(&mut client, "seq 1 50000", long.as_bytes());
        // `inline` has one client at a time.
        drop(client);
        at_last("the length is all that the first receive gives", || {
            let mut client = connect(server.address.parse().unwrap());
            client.write_all(b"echo 123").unwrap();
            let mut first = [0; 100];
            let count = client.read(&mut first).unwrap();
            &first[..count] == b"4"
        });
    }
}

#[test]
fn a_page_of_the_web_runs_no_command_by_its_readers_browser() {
    let server = server(&[]);
    let file = server.folder.path().join("file");
    let command = format!("touch {}", file.display());
    for request in [
        format!("POST / HTTP/1.1\r\nHost: localhost\r\n\r\n\n{command}\n"),
        // The path can be so long that its end comes later.
        format!("GET /;{}", command.replace(' ', "${IFS}")),
    ] {
        let mut browser = connect(server.address.parse().unwrap());
        browser.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        browser.read_to_end(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), "");
        let logged = server.process.err_line();
        assert!(logged.contains("it sent a request of HTTP"), "{logged}");
    }
    assert!(!file.exists());
}

#[test]
fn the_documents_wire_has_the_same_bounds() {
    let strict = server(&["--allow", "echo"]);
    let mut client = connect(strict.address.parse().unwrap());
    ask(&mut client, "ls /", b"[\"ls\" is not among what this server allows]\n");
    assert!(strict.process.err_line().contains("the command \"ls /\""));
    ask(&mut client, "echo $HOME", b"$HOME\n");

    let hasty = server(&["--timeout", "0.5"]);
    let mut client = connect(hasty.address.parse().unwrap());
    ask(&mut client, "sleep 1000", b"[it ran for longer than 0.5 s]\n");
    // How much it prints in its time is the machine's; then there is one more line.
    client.write_all(b"yes").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"]\n") {
        let mut piece = [0; 65_536];
        let count = client.read(&mut piece).unwrap();
        assert_ne!(count, 0);
        answer.extend_from_slice(&piece[..count]);
    }
    assert!(answer.len() <= 16 * 1024 * 1024 + 100, "{} bytes", answer.len());
}

#[test]
fn a_command_of_the_documents_wire_ends_with_its_connection() {
    let server = server(&[]);
    let path = server.folder.path().join("pid");
    let mut client = connect(server.address.parse().unwrap());
    write!(client, "echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", path.display()).unwrap();
    eventually("the command runs", || path.exists());
    drop(client);
    let pid = fs::read_to_string(path).unwrap().trim().to_owned();
    eventually("the command is ended", || !super::is_running(&pid));
}

#[test]
fn our_client_speaks_to_our_server_over_the_documents_wire() {
    let server = server(&["--encoding", "gbk"]);
    let options = ["--no-auth", "--wire", "document", "--encoding", "gbk"];
    let mut command = shell(server.folder.path(), &["connect", &server.address]);
    let mut client = Process::start(command.args(options).stdin(Stdio::piped()));
    client.type_in("printf 1\nprintf 12345678\necho 你好\ntrue\nseq 1 3\nexit\nprintf no\n");
    let ended = client.end();
    assert_ends(&ended, 0);
    assert_eq!(ended.out, "112345678你好\n1\n2\n3\n");
    let mut single = options.to_vec();
    single.extend(["--", "echo one"]);
    assert_eq!(server.client(&single).end().out, "one\n");
    let long = "x".repeat(1_025);
    *single.last_mut().unwrap() = &long;
    assert_fails_in_one_line(&server.client(&single).end(), 2, &["1024 bytes"]);
}

/// A server of the document's kind in a few lines: everything in one piece, as it may well arrive.
const PEER: &str = "import socket, subprocess
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
print('listening on 127.0.0.1:%d' % s.getsockname()[1], flush=True)
c, _ = s.accept()
while True:
    line = c.recv(1024)
    if not line: break
    out = subprocess.run(line.decode(), shell=True, stdout=subprocess.PIPE).stdout
    c.sendall(str(len(out)).encode() + out)
";

#[test]
fn our_client_takes_answers_whose_length_and_output_run_together() {
    if !has_python() {
        return;
    }
    let mut peer = Command::new("python3");
    let peer = Process::start(peer.args(["-c", PEER]).stdin(Stdio::null()).stdout(Stdio::piped()));
    let ended =
        typed_to(&listening(&peer), "printf 12345\necho x\ntrue\nprintf 0\nseq 100000 100100\n");
    assert_ends(&ended, 0);
    let lines: String = (100_000..=100_100).map(|number| format!("{number}\n")).collect();
    assert_eq!(ended.out, format!("12345x\n0{lines}"));
}

fn typed_to(address: &str, text: &str) -> Ended {
    let mut command = command("shell", &["connect", address, "--no-auth", "--wire", "document"]);
    let mut client = Process::start(command.stdin(Stdio::piped()));
    client.type_in(text);
    client.end()
}

/// The document's own programs, where they are at hand.
fn documents(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SOCKETSERVER_DOCUMENT").map(PathBuf::from);
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/document");
    let path = folder.unwrap_or_else(beside).join(name);
    if !path.exists() {
        // Not a tool that could be installed: they are no part of this project.
        println!("skipped: {} is not there", path.display());
        return None;
    }
    has_python().then_some(path)
}

/// A copy of one of them with another port than its own.
fn with_port(path: &Path, port: &str, folder: &Path) -> PathBuf {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains("8000"), "{text}");
    let copy = folder.join("program.py");
    fs::write(&copy, text.replace("8000", port)).unwrap();
    copy
}

#[test]
fn the_documents_own_client_is_served() {
    let Some(path) = documents("shell_client.py") else { return };
    let server = server(&["--encoding", "gbk"]);
    let port = server.address.rsplit_once(':').unwrap().1;
    let copy = with_port(&path, port, server.folder.path());
    at_last("the document's client understands", || {
        let mut command = Command::new("python3");
        command.arg(&copy).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = Process::start(command.env("PYTHONIOENCODING", "utf-8"));
        client.type_in("echo 12345\necho 你好\ntrue\nexit\n");
        let ended = client.end();
        ended.status.success() && ended.out == ">6\n12345\n\n>5\n你好\n\n>0\n\n>"
    });
}

#[test]
fn the_documents_own_server_is_spoken_to() {
    let Some(path) = documents("shell_server.py") else { return };
    // It has a fixed port: one that is free now, and most likely still in a moment.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let folder = folder();
    let copy = with_port(&path, &address.port().to_string(), folder.path());
    let mut command = Command::new("python3");
    let _server = Process::start(command.arg(copy).stdin(Stdio::null()));
    // It serves one client after the other, and so a first look only costs a turn.
    eventually("it listens", || {
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
    });
    let ended = typed_to(&address.to_string(), "echo 12345\necho 你好\ntrue\nprintf 7\nexit\n");
    assert_ends(&ended, 0);
    assert_eq!(ended.out, "12345\n你好\n7");
}
