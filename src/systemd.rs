//! Under systemd, or another service manager with its protocols: sockets that it has opened, messages about what the
//! server does, its watchdog, and a server that stops when nobody needs it.
//!
//! | what | how |
//! |---|---|
//! | sockets that the unit has opened | [`BindAddress::activated`]`("http")`, `activated_number(0)`, `activated_only()` |
//! | readiness, reloads, the end, a line of status, the watchdog | [`run`](crate::Server::run) sends the messages, if `NOTIFY_SOCKET` is set |
//! | `systemctl reload` | [`Builder::on_reload`](crate::Builder::on_reload), by SIGHUP |
//! | a server that is started by its first client, and stops when it is idle | [`Builder::stop_when_idle`](crate::Builder::stop_when_idle) |
//! | anything else of sd_notify(3) | [`notify`] |
//!
//! ```no_run
//! use std::io::Write;
//! use std::time::Duration;
//! use socketserver::{ThreadingTcpServer, stream_fn};
//! use socketserver::transport::BindAddress;
//!
//! # fn main() -> socketserver::Result<()> {
//! let hello = stream_fn(|request| Ok(request.write_all(b"hello\n")?));
//! ThreadingTcpServer::builder()
//!     .stop_when_idle(Duration::from_secs(600))
//!     .bind(BindAddress::activated("hello.socket"), hello)?
//!     .run()?;
//! # Ok(())
//! # }
//! ```
//!
//! Two units for this program, `hello.socket` and `hello.service`:
//!
//! ```text
//! [Socket]                                [Service]
//! ListenStream=127.0.0.1:9999             Type=notify
//!                                         ExecStart=/usr/local/bin/hello
//! [Install]                               ExecReload=kill -HUP $MAINPID
//! WantedBy=sockets.target                 WatchdogSec=30
//! ```
//!
//! # Sockets
//!
//! `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` are read at the first bind that asks for a socket. They have to
//! agree with each other and with the descriptors. A socket has to be of the transport's kind, and listen
//! (`Accept=no`). Otherwise the bind fails, and its error says what was passed and what to write into the unit. Each
//! socket is taken once. The hook `before_bind` does not run, because the socket is bound already.
//!
//! The unit's settings of a socket stay, such as `Backlog=`. The service manager keeps a copy of the socket. So a
//! server that closes leaves the clients in the accept queue to the next one, does not end the listener
//! (shutdown(2)), and leaves the file of a Unix socket where it is.
//!
//! The variables stay in the environment of this process, because removing one would be a race with other threads.
//! Programs that handlers start do not get them if their commands pass through
//! [`inherit_only_stdio`](crate::handler::inherit_only_stdio) or [`restore_limits`](crate::handler::restore_limits).
//! The descriptors are closed in every started program.
//!
//! # What `run` sends
//!
//! If `NOTIFY_SOCKET` is set, [`run`](crate::Server::run) and [`run_all`](crate::run_all()) send the service manager these
//! messages:
//!
//! | message | when |
//! |---|---|
//! | `READY=1` | the servers are [ready](crate::monitor::RunPhase::Ready), all of them |
//! | `RELOADING=1`, and then `READY=1` | before and after the functions that [`on_reload`](crate::Builder::on_reload) has registered |
//! | `STOPPING=1` | the last server that still serves begins its lame duck or its close |
//! | `EXTEND_TIMEOUT_USEC=..` | with `STOPPING=1`, and again when the drain begins: the time that `Limits` allows |
//! | `STATUS=..` | every ten seconds at most, if requests have come or ended: how many are open, and how many were completed |
//! | `WATCHDOG=1` | at least twice in each `WATCHDOG_USEC`, if that is set for this process |
//!
//! The watchdog watches the accept loops. Its message is sent only when every loop has gone round since the last
//! message. So a loop that hangs (in a hook, say) is noticed, although other threads go on. Under
//! [`Inline`](crate::Inline) a request is a part of the loop, so `WatchdogSec=` has to be longer than the longest
//! request. After `STOPPING=1` systemd watches the time of the stop instead.
//!
//! After a [handover](crate::handover) the old process reports which process is the main one now (`MAINPID=`), and then
//! sends nothing more: the old process stops, but the service does not. [`notify`] still sends: the program decides by
//! itself when to stop calling it.
//!
//! A message that cannot be sent is reported once, on stderr, and the server goes on. Children of
//! [`Forking`](crate::Forking) send nothing. To silence `run`, start the program without the variable: `env -u
//! NOTIFY_SOCKET`.
//!
//! `Type=notify` needs no more than this. With `Type=notify-reload`, `systemctl reload` waits until the reload is over.
//!
//! [`BindAddress::activated`]: crate::transport::BindAddress::activated

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::console::Console;
use crate::process::variable;

/// Sends a message to the service manager, as [sd_notify(3)](https://man7.org/linux/man-pages/man3/sd_notify.3.html)
/// does: lines of `NAME=VALUE`. Returns false, and sends nothing, if no service manager listens (`NOTIFY_SOCKET` is
/// not set).
///
/// [`run`](crate::Server::run) sends most messages by itself. A program may send others, from any thread:
///
/// ```
/// socketserver::systemd::notify("STATUS=the cache is being filled")?;
/// # std::io::Result::Ok(())
/// ```
///
/// The call may wait for up to a second, if the service manager does not keep up.
///
/// # Errors
///
/// If `NOTIFY_SOCKET` is neither an absolute path nor an abstract name (`@..`), or if its socket takes no message.
#[doc(alias = "sd_notify")]
pub fn notify(message: &str) -> io::Result<bool> {
    match NotifySocket::from_environment()? {
        Some(socket) => socket.send(message).map(|()| true),
        None => Ok(false),
    }
}

/// The address of the service manager's socket, and a socket to send from.
#[derive(Debug)]
struct NotifySocket {
    socket: Socket,
    /// Looked up at each send, because the service manager may make its socket anew.
    address: SockAddr,
}

/// How long a message may wait until it can be sent. The accept loop sends some of them.
const SEND_WAIT: Duration = Duration::from_secs(1);

impl NotifySocket {
    /// None, if the process has no service manager that listens.
    fn from_environment() -> io::Result<Option<Self>> {
        let Some(place) = variable("NOTIFY_SOCKET") else { return Ok(None) };
        let mut place = place.as_bytes().to_owned();
        match place.first() {
            Some(b'/') => {}
            // An abstract name is a NUL and then the name: unix(7).
            Some(b'@') => place[0] = 0,
            _ => {
                let why =
                    "NOTIFY_SOCKET is neither a path from the root on nor an abstract name (@..)";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
        }
        // A path that is too long for a socket is an error here, and is reported once.
        let address = SockAddr::unix(std::ffi::OsStr::from_bytes(&place))?;
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        Ok(Some(Self { socket, address }))
    }

    /// Sends one message, and waits for room for [`SEND_WAIT`] at most.
    fn send(&self, message: &str) -> io::Result<()> {
        let until = Instant::now() + SEND_WAIT;
        loop {
            // Signals do not extend the time. To the system a timeout of zero means no timeout.
            let left = until.saturating_duration_since(Instant::now());
            // SO_SNDTIMEO also bounds the wait for room in the receiver's queue, which no poll reports for a Unix
            // datagram.
            self.socket.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
            // A datagram is sent whole or not at all.
            match self.socket.send_to(message.as_bytes(), &self.address) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted && !left.is_zero() => {}
                result => return result.map(drop),
            }
        }
    }
}

/// The service manager of a run, if there is one.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    /// Made once for a run. Its path is looked up anew for each message.
    socket: NotifySocket,
    /// The time within which the service manager's watchdog expects a message.
    watchdog: Option<Duration>,
    /// A message could not be sent, and this was reported.
    failed: AtomicBool,
}

impl ServiceManager {
    /// The service manager that the environment names. A mistake in the environment is reported on stderr, and
    /// prevents no server from running.
    pub(crate) fn from_environment() -> Option<Self> {
        let socket = NotifySocket::from_environment().inspect_err(warn).ok()??;
        Some(Self { socket, watchdog: watchdog(), failed: AtomicBool::new(false) })
    }

    /// The time within which the watchdog expects a message.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends the service manager a message. The first failure is reported on stderr.
    pub(crate) fn tell(&self, message: &str) {
        match self.socket.send(message) {
            Ok(()) => self.failed.store(false, Ordering::SeqCst),
            // The accept loop sends every few seconds. One line on stderr is enough until a message gets through again.
            Err(error) if !self.failed.swap(true, Ordering::SeqCst) => warn(&error),
            Err(_) => {}
        }
    }
}

/// Warns the operator, on stderr: a service manager that gets no messages may restart the service or kill it.
fn warn(error: &io::Error) {
    let text = format!("warning: cannot tell the service manager (NOTIFY_SOCKET): {error}\n");
    Console::Stderr.tell(&text);
}

/// `WATCHDOG_USEC`, if it is for this process.
fn watchdog() -> Option<Duration> {
    // None: the variable is not set. An error: its text is not a number.
    let number = |name: &str| variable(name).map(|text| text.to_string_lossy().parse::<u64>());
    match number("WATCHDOG_PID") {
        // The variables are for another process, which has started this one.
        Some(process) if process != Ok(u64::from(std::process::id())) => return None,
        _ => {}
    }
    // With zero, or with a text that is not a number, there is no watchdog, as for sd_watchdog_enabled(3).
    number("WATCHDOG_USEC")?.ok().filter(|micros| *micros > 0).map(Duration::from_micros)
}
