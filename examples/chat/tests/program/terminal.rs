//! Typing and reading on a real terminal: tmux is one that can be asked what it shows.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::document::no_python;
use super::{Member, open_room};
use crate::CHAT;
use test_support::process::Process;
use test_support::tls::{certificate, trusting};
use test_support::{SOON, folder, skip_if, system};

/// A terminal with a program in it.
struct Screen {
    folder: tempfile::TempDir,
}

impl Screen {
    /// Runs a program and shows its status when it has ended, and whether the terminal is as it was.
    fn run(args: &str) -> Self {
        let screen = Self { folder: folder() };
        let program = CHAT.path();
        let script = format!(
            "{} {args}; echo status $?; stty -a | grep -o ' -*icanon'; exec sleep 1000",
            program.display()
        );
        let size = ["-x", "70", "-y", "30"];
        screen.tmux(&[&["new-session", "-d", "-s", "s"], &size[..], &[&script]].concat());
        screen
    }

    /// Runs a program from a shell, as its user does.
    fn run_in_a_shell(args: &str) -> Self {
        let screen = Self { folder: folder() };
        let size = ["-x", "70", "-y", "30"];
        let shell = "exec env PS1='$ ' bash --norc --noprofile";
        screen.tmux(&[&["new-session", "-d", "-s", "s"], &size[..], &[shell]].concat());
        screen.ends_with(&["$"]);
        screen.types(&["-l", &format!("clear; {} {args}", CHAT.path().display())]);
        screen.types(&["Enter"]);
        screen
    }

    /// The process that its shell has started.
    fn job(&self) -> u32 {
        let output = self.tmux(&["display-message", "-p", "-t", "s", "#{pane_pid}"]);
        let shell = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"));
        children.unwrap().trim().parse().expect("one child")
    }

    /// Closes its window, as the end of an ssh session does.
    fn closes(&self) {
        // tmux ends with its last window, so another window is opened first.
        self.tmux(&["new-window", "-d", "-t", "s", "exec sleep 1000"]);
        self.tmux(&["kill-window", "-t", "s:0"]);
    }

    fn is_edited(&self) -> bool {
        let output = self.tmux(&["display-message", "-p", "-t", "s", "#{pane_tty}"]);
        let terminal = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let output = Command::new("stty").args(["-F", &terminal, "-a"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().contains(" -icanon")
    }

    fn tmux(&self, args: &[&str]) -> Output {
        let socket = self.folder.path().join("tmux");
        let mut command = Command::new("tmux");
        command.arg("-S").arg(socket).args(["-f", "/dev/null", "-u"]).args(args);
        let output = command.env("TERM", "xterm").env_remove("TMUX").output().unwrap();
        assert!(output.status.success(), "tmux {args:?}: {output:?}");
        output
    }

    fn types(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys", "-t", "s"], keys].concat());
    }

    /// Types bytes as they are, like a terminal with another encoding.
    fn sends(&self, bytes: &[u8]) {
        let file = self.folder.path().join("bytes");
        std::fs::write(&file, bytes).unwrap();
        self.tmux(&["load-buffer", file.to_str().unwrap()]);
        self.tmux(&["paste-buffer", "-t", "s"]);
    }

    /// The lines that it shows, without the empty ones at the end.
    fn lines(&self) -> Vec<String> {
        let output = self.tmux(&["capture-pane", "-p", "-t", "s"]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.trim_end().lines().map(|line| line.trim_end().to_owned()).collect()
    }

    fn shows(&self, expected: &str) {
        self.comes_to(|lines| lines.iter().any(|line| line == expected), &[expected]);
    }

    /// Fails unless the screen comes to end with these lines.
    fn ends_with(&self, expected: &[&str]) {
        let same = |lines: &[String]| lines.iter().eq(expected);
        self.comes_to(
            |lines| lines.len().checked_sub(expected.len()).is_some_and(|at| same(&lines[at..])),
            expected,
        );
    }

    fn comes_to(&self, holds: impl Fn(&[String]) -> bool, expected: &[&str]) {
        let began = Instant::now();
        loop {
            let lines = self.lines();
            if holds(&lines) {
                return;
            }
            assert!(began.elapsed() < SOON, "no {expected:?} in {lines:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

fn no_tmux() -> Option<&'static str> {
    let there = Command::new("tmux").arg("-V").output().is_ok();
    (!there).then_some("tmux is not installed")
}

/// A room with its operator at a terminal, and its address.
fn room_on_a_screen() -> (Screen, std::net::SocketAddr) {
    let screen = Screen::run("serve --bind 127.0.0.1:0");
    screen.ends_with(&[">"]);
    let first = screen.lines().remove(0);
    let address = first.strip_prefix("listening on ").unwrap().parse().unwrap();
    (screen, address)
}

#[test]
fn a_line_that_is_typed_is_not_torn_by_those_that_come_in() {
    if skip_if(no_tmux()) {
        return;
    }
    let (operator, address) = room_on_a_screen();
    let mut alice = Member::join(address, "alice");
    let bob = Screen::run(&format!("connect {address} --name bob"));
    alice.sees("* bob has joined");
    // Each incoming line is shown above the one that is being typed, which stays as it is.
    for screen in [&operator, &bob] {
        screen.types(&["half of"]);
        screen.ends_with(&["> half of"]);
    }
    for number in 0..3 {
        alice.say(&format!("line {number}"));
    }
    let heard = ["alice: line 0", "alice: line 1", "alice: line 2", "> half of"];
    operator.ends_with(&heard);
    bob.ends_with(&heard);
    bob.types(&[" a lone", "BSpace", "BSpace", "BSpace", "ine", "Enter"]);
    assert_eq!(alice.hears(), "bob: half of a line");
    operator.ends_with(&["bob: half of a line", "> half of"]);
    operator.types(&[" another", "Enter", "@alice typed ahead", "Enter", "/who", "Enter"]);
    assert_eq!(alice.hears(), "operator: half of another");
    assert_eq!(alice.hears(), "operator -> alice: typed ahead");
    operator.shows("* 2 here: alice, bob");
    bob.shows("operator: half of another");
    // The arrow key brings back the previous line.
    bob.types(&["Up", "Enter"]);
    assert_eq!(alice.hears(), "bob: half of a line");
    bob.types(&["exit", "Enter"]);
    bob.ends_with(&["status 0", " icanon"]);
    alice.sees("* bob has left");
}

#[test]
fn ctrl_c_and_quit_at_the_operators_terminal_end_the_server_in_order() {
    if skip_if(no_tmux()) {
        return;
    }
    for keys in [&["C-c"][..], &["/quit", "Enter"]] {
        let (operator, address) = room_on_a_screen();
        let mut alice = Member::join(address, "alice");
        operator.types(keys);
        assert!(alice.rest().ends_with("* the server stops; goodbye\n"));
        operator.ends_with(&["status 0", " icanon"]);
    }
}

/// The byte may be an é from a terminal with Latin-1, or come with a paste.
#[test]
fn a_byte_that_is_no_utf_8_costs_its_line_and_not_the_typing() {
    const TOLD: &str = "a byte of this line is not UTF-8, and nothing of the line was sent";
    if skip_if(no_tmux()) {
        return;
    }
    let (operator, address) = room_on_a_screen();
    let mut alice = Member::join(address, "alice");
    let bob = Screen::run(&format!("connect {address} --name bob"));
    alice.sees("* bob has joined");
    for (screen, name) in [(&operator, "operator"), (&bob, "bob")] {
        for bytes in [&b"caf\xe9\n"[..], b"@alice \xff\xfe and the rest\nof a paste\n"] {
            screen.types(&["C-l"]);
            screen.sends(bytes);
            let told = |lines: &[String]| lines.iter().any(|line| line.contains(TOLD));
            screen.comes_to(told, &[TOLD]);
            screen.ends_with(&[">"]);
        }
        screen.types(&["well then", "Enter"]);
        assert_eq!(alice.line(), format!("{name}: well then"));
    }
    operator.types(&["/quit", "Enter"]);
    operator.ends_with(&["status 0", " icanon"]);
}

#[test]
fn after_a_stop_the_line_is_edited_as_before() {
    let no_bash =
        || Command::new("bash").arg("--version").output().err().map(|_| "bash is not installed");
    if skip_if(no_tmux().or_else(no_bash)) {
        return;
    }
    let (_server, address) = open_room(&[]);
    let mut alice = Member::join(address, "alice");
    for name in ["bob", "carol"] {
        let screen = Screen::run_in_a_shell(&format!("connect {address} --name {name}"));
        alice.sees(&format!("* {name} has joined"));
        screen.types(&["-l", "half of a line"]);
        screen.ends_with(&["> half of a line"]);
        for number in 0..3 {
            // The stop comes by the key, or by another process, in the middle of the line.
            if name == "bob" {
                screen.types(&["C-z"]);
            } else {
                system::send_signal(screen.job(), libc::SIGSTOP);
            }
            let stopped = |lines: &[String]| {
                let stops = lines.iter().filter(|line| line.contains("Stopped")).count();
                stops == number + 1 && lines.last().is_some_and(|last| last.ends_with('$'))
            };
            screen.comes_to(stopped, &["a prompt of the shell"]);
            let said = format!("said meanwhile {number}");
            alice.say(&said);
            alice.asks_who();
            screen.types(&["fg", "Enter"]);
            screen.ends_with(&[&format!("alice: {said}"), "> half of a line"]);
            test_support::eventually("the line is edited", || screen.is_edited());
        }
        // Keys go to the editor, and incoming lines do not tear the edited one.
        screen.types(&["C-a"]);
        screen.types(&["-l", "the second "]);
        screen.ends_with(&["> the second half of a line"]);
        alice.say("above it");
        screen.ends_with(&["alice: above it", "> the second half of a line"]);
        screen.types(&["Enter"]);
        assert_eq!(alice.hears(), format!("{name}: the second half of a line"));
        screen.types(&["/quit", "Enter"]);
        screen.comes_to(|lines| lines.last().is_some_and(|last| last == "$"), &["the shell"]);
        alice.sees(&format!("* {name} has left"));
    }
}

#[test]
fn a_stop_that_nobody_would_end_is_none() {
    if skip_if(no_tmux()) {
        return;
    }
    // No shell could continue this program.
    let (operator, address) = room_on_a_screen();
    operator.types(&["half of"]);
    operator.ends_with(&["> half of"]);
    operator.types(&["C-z"]);
    operator.ends_with(&["> half of", "> half of"]);
    operator.types(&[" a line", "Enter"]);
    let alice = Member::join(address, "alice");
    alice.say("hello");
    operator.shows("alice: hello");
    operator.shows("> half of a line");
}

#[test]
fn a_terminal_that_shows_nothing_more_delays_nobody_and_not_the_end() {
    if skip_if(no_python()) {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/program/stalled_terminal.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(CHAT.path()).args(["serve", "--bind", "127.0.0.1:0", "--pace", "0"]);
    let terminal = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let line = terminal.line();
    let (pid, address) = line.split_once(' ').unwrap();
    let address = address.parse().unwrap();
    let alice = Member::join(address, "alice");
    let mut bob = Member::join(address, "bob");
    // These 20 MB are more than the terminal and the server's queue for it hold.
    let rest = "x".repeat(4_000);
    for number in 0..5_000 {
        alice.say(&format!("{number} {rest}"));
        assert_eq!(bob.hears(), format!("alice: {number} {rest}"));
    }
    system::send_signal(pid.parse().unwrap(), libc::SIGTERM);
    assert!(bob.rest().ends_with("* the server stops; goodbye\n"));
    assert_eq!(terminal.line(), "status 0");
}

#[test]
fn a_terminal_is_as_it_was_when_the_other_side_ends() {
    if skip_if(no_tmux()) {
        return;
    }
    let (operator, address) = room_on_a_screen();
    let mut alice = Member::join(address, "alice");
    // The client is ended several times, because its last lines and the editor's last drawing race for the screen.
    for _ in 0..4 {
        let bob = Screen::run(&format!("connect {address} --name bob"));
        alice.sees("* bob has joined");
        bob.types(&["in the middle"]);
        bob.ends_with(&["> in the middle"]);
        operator.types(&["/kick bob", "Enter"]);
        bob.shows("status 1");
        bob.ends_with(&[" icanon"]);
        // The server's last line was shown, before the program's own.
        let lines = bob.lines();
        let at = |beginning: &str| lines.iter().position(|line| line.starts_with(beginning));
        let last_words = at("* you: was kicked by the operator");
        assert!(last_words.is_some() && last_words < at("error: "), "{lines:#?}");
    }
    // Ctrl-D does not end the server: it may be a mistake.
    operator.types(&["C-d"]);
    operator.ends_with(&["* /quit ends the server", ">"]);
    let carol = Member::join(address, "carol");
    carol.say("hello");
    assert_eq!(alice.hears(), "carol: hello");
    operator.shows("carol: hello");
}

/// Options of a server with TLS.
fn with_tls() -> String {
    format!("--tls-cert {} --tls-key {}", certificate("server.pem"), certificate("server.key"))
}

/// A member by the program's own client, over TLS or not.
fn member(address: &str, tls: bool) -> Process {
    let mut command = CHAT.command(&["connect", address, "--name", "alice"]);
    let member =
        Process::start(command.args(if tls { trusting() } else { vec![] }).stdin(Stdio::piped()));
    while !member.line().starts_with("* you are alice;") {}
    member
}

#[test]
fn the_end_of_its_terminal_ends_a_room_in_order() {
    if skip_if(no_tmux()) {
        return;
    }
    for tls in [false, true] {
        for run in [Screen::run, Screen::run_in_a_shell] {
            let options = if tls { with_tls() } else { String::new() };
            let operator = run(&format!("serve --bind 127.0.0.1:0 {options}"));
            operator.ends_with(&[">"]);
            let lines = operator.lines();
            let address = lines.iter().find_map(|line| line.strip_prefix("listening on "));
            let address = address.unwrap().trim_end_matches(" with TLS");
            let alice = member(address, tls);
            operator.types(&["half of a line"]);
            operator.ends_with(&["> half of a line"]);
            operator.closes();
            while alice.line() != "* the server stops; goodbye" {}
            assert!(alice.end().status.success());
            test_support::eventually("the server has ended", || {
                std::net::TcpStream::connect(address).is_err()
            });
        }
    }
}

/// An operator's SIGHUP is an order to read the certificates again, also for a server whose terminal ended long ago.
#[test]
fn a_server_that_was_left_to_itself_reads_its_certificates_again() {
    if skip_if(no_tmux()) {
        return;
    }
    let folder = folder();
    let said = folder.path().join("said");
    let shell = Screen::run_in_a_shell(&format!(
        "serve --bind 127.0.0.1:0 {} < /dev/null > {} 2>&1 & disown",
        with_tls(),
        said.display()
    ));
    let text = || std::fs::read_to_string(&said).unwrap_or_default();
    test_support::eventually("it serves", || text().ends_with(" with TLS\n"));
    let address = text().replace("listening on ", "").replace(" with TLS\n", "");
    let server = shell.job();
    shell.closes();
    let alice = member(&address, true);
    system::send_signal(server, libc::SIGHUP);
    test_support::eventually("it reads them", || {
        text().contains("has read its certificates again")
    });
    system::send_signal(server, libc::SIGTERM);
    while alice.line() != "* the server stops; goodbye" {}
}
