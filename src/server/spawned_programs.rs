//! The limits and descriptors of programs that handlers start.

use std::process::Command;

use crate::sys;

/// Has a program start with the limit of descriptors that this process was started with.
///
/// [`Server::run`](super::Server::run) and [`run_all`](super::run_all) raise the soft limit of descriptors
/// (`RLIMIT_NOFILE`) to the hard one, because a server needs one for each connection. A program that a handler starts
/// inherits the raised limit, and not every program can cope with it: one that uses `select` writes past its tables from
/// the 1,025th descriptor on, and one that closes every possible descriptor is busy for a while. So a handler passes its
/// command through this before `spawn`, `output` or `status`.
///
/// Nothing is changed if the limit has not been raised by then, or if the program has set another one since. The rest that
/// a program inherits is as std leaves it: SIGPIPE does what it does by default, a signal that the thread blocks is blocked
/// in the program as well, and the signals that `run` takes do again what they did when this process was started.
///
/// ```
/// use std::io::Write;
/// use std::process::Command;
/// use socketserver::stream_fn;
/// use socketserver::command::restore_limits;
///
/// let handler = stream_fn(|request| {
///     let mut command = Command::new("date");
///     let output = restore_limits(&mut command).output()?;
///     request.write_all(&output.stdout)?;
///     Ok(())
/// });
/// # let _ = socketserver::ThreadingTcpServer::bind("127.0.0.1:0", handler);
/// ```
pub fn restore_limits(command: &mut Command) -> &mut Command {
    sys::restore_descriptors(command);
    command
}

/// Has a program start with its stdin, stdout and stderr, and with no other descriptor of this process.
///
/// Descriptors that this crate and std open are closed in programs anyway (`O_CLOEXEC`). Descriptors that this process was
/// started with are not: a lock that its starter holds (`flock`, as cron jobs do), or the other end of a pipe; nor are those
/// that another library has opened without `O_CLOEXEC`. A program that a handler starts for a client would have all of
/// these, and would hold the lock for as long as it runs.
///
/// To hand on a descriptor by its number, make it in a later `pre_exec` of the same command: what is opened there stays
/// open.
///
/// ```
/// use std::process::Command;
/// use socketserver::command::{inherit_only_stdio, restore_limits};
///
/// let mut command = Command::new("date");
/// let status = inherit_only_stdio(restore_limits(&mut command)).status()?;
/// # let _ = status;
/// # std::io::Result::Ok(())
/// ```
pub fn inherit_only_stdio(command: &mut Command) -> &mut Command {
    sys::inherit_only_stdio(command);
    command
}
