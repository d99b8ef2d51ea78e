//! A command as the server holds it: the output of its pipes, and the control socket of its supervisor.
//!
//! The command is not this process's own child, but that of a supervisor (see `supervise.rs`), which can be
//! told two things over its control socket, and ends everything of the command when that socket closes. So
//! also a server that is killed leaves no command behind.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

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
    /// What the supervisor has said: see [`begun`], and of the end the body of one message.
    report: Vec<u8>,
    /// When it has to have ended: it was told to.
    until: Option<Instant>,
}

/// How long a supervisor may take for the end, once it is told. It keeps to less by itself, and one that does
/// not was stopped, as by its command.
const LONGEST_END: Duration = Duration::from_secs(10);

/// What a supervisor says of a command that it has started: a byte that begins no message, and the number of
/// its process group.
pub fn begun(leader: Pid) -> [u8; 5] {
    let [a, b, c, d] = leader.as_raw_nonzero().get().to_be_bytes();
    [b'b', a, b, c, d]
}

impl Running {
    pub fn start(arguments: &[String]) -> io::Result<Self> {
        let (control, its_control) = UnixStream::pair()?;
        control.set_nonblocking(true)?;
        let mut supervisor = Command::new(own_program()?)
            .args(["supervise", "--"])
            .args(arguments)
            .stdin(OwnedFd::from(its_control))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (stdout, stderr) = (supervisor.stdout.take(), supervisor.stderr.take());
        let control = Some(control);
        Ok(Self { supervisor, control, stdout, stderr, report: Vec::new(), until: None })
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
        if let Some(supervisor) = i32::try_from(self.supervisor.id()).ok().and_then(Pid::from_raw) {
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
        match self.report.split_first_chunk::<5>() {
            Some(([b'b', ..], end)) => end,
            _ => &self.report,
        }
    }

    /// Ends a supervisor that should have ended long ago, and what can be found of its command.
    pub fn enforce_end(&mut self) {
        if self.control.is_some() && self.until.is_some_and(|until| until <= Instant::now()) {
            self.kill_group();
            // It may have ended in this moment.
            let _ = self.supervisor.kill();
        }
    }

    /// Waits for the end of everything that belongs to the command. Who prints into a closed pipe is told
    /// so, and the supervisor sees to it that this takes no longer than its own patience.
    pub fn end(mut self) {
        self.terminate();
        (self.stdout, self.stderr) = (None, None);
        while let (Some(control), Some(until)) = (&self.control, self.until) {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(control, PollFlags::IN)];
            let _ = Timespec::try_from(left).map(|left| poll(&mut fds, Some(&left)));
            self.read_report();
            self.enforce_end();
        }
        let killed = self.supervisor.wait().is_ok_and(|status| status.signal().is_some());
        if killed {
            self.kill_group();
        }
    }

    /// Where there is no supervisor that knows of all that belongs to the command, its group at least is
    /// known.
    fn kill_group(&self) {
        if let Some(([b'b', leader @ ..], _)) = self.report.split_first_chunk::<5>() {
            let leader = Pid::from_raw(i32::from_be_bytes(*leader));
            // Nothing may be left of it.
            let _ = leader.map(|leader| kill_process_group(leader, Signal::KILL));
        }
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
