//! [`Desk`]: the handovers of a process that serves, first from its predecessor and then to its successor.
//!
//! ```text
//!   Succeeding ---- released, or the predecessor is gone ----> Idle <------- failed --------+
//!       |                                                       |                           |
//!       | refused                                               | SIGUSR2, or asked         |
//!       v                                                       v                           |
//!      Over <------------------ ready, or a stop ----------- Applying ----------------------+
//! ```
//!
//! A turn looks at everything once. It waits only for a successor that reads its sockets (`own_sockets.rs`). A thread of its
//! own takes the turns (`serve`); in a server that forks, the accept loop takes them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::applicant::{Applicant, ApplicantStep};
use super::left_behind::LeftBehind;
use super::message::{HandoverMessage, nonsense};
use super::own_sockets::OwnSockets;
use super::program::Program;
use super::successor::{self, Predecessor, refused};
use super::{Handover, Signal, Wake};
use crate::error::Error;
use crate::events::ServerEvent;
use crate::server::fork;
use crate::server::{BaseServer, catch_panic::run_catching};
use crate::shutdown::ShutdownHandle;
use crate::transport::{Holders, Transport, UnixStream, predecessor};
use crate::wait::{self, Event, Interest, Waiting};
use crate::{sys, systemd};

/// How long to wait, at a stop in the middle of a handover, for the applicant to say that it goes on, or to end.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// The handovers of one run. The servers of the run know their desk.
pub(crate) struct Desk {
    /// How long a successor may take.
    pub(super) within: Duration,
    /// The sockets that this process hands over.
    pub(super) sockets: OwnSockets,
    program: Program,
    /// SIGUSR2 has come: see [`Signal`].
    signalled: Arc<AtomicBool>,
    /// Ends a wait: SIGUSR2 has come, or all servers serve.
    wake: Arc<Wake>,
    /// Handles of the servers of the run.
    handles: Vec<ShutdownHandle>,
    /// Handles of the servers beside the run.
    told: Vec<ShutdownHandle>,
    /// How many servers of the run have begun to serve.
    serving: AtomicUsize,
    /// None during a turn. A turn calls hooks, so it holds no lock and takes the state out.
    state: Mutex<Option<State>>,
    /// The state is `Idle` or `Over`, and no successor is left behind. The loop of a server that forks looks only at
    /// this for each request, because a turn would write to pages that its child then has to copy.
    at_rest: AtomicBool,
    /// Why this process may not serve.
    pub(super) failure: Mutex<Option<Error>>,
    /// Successors that have failed.
    pub(super) left: LeftBehind,
}

/// The state of the desk: see the picture above.
enum State {
    /// This process is a successor. Its predecessor has not said yet that it accepts no more.
    Succeeding { predecessor: Predecessor, told: bool },
    /// This process serves, and no successor is starting.
    Idle,
    /// A successor of this process is starting.
    Applying(Applicant),
    /// This process accepts no more.
    Over,
}

impl Desk {
    /// The desk of servers that are about to be run.
    pub(super) fn open(servers: &[Box<dyn BaseServer + '_>], handover: Handover) -> (Self, Signal) {
        let Handover { within, listener, predecessor, program, signal, beside } = handover;
        let found = servers.iter().filter_map(|server| fork::find(server.context()));
        let found = found.map(|server| Arc::downgrade(&server));
        let (beside, told): (Vec<_>, Vec<_>) =
            beside.into_iter().map(|one| (one.server, one.handle)).unzip();
        let state = match predecessor {
            Some(predecessor) => State::Succeeding { predecessor, told: false },
            None => State::Idle,
        };
        let desk = Self {
            within,
            sockets: OwnSockets { servers: found.chain(beside).collect(), listener },
            program,
            signalled: Arc::clone(&signal.came),
            wake: Arc::clone(&signal.wake),
            handles: servers.iter().map(BaseServer::shutdown_handle).collect(),
            told,
            serving: AtomicUsize::new(0),
            state: Mutex::new(Some(state)),
            at_rest: AtomicBool::new(false),
            failure: Mutex::new(None),
            left: LeftBehind::default(),
        };
        (desk, signal)
    }

    /// Makes the desk known to its servers. They tell it when they serve, and a server that forks takes its turns.
    pub(super) fn introduce(self: &Arc<Self>) {
        for server in self.sockets.servers().take(self.handles.len()) {
            server.meet_desk(self);
        }
    }

    /// A server has begun to serve.
    pub(crate) fn serves(&self) {
        self.serving.fetch_add(1, Ordering::SeqCst);
        self.wake.notify();
    }

    fn all_serve(&self) -> bool {
        self.serving.load(Ordering::SeqCst) >= self.handles.len()
    }

    /// Whether all servers of the run were told to stop.
    fn is_stopped(&self) -> bool {
        self.all_serve() && self.handles.iter().all(ShutdownHandle::is_shutdown)
    }

    /// The thread that hands over, until the run is over.
    pub(super) fn serve(&self, over: &Event) {
        loop {
            let (fd, deadline) = self.waits();
            let mut waiting = vec![over.waiting()];
            // The first server that still runs. When it stops, the loop takes the next one, until none is left.
            let running = self.handles.iter().find(|handle| !handle.is_shutdown());
            if !matches!(&*self.state.lock(), Some(State::Over)) {
                waiting.push(self.wake_event());
                let readable =
                    |fd| Waiting { fd: AsFd::as_fd(fd), interest: Interest::Read, slot: None };
                waiting.extend(fd.as_ref().map(readable));
                waiting.extend(running.map(|handle| handle.runs().stop_waiting()));
            }
            let waited = wait::any(&waiting, deadline);
            if let Some(handle) = running {
                handle.runs().settle();
            }
            if waited.is_err() || over.is_set() {
                return;
            }
            self.turn();
        }
    }

    /// The descriptor and the deadline that end the wait for the next turn, beside [`wake`](Self::wake_event).
    pub(crate) fn waits(&self) -> (Option<Arc<OwnedFd>>, Option<Instant>) {
        if self.is_unasked() {
            return (None, None);
        }
        match &*self.state.lock() {
            Some(State::Succeeding { predecessor, .. }) => {
                (Some(Arc::clone(predecessor.channel.socket())), None)
            }
            Some(State::Idle) => (self.sockets.listener.as_ref().and_then(Transport::fileno), None),
            Some(State::Applying(applicant)) => {
                (Some(Arc::clone(applicant.channel.socket())), Some(applicant.deadline))
            }
            Some(State::Over) | None => (None, None),
        }
    }

    /// The event that every wait for a turn includes.
    pub(crate) fn wake_event(&self) -> Waiting<'_> {
        self.wake.event.waiting()
    }

    /// Whether the desk is at rest, and has no socket at which a process could ask.
    #[inline]
    fn is_unasked(&self) -> bool {
        self.at_rest.load(Ordering::SeqCst) && self.sockets.listener.is_none()
    }

    /// Takes one turn: looks at everything once.
    pub(crate) fn turn(&self) {
        // Cleared before the flags are read: a wake-up that comes later is for the next turn.
        self.wake.clear();
        if self.is_unasked() && !self.signalled.load(Ordering::SeqCst) && !self.is_stopped() {
            return;
        }
        self.look_after_the_left();
        loop {
            let Some(state) = self.state.lock().take() else { return };
            let (next, again) = self.step(state);
            let at_rest = matches!(next, State::Idle | State::Over) && self.left.is_empty();
            *self.state.lock() = Some(next);
            self.at_rest.store(at_rest, Ordering::SeqCst);
            if !again {
                return;
            }
        }
    }

    /// The next state, and whether there may be something to do in it at once.
    fn step(&self, state: State) -> (State, bool) {
        if !matches!(state, State::Over) && self.is_stopped() {
            self.wait_until_closed();
            return (self.stop(state), false);
        }
        match state {
            State::Succeeding { predecessor, told } => self.succeed(predecessor, told),
            State::Idle => match self.next_applicant() {
                Some(applicant) => (State::Applying(applicant), true),
                None => (State::Idle, false),
            },
            State::Applying(mut applicant) => match applicant.step(self) {
                ApplicantStep::Wait => (State::Applying(applicant), false),
                ApplicantStep::Failed => {
                    self.left.add_child(applicant.child.take());
                    (State::Idle, true)
                }
                ApplicantStep::Ready { process, taken } => {
                    self.hand_over(&applicant, process, &taken);
                    (State::Over, false)
                }
            },
            State::Over => (State::Over, false),
        }
    }

    // As a successor.

    /// Tells the predecessor when all servers serve, and reads its answer.
    fn succeed(&self, mut predecessor: Predecessor, mut told: bool) -> (State, bool) {
        if !told && self.all_serve() {
            let taken = self.sockets.inherited();
            // A copy that is not closed would keep clients waiting in a queue that nobody serves.
            if let Err(error) = self.close_left() {
                return (self.fail(error), false);
            }
            let ready = HandoverMessage::Ready { process: std::process::id(), taken };
            // If the predecessor has ended, the next receive says so.
            let _ = predecessor.channel.send(&ready, &[]);
            told = true;
        }
        let error = match predecessor.channel.receive() {
            Ok(None) => return (State::Succeeding { predecessor, told }, false),
            Ok(Some((HandoverMessage::Release, _))) => return (self.take_over(), true),
            // The predecessor has ended, so only this process can serve its clients.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return (self.take_over(), true);
            }
            Ok(Some((HandoverMessage::Refuse(why), _))) => refused(&why),
            Ok(Some(_)) => nonsense("it answers something else"),
            Err(error) => error,
        };
        (self.fail(error), false)
    }

    /// Closes the predecessor's sockets that no server here has taken.
    fn close_left(&self) -> io::Result<()> {
        let has_taken = self.sockets.has_inherited_of_a_server();
        if let Some(text) = successor::judge_left(&predecessor::close_the_rest(), has_taken)? {
            self.warn(&text);
        }
        Ok(())
    }

    /// The predecessor goes on, so the servers of this process are closed.
    fn fail(&self, error: io::Error) -> State {
        *self.failure.lock() = Some(Error::io("take over from", "the server that runs", error));
        self.handles.iter().for_each(ShutdownHandle::shutdown);
        State::Over
    }

    /// The predecessor has stopped: the sockets are this process's from now on.
    fn take_over(&self) -> State {
        // Not all servers may serve yet: the predecessor has ended, or was told to stop.
        predecessor::close_the_rest();
        self.sockets.set_holders(Holders::Alone);
        State::Idle
    }

    // As a predecessor.

    /// The next applicant: SIGUSR2 starts one, or a process asks.
    fn next_applicant(&self) -> Option<Applicant> {
        if !self.all_serve() {
            return None;
        }
        if self.signalled.swap(false, Ordering::SeqCst) {
            match self.program.start() {
                Ok((child, channel)) => return Some(Applicant::started(child, channel, self)),
                Err(error) => {
                    let path = self.program.path.display();
                    self.warn(&format!(
                        "no successor: cannot start {path}: {error}; this server goes on"
                    ));
                }
            }
        }
        let (connection, _) = self.sockets.listener.as_ref()?.get_request().ok()?;
        let socket = UnixStream::connection(&connection)?;
        match sys::credentials(socket.as_fd()) {
            Ok(found) if found.uid == sys::user() => Some(Applicant::asking(found.pid, socket)),
            Ok(found) => {
                self.warn(&format!("user {} may not have the sockets of this server", found.uid));
                None
            }
            Err(_) => None,
        }
    }

    /// A successor that had the sockets has ended, and its copies are closed.
    pub(super) fn take_back(&self) {
        if !self.left.may_have_sockets() {
            self.sockets.set_holders(Holders::Alone);
        }
    }

    /// Looks whether successors that have failed have ended.
    fn look_after_the_left(&self) {
        let is_shared = || matches!(&*self.state.lock(), Some(State::Applying(_) | State::Over));
        if self.left.look() && !is_shared() {
            self.take_back();
        }
    }

    /// The successor serves: this process accepts no more.
    fn hand_over(&self, applicant: &Applicant, process: u32, taken: &[u16]) {
        let passed = applicant.passed.iter().flatten();
        for (number, target) in passed.enumerate() {
            // A socket that the successor did not take, it has closed.
            let is_taken = taken.iter().any(|taken| usize::from(*taken) == number);
            let holders = if is_taken { Holders::Other } else { Holders::Alone };
            self.sockets.with(*target, |socket| socket.set_holders(holders));
        }
        for server in self.sockets.servers() {
            if let Some(seat) = server.context().seat() {
                seat.fall_silent();
            }
        }
        // systemd accepts this message only from the main process, which this one still is.
        if let Err(error) = systemd::notify(&format!("MAINPID={process}")) {
            self.warn(&format!(
                "cannot tell the service manager (NOTIFY_SOCKET) of process {process}: {error}"
            ));
        }
        for server in self.sockets.servers() {
            let server_address = &server.context().server_address();
            server.tell(&ServerEvent::HandedOver { server_address, process });
        }
        self.handles.iter().chain(&self.told).for_each(ShutdownHandle::shutdown);
        // If the successor has ended meanwhile, its clients are lost in any case.
        let _ = applicant.channel.send(&HandoverMessage::Release, &[]);
        // Last: if the successor is killed now, one that finds nobody here has to find the addresses free.
        self.wait_until_closed();
        self.close_listener();
    }

    /// The servers stop without a successor.
    fn stop(&self, state: State) -> State {
        let State::Applying(mut applicant) = state else {
            // A predecessor that hears the end of its connection goes on, if it was not told of a ready successor.
            self.close_listener();
            return State::Over;
        };
        if applicant.is_left_to_itself() {
            // The applicant was not told to stop, so it goes on alone.
            let _ = applicant.channel.send(&HandoverMessage::Release, &[]);
        } else {
            applicant.dismiss("it was told to stop");
        }
        self.close_listener();
        if applicant.passed.is_some() {
            // Of the two processes the last one that closes a socket removes its file. If the applicant was told to stop
            // as well, before it took signals, it removes nothing.
            applicant.wait_for_end(Instant::now() + LAST_LOOK);
            self.sockets.remove_files_as_the_last();
        }
        State::Over
    }

    /// Waits until the addresses are free: before that, a process that asks would find them in use. A loop that takes
    /// the turns itself does not wait.
    fn wait_until_closed(&self) {
        let deadline = Instant::now() + Duration::from_secs(1);
        for handle in &self.handles {
            handle.wait_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// The run is over.
    pub(super) fn close(&self) {
        let state = self.state.lock().take();
        if let Some(state) = state.filter(|state| !matches!(state, State::Over)) {
            self.stop(state);
        }
        *self.state.lock() = Some(State::Over);
        self.close_listener();
        self.look_after_the_left();
    }

    /// In a child that serves one request: closes its copies of the listener at the path and of the connection to the
    /// other process. Kept open, they would outlive a parent that ends suddenly: a process that asks at the path would
    /// wait for an answer, and the other side of the connection would not see its end.
    #[inline]
    pub(crate) fn close_in_child(&self) {
        if !self.is_unasked() {
            self.leave_to_parent();
        }
    }

    #[cold]
    fn leave_to_parent(&self) {
        if let Some(listener) = &self.sockets.listener {
            listener.close_in_child();
        }
        drop(self.state.lock().take());
    }

    fn close_listener(&self) {
        if let Some(listener) = &self.sockets.listener {
            listener.server_close();
        }
    }

    /// Tells the operator, by the hook of the first server.
    pub(super) fn warn(&self, text: &str) {
        if let Some(server) = self.sockets.servers().next() {
            run_catching(|| server.warn(text));
        }
    }
}
