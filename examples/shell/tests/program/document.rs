//! The tutorial's wire: our server with its client, our client with its server, and both with each other.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Server, shell};
use crate::SHELL;
use test_support::process::{Ended, Process};
use test_support::program::*;
use test_support::{connect, eventually, folder, skip};

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

/// Sends a line, and fails unless this output comes after its length, in however many pieces.
#[track_caller]
fn ask(stream: &mut TcpStream, line: &str, output: &[u8]) {
    stream.write_all(line.as_bytes()).unwrap();
    let expected = [output.len().to_string().as_bytes(), output].concat();
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer == expected, "{:?}", String::from_utf8_lossy(&answer));
}

/// Repeats an assertion that depends on how soon a client reads. On a busy machine it need not succeed each time, but once
/// in ten times.
fn at_last(what: &str, succeeds: impl Fn() -> bool) {
    assert!((0..10).any(|_| succeeds()), "never in ten times: {what}");
}

#[test]
fn the_length_comes_by_itself_and_then_the_output() {
    for mixin in MIXINS {
        let server = server(&["--mixin", mixin]);
        let mut client = connect(server.address.parse().unwrap());
        // The outputs begin with digits, are empty, come from both streams, and are long.
        ask(&mut client, "echo 123", b"123\n");
        ask(&mut client, "true", b"");
        ask(&mut client, "echo out; echo err >&2; exit 9", b"out\nerr\n");
        let long: String = (1..=50_000).map(|number| format!("{number}\n")).collect();
        ask(&mut client, "seq 1 50000", long.as_bytes());
        // `inline` serves one client at a time, so the first one leaves.
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

/// Sends these pieces, one after the other, and reads up to the end.
fn send_pieces(server: &Server, pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = connect(server.address.parse().unwrap());
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        // After the first piece the server may have gone.
        let _ = stream.write_all(piece);
    }
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        result => drop(result.unwrap()),
    }
    answer
}

#[test]
fn a_page_of_the_web_runs_no_command_by_its_readers_browser() {
    let server = server(&[]);
    let file = server.folder.path().join("file");
    let command = format!("touch {}", file.display());
    let path = command.replace(' ', "${IFS}");
    let (path_begins, path_ends) = path.split_at("touch${".len());
    let body = format!("\n{command}\n");
    let fields = format!("Host: a\r\nX: \r\n{command}\r\n\r\n");
    let requests: &[&[&str]] = &[
        &["POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", &body],
        &["x / HTTP/1.1\r\n", &fields, &body],
        &["\r\n\r\nQUERY /;", &path, " HTTP/1.1\r\n\r\n", &body],
        &["post /;", path_begins, path_ends, " HTTP/1.1\r\n\r\n"],
        // This request has no version yet, like one whose long path arrives in several pieces.
        &["GET /;", &path],
        &["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &body],
        &["GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", &body],
        &["GET ws://localhost/", " HTTP/1.1\r\n\r\n", &body],
    ];
    for pieces in requests {
        let together = pieces.concat();
        let apart: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
        for pieces in [&apart[..], &[together.as_bytes()]] {
            let answer = send_pieces(&server, pieces);
            assert_eq!(String::from_utf8_lossy(&answer), "", "{pieces:?}");
            let logged = server.process.err_line();
            assert!(logged.contains("it sent a request of HTTP"), "{logged}");
        }
    }
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let ticket = format!("{body}#").repeat(200).into_bytes();
    assert_eq!(send_pieces(&server, &[hello, &ticket]), b"");
    let logged = server.process.err_line();
    assert!(logged.contains("it sent a hello of TLS"), "{logged}");
    assert!(!file.exists());
}

/// A command of this length that ends with `ends`. The bytes before that do nothing.
fn of_length(length: usize, ends: &str) -> Vec<u8> {
    let (begins, ends) = (b": ".to_vec(), format!("; {ends}").into_bytes());
    let padding = vec![b'x'; length - begins.len() - ends.len()];
    [begins, padding, ends].concat()
}

#[test]
fn one_send_is_one_command_up_to_64_kib_and_none_beyond() {
    let on_a_path = Server::on_a_path(&["--no-auth", "--wire", "document"]);
    assert!(on_a_path.process.err_line().contains("--no-auth"));
    let over_tcp = server(&[]);
    let path = on_a_path.address.strip_prefix("unix:").unwrap();
    for length in [511, 512, 513, 1_024, 1_025, 8_192, 8_193, 16_384, 40_000, 65_535, 65_536] {
        let command = of_length(length, "echo whole");
        let mut tcp = connect(over_tcp.address.parse().unwrap());
        let mut unix = std::os::unix::net::UnixStream::connect(path).unwrap();
        tcp.write_all(&command).unwrap();
        unix.write_all(&command).unwrap();
        let mut answers = [[0; 7]; 2];
        tcp.read_exact(&mut answers[0]).unwrap();
        unix.read_exact(&mut answers[1]).unwrap();
        assert_eq!(answers, [*b"6whole\n"; 2], "{length} bytes");
    }
    let file = over_tcp.folder.path().join("file");
    for length in [65_537, 70_000, 1_000_000] {
        let command = of_length(length, &format!("touch {}", file.display()));
        assert_eq!(send_pieces(&over_tcp, &[&command]), b"", "{length} bytes");
        assert!(over_tcp.process.err_line().contains("more than 65536 bytes"));
    }
    assert!(!file.exists());
}

#[test]
fn what_comes_while_a_command_runs_is_held_to_the_same() {
    let server = server(&[]);
    let file = server.folder.path().join("file");
    let touch = format!("touch {}", file.display());
    let foreign = format!("x / HTTP/1.1\r\n\r\n\n{touch}\n").into_bytes();
    for (next, says) in [(foreign, "a request of HTTP"), (of_length(65_537, &touch), "65536")] {
        let mut client = connect(server.address.parse().unwrap());
        let (go, runs) = (server.folder.path().join("go"), server.folder.path().join("runs"));
        let wait = format!(
            "touch {0}; while ! test -e {1}; do sleep 0.01; done; rm {0} {1}",
            runs.display(),
            go.display()
        );
        client.write_all(wait.as_bytes()).unwrap();
        eventually("the first one runs", || runs.exists());
        client.write_all(&next).unwrap();
        fs::write(&go, "").unwrap();
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        assert_eq!(answer, b"0");
        let logged = server.process.err_line();
        assert!(logged.contains(says), "{logged}");
    }
    // Commands that arrive one by one are served.
    let mut client = connect(server.address.parse().unwrap());
    client.write_all(b"sleep 0.3; echo one").unwrap();
    assert_eq!(read_to(&mut client, b"\n"), b"4one\n");
    client.write_all(b"echo two").unwrap();
    assert_eq!(read_to(&mut client, b"\n"), b"4two\n");
    assert!(!file.exists());
}

fn read_to(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    while !answer.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    answer
}

#[test]
fn the_bytes_of_a_command_of_the_documents_wire_stay_what_they_are() {
    let server = server(&[]);
    let mut client = connect(server.address.parse().unwrap());
    client.write_all(b"printf '[%s]' caf\xe9\\ ").unwrap();
    let mut answer = [0; 8];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"7[caf\xe9 ]");
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
    // How much the command prints in its time depends on the machine. The reason of its end is one more line.
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

/// A server like the tutorial's in a few lines. It sends the length and the output in one piece, as they may well arrive.
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
    let mut command = SHELL.command(&["connect", address, "--no-auth", "--wire", "document"]);
    let mut client = Process::start(command.stdin(Stdio::piped()));
    client.type_in(text);
    client.end()
}

/// The path of one of the tutorial's own programs, if it is there.
fn documents(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SOCKETSERVER_DOCUMENT").map(PathBuf::from);
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/document");
    let path = folder.unwrap_or_else(beside).join(name);
    if !path.exists() {
        // A missing file is no failure even where no test may be skipped: the tutorial is no part of this project.
        println!("skipped: {} is not there", path.display());
        return None;
    }
    has_python().then_some(path)
}

/// Copies one of these programs, with another port. Returns the path of the copy.
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
    // The server gets a fixed port: one that is free now, and most likely still free when the server binds to it.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let folder = folder();
    let copy = with_port(&path, &address.port().to_string(), folder.path());
    let mut command = Command::new("python3");
    let _server = Process::start(command.arg(copy).stdin(Stdio::null()));
    // The server serves one client after the other, so this first connection only costs a turn.
    eventually("it listens", || {
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
    });
    let ended = typed_to(&address.to_string(), "echo 12345\necho 你好\ntrue\nprintf 7\nexit\n");
    assert_ends(&ended, 0);
    assert_eq!(ended.out, "12345\n你好\n7");
}
