//! A command as the server holds it: the output of its pipes, and the control socket of its supervisor.
//!
//! The command is the child of a supervisor (see `supervise.rs`), and not of the server. The supervisor obeys two
//! messages over its control socket, and ends all processes of the command when that socket closes. So even a server
//! that is killed leaves no command behind.

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

use socketserver::handler::{inherit_only_stdio, restore_limits};

use crate::input::Input;
use crate::{handover, processes};

/// To the supervisor: Ctrl-C.
pub const INTERRUPT: u8 = b'i';
/// To the supervisor: end the command, kindly and then by force.
pub const TERMINATE: u8 = b't';

/// A command with its supervisor. It has to be ended by [`end`](Self::end) in every case.
pub struct Running {
    supervisor: Child,
    control: Option<UnixStream>,
    pub stdout: Option<ChildStdout>,
    pub stderr: Option<ChildStderr>,
    pub input: Input,
    /// The supervisor's report: the body of one message.
    report: Vec<u8>,
    /// When the supervisor must have ended, once it was told to end.
    until: Option<Instant>,
}

/// How long a supervisor may take to end. It needs less, unless it was stopped (by its command, say).
const LONGEST_END: Duration = Duration::from_secs(10);

impl Running {
    pub fn start(arguments: &[OsString], has_input: bool) -> io::Result<Self> {
        let (control, its_control) = UnixStream::pair()?;
        control.set_nonblocking(true)?;
        // The pipe is not close-on-exec: a program that another thread starts in between closes it
        // (`inherit_only_stdio`).
        let input = has_input.then(rustix::pipe::pipe).transpose()?;
        let (its_stdin, stdin) =
            input.map_or((None, None), |(read, write)| (Some(read), Some(write)));
        // The first message to the supervisor carries the command's stdin, because the supervisor's own is the control socket.
        handover::send(&control, its_stdin.as_ref().map(AsFd::as_fd))?;
        drop(its_stdin);
        let input = Input::new(stdin.map(File::from))?;
        let mut command = Command::new(own_program()?);
        command.args(["supervise", "--"]).args(arguments);
        command.stdin(OwnedFd::from(its_control)).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Commands get neither the server's descriptors nor the limit that it has raised for itself.
        let mut supervisor = inherit_only_stdio(restore_limits(&mut command)).spawn()?;
        let (stdout, stderr) = (supervisor.stdout.take(), supervisor.stderr.take());
        let (control, report) = (Some(control), Vec::new());
        // Nothing after the spawn may fail: a started command has to be ended.
        Ok(Self { supervisor, control, stdout, stderr, input, report, until: None })
    }

    /// Passes Ctrl-C on.
    pub fn interrupt(&self) {
        self.tell(INTERRUPT);
    }

    /// Makes the supervisor end the command, by SIGTERM and then by SIGKILL.
    pub fn terminate(&mut self) {
        self.until.get_or_insert_with(|| Instant::now() + LONGEST_END);
        self.tell(TERMINATE);
        // The command may have stopped its supervisor, which then reads nothing.
        if let Some(supervisor) = self.supervisor_id() {
            let _ = kill_process(supervisor, Signal::CONT);
        }
    }

    /// Sends a message to the supervisor. Failures are ignored: the supervisor has ended, or its socket is full of equal
    /// messages.
    fn tell(&self, what: u8) {
        if let Some(control) = &self.control {
            let _ = (&*control).write(&[what]);
        }
    }

    /// The control socket, which is readable when the supervisor reports or has ended. `None` after its end was seen.
    pub fn control(&self) -> Option<&UnixStream> {
        self.control.as_ref()
    }

    /// Reads the supervisor's report, up to its end.
    pub fn read_report(&mut self) {
        let Some(control) = &mut self.control else { return };
        match control.read_to_end(&mut self.report) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => self.control = None,
        }
    }

    /// The supervisor's report.
    pub fn report(&self) -> &[u8] {
        &self.report
    }

    /// Ends a supervisor that should have ended long ago.
    pub fn enforce_end(&mut self) {
        if self.control.is_some() && self.until.is_some_and(|until| until <= Instant::now()) {
            // This fails if the supervisor has just ended.
            let _ = self.supervisor.kill();
        }
    }

    /// Waits until all processes of the command have ended; the supervisor bounds this time. The pipes are closed
    /// first, so that a process that prints gets an error.
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
        // The supervisor is not reaped here: processes that it leaves are found by its number, which stays its own until
        // it is reaped.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let supervisor = self.supervisor_id();
        let ended = supervisor.and_then(|pid| waitid(WaitId::Pid(pid), look).ok().flatten());
        if ended.is_some_and(|status| status.terminating_signal().is_some()) {
            self.kill_session();
        }
        let _ = self.supervisor.wait();
    }

    /// Kills the processes in the supervisor's session, after the supervisor was killed. Those that have left the session
    /// are not found.
    fn kill_session(&self) {
        /// How long the kills go on: there are several rounds, because the processes may fork in between. Processes of
        /// another user are left in the end.
        const PATIENCE: Duration = Duration::from_secs(1);
        let until = Instant::now() + PATIENCE;
        loop {
            let left = processes::of_session(self.supervisor.id());
            if left.is_empty() || until <= Instant::now() {
                return;
            }
            for process in left {
                // This fails if the process has just ended.
                let _ = kill_process(process, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn supervisor_id(&self) -> Option<Pid> {
        i32::try_from(self.supervisor.id()).ok().and_then(Pid::from_raw)
    }
}

/// The path of this program, which also runs as a supervisor or a keeper. On Linux the path is valid even if the program's
/// file has been replaced.
pub fn own_program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() }
}

/// Leaves the server's session, and with it the terminal of the server: a Ctrl-C there is for the server, and a client's
/// command must not read from it.
pub fn leave_terminal() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}
