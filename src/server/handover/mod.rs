//! [`Handover`]: a server's place in a line of processes that hand their sockets on. The page of the module is in
//! `lib.rs`.
//!
//! | file | noun |
//! |---|---|
//! | `ask_predecessor.rs` | the start of a successor: connects, asks, keeps the sockets for the binds |
//! | `coordinator.rs`, `coordinator/handing_over.rs` | the state of a run, in both roles, and its turns |
//! | `candidate.rs`, `left_behind.rs` | the successor as its predecessor sees it: before it is ready, and after it has failed |
//! | `own_sockets.rs` | the sockets that are passed |
//! | `program.rs` | the program that SIGUSR2 starts, and how the new process finds its starter |
//! | `channel.rs`, `message.rs` | whole messages over a Unix socket, and their bytes |
//!
//! Usually a process is a successor first and a predecessor later. The two ways to find each other, by the path and by
//! SIGUSR2, end in the same connection, and everything after that is the same.

mod ask_predecessor;
mod candidate;
mod channel;
mod coordinator;
mod left_behind;
mod message;
mod own_sockets;
mod program;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::fork::{self, AnyServer};
use super::{BaseServer, DrainReport, run_all};
use crate::bind_address::BindAddress;
use crate::error::{Error, Result};
use crate::on_drop::OnDrop;
use crate::shutdown::ShutdownHandle;
use crate::sys::{self, SignalGuard};
use crate::transport::predecessor_sockets;
use crate::transport::{Bind, SocketOptions, Transport, UnixStream};
use crate::wait::Event;

pub(super) use coordinator::Coordinator;

use ask_predecessor::Predecessor;
use program::Program;

/// A process in a line of processes that hand their listening sockets on, so that a restart refuses no client and loses
/// none.
///
/// Made at the beginning of the program, before its servers are bound: if a server runs already, its sockets are
/// fetched, and each `bind` takes its own from among them. Then [`run_all`](Self::run_all) or [`run`](Self::run) serves.
///
/// ```no_run
/// use socketserver::handover::Handover;
/// use socketserver::{ThreadingTcpServer, stream_fn};
///
/// # fn main() -> socketserver::Result<()> {
/// let handover = Handover::at("/run/echo.handover")?;
/// let server = ThreadingTcpServer::bind("127.0.0.1:9999", stream_fn(|_request| Ok(())))?;
/// handover.run(&server)?;
/// # Ok(())
/// # }
/// ```
///
/// The [module](crate::handover) says what happens, and what an operator does.
#[derive(Debug)]
#[must_use = "`run` or `run_all` hands over; dropped, it leaves everything to the server that runs already"]
pub struct Handover {
    /// How long a successor of this process may take to be ready.
    within: Duration,
    /// The socket at which successors ask. `None` if a successor can only be started by SIGUSR2.
    listener: Option<UnixStream>,
    /// The server whose place this process takes.
    predecessor: Option<Predecessor>,
    /// The program for SIGUSR2 to start: found at the beginning, before the working directory or the file may change.
    program: Program,
    /// SIGUSR2, which would otherwise end the process.
    signal: Signal,
    /// Servers that run beside those of the run.
    beside: Vec<Beside>,
}

/// A server that another part of the program serves.
#[derive(Debug)]
struct Beside {
    /// The server without its types. The coordinator does not keep it alive.
    server: Weak<dyn AnyServer>,
    /// A handle that stops the server when the successor serves.
    handle: ShutdownHandle,
}

/// SIGUSR2, taken from the beginning on: a signal that comes before the servers serve is kept.
#[derive(Debug)]
struct Signal {
    /// Whether the signal has come, and no successor was started since then.
    came: Arc<AtomicBool>,
    /// The event that wakes the thread that takes the turns.
    wake: Arc<Wake>,
    /// Gives the signal back when it is dropped. `None` if the process was started with the signal ignored, which it
    /// keeps.
    _taken: Option<SignalGuard>,
}

/// An event whose clear costs no system call while nobody has notified it: the loop of a server that forks clears it for each
/// request.
#[derive(Debug)]
struct Wake {
    event: Event,
    /// Set after the event was notified, so that the event never stays readable unseen. At worst a call of `clear` comes
    /// too early, and the next one clears the event.
    is_notified: AtomicBool,
}

impl Wake {
    fn new() -> io::Result<Self> {
        Ok(Self { event: Event::new()?, is_notified: AtomicBool::new(false) })
    }

    /// Notifies the event. A signal's action may call this.
    fn notify(&self) {
        self.event.notify();
        self.is_notified.store(true, Ordering::SeqCst);
    }

    /// Clears the event. The thread that takes the turns calls this before it reads the flags, so that they are read after
    /// each notification.
    fn clear(&self) {
        // A load first: a store would write to a page that the next child then has to copy.
        if self.is_notified.load(Ordering::SeqCst) {
            self.is_notified.store(false, Ordering::SeqCst);
            self.event.clear();
        }
    }
}

/// How long a successor may take, from its start until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to look for a predecessor whose socket is there at one moment and gone at the next: it is stopping, or two
/// processes begin at once.
const PREDECESSOR_GAP: Duration = Duration::from_secs(5);

impl Handover {
    /// Asks the server that answers at this path for its sockets, and waits for them, up to 60 s. If no server
    /// answers, this process is the first. From [`run`](Self::run) on the process itself answers at the path, and
    /// starts a successor on SIGUSR2.
    ///
    /// The path is that of a Unix socket, with mode 0600: only processes of the same user get the sockets. Its folder
    /// must be there. A file that a killed server has left is replaced.
    ///
    /// # Errors
    ///
    /// If the server at the path belongs to another user, refuses, or does not answer in time; if the path cannot be
    /// bound; and for the reasons of [`by_signal`](Self::by_signal).
    pub fn at(path: impl AsRef<Path>) -> Result<Self> {
        let mut this = Self::by_signal()?;
        this.open_socket(path.as_ref())
            .inspect_err(|_| drop(predecessor_sockets::close_the_rest()))?;
        Ok(this)
    }

    /// Prepares a process whose successors are started by SIGUSR2 alone: there is no path, and no file.
    ///
    /// # Errors
    ///
    /// If this process was started as a successor and its predecessor refuses; if the signal cannot be handled; and if
    /// the system does not tell which program runs.
    pub fn by_signal() -> Result<Self> {
        // Done before there is a socket, which could take the number of a closed standard stream.
        sys::fill_standard_descriptors();
        let signal =
            Signal::take().map_err(|error| Error::io("take the signal", "SIGUSR2", error))?;
        let program = Program::of_this_process()
            .map_err(|error| Error::io("find", "the program of this process", error))?;
        let (whom, until) = (
            "the server that has started this process",
            Instant::now() + ask_predecessor::ASK_TIMEOUT,
        );
        let predecessor = match program::starter() {
            Some(channel) => ask_predecessor::ask(channel, whom, until)?,
            None => None,
        };
        let (within, beside) = (READY_TIMEOUT, Vec::new());
        Ok(Self { within, listener: None, predecessor, program, signal, beside })
    }

    /// Sets how long a successor of this process may take, from its start until it is ready. If it takes longer, this
    /// process goes on by itself, and says why. Default: 30 s.
    pub fn within(mut self, limit: Duration) -> Self {
        self.within = limit;
        self
    }

    /// Also hands over the socket of a server that is not part of the run: one that [serves in the
    /// background](crate::Server::serve_in_background), for example for the program's operator. When the successor
    /// serves, this server is told to [`shutdown`](crate::Server::shutdown). The program has to close it.
    pub fn beside(mut self, server: &dyn BaseServer) -> Self {
        // A server of another crate has no socket that could be passed.
        self.beside.extend(fork::find(server.context()).map(|found| Beside {
            server: Arc::downgrade(&found),
            handle: server.shutdown_handle(),
        }));
        self
    }

    /// Whether this process takes the place of a server that runs.
    #[must_use]
    pub fn is_successor(&self) -> bool {
        self.predecessor.is_some()
    }

    /// Does [`Server::run`](super::Server::run) in a line of processes: when this process serves, its predecessor
    /// stops; and it stops when its own successor serves.
    ///
    /// # Errors
    ///
    /// Those of [`run_all`](Self::run_all).
    pub fn run(self, server: &dyn BaseServer) -> Result<DrainReport> {
        let grace = server.context().limits().drain;
        let mut reports = self.run_all(&[Box::new(server)], grace, || ())?;
        Ok(reports.remove(0))
    }

    /// Does [`run_all`](crate::run_all()) in a line of processes: when all servers serve, the predecessor stops; and
    /// they stop when the successor serves. The predecessor learns of the servers only after `ready` has returned.
    ///
    /// A thread hands over beside the servers; a server that [forks](crate::Forking) does it in its loop.
    ///
    /// # Errors
    ///
    /// Those of `run_all`. Also if the predecessor goes on without this process, for one of three reasons: it has
    /// waited for too long, it was told to stop, or no server here binds to one of its addresses (then this
    /// process is more likely another program, which was given the path by mistake). The servers of this process are
    /// then closed. If only some of the predecessor's addresses are not taken, the hook
    /// [`warning`](crate::ServerHooks::warning) names them.
    pub fn run_all(
        self,
        servers: &[Box<dyn BaseServer + '_>],
        grace: Duration,
        ready: impl FnOnce(),
    ) -> Result<Vec<DrainReport>> {
        // The coordinator shares the flag and the event. The signal itself is taken until this returns.
        let (coordinator, _signal) = Coordinator::open(servers, self);
        let coordinator = Arc::new(coordinator);
        // The servers keep the coordinator for longer than the run, so its own drop would close nothing in time.
        let open = OpenDesk(&coordinator);
        coordinator.introduce();
        let reports = if servers.iter().any(|server| server.context().role().is_parent()) {
            run_all::run_all(servers, grace, ready)
        } else {
            let cannot = |error| Error::io("start", "the thread that waits for SIGUSR2", error);
            let over = Arc::new(Event::new().map_err(cannot)?);
            let (its_coordinator, until) = (Arc::clone(&coordinator), Arc::clone(&over));
            let thread = thread::Builder::new().name("handover".to_owned());
            let serving = thread.spawn(move || its_coordinator.serve(&until)).map_err(cannot)?;
            let reports = {
                let _over = OnDrop(|| over.notify());
                run_all::run_all(servers, grace, ready)
            };
            serving.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
            reports
        };
        // The coordinator is closed before this returns, because the program may begin its next run at the same path.
        drop(open);
        let failure = coordinator.failure.lock().take();
        failure.map_or(reports, Err)
    }

    /// Gets the sockets of the server that answers at the path, unless the process that has started this one has
    /// passed them already. Then binds the path, so that the next process is answered here.
    ///
    /// Each round ends in one of three ways: a predecessor's listener is taken over; the path is bound, and this
    /// process is the first; or another process has the path, and the next round asks that one.
    fn open_socket(&mut self, path: &Path) -> Result<()> {
        let options = SocketOptions::default().unix_mode(0o600).unlink_on_close(true);
        let began = Instant::now();
        let (deadline, mut until) = (began + ask_predecessor::ASK_TIMEOUT, began + PREDECESSOR_GAP);
        loop {
            let mut asked_here = false;
            if self.predecessor.is_none() {
                let asked_at = Instant::now();
                if let Some(channel) = ask_predecessor::connect(path, deadline)? {
                    let whom = format!("the server at {}", path.display());
                    self.predecessor = ask_predecessor::ask(channel, &whom, deadline)?;
                    asked_here = self.predecessor.is_some();
                }
                // Waiting for an answer does not count as looking for a predecessor. All answers together have one
                // deadline.
                until += asked_at.elapsed();
            }
            let coordinator =
                self.predecessor.as_ref().and_then(|predecessor| predecessor.coordinator);
            // The socket that has answered at this path is taken, whatever its file was called when it was bound. A socket
            // from the starter is found by its path, as every other socket: this process may have been given another path.
            let passed = if asked_here {
                coordinator.and_then(predecessor_sockets::take_numbered)
            } else {
                None
            };
            let bound = match passed {
                Some(passed) => UnixStream::over_predecessors(passed, &options),
                None => UnixStream::unbound(&BindAddress::from(path), &options).and_then(
                    |coordinator| coordinator.server_bind(&|_| Ok(())).map(|()| coordinator),
                ),
            };
            match bound.and_then(|coordinator| coordinator.server_activate().map(|()| coordinator))
            {
                Ok(coordinator) => {
                    self.listener = Some(coordinator);
                    return Ok(());
                }
                // Another process was faster, and is asked next; or a process that is stopping has not closed its
                // socket yet.
                Err(error) if error.is_address_in_use() && self.predecessor.is_none() => {
                    if Instant::now() >= until {
                        return Err(error);
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Closes the coordinator when the run is over, even if the run could not begin, or panics.
struct OpenDesk<'a>(&'a Coordinator);

impl Drop for OpenDesk<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Signal {
    /// Takes the signal for this process, unless it is ignored: then a successor can only come by the path.
    fn take() -> io::Result<Self> {
        let (came, wake) = (Arc::new(AtomicBool::new(false)), Arc::new(Wake::new()?));
        let action = {
            let (came, wake) = (Arc::clone(&came), Arc::clone(&wake));
            move || {
                // The flag is set first: a thread that is woken has to find it. In a forked child `notify` does nothing,
                // and no thread reads the flag.
                came.store(true, Ordering::SeqCst);
                wake.notify();
            }
        };
        let is_free = !sys::is_ignored(libc::SIGUSR2);
        let taken = is_free.then(|| sys::on_signal(libc::SIGUSR2, action)).transpose()?;
        Ok(Self { came, wake, _taken: taken })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_stays_until_it_is_cleared_and_comes_again() {
        let wake = Wake::new().unwrap();
        for _ in 0..2 {
            wake.clear();
            assert!(!wake.event.is_set());
            wake.notify();
            wake.notify();
            assert!(wake.event.is_set());
        }
        wake.clear();
        assert!(!wake.event.is_set());
    }
}
