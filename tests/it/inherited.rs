//! A server's inheritance from the process that started it, and the inheritance of programs that its handlers start.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;

use socketserver::handler::{inherit_only_stdio, restore_limits};
use socketserver::{HandlerResult, StreamRequest, ThreadingTcpServer, stream_fn};

use crate::support::system::{descriptor_limits, set_descriptor_limits};
use crate::support::{StopOnPanic, alone, connect, exchange, inet, skip};

/// Answers each line with a shell's report of its limit, its signals, or both.
fn asks_a_shell(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        let mut command = Command::new("sh");
        match text {
            "as it is" => command.args(["-c", "ulimit -Sn"]),
            "restored" => restore_limits(command.args(["-c", "ulimit -Sn"])),
            // A shell blocks signals while it waits for its grep; with `exec` it becomes grep.
            "signals" => command.args(["-c", "exec grep -E 'Sig(Blk|Ign)' /proc/self/status"]),
            _ => return Err("what?".into()),
        };
        let said = String::from_utf8(command.output()?.stdout)?;
        writeln!(request, "{}", said.split_whitespace().collect::<Vec<_>>().join(" "))?;
    }
    Ok(())
}

/// Asks a server that serves by `run`, and stops it.
fn ask_while_it_runs(lines: &[&str]) -> Vec<String> {
    let server = ThreadingTcpServer::bind("127.0.0.1:0", stream_fn(asks_a_shell)).unwrap();
    thread::scope(|scope| {
        let running = scope.spawn(|| server.run());
        let _stop = StopOnPanic(&server);
        let mut client = connect(inet(&server));
        let answers = lines.iter().map(|line| exchange(&mut client, line).trim().to_owned());
        let answers = answers.collect();
        drop(client);
        server.shutdown();
        running.join().unwrap().unwrap();
        answers
    })
}

#[test]
fn programs_of_handlers_get_back_the_limit_that_run_has_raised() {
    alone("inherited::programs_of_handlers_get_back_the_limit_that_run_has_raised", || {
        let (_, hard) = descriptor_limits();
        if hard < 1_000 {
            return skip("there is no room to raise the limit of descriptors");
        }
        set_descriptor_limits(777, hard);
        let before = Command::new("sh").args(["-c", "ulimit -Sn; ulimit -Hn"]).output().unwrap();
        let answers = ask_while_it_runs(&["as it is", "restored"]);
        let hard = String::from_utf8(before.stdout).unwrap().lines().last().unwrap().to_owned();
        assert_eq!(answers, [hard, "777".to_owned()]);
        // A limit that was set since then stays, and so does one that was never raised.
        set_descriptor_limits(888, descriptor_limits().1);
        let mut command = Command::new("sh");
        let said = restore_limits(command.args(["-c", "ulimit -Sn"])).output().unwrap().stdout;
        assert_eq!(String::from_utf8(said).unwrap().trim(), "888");
    });
}

#[test]
fn programs_of_handlers_take_the_signals_that_end_a_program() {
    alone("inherited::programs_of_handlers_take_the_signals_that_end_a_program", || {
        let answers = ask_while_it_runs(&["signals"]);
        let masks: Vec<u64> = answers[0]
            .split_whitespace()
            .filter_map(|word| u64::from_str_radix(word, 16).ok())
            .collect();
        let [blocked, ignored] = masks[..] else { panic!("{answers:?}") };
        for signal in [libc::SIGINT, libc::SIGTERM] {
            assert_eq!(blocked >> (signal - 1) & 1, 0, "{signal}: {answers:?}");
        }
        for signal in [libc::SIGPIPE, libc::SIGINT, libc::SIGTERM, libc::SIGCHLD] {
            assert_eq!(ignored >> (signal - 1) & 1, 0, "{signal}: {answers:?}");
        }
    });
}

#[test]
fn a_file_size_limit_fails_a_write_and_ends_only_the_programs_of_handlers() {
    const NAME: &str =
        "inherited::a_file_size_limit_fails_a_write_and_ends_only_the_programs_of_handlers";
    const IN_IT: &str = "SOCKETSERVER_LIMITED";
    if std::env::var_os(IN_IT).is_none() {
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -f 20; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap());
        command.args([NAME, "--exact", "--nocapture"]).env(IN_IT, "1");
        let ended = crate::support::process::Process::start(command.stdout(Stdio::piped())).end();
        assert!(ended.status.success(), "{:?}", ended.status);
        return;
    }
    let handler = stream_fn(|request| {
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            let said = if text == "a program" {
                // With an inherited ignored or blocked signal it would still be alive.
                let status = Command::new("sh").args(["-c", "kill -XFSZ $$; exit 7"]).status()?;
                format!("{:?}", status.signal())
            } else {
                let written = tempfile::tempfile()?.write_all(&[0; 100_000]);
                format!("{:?}", written.unwrap_err().raw_os_error())
            };
            writeln!(request, "{said}")?;
        }
        Ok(())
    });
    let server = ThreadingTcpServer::bind("127.0.0.1:0", handler).unwrap();
    thread::scope(|scope| {
        let running = scope.spawn(|| server.run());
        let _stop = StopOnPanic(&server);
        let mut client = connect(inet(&server));
        for _ in 0..2 {
            assert_eq!(exchange(&mut client, "a file"), format!("{:?}\n", Some(libc::EFBIG)));
            assert_eq!(exchange(&mut client, "a program"), format!("{:?}\n", Some(libc::SIGXFSZ)));
        }
        drop(client);
        server.shutdown();
        running.join().unwrap().unwrap();
    });
}

#[test]
fn a_program_has_no_descriptor_that_this_process_was_started_with() {
    // Like a descriptor from the start of the process, it is not closed by an exec.
    let lock = rustix::io::dup(tempfile::tempfile().unwrap()).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&lock);
    let list = || {
        let mut command = std::process::Command::new("ls");
        command.arg("/proc/self/fd");
        command
    };
    let fds = |output: std::io::Result<std::process::Output>| {
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        text.lines().map(|fd| fd.parse().unwrap()).collect::<Vec<i32>>()
    };
    assert!(fds(list().output()).contains(&number), "this shows nothing");
    // `ls` has one more, for the folder that it reads.
    assert_eq!(fds(inherit_only_stdio(&mut list()).output()), [0, 1, 2, 3]);
    let mut list = list();
    assert_eq!(fds(inherit_only_stdio(restore_limits(&mut list)).output()), [0, 1, 2, 3]);
}
