//! The panel, which shows a running program on a terminal.

use std::fs;
use std::io::{Read, Write};

use test_support::process::Process;
use test_support::program::*;
use test_support::{eventually, exchange, read_to_end};

use super::{Controlled, ask, mark, operator};
use crate::ECHO;

#[test]
fn the_panel_is_text_where_there_is_no_terminal() {
    let at = Controlled::start(&["127.0.0.1:0", "udp:127.0.0.1:0"], &["--max-clients", "50"]);
    let mut client = at.client();
    assert_eq!(exchange(&mut client, "hello"), "hello\n");
    let ended = at.control(&["watch"]);
    assert_ends(&ended, 0);
    let ended = ended.out;
    for says in [
        "echo   process ",
        &format!("{}   serving   ", at.addresses[0]),
        "live 1:   queued 0 ",
        "2 %   1 of 50",
        &format!("1:1  {}  ", client.local_addr().unwrap()),
    ] {
        assert!(ended.contains(says), "{says:?} is not in {ended}");
    }
    assert!(!ended.contains('\x1b'), "{ended:?}");
}

/// Reads the terminal of a program until it has shown `what`.
fn show(terminal: &mut fs::File, what: &str) -> String {
    let mut shown = Vec::new();
    let mut bytes = [0; 4_096];
    loop {
        let text = String::from_utf8_lossy(&shown).into_owned();
        if text.contains(what) {
            return text;
        }
        match terminal.read(&mut bytes) {
            Ok(count @ 1..) if shown.len() < 1 << 20 => shown.extend_from_slice(&bytes[..count]),
            other => panic!("{what:?} is not shown ({other:?}): {text:?}"),
        }
    }
}

#[test]
fn the_panel_gives_the_terminal_back_however_it_ends() {
    let at = Controlled::start(&["127.0.0.1:0"], &[]);
    let path = at.path.to_str().unwrap();
    // The panel ends by a key, by a signal, and at last by the end of its program.
    for end in ["q", "interrupt", "terminate", "program"] {
        let (user, program) = test_support::system::terminal();
        let mut user = fs::File::from(user);
        let mut command = ECHO.command(&["control", path, "watch", "0.1"]);
        command.stdin(program.try_clone().unwrap()).stdout(program);
        let mut panel = Process::start(&mut command);
        // The `Command` still holds the terminal's descriptors, for the next process that it would start.
        drop(command);
        let first = show(&mut user, "q ends");
        assert!(
            first.starts_with("\x1b[?1049h\x1b[?25l") && first.contains("accepted/s"),
            "{first:?}"
        );
        // The panel is drawn again and again.
        show(&mut user, "q ends");
        match end {
            "q" => user.write_all(b"q").unwrap(),
            "interrupt" => panel.send_signal(libc::SIGINT),
            "terminate" => panel.send_signal(libc::SIGTERM),
            _ => assert_ends(&at.control(&["stop"]), 0),
        }
        show(&mut user, "\x1b[?25h\x1b[?1049l");
        panel.close_stdin();
        let status = if end == "program" { 1 } else { 0 };
        assert_ends(&panel.end(), status);
    }
}

#[test]
fn the_panel_follows_the_program_from_process_to_process() {
    for mixin in ["threading", "green", "forking"] {
        if !MIXINS.contains(&mixin) {
            continue;
        }
        let options = ["--mixin", mixin, "--mode", "line", "--grace", "600"];
        let at = Controlled::start(&["127.0.0.1:0"], &options);
        // This request keeps the first process alive, so that the panel could go on showing that one.
        let mut client = at.client();
        client.write_all(b"hel").unwrap();
        eventually("it has begun", || ask(&mut at.connect(), "live")[1].contains("receiving"));
        let (user, program) = test_support::system::terminal();
        let mut user = fs::File::from(user);
        let path = at.path.to_str().unwrap();
        let mut command = ECHO.command(&["control", path, "watch", "0.1"]);
        command.stdin(program.try_clone().unwrap()).stdout(program);
        let panel = Process::start(&mut command);
        drop(command);
        show(&mut user, "q ends");
        at.server.send_signal(libc::SIGUSR2);
        let says = format!("has taken the place of process {}", at.server.id());
        show(&mut user, &says);
        show(&mut user, ", after another one");
        client.write_all(b"lo\n").unwrap();
        assert_eq!(read_to_end(&mut client), b"hello\n");
        assert_ends(&at.server.ended_before_its_output(), 0);
        // The end of the first process changes nothing on the panel.
        show(&mut user, ", after another one");
        user.write_all(b"q").unwrap();
        show(&mut user, "\x1b[?25h\x1b[?1049l");
        assert_ends(&panel.end(), 0);
        assert_eq!(mark(&mut operator(&at.path), "stop"), "ok it stops at once");
        eventually("it has ended", || !at.path.exists());
    }
}

#[test]
fn the_panel_tells_the_phases_of_a_stop() {
    for (duck, phase) in [("600", "lame duck"), ("0", "draining")] {
        let options = ["--mode", "line", "--grace", "600", "--lame-duck", duck];
        let at = Controlled::start(&["127.0.0.1:0"], &options);
        assert!(at.control(&["watch"]).out.contains("   serving   "));
        let mut client = at.client();
        // The client sends half a line, so its request may take the whole grace.
        client.write_all(b"hel").unwrap();
        eventually("it has begun", || ask(&mut at.connect(), "live")[1].contains("receiving"));
        let mut operator = at.connect();
        assert!(ask(&mut operator, "status").contains(&"phase\tready".to_owned()));
        at.server.send_signal(libc::SIGTERM);
        let line = format!("phase\t{phase}");
        while !ask(&mut operator, "status").contains(&line) {}
        // An operator who is connected goes on watching; a draining program accepts no other.
        if phase == "lame duck" {
            let shown = at.control(&["watch"]).out;
            assert!(shown.contains("   serving: lame duck   "), "{shown}");
        }
        assert_eq!(mark(&mut operator, "stop"), "ok it stops at once");
        assert_ends(&at.server.end(), 0);
    }
}
