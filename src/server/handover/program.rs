//! The program that this process runs, to be started again: SIGUSR2 starts the successor from it.
//!
//! ```text
//! this process                                       the successor
//!   at its beginning: the path and the arguments
//!   SIGUSR2: a pair of sockets
//!   spawn, with one end and VARIABLE=FD:PID  ----->    starter(): the end, if PID has really made it
//!   Candidate::started, with the other end              ask(), as over the path
//! ```

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;

use super::channel::Channel;
use crate::sys::{self, pass_fds};

/// The variable by which a successor finds its end of the connection: `DESCRIPTOR:PROCESS`, the number of the
/// descriptor and the process that has started it. It is not removed, because other threads may read the environment at
/// that moment. So [`starter`] checks whether it is still true.
const VARIABLE: &str = "SOCKETSERVER_HANDOVER";

/// A program's path and its arguments.
#[derive(Debug)]
pub(super) struct Program {
    /// The path by which the program was started. Links in it are not resolved, because an upgrade puts another file there,
    /// or points a link elsewhere.
    pub(super) path: PathBuf,
    /// The arguments without the first one, which is the program's name.
    arguments: Vec<OsString>,
}

impl Program {
    /// The program of this process. Called at its beginning, while the working directory is still that of its start.
    ///
    /// # Errors
    ///
    /// If the system does not tell which file runs, for example because `/proc` is not mounted.
    pub(super) fn of_this_process() -> io::Result<Self> {
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_default();
        let path = match started_by(&name) {
            Some(path) => path,
            None => env::current_exe()?,
        };
        Ok(Self { path, arguments: arguments.collect() })
    }

    /// Starts the program with this process's arguments, environment and standard descriptors, and with one end of a
    /// new connection. The sockets to serve come later, as messages. The caller reaps the child.
    ///
    /// # Errors
    ///
    /// If there is no such file any more, or it cannot be run, or there are no descriptors for the connection.
    pub(super) fn start(&self) -> io::Result<(Child, Channel)> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(&self.path);
        let told = format!("{}:{}", sys::number(&theirs), std::process::id());
        command.args(&self.arguments).env(VARIABLE, told);
        // A service manager watches the next process in the place of this one.
        command.env_remove("WATCHDOG_PID");
        // The successor gets its sockets from this process, and not from the service manager, even if its process id
        // happens to be the one in this variable.
        command.env_remove("LISTEN_PID");
        // The successor raises the limit itself, and has to start from the original one.
        sys::restore_descriptors(&mut command);
        let child = pass_fds::spawn_with(&mut command, theirs.as_fd())?;
        Ok((child, Channel::new(Arc::new(ours.into()))))
    }
}

/// The path behind the name that the program was started by. `None` if another file runs: the first argument is the
/// program's name only by convention.
fn started_by(name: &OsString) -> Option<PathBuf> {
    // The link in /proc leads to the running file, even after its name was given to another file.
    let running = fs::metadata("/proc/self/exe").ok()?;
    let is_running = |path: &PathBuf| {
        let found = fs::metadata(path);
        found.is_ok_and(|found| (found.dev(), found.ino()) == (running.dev(), running.ino()))
    };
    let name_as_path = Path::new(name);
    if name_as_path.components().count() > 1 {
        return std::path::absolute(name_as_path).ok().filter(is_running);
    }
    // Searches PATH, as a shell does.
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(name)).find(is_running)
}

/// The connection to the process that has started this one as its successor. `None` if there is no such process, or if
/// the connection was taken before.
pub(super) fn starter() -> Option<Channel> {
    let told = env::var(VARIABLE).ok()?;
    let (number, process) = told.split_once(':')?;
    let (number, process) = (number.parse().ok()?, process.parse().ok()?);
    // The variable may be older than this process: programs that a successor starts inherit it.
    let socket: OwnedFd = pass_fds::take_from_starter(number, |fd| {
        let starter = sys::credentials(fd)?;
        // A socket pair keeps the credentials of the process that has made it, even after an exec. Where the system
        // tells no number, the user and the kind have to be enough.
        let is_ours = starter.pid.is_none_or(|pid| pid == process)
            && starter.uid == sys::user()
            && socket2::SockRef::from(&fd).r#type()? == socket2::Type::STREAM;
        Ok(is_ours)
    })
    .ok()?;
    Some(Channel::new(Arc::new(socket)))
}
