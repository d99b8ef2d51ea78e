//! A service manager's part: processes that are started with sockets, and the socket to which they report.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{SOON, uninterrupted};

/// A command that is started as a service manager does it: the sockets are its descriptors from 3 on, and the variables
/// say so. Returns the command, and the descriptors that have to stay open until it is started.
pub fn activated(command: &Command, sockets: &[(&str, &dyn AsFd)]) -> (Command, Vec<OwnedFd>) {
    // The copies have high numbers, so that no redirection overwrites one that is still needed.
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

/// A service manager's notify socket, which receives a server's messages.
#[derive(Debug)]
pub struct NotifySocket {
    socket: UnixDatagram,
    /// The value of `NOTIFY_SOCKET`.
    pub place: String,
}

impl NotifySocket {
    /// A socket at a path in this folder.
    pub fn at(folder: &Path) -> Self {
        let path = folder.join("notify");
        Self::over(UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned())
    }

    /// A socket with an abstract name.
    pub fn named(name: &str) -> Self {
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None).unwrap();
        socket.bind(&SockAddr::unix(format!("\0{name}")).unwrap()).unwrap();
        Self::over(OwnedFd::from(socket).into(), format!("@{name}"))
    }

    fn over(socket: UnixDatagram, place: String) -> Self {
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self { socket, place }
    }

    /// The next message.
    pub fn told(&self) -> String {
        let mut bytes = [0; 4_096];
        let count = uninterrupted(|| self.socket.recv(&mut bytes)).expect("a message in time");
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    /// The next message with this line in it. Messages before it are dropped.
    pub fn told_of(&self, line: &str) -> String {
        loop {
            let message = self.told();
            if message.lines().any(|found| found == line) {
                return message;
            }
        }
    }

    /// The messages that come in this time.
    pub fn all_within(&self, time: Duration) -> Vec<String> {
        let (deadline, mut all) = (Instant::now() + time, Vec::new());
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            let mut bytes = [0; 4_096];
            if let Ok(count) = self.socket.recv(&mut bytes) {
                all.push(String::from_utf8(bytes[..count].to_vec()).unwrap());
            }
        }
        self.socket.set_read_timeout(Some(SOON)).unwrap();
        all
    }
}
