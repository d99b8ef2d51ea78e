//! The control socket, which all programs have.

mod panel;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use test_support::process::{Ended, Process};
use test_support::program::*;
use test_support::{SOON, connect, eventually, exchange, folder, read_line, read_to_end};

use super::ECHO;

/// A server with a control socket.
struct Controlled {
    server: Process,
    addresses: Vec<String>,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Controlled {
    fn start(addresses: &[&str], options: &[&str]) -> Self {
        let folder = folder();
        let path = folder.path().join("ctl");
        let control = format!("unix:{}", path.display());
        let options = [options, &["--control", &control]].concat();
        let (server, addresses) = ECHO.serve(addresses, &options);
        assert_eq!(server.line(), format!("controlled at {control}"));
        Self { server, addresses, path, _folder: folder }
    }

    fn client(&self) -> TcpStream {
        connect(self.addresses[0].parse().unwrap())
    }

    fn connect(&self) -> UnixStream {
        operator(&self.path)
    }

    /// Runs the program's own client with these words.
    fn control(&self, words: &[&str]) -> Ended {
        ECHO.run(&[&["control", self.path.to_str().unwrap()], words].concat())
    }
}

/// A connection to a control socket, with a deadline on every read and write.
fn operator(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream
}

/// Sends a command, and returns the lines of its answer, up to the one that begins with `ok` or `error`.
fn ask(operator: &mut UnixStream, command: &str) -> Vec<String> {
    operator.write_all(format!("{command}\n").as_bytes()).unwrap();
    answer(operator)
}

fn answer(operator: &mut UnixStream) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let line = read_line(operator);
        let line = line.strip_suffix('\n').unwrap_or_else(|| panic!("the end after {lines:?}"));
        lines.push(line.to_owned());
        if ["ok", "error"].contains(&line.split(' ').next().unwrap()) {
            return lines;
        }
    }
}

/// Sends a command whose answer is a single line, and returns that line.
fn mark(operator: &mut UnixStream, command: &str) -> String {
    let lines = ask(operator, command);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.into_iter().next_back().unwrap()
}

#[test]
fn every_command_is_obeyed() {
    for mixin in MIXINS {
        let at = Controlled::start(&["127.0.0.1:0"], &["--mixin", mixin]);
        let mut client = at.client();
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
        let mut operator = at.connect();

        let client_address = client.local_addr().unwrap().to_string();
        // The client has the bytes a moment before the server counts them.
        eventually("it waits", || {
            let live = ask(&mut at.connect(), "live");
            assert_eq!(live[0], "ID\tCLIENT\tAGE\tACTIVITY\tIN\tOUT\tHANDLER", "{mixin}");
            assert_eq!((live.len(), &*live[2]), (3, "ok 1 live"));
            let row: Vec<&str> = live[1].split('\t').collect();
            assert_eq!((row[0], row[1]), ("1", &*client_address), "{live:?}");
            row[3..] == ["idle", "5", "5", "echo::handlers::Echo"]
        });
        assert_eq!(ask(&mut operator, "live 0").len(), 2);

        assert_eq!(mark(&mut operator, "limit idle 5m"), "ok idle is 300s for new requests");
        assert!(ask(&mut operator, "limits").contains(&"idle\t300s".to_owned()));
        assert!(ask(&mut operator, "counts").contains(&"accepted\t1".to_owned()));
        let status = ask(&mut operator, "status");
        assert!(status[0].starts_with("program\techo\t"), "{status:?}");
        assert!(ask(&mut operator, "figures").contains(&"live\t1 of 10000".to_owned()));
        for line in ["live\t1", "count\taccepted\t1", "use\tlive\t1\t10000\t"] {
            assert!(status.contains(&line.to_owned()), "{line} is not in {status:?}");
        }
        assert!(mark(&mut operator, "reload").starts_with("ok "));
        assert_eq!(mark(&mut operator, "log"), "ok the log is normal");
        assert_eq!(mark(&mut operator, "log quiet"), "ok the log is quiet");
        assert!(ask(&mut operator, "help").len() > 10);
        assert_eq!(mark(&mut operator, ""), "ok");

        let watched = ask(&mut operator, "watch 0.1");
        assert_eq!(answer(&mut operator)[0], watched[0]);
        // A line ends the watch, and is obeyed.
        operator.write_all(b"close 1\n").unwrap();
        let mut lines = answer(&mut operator);
        while lines[0] == watched[0] {
            lines = answer(&mut operator);
        }
        assert_eq!(lines, ["ok request 1 is closed"]);
        let _ = client.read_to_end(&mut Vec::new());
        eventually("it has left", || ask(&mut at.connect(), "live").len() == 2);
        let mut second = at.connect();
        assert_eq!(mark(&mut second, "quit"), "ok");
        assert_eq!(read_to_end(&mut second), b"");

        assert_eq!(mark(&mut operator, "drain 7"), "ok it stops; its requests may take 7s");
        assert_ends(&at.server.end(), 0);
        assert!(!at.path.exists(), "{mixin}");
    }
}

#[test]
fn wrong_commands_are_told_what_is_allowed() {
    for mixin in ["threading", "forking"] {
        let at = Controlled::start(&["127.0.0.1:0"], &["--mixin", mixin]);
        let mut operator = at.connect();
        for (command, says) in [
            ("bla", "there is no command \"bla\"; `help` lists them"),
            ("close", "write: close ID"),
            ("live long", "write a number of requests"),
            ("close 99", "request 99 is not closed"),
            ("close 2:1", "there is no request \"2:1\""),
            ("close -1", "there is no request \"-1\""),
            ("limit idel 5", "there is no limit \"idel\"; the limits are live, "),
            ("limit idle soon", "the limit idle cannot be \"soon\": it takes seconds (60, 0.5)"),
            ("limit live 99999999999999999999", "it takes a number of requests"),
            ("limit peer_rate 0", "requests each second (100), or those"),
            ("limit lame_duck none", "2h); 0 is none of it"),
            ("log loud", "write quiet, normal or verbose"),
            ("watch 0", "from 0.1 to 3600"),
            ("drain now", "the limit drain cannot be \"now\""),
            ("\x1b[2Jé\u{202e}\x00", "there is no command \"\\u{1b}[2Jé\\u{202e}\\0\""),
        ] {
            let mark = mark(&mut operator, command);
            assert!(mark.starts_with("error ") && mark.contains(says), "{command}: {mark}");
            assert!(!mark.contains('\x1b'), "{mark}");
        }
        // Bytes that are not text are taken for an unknown command.
        operator.write_all(b"\xff\xfe\n").unwrap();
        assert!(answer(&mut operator)[0].starts_with("error there is no command"));
        // A line without an end is not kept.
        operator.write_all(&[b'x'; 2_000]).unwrap();
        assert_eq!(answer(&mut operator), ["error a command has 512 bytes at most"]);
        let mut rest = Vec::new();
        // The connection ends, or is reset, because more was sent than the server has read.
        assert_eq!(operator.read_to_end(&mut rest).unwrap_or(0), 0, "{rest:?}");
        assert_eq!(exchange(&mut at.client(), "hello"), "hello\n");
    }
}

#[test]
fn a_client_shows_tables_and_fails_with_the_command() {
    let at = Controlled::start(&["127.0.0.1:0"], &[]);
    let _client = at.client();
    let ended = at.control(&["limits"]);
    assert_ends(&ended, 0);
    assert!(ended.out.contains("\nidle          60s\n"), "{}", ended.out);
    let ended = at.control(&["limit", "idle", "soon"]);
    assert_fails_in_one_line(&ended, 1, &["the limit idle cannot be \"soon\""]);
    let ended = at.control(&["limit", "idle", "61"]);
    assert_eq!(ended.out, "idle is 61s for new requests\n");
    let nowhere = ECHO.run(&["control", "/nowhere/ctl", "live"]);
    assert_fails_in_one_line(&nowhere, 1, &["cannot connect to /nowhere/ctl", "--control?"]);
    assert_ends(&ECHO.run(&["control"]), 2);
    let ended = at.control(&["stop"]);
    assert_ends(&ended, 0);
    assert_ends(&at.server.end(), 0);
}

#[test]
fn the_file_is_the_users_alone_and_a_stale_one_is_replaced() {
    let at = Controlled::start(&["127.0.0.1:0"], &[]);
    assert_eq!(fs::metadata(&at.path).unwrap().mode() & 0o7777, 0o600);
    let control = format!("unix:{}", at.path.display());
    let args = ["serve", "--bind", "127.0.0.1:0", "--control", &control];
    assert_fails_in_one_line(&ECHO.run(&args), 1, &["control socket", "another --control"]);
    at.server.send_signal(libc::SIGKILL);
    at.server.end();
    assert!(at.path.exists(), "a killed program leaves it behind");
    let again = Process::start(&mut ECHO.command(&args));
    listening(&again);
    assert_eq!(again.line(), format!("controlled at {control}"));
    assert_eq!(mark(&mut operator(&at.path), "log"), "ok the log is normal");

    let file = at.path.with_extension("txt");
    fs::write(&file, "precious").unwrap();
    let control = format!("unix:{}", file.display());
    let args = ["serve", "--bind", "127.0.0.1:0", "--control", &control];
    assert_fails_in_one_line(&ECHO.run(&args), 1, &["no socket", "another --control"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    for (control, says) in [("unix:@name", "a file"), ("unix:", "path"), ("tcp:1:2", "unix:PATH")] {
        let ended = ECHO.run(&["serve", "--bind", "127.0.0.1:0", "--control", control]);
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        assert!(ended.err.contains(says), "{ended:?}");
    }
}

#[test]
fn forgotten_terminals_keep_no_operator_out_and_cost_clients_nothing() {
    for mixin in ["threading", "inline", "forking"] {
        let at = Controlled::start(&["127.0.0.1:0"], &["--mixin", mixin]);
        let mut idle: Vec<UnixStream> = (0..100).map(|_| at.connect()).collect();
        // One of these connections has sent half a command.
        idle[99].write_all(b"li").unwrap();
        assert_eq!(mark(&mut at.connect(), "log"), "ok the log is normal", "{mixin}");
        assert_eq!(exchange(&mut at.client(), "hello"), "hello\n", "{mixin}");
        // The oldest connections were ended.
        assert_eq!(read_to_end(&mut idle[0]), b"", "{mixin}");
        assert_eq!(mark(&mut at.connect(), "stop"), "ok it stops at once");
        assert_ends(&at.server.end(), 0);
    }
}

#[test]
fn a_watch_that_nobody_reads_holds_nothing_up() {
    for mixin in ["threading", "forking"] {
        let at = Controlled::start(&["127.0.0.1:0"], &["--mixin", mixin]);
        let deaf = at.connect();
        deaf.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        // The client sends commands and reads no answer, until the buffers of both directions are full.
        let asks = b"status\n".repeat(100);
        while (&deaf).write_all(&asks).is_ok() {}
        let mut watch = at.connect();
        watch.write_all(b"watch 0.1\n").unwrap();
        assert_eq!(mark(&mut at.connect(), "log"), "ok the log is normal", "{mixin}");
        assert_eq!(exchange(&mut at.client(), "hello"), "hello\n", "{mixin}");
        // This operator takes nothing for five seconds, and its connection is ended.
        eventually("the deaf one is ended", || {
            (&deaf).write_all(b"\n").is_err_and(|error| is_end(&error))
        });
        at.server.send_signal(libc::SIGTERM);
        let ended = at.server.end();
        assert_ends(&ended, 0);
        // The end of that connection is not reported as a failure.
        assert_eq!(ended.err, "", "{mixin}");
    }
}

fn is_end(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::*;
    matches!(error.kind(), BrokenPipe | ConnectionReset)
}

#[test]
fn an_operator_looks_on_while_the_program_stops_and_may_cut_it_short() {
    let at = Controlled::start(&["127.0.0.1:0"], &["--mode", "line", "--grace", "600"]);
    let mut client = at.client();
    // The client sends half a line, so its request may take the whole grace.
    client.write_all(b"hel").unwrap();
    let mut operator = at.connect();
    eventually("it has begun", || ask(&mut at.connect(), "live")[1].contains("receiving"));
    assert_eq!(mark(&mut operator, "drain 500"), "ok it stops; its requests may take 500s");
    eventually("it stops", || ask(&mut at.connect(), "status")[3].ends_with("\tstopping"));
    assert!(mark(&mut operator, "drain 5").starts_with("error it is already stopping"));
    assert_eq!(ask(&mut operator, "live").len(), 3);
    assert_eq!(mark(&mut operator, "stop"), "ok it stops at once");
    assert_ends(&at.server.end(), 0);
    assert_eq!(read_to_end(&mut operator), b"");
    assert!(!at.path.exists());
}

#[test]
fn a_drain_serves_new_clients_in_the_lame_duck() {
    let at = Controlled::start(&["127.0.0.1:0"], &["--mode", "line", "--lame-duck", "600"]);
    let mut operator = at.connect();
    let says = mark(&mut operator, "drain 5");
    assert_eq!(says, "ok it serves for another 600s, and then stops; its requests may take 5s");
    assert_eq!(exchange(&mut at.client(), "hello"), "hello\n");
    assert_eq!(mark(&mut operator, "stop"), "ok it stops at once");
    assert_ends(&at.server.end(), 0);
}

#[test]
fn a_limit_that_is_changed_holds_for_the_next_request() {
    for mixin in ["threading", "forking"] {
        let at = Controlled::start(&["127.0.0.1:0"], &["--mixin", mixin]);
        let mut before = at.client();
        assert_eq!(exchange(&mut before, "hello"), "hello\n");
        assert_eq!(mark(&mut at.connect(), "limit idle 50ms"), "ok idle is 0.05s for new requests");
        // A new client is ended by its silence; the earlier client keeps the old limit.
        assert_eq!(read_to_end(&mut at.client()), b"");
        assert_eq!(exchange(&mut before, "hello"), "hello\n");
    }
}

#[test]
fn a_verbose_log_has_a_line_for_each_start_and_end() {
    let at = Controlled::start(&["127.0.0.1:0"], &["--log-level", "verbose"]);
    let mut client = at.client();
    assert_eq!(exchange(&mut client, "hello"), "hello\n");
    drop(client);
    let next = |says: &str| loop {
        let line = at.server.line();
        if line.contains(says) {
            return line;
        }
    };
    assert!(next("request 1 from 127.0.0.1:").contains("has come"));
    assert!(next("request 1 from 127.0.0.1:").contains("ended: completed, "));
    assert_eq!(mark(&mut at.connect(), "log quiet"), "ok the log is quiet");
    assert_eq!(exchange(&mut at.client(), "hello"), "hello\n");
    assert_eq!(mark(&mut at.connect(), "log verbose"), "ok the log is verbose");
    assert_eq!(exchange(&mut at.client(), "hello"), "hello\n");
    // The second request was not logged when it came. Its end may be logged, because it may come after `log verbose`.
    assert!(next("has come").starts_with("request 3 "));
}

#[test]
fn a_successor_takes_the_path_when_its_predecessor_has_ended() {
    for mixin in ["threading", "forking"] {
        let at = Controlled::start(&["127.0.0.1:0"], &["--mixin", mixin]);
        let process = |operator: &mut UnixStream| ask(operator, "status")[0].clone();
        let first = process(&mut at.connect());
        at.server.send_signal(libc::SIGUSR2);
        // For a moment between the two processes nobody listens at the path.
        let second = || {
            let mut operator = UnixStream::connect(&at.path).ok()?;
            operator.set_read_timeout(Some(SOON)).ok()?;
            operator.write_all(b"status\n").ok()?;
            let mut line = String::new();
            // The predecessor may end before it has answered.
            BufReader::new(operator).read_line(&mut line).ok()?;
            (line.starts_with("program\techo\t") && line.trim_end() != first).then_some(())
        };
        eventually("the successor is controlled", || second().is_some());
        assert_eq!(exchange(&mut at.client(), "hello"), "hello\n");
        assert_eq!(mark(&mut at.connect(), "stop"), "ok it stops at once");
        eventually("it has ended", || !at.path.exists());
    }
}

#[test]
fn another_user_gets_nothing() {
    if !is_root() {
        return test_support::skip("only root can be another user");
    }
    let at = Controlled::start(&["127.0.0.1:0"], &[]);
    // The file now lets everybody connect, but the server also asks the kernel for the user.
    fs::set_permissions(&at.path, fs::Permissions::from_mode(0o666)).unwrap();
    let folder = at.path.parent().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let code = "import os,socket,sys; os.setgid(65534); os.setuid(65534); \
        s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1]); \
        print(s.recv(1000).decode())";
    let mut python = Command::new("python3");
    python.args(["-c", code]).arg(&at.path).stdout(Stdio::piped());
    let ended = Process::start(&mut python).end();
    assert!(ended.out.starts_with("error this control socket is for the user"), "{ended:?}");
    assert_eq!(mark(&mut at.connect(), "log"), "ok the log is normal");
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}
