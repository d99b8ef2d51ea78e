//! Socket activation, without a service manager: processes that are started with sockets.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;

/// A command that is started as a service manager does it: the sockets are its descriptors from 3 on, and the variables
/// say so. The second of the pair holds what the command needs until it is started.
pub fn activated(command: &Command, sockets: &[(&str, &dyn AsFd)]) -> (Command, Vec<OwnedFd>) {
    // High numbers, so that no redirection overwrites one that is still needed.
    let copies: Vec<OwnedFd> = sockets
        .iter()
        .map(|(_, fd)| inheritable(rustix::io::fcntl_dupfd_cloexec(*fd, 30)))
        .collect();
    let redirections: String = copies
        .iter()
        .enumerate()
        .map(|(index, fd)| format!(" {}<&{number} {number}<&-", index + 3, number = fd.as_raw_fd()))
        .collect();
    let names: Vec<_> = sockets.iter().map(|(name, _)| *name).collect();
    let script = format!(
        "export LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={}; exec \"$0\" \"$@\"{redirections}",
        sockets.len(),
        names.join(":")
    );
    // The plain shells of some systems know only descriptors of one digit.
    (in_bash(&script, command), copies)
}

/// A command that is started by a script, which finds it in `"$0" "$@"`.
pub fn in_bash(script: &str, command: &Command) -> Command {
    let mut started = Command::new("bash");
    started.args(["-c", script]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => started.env(name, value),
            None => started.env_remove(name),
        };
    }
    started
}

fn inheritable(fd: rustix::io::Result<OwnedFd>) -> OwnedFd {
    let fd = fd.unwrap();
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).unwrap();
    fd
}
