//! The limits and descriptors of programs that handlers start.

use std::process::Command;

use crate::sys;

/// Makes a program start with the limit of descriptors that this process was started with.
///
/// [`Server::run`](crate::Server::run) and [`run_all`](crate::run_all) raise the soft limit of descriptors
/// (`RLIMIT_NOFILE`) to the hard one, because a server needs a descriptor for each connection. A program that a
/// handler starts inherits the raised limit, and some programs cannot cope with it. A program that uses `select`
/// writes past its tables from the 1,025th descriptor on, and a program that closes every possible descriptor is busy
/// for a while. So a handler passes its command through this function before `spawn`, `output` or `status`.
///
/// The program does not get the variables by which a service manager speaks to this process (`LISTEN_FDS`,
/// `NOTIFY_SOCKET`, `WATCHDOG_USEC` and the others of their kind), unless the command sets them itself.
///
/// The limit is not changed if it has not been raised by then, or if this process has set another limit since.
/// Everything else that a program inherits is as std leaves it: SIGPIPE has its default action, a signal that the
/// thread blocks is blocked in the program as well, and the signals that `run` takes have again the action that they
/// had when this process was started.
///
/// ```
/// use std::io::Write;
/// use std::process::Command;
/// use socketserver::stream_fn;
/// use socketserver::handler::restore_limits;
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
    forget_service_manager(command)
}

/// The variables by which a service manager speaks to this process. In a program that this process starts they mean
/// nothing, or do harm: that program would take the server's descriptors for its own, or tell the manager that the
/// server is ready or stops.
const OF_THE_SERVICE_MANAGER: [&str; 6] = [
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// Takes the variables out of the environment of a program, except for those that the command sets itself. (They cannot
/// be taken out of this process's own: other threads may be reading it.)
fn forget_service_manager(command: &mut Command) -> &mut Command {
    for name in OF_THE_SERVICE_MANAGER {
        let is_set = command.get_envs().any(|(set, value)| set == name && value.is_some());
        // Without such a variable the command stays as it was: for a command whose environment was changed, std copies
        // the whole environment.
        if !is_set && std::env::var_os(name).is_some() {
            command.env_remove(name);
        }
    }
    command
}

/// Makes a program start with its stdin, stdout and stderr, and with no other descriptor of this process.
///
/// Descriptors that this crate and std open are closed in programs anyway (`O_CLOEXEC`). Descriptors of two other kinds
/// are not: those that this process was started with (a lock that its starter holds, by `flock` as cron jobs do, or the
/// other end of a pipe), and those that another library has opened without `O_CLOEXEC`. A program that a handler starts
/// for a client would have all of these, and would hold the lock for as long as it runs.
///
/// The program also does not get the variables by which a service manager speaks to this process, as with
/// [`restore_limits`].
///
/// To hand on a descriptor by its number, make it in a later `pre_exec` of the same command: a descriptor that is
/// opened there stays open.
///
/// ```
/// use std::process::Command;
/// use socketserver::handler::{inherit_only_stdio, restore_limits};
///
/// let mut command = Command::new("date");
/// let status = inherit_only_stdio(restore_limits(&mut command)).status()?;
/// # let _ = status;
/// # std::io::Result::Ok(())
/// ```
pub fn inherit_only_stdio(command: &mut Command) -> &mut Command {
    sys::inherit_only_stdio(command);
    forget_service_manager(command)
}
