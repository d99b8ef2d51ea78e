//! All processes of a command end when the command itself, its connection or its server ends, or when the command exceeds
//! its bounds.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Server, assert_gone, is_running};
use test_support::program::*;
use test_support::{SOON, eventually};

/// A command line that starts three processes, prints their numbers in one line, and goes on with `then`. The processes are
/// a child in the group, a child that has left the group, and one that is made as daemons are: its parent has left the group
/// and ended.
fn three_that_stay(then: &str) -> String {
    format!(
        "sleep 1000 & A=$!; setsid sleep 1000 & B=$!; \
         setsid sh -c 'setsid sleep 1000 & echo $!' >$T & wait $!; C=$(cat $T); \
         echo $A $B $C; exec >/dev/null; {then}"
    )
}

fn line(server: &Server, then: &str) -> String {
    let temporary = server.folder.path().join("c");
    format!("T={}; {}", temporary.display(), three_that_stay(then))
}

fn numbers(line: &str) -> Vec<String> {
    let numbers: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    assert_eq!(numbers.len(), 3, "{line}");
    numbers
}

#[test]
fn what_a_command_leaves_behind_ends_with_it() {
    let server = Server::start(&[]);
    let ended = server.run(&line(&server, "exit 6"));
    assert_ends(&ended, 6);
    assert_gone(&numbers(&ended.out));
}

#[test]
fn a_command_ends_with_its_connection() {
    for mixin in MIXINS {
        let server = Server::start(&["--mixin", mixin]);
        let client = server.client(&["--", &line(&server, "wait")]);
        let pids = numbers(&client.line());
        assert!(pids.iter().all(|pid| is_running(pid)), "{mixin}");
        client.send_signal(libc::SIGKILL);
        assert_gone(&pids);
        // The worker is free again, also where there is only one.
        assert_ends(&server.run("true"), 0);
    }
}

#[test]
fn a_command_that_ignores_sigterm_is_killed() {
    let server = Server::start(&[]);
    let stubborn = "trap '' TERM; setsid sh -c 'trap \"\" TERM; while :; do sleep 1000; done' & \
                    echo $$ $! $!; while :; do sleep 1000; done";
    let client = server.client(&["--", stubborn]);
    let pids = numbers(&client.line());
    client.send_signal(libc::SIGKILL);
    assert_gone(&pids);
}

#[test]
fn a_command_ends_at_its_time_limit_and_the_client_is_told() {
    let server = Server::start(&["--timeout", "0.5"]);
    let ended = server.run(&line(&server, "wait"));
    assert_ends(&ended, 128 + 15);
    assert_eq!(ended.err, "the server ended the command: it ran for longer than 0.5 s\n");
    assert_gone(&numbers(&ended.out));
    // If a command that is ended reports success, the client does not.
    let ended = server.run("trap 'exit 0' TERM; while :; do sleep 0.01; done");
    assert_ends(&ended, 1);
    // The limit is for one command, not for the session.
    let ended = server.types("sleep 0.3\nsleep 0.3\necho two\n");
    assert_ends(&ended, 0);
    assert_eq!(ended.out, "two\n");
}

#[test]
fn a_command_ends_at_its_output_limit() {
    let server = Server::start(&["--max-output", "1K"]);
    let path = server.folder.path().join("pid");
    let ended = server.run(&format!("echo $$ > {}; exec yes", path.display()));
    let says = "the server ended the command: it printed more than 1024 bytes\n";
    assert_eq!((ended.out.len(), &*ended.err), (1_024, says));
    assert!(!ended.status.success());
    assert_gone(&[fs::read_to_string(path).unwrap().trim().to_owned()]);
    // The output of both streams counts.
    let ended = server.run("head -c 600 /dev/zero; head -c 600 /dev/zero >&2; sleep 1000");
    assert!(ended.err.contains(says), "{ended:?}");
    // An output of exactly the limit is not too long.
    let ended = server.run("head -c 1024 /dev/zero");
    assert_ends(&ended, 0);
    assert_eq!(ended.out.len(), 1_024);
    // One byte more is too long.
    let ended = server.run("head -c 1025 /dev/zero");
    assert_eq!((ended.out.len(), &*ended.err), (1_024, says));
}

#[test]
fn a_server_that_stops_tells_its_commands_and_ends_them_in_time() {
    for mixin in MIXINS {
        let server = Server::start(&["--mixin", mixin, "--grace", "6"]);
        let client = server.client(&["--", &line(&server, "wait")]);
        let pids = numbers(&client.line());
        let began = Instant::now();
        let stopped = server.stop();
        assert_ends(&stopped, 0);
        assert_eq!(stopped.err, "", "{mixin}: nothing had to be forced");
        assert!(began.elapsed() >= Duration::from_secs(3), "{mixin}: half of the grace is its own");
        assert_gone(&pids);
        let ended = client.end();
        assert_ends(&ended, 128 + 15);
        let said: Vec<&str> = ended.err.lines().collect();
        let told = "the server stops; the command has 3.0 s left";
        assert_eq!(said, [told, "the server ended the command: the server stops"], "{mixin}");
    }
}

#[test]
fn a_command_may_come_to_its_end_while_the_server_stops() {
    let server = Server::start(&["--grace", "30"]);
    let stop = server.folder.path().join("stop");
    let line =
        format!("echo ready; while ! test -e {}; do sleep 0.01; done; echo done", stop.display());
    let client = server.client(&["--", &line]);
    assert_eq!(client.line(), "ready");
    server.process.send_signal(libc::SIGTERM);
    assert!(client.err_line().starts_with("the server stops"));
    fs::write(stop, "").unwrap();
    assert_eq!(client.line(), "done");
    assert_ends(&client.end(), 0);
    assert_ends(&server.process.end(), 0);
}

#[test]
fn an_idle_client_does_not_hold_a_server_that_stops() {
    for mixin in MIXINS {
        let server = Server::start(&["--mixin", mixin, "--grace", "60"]);
        let mut command = super::shell(server.folder.path(), &["connect", &server.address]);
        let client =
            test_support::process::Process::start(command.stdin(std::process::Stdio::piped()));
        client.ask("echo here");
        assert_eq!(client.line(), "here");
        let stopped = server.stop();
        assert_ends(&stopped, 0);
        assert_eq!(stopped.err, "", "{mixin}");
        let ended = client.end();
        assert_ends(&ended, 1);
        // A notice of the stop may come first, if the command had not quite ended when the stop began.
        assert!(ended.err.ends_with("ended the connection\n"), "{mixin}: {ended:?}");
    }
}

#[test]
fn a_server_that_is_killed_leaves_no_command() {
    for mixin in ["threading", "forking"] {
        let server = Server::start(&["--mixin", mixin]);
        let client = server.client(&["--", &line(&server, "wait")]);
        let pids = numbers(&client.line());
        if mixin == "forking" {
            // The child has the command, and would serve on without its parent.
            let supervisor = parent_of(&parent_of(&pids[0]));
            kill(&parent_of(&supervisor));
        }
        server.process.send_signal(libc::SIGKILL);
        assert_gone(&pids);
        assert_ends(&client.end(), 1);
    }
}

/// The parent of a process, as the kernel has it.
fn parent_of(pid: &str) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let rest = stat.rsplit_once(") ").unwrap().1.to_owned();
    rest.split(' ').nth(1).unwrap().to_owned()
}

fn kill(pid: &str) {
    test_support::system::send_signal(pid.parse().unwrap(), libc::SIGKILL);
}

#[test]
fn a_command_that_stops_its_supervisor_and_itself_ends_all_the_same() {
    for mixin in MIXINS {
        let server = Server::start(&["--mixin", mixin, "--timeout", "0.5"]);
        let ended = server.run(&line(&server, "kill -STOP $PPID; kill -STOP $A $B $C $$"));
        assert_gone(&numbers(&ended.out));
        assert!(ended.err.contains("it ran for longer than 0.5 s"), "{mixin}: {ended:?}");
        // The worker is free again.
        assert_ends(&server.run("true"), 0);
    }
}

#[test]
fn a_command_without_its_supervisor_ends_with_its_session() {
    for (then, why) in [
        ("kill -KILL $PPID; sleep 1000", "its supervisor was killed"),
        // The command stops its supervisor again and again, so that the supervisor reads no message.
        ("while :; do kill -STOP $PPID; done", "it ran for longer than 1 s"),
    ] {
        let server = Server::start(&["--timeout", "1"]);
        let ended = server.run(&format!("trap '' TERM; sleep 1000 & echo $$ $! $!; {then}"));
        assert_gone(&numbers(&ended.out));
        assert!(ended.err.contains(why), "{ended:?}");
        assert_ends(&server.run("true"), 0);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_connection_is_watched_while_its_command_is_silent() {
    let server = Server::start(&[]);
    let client = server.client(&["--", "echo here; sleep 1000"]);
    assert_eq!(client.line(), "here");
    // A machine that is gone says nothing, so the kernel has to ask. Its table shows that it does: both ends of the
    // connection have a keepalive timer.
    let port = server.address.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    eventually("both ends are watched", || {
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let established = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let port = format!(":{port:04X}");
        let ours = established
            .filter(|row| row[3] == "01" && (row[1].ends_with(&port) || row[2].ends_with(&port)));
        let timers: Vec<String> = ours.map(|row| row[5][..2].to_owned()).collect();
        timers == ["02", "02"]
    });
}

#[test]
fn a_command_that_forks_away_again_and_again_ends_too() {
    let server = Server::start(&["--timeout", "0.5"]);
    // Each generation leaves its group, starts the next one, and is gone.
    let seed = "f() { setsid sh \"$0\" & exit; }; f";
    let path = server.folder.path().join("seed");
    fs::write(&path, seed).unwrap();
    let ended = server.run(&format!("sh {} & sleep 1000", path.display()));
    assert_ends(&ended, 128 + 15);
    let name = path.to_str().unwrap().to_owned();
    eventually("no generation is left", || !is_anywhere(&name));
}

#[test]
fn what_is_killed_leaves_no_children_of_its_own() {
    let server = Server::start(&["--timeout", "0.3"]);
    // A number of seconds that no other process sleeps.
    let seconds = format!("1000{}", std::process::id());
    // Each shell is ended by force, and its `sleep` is an orphan from then on. The last orphan is easily missed.
    let stubborn = format!("setsid sh -c 'trap \"\" TERM; while :; do sleep {seconds}; done' &");
    let line = format!("{stubborn} {stubborn} {stubborn} sleep {seconds}");
    let clients: Vec<_> = (0..25).map(|_| server.client(&["--", &line])).collect();
    for client in clients {
        assert_ends(&client.end(), 128 + 15);
    }
    eventually("no orphan is left", || !is_anywhere(&seconds));
}

/// Whether a process runs that has this among its arguments.
fn is_anywhere(argument: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.into_iter().any(|process| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|found| found == argument.as_bytes())
    })
}

#[test]
fn output_that_nobody_reads_stops_the_command_and_grows_nothing() {
    let server = Server::start(&[]);
    let progress = server.folder.path().join("progress");
    let line = format!(
        "echo $PPID; N=0; while :; do head -c 1000000 /dev/zero; N=$((N+1)); \
         echo $N > {0}.new; mv {0}.new {0}; done",
        progress.display()
    );
    let client = server.client(&["--", &line]);
    let supervisor = client.line();
    client.send_signal(libc::SIGSTOP);
    let stalled = stalled_at(&progress);
    // Sockets and pipes hold some of the output, and the server itself holds one piece.
    assert!(stalled < 64, "{stalled} MB went somewhere");
    let status = fs::read_to_string(format!("/proc/{}/status", parent_of(&supervisor))).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 64 * 1024, "the server has come to {peak} kB");
    // Others are served while the command waits, and the command then goes on.
    assert_ends(&server.run("true"), 0);
    client.send_signal(libc::SIGCONT);
    eventually("the command goes on", || read_number(&progress) > stalled);
}

fn read_number(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The value of a counter that has not moved for a second. A busy machine may hold a counter up for that long, which
/// only makes the test easier.
fn stalled_at(path: &Path) -> u64 {
    let (began, mut moved) = (Instant::now(), Instant::now());
    let mut last = read_number(path);
    while moved.elapsed() < Duration::from_secs(1) {
        assert!(began.elapsed() < SOON * 3, "it never stops: {last}");
        std::thread::sleep(Duration::from_millis(20));
        let now = read_number(path);
        if now != last {
            (last, moved) = (now, Instant::now());
        }
    }
    last
}
