//! [`Coordinator`]: the handovers of a process that serves, first from its predecessor and then to its successor.
//!
//! ```text
//!   Succeeding ---- released, or the predecessor is gone ----> Idle <------- failed --------+
//!       |                                                       |                           |
//!       | refused                                               | SIGUSR2, or asked         |
//!       v                                                       v                           |
//!      Over <------------------ ready, or a stop ----------- Applying ----------------------+
//! ```
//!
//! A turn checks everything once. It waits only for a successor that reads its sockets (`own_sockets.rs`); the last turn
//! also waits, a second at most each, until listeners are closed and a candidate has answered. A thread of the
//! coordinator's own takes the turns (`serve`); in a server that forks, the accept loop takes them, because a fork needs a
//! process with one thread. Turns are taken by one thread at a time, so a transition needs no lock. The lock of the state
//! is there for the other threads that ask for the descriptor of the next wait, and for the end of the run.
//!
//! ```text
//! this process                  this coordinator                              the other process
//! a server serves               serving + 1, wake
//!                               all serve: Ready ------------------->  its servers stop; it closes its listeners
//!                               <----------- Release, or the end of its connection
//!                               the sockets are this process's
//! SIGUSR2                       signalled, wake
//!                               starts it; Hello, Sockets, Ready       it serves
//! servers are told to stop <--  Ready
//!                               Release  ------------------------->    the sockets are its own
//! listeners are closed          its own listener is closed
//! ```
//!
//! From the moment at which the successor serves until its predecessor stops, both processes accept from the same
//! queues: there is no moment at which a client is refused. After any mistake of a successor this process goes on; and
//! a successor whose predecessor refuses does not serve.

mod handing_over;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ask_predecessor::{self, Predecessor, refused};
use super::candidate::{Candidate, CandidateStep};
use super::left_behind::LeftBehind;
use super::message::{HandoverMessage, nonsense};
use super::own_sockets::OwnSockets;
use super::program::Program;
use super::{Handover, Signal, Wake};
use crate::error::Error;
use crate::server::BaseServer;
use crate::server::fork;
use crate::shutdown::ShutdownHandle;
use crate::transport::{Holders, Transport, predecessor_sockets};
use crate::wait::{self, Event, Interest, Waiting};

/// The handovers of one run. The servers of the run know their coordinator, and keep it for longer than the run:
/// `close` leaves it without a socket.
pub(crate) struct Coordinator {
    /// How long a successor may take to be ready.
    pub(super) within: Duration,
    /// The sockets that this process hands over.
    pub(super) sockets: OwnSockets,
    /// The program for SIGUSR2 to start.
    program: Program,
    /// Whether SIGUSR2 has come: see [`Signal`].
    signalled: Arc<AtomicBool>,
    /// The event that wakes the thread that takes the turns: SIGUSR2 has come, or a server has begun to serve.
    wake: Arc<Wake>,
    /// Handles of the servers of the run. They are told to stop when the successor serves, or if this process may not
    /// serve.
    handles: Vec<ShutdownHandle>,
    /// Handles of servers that are not part of the run. They are told to stop when the successor serves, and are not waited
    /// for.
    told: Vec<ShutdownHandle>,
    /// How many servers of the run have begun to serve. Before all do, this process neither says that it is
    /// ready nor takes a candidate.
    serving: AtomicUsize,
    /// `None` during a turn: a turn calls hooks, so it holds no lock and takes the state out.
    state: Mutex<Option<State>>,
    /// Whether the state is `Idle` or `Over`, and no successor is left behind. The loop of a server that forks reads
    /// only this for each request, because a turn would write to pages that its child then has to copy.
    at_rest: AtomicBool,
    /// Why this process may not serve. `run_all` returns it when its servers have stopped.
    pub(super) failure: Mutex<Option<Error>>,
    /// Successors that have failed.
    pub(super) left: LeftBehind,
}

/// The state of the coordinator: see the diagram at the top of the file.
enum State {
    /// This process is a successor. Its predecessor has not said yet that it accepts no more. `told`: whether the
    /// predecessor knows that this process is ready.
    Succeeding { predecessor: Predecessor, told: bool },
    /// This process serves, and no successor is starting.
    Idle,
    /// A successor of this process is starting.
    Applying(Candidate),
    /// This process accepts no more.
    Over,
}

/// The next state, and when to handle it.
enum Step {
    /// At once: there may be something to do in this state.
    Again(State),
    /// At the next wake-up: there is nothing to do until then.
    Wait(State),
}

impl Coordinator {
    /// The coordinator of servers that are about to be run, and the signal, which stays taken for as long as the caller keeps
    /// it.
    pub(super) fn open(servers: &[Box<dyn BaseServer + '_>], handover: Handover) -> (Self, Signal) {
        let Handover { within, listener, predecessor, program, signal, beside } = handover;
        let found = servers.iter().filter_map(|server| fork::find(server.context()));
        let found = found.map(|server| Arc::downgrade(&server));
        let (beside, told): (Vec<_>, Vec<_>) =
            beside.into_iter().map(|one| (one.server, one.handle)).unzip();
        let succeeding = |predecessor| State::Succeeding { predecessor, told: false };
        let state = predecessor.map_or(State::Idle, succeeding);
        let coordinator = Self {
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
        (coordinator, signal)
    }

    /// Makes the coordinator known to its servers. They tell it when they serve, and a server that forks takes the
    /// coordinator's turns. Called once, before any of them serves. Servers outside of the run do not know the
    /// coordinator: they may have been serving for long.
    pub(super) fn introduce(self: &Arc<Self>) {
        for server in self.sockets.servers().take(self.handles.len()) {
            server.meet_coordinator(self);
        }
    }

    /// Notes that a server has begun to serve. The server's loop calls this once for each run; it does not wait.
    pub(crate) fn serves(&self) {
        self.serving.fetch_add(1, Ordering::SeqCst);
        self.wake.notify();
    }

    /// Whether all servers of the run have begun to serve.
    fn all_serve(&self) -> bool {
        self.serving.load(Ordering::SeqCst) >= self.handles.len()
    }

    /// Whether all servers of the run have begun to serve, and were then told to stop.
    fn is_stopped(&self) -> bool {
        self.all_serve() && self.handles.iter().all(ShutdownHandle::is_shutdown)
    }

    /// The body of the thread that hands over, until the run is over. `over` is notified by the thread of the run,
    /// which then joins this one. An error of a wait ends this thread too, because its turns would follow each other
    /// without rest; the servers go on.
    pub(super) fn serve(&self, over: &Event) {
        loop {
            let (fd, deadline) = self.waits();
            let mut waiting = vec![over.waiting()];
            // The first server that still runs. When it stops, this loop waits for the next one, until none is left.
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

    /// The descriptor and the deadline of the wait for the next turn, which [`wake`](Self::wake_event) ends as well. They
    /// belong to the present state, so the caller asks for them before each wait. The reference keeps the descriptor open
    /// during the wait.
    pub(crate) fn waits(&self) -> (Option<Arc<OwnedFd>>, Option<Instant>) {
        if self.is_unasked() {
            return (None, None);
        }
        match &*self.state.lock() {
            Some(State::Succeeding { predecessor, .. }) => {
                (Some(Arc::clone(predecessor.channel.socket())), None)
            }
            Some(State::Idle) => (self.sockets.listener.as_ref().and_then(Transport::fileno), None),
            Some(State::Applying(candidate)) => {
                (Some(Arc::clone(candidate.channel.socket())), Some(candidate.deadline))
            }
            Some(State::Over) | None => (None, None),
        }
    }

    /// The event that every wait for a turn includes. [`turn`](Self::turn) clears it.
    pub(crate) fn wake_event(&self) -> Waiting<'_> {
        self.wake.event.waiting()
    }

    /// Whether the coordinator is at rest, and has no socket at which a process could ask.
    #[inline]
    fn is_unasked(&self) -> bool {
        self.at_rest.load(Ordering::SeqCst) && self.sockets.listener.is_none()
    }

    /// Takes one turn: checks everything once. Called after each wait, by one thread: the coordinator's own, or the
    /// accept loop of a server that forks. It calls hooks and observers.
    pub(crate) fn turn(&self) {
        // Cleared before the flags are read: a wake-up that comes later is for the next turn.
        self.wake.clear();
        if self.is_unasked() && !self.signalled.load(Ordering::SeqCst) && !self.is_stopped() {
            return;
        }
        self.look_after_the_left();
        loop {
            // `None`: this process is a child, and has left the state to its parent.
            let Some(state) = self.state.lock().take() else { return };
            let step = self.step(state);
            let again = matches!(step, Step::Again(_));
            let (Step::Again(next) | Step::Wait(next)) = step;
            let at_rest = matches!(next, State::Idle | State::Over) && self.left.is_empty();
            *self.state.lock() = Some(next);
            // Stored after the state. Other threads read it only to save work: see `waits`.
            self.at_rest.store(at_rest, Ordering::SeqCst);
            if !again {
                return;
            }
        }
    }

    /// Does once what a state has to do, and returns the next state.
    fn step(&self, state: State) -> Step {
        // A stop comes before everything else: a candidate is dismissed, or goes on alone.
        if !matches!(state, State::Over) && self.is_stopped() {
            self.wait_until_closed();
            return Step::Wait(self.stop(state));
        }
        match state {
            State::Succeeding { predecessor, told } => self.succeed(predecessor, told),
            State::Idle => match self.next_candidate() {
                Some(candidate) => Step::Again(State::Applying(candidate)),
                None => Step::Wait(State::Idle),
            },
            State::Applying(mut candidate) => match candidate.step(self) {
                CandidateStep::Wait => Step::Wait(State::Applying(candidate)),
                CandidateStep::Failed => {
                    self.left.add_child(candidate.child.take());
                    Step::Again(State::Idle)
                }
                CandidateStep::Ready { process, taken } => {
                    self.hand_over(&candidate, process, &taken);
                    Step::Wait(State::Over)
                }
            },
            State::Over => Step::Wait(State::Over),
        }
    }

    // The part of a successor. (`handing_over.rs` has that of a predecessor.)

    /// Takes a turn of a successor: reports to the predecessor, once all servers serve, and reads its answer.
    fn succeed(&self, mut predecessor: Predecessor, mut told: bool) -> Step {
        if !told && self.all_serve() {
            let taken = self.sockets.inherited();
            // A copy that is not closed would keep clients waiting in a queue that nobody serves.
            if let Err(error) = self.close_left() {
                return Step::Wait(self.fail(error));
            }
            let ready = HandoverMessage::Ready { process: std::process::id(), taken };
            // Sent once. If the predecessor has ended, the next receive says so.
            let _ = predecessor.channel.send(&ready);
            told = true;
        }
        let error = match predecessor.channel.receive() {
            Ok(None) => return Step::Wait(State::Succeeding { predecessor, told }),
            Ok(Some((HandoverMessage::Release, _))) => return Step::Again(self.take_over()),
            // The predecessor has ended, so only this process can serve its clients.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Step::Again(self.take_over());
            }
            Ok(Some((HandoverMessage::Refuse(why), _))) => refused(&why),
            Ok(Some(_)) => nonsense("it answers something else"),
            Err(error) => error,
        };
        Step::Wait(self.fail(error))
    }

    /// Closes the predecessor's sockets that no server here has taken. They are known only when all servers are bound.
    ///
    /// # Errors
    ///
    /// If no server has taken one: see `ask_predecessor::judge_left`.
    fn close_left(&self) -> io::Result<()> {
        let has_taken = self.sockets.has_inherited_of_a_server();
        if let Some(text) =
            ask_predecessor::judge_left(&predecessor_sockets::close_the_rest(), has_taken)?
        {
            self.warn(&text);
        }
        Ok(())
    }

    /// Stops the servers of this process, because the predecessor goes on: otherwise two processes that know nothing
    /// of each other would share the clients.
    fn fail(&self, error: io::Error) -> State {
        *self.failure.lock() = Some(Error::io("take over from", "the server that runs", error));
        self.handles.iter().for_each(ShutdownHandle::shutdown);
        State::Over
    }

    /// Makes the sockets this process's own, because the predecessor has stopped.
    fn take_over(&self) -> State {
        // `close_left` may not have run: the predecessor may have ended, or stopped, before all servers here served.
        predecessor_sockets::close_the_rest();
        self.sockets.set_holders(Holders::Alone);
        State::Idle
    }

    /// Ends the coordinator's work: the run is over, or could not begin. Called once, by the thread of the run.
    pub(super) fn close(&self) {
        let state = self.state.lock().take();
        if let Some(state) = state.filter(|state| !matches!(state, State::Over)) {
            self.stop(state);
        }
        *self.state.lock() = Some(State::Over);
        // In every case: a run that could not begin has a listener too.
        self.close_listener();
        self.look_after_the_left();
    }

    /// Closes a child's copies of the listener at the path and of the connection to the other process; the child serves
    /// one request. Kept open, they would outlive a parent that ends suddenly: a process that asks at the path would
    /// wait for an answer, and the other side of the connection would not see its end.
    #[inline]
    pub(crate) fn close_in_child(&self) {
        if !self.is_unasked() {
            self.leave_to_parent();
        }
    }

    /// Closes those copies, and leaves the state to the parent. Out of line, because most forks happen at rest.
    #[cold]
    fn leave_to_parent(&self) {
        if let Some(listener) = &self.sockets.listener {
            listener.close_in_child();
        }
        // From here on a turn in this process does nothing.
        drop(self.state.lock().take());
    }

    /// Closes the listener at the path, and removes its file if that is this process's. May be called again.
    fn close_listener(&self) {
        if let Some(listener) = &self.sockets.listener {
            listener.server_close();
        }
    }

    /// Tells the operator, through the hook of the first server.
    pub(super) fn warn(&self, text: &str) {
        if let Some(server) = self.sockets.servers().next() {
            server.warn(text);
        }
    }
}
