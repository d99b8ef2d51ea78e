//! A command as the server holds it: the output of its pipes, and the control socket of its supervisor.
//!
//! The command is not this process's own child, but that of a supervisor (see `supervise.rs`), which can be
//! told two things over its control socket, and ends everything of the command when that socket closes. So
//! also a server that is killed leaves no command behind.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use socketserver::command::{inherit_only_stdio, restore_limits};

use crate::input::Input;
use crate::{handover, processes};

/// To the supervisor: Ctrl-C.
pub const INTERRUPT: u8 = b'i';
/// To the supervisor: end the command, kindly and then by force.
pub const TERMINATE: u8 = b't';

/// A command with its supervisor. It has to be ended by [`end`](Self::end), whatever happens.
pub struct Running {
    supervisor: Child,
    control: Option<UnixStream>,
    pub stdout: Option<ChildStdout>,
    pub stderr: Option<ChildStderr>,
    pub input: Input,
    /// What the supervisor has said of the end: the body of one message.
    report: Vec<u8>,
    /// When it has to have ended: it was told to.
    until: Option<Instant>,
}

/// How long a supervisor may take for the end, once it is told. It keeps to less by itself, and one that does
/// not was stopped, as by its command.
const LONGEST_END: Duration = Duration::from_secs(10);

impl Running {
    pub fn start(arguments: &[OsString], has_input: bool) -> io::Result<Self> {
        let (control, its_control) = UnixStream::pair()?;
        control.set_nonblocking(true)?;
        // Two threads may start commands at once; what the other one starts closes this all the same.
        let input = has_input.then(rustix::pipe::pipe).transpose()?;
        let (its_stdin, stdin) =
            input.map_or((None, None), |(read, write)| (Some(read), Some(write)));
        // The first thing that the supervisor reads. It has no other place for this descriptor.
        handover::send(&control, its_stdin.as_ref().map(AsFd::as_fd))?;
        drop(its_stdin);
        let input = Input::new(stdin.map(File::from))?;
        let mut command = Command::new(own_program()?);
        command.args(["supervise", "--"]).args(arguments);
        command.stdin(OwnedFd::from(its_control)).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Neither the server's descriptors nor the limit that it has raised for itself are its clients' business.
        let mut supervisor = inherit_only_stdio(restore_limits(&mut command)).spawn()?;
        let (stdout, stderr) = (supervisor.stdout.take(), supervisor.stderr.take());
        let (control, report) = (Some(control), Vec::new());
        // Nothing after the spawn may fail: what was started has to be ended.
        Ok(Self { supervisor, control, stdout, stderr, input, report, until: None })
    }

    /// Hands on Ctrl-C.
    pub fn interrupt(&self) {
        self.tell(INTERRUPT);
    }

    /// Has the supervisor end the command, kindly and then by force.
    pub fn terminate(&mut self) {
        self.until.get_or_insert_with(|| Instant::now() + LONGEST_END);
        self.tell(TERMINATE);
        // Its command may have stopped it, so that it hears nothing.
        if let Some(supervisor) = self.supervisor_id() {
            let _ = kill_process(supervisor, Signal::CONT);
        }
    }

    /// One that has ended needs to be told nothing, and one whose socket is full of the same will come to it.
    fn tell(&self, what: u8) {
        if let Some(control) = &self.control {
            let _ = (&*control).write(&[what]);
        }
    }

    /// Readable when the supervisor has something to say, or has ended; none when that was seen.
    pub fn control(&self) -> Option<&UnixStream> {
        self.control.as_ref()
    }

    /// Takes what the supervisor says, up to its end.
    pub fn read_report(&mut self) {
        let Some(control) = &mut self.control else { return };
        match control.read_to_end(&mut self.report) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => self.control = None,
        }
    }

    /// What the supervisor has said of the end.
    pub fn report(&self) -> &[u8] {
        &self.report
    }

    /// Ends a supervisor that should have ended long ago.
    pub fn enforce_end(&mut self) {
        if self.control.is_some() && self.until.is_some_and(|until| until <= Instant::now()) {
            // It may have ended in this moment.
            let _ = self.supervisor.kill();
        }
    }

    /// Waits for the end of everything that belongs to the command. Who prints into a closed pipe is told
    /// so, and the supervisor sees to it that this takes no longer than its own patience.
    pub fn end(mut self) {
        self.terminate();
        (self.stdout, self.stderr) = (None, None);
        self.input.close();
        while let (Some(control), Some(until)) = (&self.control, self.until) {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(control, PollFlags::IN)];
            let _ = Timespec::try_from(left).map(|left| poll(&mut fds, Some(&left)));
            self.read_report();
            self.enforce_end();
        }
        // Only a look: what it leaves is found by its number, which is its own until it is waited for.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let supervisor = self.supervisor_id();
        let ended = supervisor.and_then(|pid| waitid(WaitId::Pid(pid), look).ok().flatten());
        if ended.is_some_and(|status| status.terminating_signal().is_some()) {
            self.kill_session();
        }
        let _ = self.supervisor.wait();
    }

    /// Where the supervisor was killed nobody knows all that belongs to the command; but what has not left its
    /// session, which the supervisor has begun, is known.
    fn kill_session(&self) {
        /// They may be forking while they are killed; what may not be killed is left in the end.
        const PATIENCE: Duration = Duration::from_secs(1);
        let until = Instant::now() + PATIENCE;
        loop {
            let left = processes::of_session(self.supervisor.id());
            if left.is_empty() || until <= Instant::now() {
                return;
            }
            for process in left {
                // It may have ended in this moment.
                let _ = kill_process(process, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn supervisor_id(&self) -> Option<Pid> {
        i32::try_from(self.supervisor.id()).ok().and_then(Pid::from_raw)
    }
}

/// The program that runs as the supervisor: this one, on Linux also where its file has been replaced since.
pub fn own_program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() }
}

/// Leaves the server's session, and with it the terminal that the server may have been started from: Ctrl-C
/// there is for the server, and nothing of a client's may read what is typed there.
pub fn leave_terminal() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}
