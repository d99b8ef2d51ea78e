//! A server under test: a process that is started, pinned, asked for its address, and killed.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::{sys, usage};

/// How long a server may take to say where it listens.
const START: Duration = Duration::from_secs(10);

/// Why there is no figure.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// The server is not available here, or cannot do this load.
    Skipped(String),
    /// The measurement should have worked.
    Failed(String),
}

/// A child in a process group of its own, all of which is killed in the end.
struct Group {
    child: Child,
    over: bool,
}

impl Group {
    /// Kills the group and waits for the child. The status is the child's own if it had ended before.
    fn end(&mut self) -> io::Result<ExitStatus> {
        if !self.over {
            self.over = true;
            // This comes before the wait, after which the number may belong to another process.
            sys::kill_group(self.child.id());
        }
        self.child.wait()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A failure cannot be reported here, and nothing else can be tried.
        let _ = self.end();
    }
}

/// A running server.
pub struct Process {
    group: Group,
    address: SocketAddr,
    stderr: File,
    /// Is kept open as long as the server runs, which would otherwise fail when it prints something more.
    _stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Starts a server, and waits until it listens.
    pub fn start(mut command: Command, processor: Option<usize>) -> Result<Self, Trouble> {
        let failed = |error: io::Error| Trouble::Failed(format!("cannot start: {error}"));
        let stderr = sys::memory_file().map_err(failed)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr.try_clone().map_err(failed)?)
            .process_group(0);
        // SAFETY: both are system calls and nothing else, which a child may make before exec.
        unsafe {
            command.pre_exec(move || {
                sys::die_with_parent()?;
                processor.map_or(Ok(()), sys::pin)
            });
        }
        let child = command.spawn().map_err(failed)?;
        let mut group = Group { child, over: false };
        let stdout = group.child.stdout.take().expect("a pipe was asked for");
        let Some((line, stdout)) = first_line_of(stdout) else {
            return Err(Trouble::Failed("it does not say where it listens".to_owned()));
        };
        // Our own programs say after the address whether TLS is spoken there: ` with TLS`.
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .and_then(|text| text.split(' ').next())
            .and_then(|address| address.strip_prefix("udp:").unwrap_or(address).parse().ok());
        match address {
            Some(address) => Ok(Self { group, address, stderr, _stdout: stdout }),
            None => Err(no_address(&mut group, &stderr, &line)),
        }
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of its process group.
    pub fn group(&self) -> u32 {
        self.group.child.id()
    }

    /// Its status and its first words on stderr, if it has ended by itself.
    pub fn death(&mut self) -> Option<String> {
        if !usage::has_ended(self.group()) {
            return None;
        }
        let status = self.group.end().ok()?;
        Some(format!("the server died ({status}) {}", first_words(&self.stderr)))
    }
}

/// Reads the first line, in a thread because a server may never say it. `None` after [`START`].
fn first_line_of(stdout: ChildStdout) -> Option<(String, BufReader<ChildStdout>)> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        if stdout.read_line(&mut line).is_ok() {
            // The receiver may have given up.
            let _ = sender.send((line, stdout));
        }
    });
    receiver.recv_timeout(START).ok()
}

/// Why a server did not print its address. Status 2 means that it does not have the mode that was asked for.
fn no_address(group: &mut Group, stderr: &File, line: &str) -> Trouble {
    let begin = Instant::now();
    while !usage::has_ended(group.child.id()) && begin.elapsed() < Duration::from_secs(1) {
        thread::sleep(Duration::from_millis(5));
    }
    let words = first_words(stderr);
    match group.end() {
        Ok(status) if status.code() == Some(2) => Trouble::Skipped(words),
        Ok(status) => Trouble::Failed(format!("it ended ({status}) {line}{words}")),
        Err(error) => Trouble::Failed(error.to_string()),
    }
}

/// The first line of a server's stderr.
fn first_words(stderr: &File) -> String {
    let mut bytes = [0; 1024];
    let count = stderr.read_at(&mut bytes, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..count]);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}
