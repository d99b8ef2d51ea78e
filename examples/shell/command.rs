//! A command as the server holds it: the output of its pipes, and the control socket of its supervisor.
//!
//! The command is not this process's own child, but that of a supervisor (see `supervise.rs`), which can be
//! told two things over its control socket, and ends everything of the command when that socket closes. So
//! also a server that is killed leaves no command behind.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

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
    /// What the supervisor has said of the end: the body of one message.
    report: Vec<u8>,
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
        Ok(Self { supervisor, control: Some(control), stdout, stderr, report: Vec::new() })
    }

    /// Tells the supervisor. One that has ended needs to be told nothing, and one whose socket is full of
    /// the same will come to it.
    pub fn tell(&self, what: u8) {
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

    /// What the supervisor has said.
    pub fn report(&self) -> &[u8] {
        &self.report
    }

    /// Waits for the end of everything that belongs to the command. Who prints into a closed pipe is told
    /// so, and the supervisor sees to it that this takes no longer than its own patience.
    pub fn end(mut self) {
        self.tell(TERMINATE);
        (self.stdout, self.stderr) = (None, None);
        let _ = self.supervisor.wait();
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
