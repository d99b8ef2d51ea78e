//! Processes: programs, and this test binary itself where a test needs a process of its own.

use std::cell::RefCell;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::{SOON, eventually, system};

/// A process that is ended with the test, also with one that panics.
#[derive(Debug)]
pub struct Process {
    child: RefCell<Child>,
    out: Receiver<String>,
    err: Receiver<String>,
}

/// A process that has ended by itself: its status, and its unread output.
#[derive(Debug)]
pub struct Ended {
    /// How it has ended.
    pub status: ExitStatus,
    /// The unread lines of its stdout.
    pub out: String,
    /// The unread lines of its stderr.
    pub err: String,
}

impl Process {
    /// Starts a process. Its stderr is read here, and so is its stdout, if the command makes it a pipe.
    pub fn start(command: &mut Command) -> Self {
        system::undo_ignored_signals();
        let child = command.stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let (out, err) = (lines(child.stdout.take()), lines(child.stderr.take()));
        Self { child: RefCell::new(child), out, err }
    }

    /// Gives it all of its input; then its stdin is at its end.
    pub fn type_in(&mut self, text: &str) {
        let mut stdin = self.child.get_mut().stdin.take().expect("a piped stdin");
        stdin.write_all(text.as_bytes()).unwrap();
    }

    /// Gives it a line of input, and keeps its stdin open.
    pub fn ask(&self, line: &str) {
        let mut child = self.child.borrow_mut();
        let stdin = child.stdin.as_mut().expect("a piped stdin");
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Ends its input.
    pub fn close_stdin(&mut self) {
        self.child.get_mut().stdin.take();
    }

    /// The next line of its stdout, without the newline.
    pub fn line(&self) -> String {
        match self.out.recv_timeout(SOON) {
            Ok(line) => line.trim_end().to_owned(),
            Err(error) => {
                let err: String = self.err.try_iter().collect();
                panic!("no line on stdout ({error}); stderr: {err}")
            }
        }
    }

    /// The next line of its stderr, without the newline.
    pub fn err_line(&self) -> String {
        self.err.recv_timeout(SOON).expect("a line on stderr").trim_end().to_owned()
    }

    fn status(&self) -> Option<ExitStatus> {
        self.child.borrow_mut().try_wait().unwrap()
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.borrow().id()
    }

    /// Sends it a signal. After SIGSTOP it stands still when this returns: the call that sends the signal does not wait for
    /// its threads.
    pub fn send_signal(&self, signal: i32) {
        let pid = self.id();
        system::send_signal(pid, signal);
        if signal == libc::SIGSTOP {
            eventually("it stands still", || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
                stat[stat.rfind(')').unwrap()..].starts_with(") T ")
            });
        }
    }

    /// Repeats a signal until the process has ended: a repetition that comes soon counts as a copy of the first.
    pub fn insist_by(&self, signal: i32) {
        eventually("a second signal ends it", || {
            self.send_signal(signal);
            self.has_ended()
        });
    }

    /// Waits until it has ended by itself.
    pub fn end(self) -> Ended {
        self.end_within(SOON)
    }

    /// Whether it has ended by now.
    pub fn has_ended(&self) -> bool {
        self.status().is_some()
    }

    /// Waits until it has ended, while others that it has started may still write to its output.
    pub fn ended_before_its_output(self) -> Ended {
        eventually("the process ends", || self.status().is_some());
        let (out, err) = (self.out.try_iter().collect(), self.err.try_iter().collect());
        Ended { status: self.status().unwrap(), out, err }
    }

    /// Waits for its end, at most for this time.
    pub fn end_within(self, time: Duration) -> Ended {
        let deadline = Instant::now() + time;
        let err = rest(&self.err, deadline, "");
        let out = rest(&self.out, deadline, &err);
        // The process may have closed both outputs, or never have had them.
        eventually("the process ends", || self.status().is_some());
        Ended { status: self.status().unwrap(), out, err }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.get_mut().kill();
        let _ = self.child.get_mut().wait();
    }
}

/// Reads in a thread of its own, so that a process is never stopped by a full pipe, and every wait for
/// it can have a deadline.
fn lines(source: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(source) = source {
        thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while matches!(source.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(&line).into_owned();
                if sender.send(text).is_err() {
                    break;
                }
                line.clear();
            }
        });
    }
    receiver
}

fn rest(lines: &Receiver<String>, deadline: Instant, context: &str) -> String {
    let mut text = String::new();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => text += &line,
            Err(RecvTimeoutError::Disconnected) => return text,
            Err(RecvTimeoutError::Timeout) => {
                panic!("the process does not end; it has said: {context}{text}")
            }
        }
    }
}

const CHILD: &str = "SOCKETSERVER_TEST_CHILD";
/// Begins a child's answers, to tell them from the output of the harness.
const ANSWER: &str = "answer: ";

/// Whether this process was started by [`child`] to run this test.
pub fn is_child(name: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|child| child == name)
}

/// Starts this binary again with one test alone (`name` is its path), for measurements of a whole process, such as its
/// descriptors and its memory. The test asks [`is_child`] which of the two processes it is in.
pub fn child(name: &str) -> Process {
    Process::start(child_command(name).stdin(Stdio::piped()).stdout(Stdio::piped()))
}

/// The command of [`child`], for a process that is started in another way.
pub fn child_command(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(CHILD, name);
    command
}

/// Gives an answer to the parent, from a child.
pub fn answer(text: impl Display) {
    // The answer is on a line of its own, because the harness has begun one without ending it.
    println!("\n{ANSWER}{text}");
}

impl Process {
    /// The next [`answer`] of a child.
    pub fn answer(&self) -> String {
        loop {
            if let Some(answer) = self.line().strip_prefix(ANSWER) {
                return answer.to_owned();
            }
        }
    }
}

/// Runs the body of a test in a process of its own. In the parent it returns the body's result and its stderr.
pub fn in_a_process(name: &str, body: impl FnOnce() -> String) -> Option<Ended> {
    if is_child(name) {
        answer(body());
        return None;
    }
    let mut ended = child(name).end_within(Duration::from_secs(120));
    let found = ended.out.lines().find_map(|line| line.strip_prefix(ANSWER));
    // A name that does not exist runs nothing, successfully: only the answer shows that the body ran.
    match found.map(str::to_owned) {
        Some(answer) if ended.status.success() => ended.out = answer,
        _ => panic!("{name} in a process of its own: {}{}", ended.out, ended.err),
    }
    Some(ended)
}
