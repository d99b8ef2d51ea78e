//! The control socket of a program: `--control unix:PATH`, through which its operator lists and ends requests, reads and
//! changes limits, and stops the program.
//!
//! # The protocol
//!
//! A command is a line of words. Its answer is any number of lines, and then one line that begins with `ok` or
//! `error`; no other line begins so. This suits typing (`nc -U PATH`, `socat - UNIX:PATH`), scripts, and
//! `PROGRAM control PATH COMMAND`. A table begins with a line of names, and has a tab between two columns.
//!
//! ```text
//! $ printf 'limit idle soon\nlimit idle 5m\n' | socat - UNIX:/run/echo.ctl
//! error the limit idle cannot be "soon": it takes seconds (60, 0.5), or a time with its unit (500ms, 60s, 5m, 2h), or none
//! ok idle is 300s for new requests
//! ```
//!
//! The commands are in [`HELP`].
//!
//! # Its users
//!
//! The file has the mode 0600. The server also asks the kernel for the user at the other end, which has to be the
//! program's own, or root. A socket with an abstract name has no mode, so such a name is not accepted.
//!
//! # It holds nothing up
//!
//! ```text
//! with threads:   a server of its own in the thread "control", ThreadingUnixStreamServer    server.rs
//! when forking:   a few non-blocking connections, which the program's loop serves in turn   in_turn.rs
//! ```
//!
//! Both forms have at most [`MOST`] connections. A further one ends the oldest that waits for a command, so that forgotten
//! terminals keep no operator out. A connection that does not take its answers is ended after some seconds, and a
//! silent one after ten minutes.

mod client;
mod command;
mod in_turn;
mod panel;
mod server;
mod terminal;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use socketserver::transport::BindAddress;
use socketserver::{Address, BaseServer, Limits, SocketOptions, UnixStreamServer};

pub use client::{ControlOptions, control};
use command::Then;
pub(crate) use command::{Operator, observe};
pub(crate) use in_turn::{EVERY, InTurn, TurnHook};

use crate::{Failure, MixinName, warn};

/// The commands, for `help`.
pub const HELP: &str = "\
live [COUNT]        the live requests, the oldest first
close ID            ends a live request
limits              the limits
limit NAME VALUE    changes a limit for new requests
counts              how many requests were accepted, and how they ended
figures             workers, queues, and what the kernel has dropped
status              all of this in numbers, for programs
watch [SECONDS]     the status again and again, until a line is sent
log [LEVEL]         says or changes how much is logged: quiet, normal or verbose
reload              has the program read again what it reads again at SIGHUP
drain [SECONDS]     stops the program: requests have so long to end, or as the limit drain says
stop                stops the program and ends its requests at once
help                this list
quit                ends this connection
";

/// How many connections there are at once: more operators than a program has.
const MOST: usize = 16;

/// The longest command, in bytes: a limit's name and its value fit.
const LINE_BYTES: usize = 512;

/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(600);

/// How long a connection may go without taking any of its answer.
const WRITE: Duration = Duration::from_secs(5);

/// Reads the argument of `--control`: `unix:PATH`, or the path alone.
pub(crate) fn path(text: &str) -> Result<PathBuf, String> {
    if ["tcp:", "udp:", "unixgram:"].iter().any(|scheme| text.starts_with(scheme)) {
        return Err("it is a Unix stream socket: write unix:PATH".to_owned());
    }
    let path = text.strip_prefix("unix:").unwrap_or(text);
    match BindAddress::from(path).to_unix() {
        Ok(Address::Unix(path)) => Ok(path),
        Ok(_) => {
            Err("a control socket has a file, whose mode keeps others out: write unix:PATH".into())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The limits of the control socket if it is a server in a thread. `in_turn.rs` applies the same bounds itself.
fn limits() -> Limits {
    Limits::default().live(4 * MOST).line_bytes(LINE_BYTES).idle(IDLE).read(IDLE).write(WRITE)
}

fn socket_options() -> SocketOptions {
    SocketOptions::default().unix_mode(0o600).unlink_on_close(true)
}

/// A control socket that is bound and not served yet.
pub(crate) enum Bound {
    Threads(server::Server),
    InTurn(UnixStreamServer),
}

impl Bound {
    /// Binds the control socket, before the program's own addresses are announced. `operator` obeys its commands.
    pub(crate) fn new(
        path: &std::path::Path,
        mixin: MixinName,
        operator: &Arc<Operator>,
    ) -> Result<Self, Failure> {
        let bound = match mixin {
            // The parent has only one thread, so a forking server serves its control socket in its loop.
            MixinName::Forking => UnixStreamServer::builder()
                .socket_options(socket_options())
                .bind(path, socketserver::stream_fn(|_request| Ok(())))
                .map(Self::InTurn),
            _ => server::bind(path, operator).map(Self::Threads),
        };
        bound.map_err(|error| {
            let is_no_socket = error.io_kind() == Some(std::io::ErrorKind::AlreadyExists);
            let advice = if error.is_address_in_use() && !is_no_socket {
                "; another program listens there: choose another --control"
            } else {
                "; choose another --control"
            };
            Failure::Other(format!("the control socket: {error}{advice}"))
        })
    }
}

impl Bound {
    /// The server of the socket, for a handover: the next process answers at the same path.
    pub(crate) fn server(&self) -> &dyn BaseServer {
        match self {
            Self::Threads(server) => server,
            Self::InTurn(server) => server,
        }
    }

    /// Serves the socket: in a thread, until the returned value is dropped, or in turns of the program's loop.
    pub(crate) fn start(
        self,
        in_turn: &InTurn,
        operator: &Arc<Operator>,
    ) -> Option<server::Running> {
        match self {
            Self::Threads(server) => server::Running::start(server)
                .inspect_err(|error| warn(&format!("the control socket is not served: {error}")))
                .ok(),
            Self::InTurn(server) => {
                in_turn.start(server, Arc::clone(operator));
                None
            }
        }
    }
}

/// Whether a user may control this process. The same user may, and root, who can do anything in any case.
fn may_control(uid: u32) -> bool {
    uid == rustix::process::geteuid().as_raw() || uid == 0
}

/// The answer for another user.
const NOT_YOURS: &str = "error this control socket is for the user of its program alone\n";

/// The servers of a program, kept for its operator.
pub(crate) type Servers = Vec<Arc<dyn BaseServer>>;
