//! A process on a machine of the network, which is killed, paused and started again.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A process, and the file with all that it has printed. The process is killed when this value is dropped.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    log: PathBuf,
}

impl Machine {
    /// Starts a command, whose output is appended to this file.
    pub fn start(mut command: Command, log: PathBuf) -> Self {
        test_support::system::undo_ignored_signals();
        let file = File::options().create(true).append(true).open(&log).expect("a log");
        let same = file.try_clone().expect("a descriptor");
        command.stdin(Stdio::null()).stdout(file).stderr(same);
        let child = command.spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child, log }
    }

    fn send(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id() as i32).expect("a process has a number");
        // If the process has ended, no other process has its number, because nobody has waited for it yet.
        let _ = kill_process(id, signal);
    }

    /// Ends it like a power cut.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end in order.
    pub fn terminate(&self) {
        self.send(Signal::TERM);
    }

    /// Makes the process stand still; its connections stay.
    pub fn pause(&self) {
        self.send(Signal::STOP);
    }

    /// Lets the process go on.
    pub fn resume(&self) {
        self.send(Signal::CONT);
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is a child of this process")
    }

    /// Waits until it has ended by itself.
    pub fn end_within(&mut self, time: Duration) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(began.elapsed() < time, "it does not end within {time:?}: {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// All that this process, and earlier ones with the same log, have printed.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}
