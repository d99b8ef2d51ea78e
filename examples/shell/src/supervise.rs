//! The supervisor: a process between the server and one command. It starts the command, and ends when no process of the
//! command is left.
//!
//! ```text
//! server --- control socket --- supervisor ------- command, the leader of its process group
//!   INTERRUPT, TERMINATE  ->    (subreaper)          |- its children, in the group
//!                         <-  Ended {status}         |- a daemon that has left the group:
//!   end of the socket: as TERMINATE                     an orphan, and then the supervisor's child
//! ```
//!
//! Ctrl-C goes to the process group. A process that leaves the group (by `setsid`, as daemons do) loses its parent
//! sooner or later, and the kernel then gives it to the nearest ancestor that has asked for orphans: the supervisor.
//! So every process of the command is in the group, or becomes the supervisor's child. The supervisor ends the
//! group and its own children until no process is left.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, kill_process,
    kill_process_group, waitid, waitpid,
};

use crate::command::{INTERRUPT, TERMINATE, leave_terminal};
use crate::handover;
use crate::processes;
use crate::protocol::{Ended, Message, Status};
use crate::signals;

/// How long a command has to end after SIGTERM.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// How long after SIGKILL to wait for the last processes. Processes that are left then belong to another user, as
/// under `sudo`, and cannot be killed.
const GIVE_UP: Duration = Duration::from_secs(5);

/// The pause between two searches for children while they are killed. A killed process leaves its own children to the
/// supervisor, and a process that forks and ends again and again has to be caught in between.
const AGAIN: Duration = Duration::from_millis(2);

/// Runs a command; stdin is the control socket, to which it reports.
pub fn supervise(arguments: &[OsString]) -> ExitCode {
    // The copy is close-on-exec, because the command must not write to the socket.
    let control = match rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3) {
        Ok(control) => UnixStream::from(control),
        Err(_) => return ExitCode::FAILURE,
    };
    match Supervisor::start(&control, arguments).and_then(Supervisor::finish) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let program = arguments.first().map(OsString::as_os_str).unwrap_or_default();
            let why = format!("cannot run {program:?}: {error}");
            report(&control, Status::NotStarted, why);
            ExitCode::FAILURE
        }
    }
}

fn report(mut control: &UnixStream, status: Status, why: String) {
    // This fails if the server is gone.
    let _ = control.write_all(&Message::Ended(Ended { status, why }).body());
}

struct Supervisor<'a> {
    control: &'a UnixStream,
    /// Readable when a child has ended.
    children: UnixStream,
    /// The command itself, the leader of its group.
    leader: Pid,
    /// Whether the leader has ended. It is reaped last, because after that its number could belong to another process.
    over: bool,
    stage: Stage,
}

/// The stages of a command. Each stage of its end has the moment at which the next stage begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Asked { until: Instant },
    Killing { until: Instant },
}

/// The processes that are left of a command.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    /// There is no child.
    Nothing,
    Something,
    /// A child was reaped. It may have left children of its own, which the last search has not found.
    Perhaps,
}

impl<'a> Supervisor<'a> {
    fn start(control: &'a UnixStream, arguments: &[OsString]) -> io::Result<Self> {
        leave_terminal()?;
        control.set_nonblocking(true)?;
        let (children, ended) = UnixStream::pair()?;
        children.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(signal_hook::consts::SIGCHLD, ended)?;
        take_orphans()?;
        signals::default_in_programs();
        let (program, rest) = arguments.split_first().ok_or(ErrorKind::InvalidInput)?;
        // The server sent this descriptor before it started this process.
        let stdin = handover::receive(control)?.ok_or(ErrorKind::UnexpectedEof)?;
        let command = Command::new(program)
            .args(rest)
            // If the client sends no input, the command's stdin is empty.
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .process_group(0)
            .spawn()?;
        let leader = i32::try_from(command.id()).ok().and_then(Pid::from_raw);
        let leader = leader.ok_or(ErrorKind::InvalidData)?;
        // From here on only the command has the pipes, so that their end is the end of its output.
        let nothing = std::fs::File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(&nothing)?;
        rustix::stdio::dup2_stderr(&nothing)?;
        Ok(Self { control, children, leader, over: false, stage: Stage::Running })
    }

    fn finish(mut self) -> io::Result<()> {
        loop {
            let left = self.reap()?;
            if left == Left::Nothing {
                // No process is left, so the leader's number is no longer needed.
                waitpid(Some(self.leader), WaitOptions::NOHANG)?;
                return Ok(());
            }
            let now = Instant::now();
            let until = match self.stage {
                Stage::Running => None,
                Stage::Asked { until } if now < until => Some(until),
                Stage::Asked { .. } => {
                    self.stage = Stage::Killing { until: now + GIVE_UP };
                    continue;
                }
                Stage::Killing { until } if now < until => {
                    self.signal_all(Signal::KILL);
                    Some(now + AGAIN)
                }
                Stage::Killing { .. } => {
                    self.give_up();
                    return Ok(());
                }
            };
            self.wait(if left == Left::Perhaps { Some(now) } else { until })?;
            self.obey();
        }
    }

    /// Reaps children that have ended.
    fn reap(&mut self) -> io::Result<Left> {
        // The signals are read before the search for children: one that comes later makes the socket readable again.
        while matches!((&self.children).read(&mut [0; 64]), Ok(1..)) {}
        if !self.over {
            // The leader is not reaped here: until it is, the number of its group stays its own.
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            if let Some(status) = waitid(WaitId::Pid(self.leader), look)? {
                self.over = true;
                report(self.control, status_of(&status), String::new());
                // The processes that the leader has left behind end with it.
                self.begin_end();
            }
        }
        let mut left = if self.over { Left::Nothing } else { Left::Something };
        for child in own_children().into_iter().filter(|child| *child != self.leader) {
            let reaped = waitpid(Some(child), WaitOptions::NOHANG)?.is_some();
            left = left.max(if reaped { Left::Perhaps } else { Left::Something });
        }
        Ok(left)
    }

    fn begin_end(&mut self) {
        if self.stage == Stage::Running {
            self.signal_all(Signal::TERM);
            // A stopped process receives SIGTERM only when it continues.
            self.signal_all(Signal::CONT);
            self.stage = Stage::Asked { until: Instant::now() + PATIENCE };
        }
    }

    fn give_up(&self) {
        if !self.over {
            let why = "it may not be killed by this user, and is left".to_owned();
            report(self.control, Status::Signalled(9), why);
        }
    }

    fn obey(&mut self) {
        let mut told = [0; 64];
        match self.control.read(&mut told) {
            // The server is gone.
            Ok(0) => self.begin_end(),
            Ok(count) => {
                for word in &told[..count] {
                    match *word {
                        INTERRUPT => {
                            // The group may have ended just now.
                            let _ = kill_process_group(self.leader, Signal::INT);
                        }
                        TERMINATE => self.begin_end(),
                        _ => {}
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.begin_end(),
        }
    }

    /// Sends a signal to the whole group at once, so that no process in the group can escape by a fork; and to the
    /// children that have left the group. All other processes become children when their parents end.
    fn signal_all(&self, signal: Signal) {
        // An error means that the process has ended, or belongs to another user. A process of another user is left running
        // when the supervisor gives up.
        let _ = kill_process_group(self.leader, signal);
        for child in own_children() {
            let _ = kill_process(child, signal);
        }
    }

    fn wait(&self, until: Option<Instant>) -> io::Result<()> {
        let mut fds = vec![PollFd::new(&self.children, PollFlags::IN)];
        // A socket whose other end is closed stays readable for ever. So the control socket is watched only until the
        // supervisor begins to end the command.
        if self.stage == Stage::Running {
            fds.push(PollFd::from_borrowed_fd(self.control.as_fd(), PollFlags::IN));
        }
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match poll(&mut fds, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => Ok(()),
            result => result.map(|_| ()).map_err(io::Error::from),
        }
    }
}

fn status_of(status: &WaitIdStatus) -> Status {
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match status.exit_status() {
        Some(code) => Status::Exited(byte(code)),
        None => Status::Signalled(status.terminating_signal().map_or(0, byte)),
    }
}

/// Makes this process the parent of the command's orphans.
#[cfg(target_os = "linux")]
fn take_orphans() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(io::Error::from)
}

/// On other systems orphans go to the first process of the system, and a process that leaves the group is not ended.
#[cfg(not(target_os = "linux"))]
fn take_orphans() -> io::Result<()> {
    Ok(())
}

/// The children of this process, zombies included: none of these numbers can belong to another process.
fn own_children() -> Vec<Pid> {
    processes::of_parent(std::process::id())
}
