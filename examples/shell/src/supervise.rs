//! The supervisor: a process between the server and one command, which starts the command, and ends before
//! its server forgets it only when nothing of the command is left.
//!
//! The command leads a process group, to which Ctrl-C goes. What leaves the group (by `setsid`, as daemons do)
//! loses its parent sooner or later, and is then given to the nearest ancestor that has asked for orphans: the
//! supervisor. Because it has one command only, it knows whose they are. So all that can be left is below it,
//! and it ends its own children until there are none.

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

/// How long after SIGKILL whatever is left may still be there. It is what has another user, as `sudo` has, and
/// may not be killed by this one.
const GIVE_UP: Duration = Duration::from_secs(5);

/// How long to wait before looking for new children again, while they are killed: what is killed leaves its own
/// children, and what forks and ends again and again has to be met between the two.
const AGAIN: Duration = Duration::from_millis(2);

/// Runs a command; stdin is the control socket. Whatever there is to say is said there.
pub fn supervise(arguments: &[OsString]) -> ExitCode {
    // Closed when the command is started: it is not to speak in the supervisor's name.
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
    // Without a server nobody wants to know.
    let _ = control.write_all(&Message::Ended(Ended { status, why }).body());
}

struct Supervisor<'a> {
    control: &'a UnixStream,
    /// Readable when a child has ended.
    children: UnixStream,
    /// The command itself, the leader of its group.
    leader: Pid,
    /// It has ended. It is reaped as the last of all, because its number would then be anybody's.
    over: bool,
    stage: Stage,
}

/// How far the end has come, and when it goes further.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Asked { until: Instant },
    Killing { until: Instant },
}

/// What is left of a command.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    /// There was no child, and so nobody who could leave one.
    Nothing,
    Something,
    /// A child was reaped, which may have ended, and left its own children, after they were looked for.
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
        // Sent before this process was started.
        let stdin = handover::receive(control)?.ok_or(ErrorKind::UnexpectedEof)?;
        let command = Command::new(program)
            .args(rest)
            // Without a client's input it is at its end at once.
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .process_group(0)
            .spawn()?;
        let leader = i32::try_from(command.id()).ok().and_then(Pid::from_raw);
        let leader = leader.ok_or(ErrorKind::InvalidData)?;
        // From here on the pipes are the command's alone, so that their end is the end of its output.
        let nothing = std::fs::File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(&nothing)?;
        rustix::stdio::dup2_stderr(&nothing)?;
        Ok(Self { control, children, leader, over: false, stage: Stage::Running })
    }

    fn finish(mut self) -> io::Result<()> {
        loop {
            let left = self.reap()?;
            if left == Left::Nothing {
                // Nothing is left that its number could stand for.
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

    /// Reaps what has ended.
    fn reap(&mut self) -> io::Result<Left> {
        // What is in the pipe has been heard now; what comes later is for the next time.
        while matches!((&self.children).read(&mut [0; 64]), Ok(1..)) {}
        if !self.over {
            // Only a look: as long as it is not reaped, the number of its group is its own.
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            if let Some(status) = waitid(WaitId::Pid(self.leader), look)? {
                self.over = true;
                report(self.control, status_of(&status), String::new());
                // What the command has left behind is ended with it.
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
            // What was stopped is to hear it, too.
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
            // The server is gone, however it went.
            Ok(0) => self.begin_end(),
            Ok(count) => {
                for word in &told[..count] {
                    match *word {
                        INTERRUPT => {
                            // It may have ended in this moment.
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

    /// To the group at once, so that none of it can fork away from it, and to what has left the group and
    /// has come to be a child of ours. Those that are neither lose their parents by this, and come too.
    fn signal_all(&self, signal: Signal) {
        // Whoever has ended meanwhile needs no signal, and whoever may not be signalled is left in the end.
        let _ = kill_process_group(self.leader, signal);
        for child in own_children() {
            let _ = kill_process(child, signal);
        }
    }

    fn wait(&self, until: Option<Instant>) -> io::Result<()> {
        let mut fds = vec![PollFd::new(&self.children, PollFlags::IN)];
        // The end of the control socket stays readable, and is heard once.
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

/// Asks for the orphans of the command.
#[cfg(target_os = "linux")]
fn take_orphans() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(io::Error::from)
}

/// Elsewhere they go to the first process of the system, and what leaves the group stays.
#[cfg(not(target_os = "linux"))]
fn take_orphans() -> io::Result<()> {
    Ok(())
}

/// The children of this process, those that have ended and are not reaped among them: none of these numbers
/// can be another's.
fn own_children() -> Vec<Pid> {
    processes::of_parent(std::process::id())
}
