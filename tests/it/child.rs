//! Runs a test of this binary in a process of its own, and reads its output.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::{SOON, uninterrupted};

const CHILD: &str = "SOCKETSERVER_TEST_CHILD";

/// Whether this process was started by [`child`].
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// A command that runs one test of this binary in a process of its own, where [`is_child`] is true.
pub fn child(module: &str, test: &str) -> Command {
    let (_crate, module) = module.split_once("::").unwrap();
    crate::support::system::undo_ignored_signals();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(format!("{module}::{test}")).args(["--exact", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, "1").stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Waits for a child, and ends it if it does not end by itself.
pub fn waited(mut child: Child, patience: Duration) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if began.elapsed() > patience {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the child did not end within {patience:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The writes of a child to stderr, one by one: its stderr is a socket that keeps the boundaries of messages.
pub fn writes_to_stderr(mut command: Command) -> (Output, Vec<String>) {
    let (mut ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    ours.set_read_timeout(Some(SOON)).unwrap();
    let child = command.stderr(OwnedFd::from(theirs)).spawn().unwrap();
    // This closes our copy of the child's end.
    drop(command);
    let reading = thread::spawn(move || {
        let mut writes = Vec::new();
        let mut buffer = vec![0; 65_536];
        loop {
            match uninterrupted(|| ours.read(&mut buffer)).expect("the child comes to its end") {
                0 => return writes,
                count => writes.push(String::from_utf8(buffer[..count].to_vec()).unwrap()),
            }
        }
    });
    let output = child.wait_with_output().unwrap();
    (output, reading.join().unwrap())
}
