//! [`run`]: the commands of a section, as its reader types them.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use test_support::folder;
use test_support::process::Process;
use test_support::program::built;

use crate::page::Section;

/// The programs of the page.
const PROGRAMS: [&str; 3] = ["chat", "web", "with-tokio"];

/// The longest that the commands of a section may take.
const MOST: Duration = Duration::from_secs(60);

/// Ends the shell at its first failure, with everything that it has started. `listens COUNT LOG` waits for the last server,
/// and `has_none CONTROL` until a server's clients are gone: a reader types slower than this, and sees neither in between.
const BEGINNING: &str = r#"set -eu
shopt -s nullglob
trap 'echo "failed: $BASH_COMMAND" >&3' ERR
end() {
    trap - EXIT
    for pid in $(jobs -p) $(cat /dev/null *.pid); do kill "$pid" 2>/dev/null || true; done
    wait
}
trap end EXIT
listens() {
    for _ in $(seq 600); do
        [ "$(grep -c '^listening on' "$2")" -ge "$1" ] && return
        kill -0 $! 2>/dev/null || break
        sleep 0.05
    done
    echo "it does not listen" >&3
    exit 1
}
has_none() {
    for _ in $(seq 600); do
        web control "$1" figures | grep -q '^live *0 of ' && return
        sleep 0.05
    done
    echo "its clients are not gone" >&3
    exit 1
}
"#;

/// Runs the commands of a section at this address. The error says what is wrong.
pub fn run(section: &Section, host: &str) -> Result<(), String> {
    let (folder, bin) = (folder(), folder());
    for name in PROGRAMS {
        let program = built(Path::new(name), "cargo build --bins");
        std::os::unix::fs::symlink(program, bin.path().join(name)).unwrap();
    }
    let at_host = |text: &str| text.replace("127.0.0.1", host);
    for (name, text) in section.files() {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, at_host(text)).unwrap();
    }
    let mut outputs = Vec::new();
    // The output goes to files, because a process that is left over would hold a pipe open.
    let failures = bin.path().join("failures");
    let mut script = format!("exec 3>{}\n{BEGINNING}", failures.display());
    for block in &section.blocks {
        if block.runs() {
            let path = bin.path().join(format!("{}.out", outputs.len()));
            write!(script, "out={0}; exec >$out 2>&1\n{1}", path.display(), commands(&block.text))
                .unwrap();
            outputs.push((path, None));
        } else if block.info == "text output" {
            let last = outputs.last_mut().ok_or("an output without commands")?;
            assert!(last.1.replace(at_host(&block.text)).is_none(), "two outputs");
        }
    }
    let path = std::env::var("PATH").unwrap_or_default();
    // `timeout` has a process group of its own, all of which it ends.
    let mut command = Command::new("timeout");
    command.args(["-k", "5", &MOST.as_secs().to_string(), "bash", "-c", &at_host(&script)]);
    command.env("PATH", format!("{}:{path}", bin.path().display()));
    command.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null());
    let ended = Process::start(&mut command).end_within(MOST + Duration::from_secs(20));
    if !ended.status.success() {
        end_daemons(folder.path());
    }

    let mut all = String::new();
    let mut wrong = None;
    for (path, expected) in outputs {
        let printed = std::fs::read_to_string(&path).unwrap_or_default();
        let line = expected.as_deref().and_then(|expected| missing(&printed, expected));
        wrong = wrong.or(line.map(|line| format!("{line:?} is not printed")));
        all += &printed;
    }
    match wrong {
        None if ended.status.success() => Ok(()),
        wrong => {
            let failures = std::fs::read_to_string(failures).unwrap_or_default();
            let wrong = wrong.unwrap_or_default();
            Err(format!("{wrong}\n{failures}{}\n{}{all}", ended.status, ended.err))
        }
    }
}

/// Ends the daemons that a killed shell has left, whose numbers are in files: the next test would meet them.
fn end_daemons(folder: &Path) {
    let script = "for file in *.pid; do kill -9 $(cat \"$file\"); done";
    let _ =
        Command::new("sh").args(["-c", script]).current_dir(folder).stderr(Stdio::null()).status();
}

/// The lines of a block, with a wait after each server that is started, and after each client of a server with a control
/// socket.
fn commands(text: &str) -> String {
    let (mut servers, mut control) = (0, None);
    let mut commands = String::new();
    for line in text.lines() {
        writeln!(commands, "{line}").unwrap();
        let mut words = line.split(' ').skip_while(|word| *word != "--control");
        control = words.nth(1).and_then(|at| at.strip_prefix("unix:")).or(control);
        if let Some(control) = control.filter(|_| line.starts_with("curl ")) {
            writeln!(commands, "has_none {control}").unwrap();
        }
        let is_server = PROGRAMS.iter().any(|name| line.split(' ').next() == Some(name));
        let Some((server, _)) = line.split_once(" &").filter(|_| is_server) else { continue };
        match server.split_once(" > ") {
            Some((_, log)) => writeln!(commands, "listens 1 {log}"),
            None => {
                servers += 1;
                writeln!(commands, "listens {servers} $out")
            }
        }
        .unwrap();
    }
    commands
}

/// The first of the expected lines that is not printed, in this order.
fn missing<'a>(printed: &str, expected: &'a str) -> Option<&'a str> {
    let mut printed = printed.lines();
    expected.lines().find(|line| !printed.any(|printed| fits(printed, line)))
}

/// Whether a line is this pattern, with anything in the places of `…`.
fn fits(line: &str, pattern: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('…') else { return line == pattern };
    let Some(line) = line.strip_prefix(start) else { return false };
    (0..=line.len()).any(|at| line.get(at..).is_some_and(|line| fits(line, rest)))
}

#[test]
fn an_output_is_compared_by_its_lines_in_their_order() {
    let printed = "listening on 127.0.0.1:1\n200 OK\nbye\n";
    assert_eq!(missing(printed, "listening on …\nbye\n"), None);
    assert_eq!(missing(printed, "… OK\n"), None);
    assert_eq!(missing(printed, "bye\n200 …\n"), Some("200 …"));
    assert_eq!(missing(printed, "200\n"), Some("200"));
    assert_eq!(missing(printed, "2…K…\n"), None);
}
