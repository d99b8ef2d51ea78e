//! Logins: valid ones, invalid ones, and their penalty.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::proxy::{Proxy, Way};
use super::{Server, shell};
use crate::SHELL;
use test_support::process::Process;
use test_support::program::*;
use test_support::{connect, folder, read_to_end, skip};

/// The beginning of a HELLO with a secret: 51 bytes of body, its kind, the version, and the kind of proof.
const HELLO: [u8; 7] = [0, 0, 0, 51, 1, 1, 1];

fn socket(server: &Server) -> TcpStream {
    connect(server.address.parse().unwrap())
}

/// Logs in with a wrong secret: the first message of the session is 48 bytes without a meaning.
fn guess(server: &Server) -> TcpStream {
    let mut stream = socket(server);
    stream.write_all(&[&HELLO[..], &[7; 48]].concat()).unwrap();
    stream
}

#[test]
fn a_server_makes_a_secret_that_only_its_user_can_read() {
    let server = Server::start(&[]);
    let about = fs::metadata(server.secret()).unwrap();
    assert_eq!((about.mode() & 0o7777, about.len()), (0o600, 32));
    let folder = fs::metadata(server.secret().parent().unwrap()).unwrap();
    assert_eq!(folder.mode() & 0o777, 0o700);
    let secret = fs::read(server.secret()).unwrap();
    assert_ne!(secret, [0; 32]);
    // The next server finds the secret, and a client may have it in a file of another name.
    let Server { folder, process, .. } = server;
    drop(process);
    let server = Server::in_folder(folder, "127.0.0.1:0", &[]);
    assert_eq!(fs::read(server.secret()).unwrap(), secret);
    let copy = server.folder.path().join("copy");
    fs::copy(server.secret(), &copy).unwrap();
    let copy = copy.to_str().unwrap();
    assert_ends(&server.client(&["--secret-file", copy, "--", "true"]).end(), 0);
    // Nothing else is left in the folder.
    assert_eq!(fs::read_dir(server.secret().parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn servers_that_start_at_once_come_to_have_one_secret() {
    let folder = folder();
    let start = || {
        let mut command = shell(folder.path(), &["serve", "--bind", "127.0.0.1:0"]);
        Process::start(&mut command)
    };
    let servers = [start(), start(), start(), start()];
    for server in &servers {
        let address = listening(server);
        let client = &mut shell(folder.path(), &["connect", &address, "--", "true"]);
        assert_ends(&Process::start(client).end(), 0);
    }
}

#[test]
fn a_secret_that_others_can_read_is_refused_by_both_sides() {
    let server = Server::start(&[]);
    for mode in [0o640, 0o604, 0o620, 0o700 | 0o001] {
        fs::set_permissions(server.secret(), Permissions::from_mode(mode)).unwrap();
        let path = server.secret().display().to_string();
        let says = [&*path, "can be used by others", "chmod 600"];
        assert_fails_in_one_line(&server.run("true"), 1, &says);
        let second = &mut shell(server.folder.path(), &["serve", "--bind", "127.0.0.1:0"]);
        assert_fails_in_one_line(&Process::start(second).end(), 1, &says);
    }
}

#[test]
fn a_secret_of_another_owner_length_or_kind_is_refused() {
    let server = Server::start(&[]);
    let path = server.secret();
    for (bytes, says) in [(&[1; 31][..], "is 31"), (&[1; 33], "is more"), (&[], "is 0")] {
        fs::write(&path, bytes).unwrap();
        assert_fails_in_one_line(&server.run("true"), 1, &["has to be 32 bytes", says]);
    }
    let file = |name: &str| server.client(&["--secret-file", name, "--", "true"]).end();
    assert_fails_in_one_line(&file("/"), 1, &["is not a file"]);
    let pipe = server.folder.path().join("pipe");
    assert!(Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status().unwrap().success());
    assert_fails_in_one_line(&file(pipe.to_str().unwrap()), 1, &["is not a file"]);
    assert_fails_in_one_line(&file("/no/such"), 1, &["cannot read the secret /no/such"]);
    // Root may give a file away.
    fs::write(&path, [1; 32]).unwrap();
    if std::os::unix::fs::chown(&path, Some(12_345), None).is_err() {
        return skip("only root can give a file to another user");
    }
    assert_fails_in_one_line(&server.run("true"), 1, &["belongs to user 12345"]);
}

#[test]
fn a_wrong_secret_is_refused_after_a_delay_and_logged() {
    for mixin in MIXINS {
        let server = Server::start(&["--mixin", mixin]);
        let wrong = server.folder.path().join("wrong");
        fs::write(&wrong, [1; 32]).unwrap();
        fs::set_permissions(&wrong, Permissions::from_mode(0o600)).unwrap();
        let began = Instant::now();
        let client = server.client(&["--secret-file", wrong.to_str().unwrap(), "--", "echo in"]);
        // The one worker of `inline` is free while the failed login waits.
        assert_ends(&server.run("true"), 0);
        let ended = client.end();
        assert_fails_in_one_line(&ended, 1, &["does not have the secret in", "wrong"]);
        assert!(began.elapsed() >= Duration::from_secs(2), "{mixin}");
        let logged = server.process.err_line();
        assert!(logged.starts_with("refused 127.0.0.1:"), "{logged}");
        assert!(logged.ends_with("its secret is not the server's"), "{logged}");
    }
}

#[test]
fn a_thousand_wrong_logins_delay_nobody_else() {
    let server = Server::start(&["--mixin", "pool", "--max-per-peer", "1000"]);
    for _ in 0..5 {
        let guessers: Vec<TcpStream> = (0..200).map(|_| guess(&server)).collect();
        let ended = server.run("echo served");
        assert_ends(&ended, 0);
        assert_eq!(ended.out, "served\n");
        drop(guessers);
    }
    // A failed login stays silent and connected, while many others are served.
    let mut guesser = guess(&server);
    let began = Instant::now();
    let mut others = 0;
    guesser.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    while began.elapsed() < Duration::from_secs(1) {
        assert_ends(&server.run("true"), 0);
        others += 1;
    }
    let came = guesser.read(&mut [0]).map_err(|error| error.kind());
    // On a busy machine the last of the others may have taken until the end of the delay.
    if began.elapsed() < Duration::from_millis(1_900) {
        assert_eq!(came, Err(ErrorKind::WouldBlock), "after {others} others");
    }
    guesser.set_read_timeout(Some(test_support::SOON)).unwrap();
    assert_eq!(guesser.read(&mut [0]).unwrap(), 0);
    assert!(began.elapsed() >= Duration::from_millis(1_900));
}

/// Records the bytes that a client sends to log in and to run a command.
fn recorded(server: &Server, line: &str) -> Vec<u8> {
    let proxy = Proxy::start(&server.address, |_, _, byte| byte);
    assert_ends(&server.client_of(&proxy.address, &["--", line]).end(), 0);
    proxy.heard(Way::ToServer)
}

#[test]
fn a_recorded_login_lets_nobody_in() {
    let server = Server::start(&[]);
    let trace = server.folder.path().join("trace");
    let recording = recorded(&server, &format!("echo x >> {}", trace.display()));
    assert_eq!(fs::read(&trace).unwrap(), b"x\n");
    let mut replay = socket(&server);
    replay.write_all(&recording).unwrap();
    let answer = read_to_end(&mut replay);
    // The answer is a welcome, which is of no use without the keys, and nothing else.
    assert_eq!((answer.len(), answer[4]), (4 + 2 + 48, 2));
    assert!(server.process.err_line().ends_with("its login is a recording of another"));
    assert_ends(&server.run("true"), 0);
    assert_eq!(fs::read(&trace).unwrap(), b"x\n", "it was run once more");
}

#[test]
fn a_login_that_breaks_off_anywhere_harms_nobody() {
    let server = Server::start(&[]);
    let recording = recorded(&server, "true");
    for length in 0..recording.len() {
        let mut client = socket(&server);
        client.write_all(&recording[..length]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        // A stream that is cut after the HELLO is a recording, whose penalty this test does not wait for.
        if length < 55 {
            assert_eq!(read_to_end(&mut client), b"");
        }
    }
    assert_ends(&server.run("true"), 0);
}

#[test]
fn nobody_on_the_way_can_read_or_change_what_is_said() {
    let server = Server::start(&[]);
    let listened = Proxy::start(&server.address, |_, _, byte| byte);
    let line = "echo some-words-to-be-found";
    let ended = server.client_of(&listened.address, &["--", line]).end();
    assert_eq!(ended.out, "some-words-to-be-found\n");
    let secret = fs::read(server.secret()).unwrap();
    for way in [Way::ToServer, Way::ToClient] {
        let heard = listened.heard(way);
        let holds = |what: &[u8]| heard.windows(what.len()).any(|found| found == what);
        assert!(!holds(b"some-words") && !holds(&secret), "{way:?}");
    }
    let lengths = [Way::ToServer, Way::ToClient].map(|way| listened.heard(way).len());
    // One bit is changed anywhere: in a length, in the login, in the command, in the output, in the end.
    for (way, length) in [Way::ToServer, Way::ToClient].into_iter().zip(lengths) {
        for place in (4..length).step_by(7) {
            let change = move |on: Way, at: usize, byte: u8| {
                if on == way && at == place { byte ^ 1 } else { byte }
            };
            let proxy = Proxy::start(&server.address, change);
            let ended = server.client_of(&proxy.address, &["--", line]).end();
            assert_ends(&ended, 1);
            assert!(ended.out.is_empty() || ended.out == "some-words-to-be-found\n", "{ended:?}");
        }
    }
    assert_ends(&server.run("true"), 0);
}

#[test]
fn a_frame_that_is_said_to_be_huge_is_refused_at_once() {
    let server = Server::start(&[]);
    for length in [1_u32 << 31, u32::MAX, 513] {
        let mut client = socket(&server);
        client.write_all(&length.to_be_bytes()).unwrap();
        assert_eq!(read_to_end(&mut client), b"");
        let logged = server.process.err_line();
        assert!(logged.contains(&format!("a frame of {length} bytes")), "{logged}");
    }
}

#[test]
fn a_login_has_one_time_limit_however_slowly_it_comes() {
    let server = Server::start(&[]);
    let (silent, mut slow) = (socket(&server), socket(&server));
    slow.write_all(&512_u32.to_be_bytes()).unwrap();
    // Each byte arrives long before any pause would be too long.
    let began = Instant::now();
    while slow.write_all(&[1]).is_ok() && began.elapsed() < test_support::SOON {
        std::thread::sleep(Duration::from_millis(50));
    }
    for _ in 0..2 {
        let logged = server.process.err_line();
        assert!(logged.ends_with("it did not log in within its time"), "{logged}");
    }
    assert!(began.elapsed() < test_support::SOON, "512 bytes come in longer than that");
    drop(silent);
}

#[test]
fn how_long_a_login_may_take_is_an_option() {
    let document = ["--no-auth", "--wire", "document"];
    for (options, seconds) in [(&[][..], "3"), (&document[..], "0.3")] {
        let server = Server::start(&[options, &["--first-word", seconds]].concat());
        let mut silent = socket(&server);
        assert_eq!(read_to_end(&mut silent), b"");
        // A client that has logged in has more time.
        if options.is_empty() {
            let ended = server.types("sleep 4\necho late\n");
            assert_eq!(ended.out, "late\n");
        }
    }
}

#[test]
fn one_address_cannot_take_all_places() {
    let server = Server::start(&["--max-clients", "20", "--max-per-peer", "10"]);
    let _silent: Vec<TcpStream> = (0..10).map(|_| socket(&server)).collect();
    let mut one_more = socket(&server);
    assert!(matches!(one_more.read(&mut [0]), Ok(0) | Err(_)));
    // The message names the cause, and does not say that the secret is wrong.
    assert_fails_in_one_line(&server.run("true"), 1, &["at once", "too many clients"]);
    let mut other = connect_from([127, 0, 0, 2], server.address.parse().unwrap());
    other.write_all(&[0, 0, 0, 3, 1, 9, 1]).unwrap();
    let answer = read_to_end(&mut other);
    assert!(answer.ends_with(b"and not 9"), "{answer:?}");
}

/// A process whose stderr has no reader; it ends with the test.
struct Ends(std::process::Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn refusals_that_nobody_reads_stop_nobody() {
    for mixin in MIXINS {
        let (reader, writer) = std::io::pipe().unwrap();
        let state = folder();
        let mut command = shell(state.path(), &["serve", "--bind", "127.0.0.1:0"]);
        let child = command.args(["--mixin", mixin]).stderr(writer).spawn().unwrap();
        drop(command);
        let mut child = Ends(child);
        let mut line = String::new();
        let mut stdout = BufReader::new(child.0.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on ").unwrap();
        for _ in 0..1_500 {
            let mut stranger = connect(address.parse().unwrap());
            stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let _ = stranger.read(&mut [0]);
        }
        let mut client = shell(state.path(), &["connect", address, "--", "echo served"]);
        let ended = Process::start(&mut client).end();
        let server =
            i32::try_from(child.0.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(server, rustix::process::Signal::TERM).unwrap();
        let status = child.0.wait().unwrap();
        assert_eq!((&*ended.out, status.code()), ("served\n", Some(0)), "{mixin}");
        drop(reader);
    }
}

#[test]
fn what_is_no_login_is_refused_in_a_line() {
    let server = Server::start(&[]);
    for (sent, says) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "a frame of 1195725856 bytes"),
        (&[0, 0, 0, 0], "an empty frame"),
        (&[0, 0, 0, 1, 99], "unknown kind 99"),
        (&[0, 0, 0, 1, 1], "an invalid HELLO"),
        (&[0, 0, 0, 3, 1, 9, 1], "speaks version 1 of the wire, and not 9"),
        (&[0, 0, 0, 3, 5, b'l', b's'], "a session begins with HELLO"),
        (&[0, 0, 0, 3, 1, 1, 0], "wants to be shown the secret"),
    ] {
        let mut client = socket(&server);
        client.write_all(sent).unwrap();
        let answer = read_to_end(&mut client);
        assert!(answer.is_empty() || answer[4] == 3, "{answer:?}");
        let logged = server.process.err_line();
        assert!(logged.starts_with("refused 127.0.0.1:") && logged.contains(says), "{logged}");
    }
}

#[test]
fn without_a_login_there_is_only_this_machine() {
    let refused = |arguments: &[&str]| {
        let mut command = SHELL.command(arguments);
        Process::start(command.env("XDG_STATE_HOME", "/no/such")).end()
    };
    for address in ["0.0.0.0:0", "[::]:0"] {
        let ended = refused(&["serve", "--no-auth", "--bind", address]);
        assert_fails_in_one_line(&ended, 2, &["--no-auth is for this machine only"]);
    }
    let ended = refused(&["serve", "--wire", "document"]);
    assert_fails_in_one_line(&ended, 2, &["needs --no-auth"]);
    let server = Server::start(&["--no-auth"]);
    assert!(server.process.err_line().contains("every user of this machine who can connect"));
    assert!(!server.secret().exists(), "no secret is needed");
    let ended = server.client(&["--no-auth", "--", "echo in; exit 3"]).end();
    assert_ends(&ended, 3);
    assert_eq!(ended.out, "in\n");
    // If only one side has a secret, the server refuses the client, and says what to do.
    let secret = server.secret();
    fs::create_dir_all(secret.parent().unwrap()).unwrap();
    fs::write(&secret, [1; 32]).unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    assert_fails_in_one_line(&server.run("true"), 1, &["connect with --no-auth"]);
    let server = Server::start(&[]);
    let ended = server.client(&["--no-auth", "--", "true"]).end();
    assert_fails_in_one_line(&ended, 1, &["connect without --no-auth"]);
}

#[test]
fn a_server_beyond_this_machine_says_what_may_be_done() {
    let server = Server::at("0.0.0.0:0", &["--allow", "id", "--allow", "date"]);
    let said = server.process.err_line();
    assert!(said.contains("who has the secret may run id, date"), "{said}");
}

#[test]
fn only_allowed_programs_run_by_exact_name_and_without_a_shell() {
    let server = Server::start(&["--allow", "printf", "--allow", "/bin/echo"]);
    let ended = server.run("printf '%s|' 'a b' $HOME ; ls");
    assert_ends(&ended, 0);
    assert_eq!(ended.out, "a b|$HOME|;|ls|");
    assert_eq!(server.run("/bin/echo x").out, "x\n");
    for line in [
        "echo x",
        "/usr/bin/printf x",
        "./printf x",
        "sh -c printf",
        "print",
        "printf-x",
        "'' printf",
        "",
    ] {
        let ended = server.run(line);
        assert_ends(&ended, 127);
        assert!(ended.err.starts_with("the command was not run: "), "{ended:?}");
        let logged = server.process.err_line();
        let says = format!("the command {line:?}: ");
        assert!(logged.starts_with("refused 127.0.0.1:") && logged.contains(&says), "{logged}");
    }
    let ended = server.run("printf 'x");
    assert_ends(&ended, 127);
    assert!(ended.err.contains("quotes"), "{ended:?}");
    // No text of a client steers the terminal on which it is logged.
    server.run("\u{1b}[31m");
    let logged = [server.process.err_line(), server.process.err_line()].concat();
    assert!(!logged.contains('\u{1b}'), "{logged:?}");
}

#[test]
fn on_a_unix_socket_the_user_is_the_proof() {
    let server = Server::on_a_path(&[]);
    assert_ends(&server.run("true"), 0);
    assert!(!server.secret().exists(), "no secret is needed");
    let path = server.address.strip_prefix("unix:").unwrap();
    let python = "import os, socket, sys
os.setgroups([]); os.setgid(12345); os.setuid(12345)
s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1])
s.sendall(bytes([0, 0, 0, 3, 1, 1, 0]) + bytes([0, 0, 0, 1, 4]) + bytes([0, 0, 0, 3, 5, 105, 100]))
while True:
    data = s.recv(1000)
    if not data: break
    sys.stdout.buffer.write(data)
";
    fs::set_permissions(server.folder.path(), Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", python, path]).stdin(Stdio::null()).stdout(Stdio::piped());
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("python3 is not installed");
    }
    if fs::metadata(server.folder.path()).unwrap().uid() != 0 {
        return skip("only root can become another user");
    }
    let ended = Process::start(&mut command).end();
    assert_ends(&ended, 0);
    assert!(ended.out.contains("this server is for user 0, and not for user 12345"), "{ended:?}");
    let logged = server.process.err_line();
    assert!(logged.starts_with("refused ") && logged.contains("user 12345"), "{logged}");
}
