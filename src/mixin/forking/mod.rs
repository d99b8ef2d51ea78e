//! A child process for each request: Python's `ForkingMixIn`.

mod exit_status;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use self::exit_status::{PANICKED, end_of, not_by_itself, status};
use super::{Job, Mixin, Refused};
use crate::console;
use crate::error::{Error, Result};
use crate::events::CloseReason;
use crate::process::OwnerProcess;
use crate::sys::child_process::{ChildState, Ended, ExitWatch, Forked, Mark, SignalsHeld, Watched};
use crate::sys::{self, child_process};
use crate::wait::{self, Interest, Waiting};

/// Runs each request in a process of its own: it may leak, crash, or change its user, and nothing of it is
/// left when it has ended. What it changes in memory, nobody else sees.
///
/// Forking is only right in a process with one thread, so the server has to run in the main thread of a
/// program that has started no other. A program that has is refused, and the threads are named. What another thread
/// would do beside the server, [`ServerHooks::service_actions`](crate::ServerHooks::service_actions) does in its loop.
///
/// The child closes its copy of the listener, runs the request, and leaves by `_exit` with status 0, 1 if the
/// handler failed, 101 if it panicked, and others for what else a request can come to: the parent's observer and
/// counts know it. A [`Fatal`](crate::Fatal) reaches the parent with its words.
///
/// ```
/// use socketserver::Forking;
///
/// let mixin = Forking::new().max_children(100);
/// # let _ = mixin;
/// ```
///
/// As the first process of a container (PID 1), or as a subreaper, the server's process is who has to wait for what the
/// handlers' programs leave behind. It does, at once, and tells those from the children of
/// [`std::process::Command`] that the program waits for itself. (Under the other mixins nobody does: start the container
/// with an init, as by `docker run --init`.)
///
/// A child outlives its parent if that is ended by a second signal or by SIGKILL. Nobody forces it after `Limits::drain`
/// any more, and it ends by its request's own limits. Send the signal to the process group to end all; systemd does
/// (`KillMode=control-group`, its default).
///
/// A handler that fails or panics is reported by its child, in the child. A child that is ended by a signal (a crash,
/// `abort`, `kill -9`) can report nothing, and no hook is called for it in the server's process either: there it is an
/// event with [`CloseReason::Killed`], and one more in [`Counts::killed`](crate::Counts::killed). An observer prints it:
///
/// ```
/// use socketserver::{CloseReason, ForkingTcpServer, ServerEvent};
///
/// let builder = ForkingTcpServer::builder().observer(|event| match event {
///     ServerEvent::RequestEnded { reason: CloseReason::Killed, .. } => eprintln!("{event}"),
///     _ => {}
/// });
/// # let _ = builder;
/// ```
#[derive(Debug)]
#[doc(alias = "ForkingMixIn")]
pub struct Forking {
    max_children: usize,
    block_on_close: bool,
    children: Mutex<Vec<Child>>,
    /// Made when the first run begins: a mixin alone needs no descriptors.
    ears: OnceLock<Ears>,
}

/// What the parent hears its children by.
#[derive(Debug)]
struct Ears {
    exits: ExitWatch,
    /// What a `Fatal` said, one message for each; the children have the other end.
    last_words: (UnixStream, UnixStream),
    /// Whose ears they are.
    owner: OwnerProcess,
    /// What tells the orphans that requests have left behind, if this process is who adopts them: the number of a mark,
    /// or zero. It is looked at between two forks, and a lock would be written to.
    mark: AtomicU64,
}

/// Where orphans come to this process, their ends are heard of as those of children are.
fn listen_for_orphans(exits: &ExitWatch) -> io::Result<u64> {
    let Some(mark) = Mark::if_orphans_come() else { return Ok(0) };
    exits.hear_of_all()?;
    Ok(mark.number())
}

fn last_words() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((ours, theirs))
}

/// A child that has not been reaped.
struct Child {
    pid: i32,
    request: Option<Box<dyn RequestOfChild>>,
    /// None until the loop first waits: most children of a busy server have ended by then, and need not be
    /// watched, which costs more than to look.
    watched: Option<Watched>,
}

impl Child {
    fn is_watched_by_descriptor(&self) -> bool {
        matches!(self.watched, Some(Watched::ByDescriptor(_)))
    }
}

impl std::fmt::Debug for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Child").finish_non_exhaustive()
    }
}

/// As many as Python has: what a machine of 1990 could run, and enough for what processes are taken for.
const MAX_CHILDREN: usize = 40;

impl Default for Forking {
    fn default() -> Self {
        Self {
            max_children: MAX_CHILDREN,
            block_on_close: true,
            children: Mutex::default(),
            ears: OnceLock::new(),
        }
    }
}

impl Forking {
    /// A process for each request, 40 at once.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Python's `max_children`: how many processes there are at once. At the maximum nothing is accepted
    /// until one has ended. Default: 40.
    #[must_use]
    pub fn max_children(mut self, max: usize) -> Self {
        self.max_children = max.max(1);
        self
    }

    /// Python's `block_on_close`: whether `server_close` waits for the children. Default: true.
    #[must_use]
    pub fn block_on_close(mut self, block: bool) -> Self {
        self.block_on_close = block;
        self
    }

    /// Python's `active_children`: the process numbers of the children that have not ended.
    #[must_use]
    #[doc(alias = "collect_children")]
    pub fn active_children(&self) -> Vec<i32> {
        self.children.lock().iter().map(|child| child.pid).collect()
    }

    fn ears(&self) -> io::Result<&Ears> {
        if let Some(ears) = self.ears.get() {
            return Ok(ears);
        }
        let (exits, last_words) = (ExitWatch::new()?, last_words()?);
        console::share_with_children();
        let mark = AtomicU64::new(listen_for_orphans(&exits)?);
        Ok(self.ears.get_or_init(|| Ears { exits, last_words, owner: OwnerProcess::noted(), mark }))
    }

    /// Makes the ears, or, in a forked child that goes on for itself, makes them its own: what has been forked before
    /// are its parent's children.
    fn enter_process(&self) -> io::Result<()> {
        let ears = self.ears()?;
        if ears.owner.is_noted() {
            return Ok(());
        }
        for child in self.children.lock().drain(..) {
            // Neither its watch nor its place is this process's to give back.
            std::mem::forget(child);
        }
        ears.exits.renew()?;
        let (ours, theirs) = last_words()?;
        sys::replace(&ears.last_words.0, ours.into())?;
        sys::replace(&ears.last_words.1, theirs.into())?;
        ears.mark.store(listen_for_orphans(&ears.exits)?, Ordering::SeqCst);
        ears.owner.become_noted();
        Ok(())
    }

    /// Forks. The child never comes back from here.
    fn fork(&self, job: Job) {
        let ears = match self.ears() {
            Ok(ears) => ears,
            Err(error) => return job.refuse(Refused::CannotStart(error)),
        };
        job.prepare_fork();
        // What stands in the buffer would be printed by both.
        let _ = io::stdout().flush();
        // So would what this thread holds back be sent.
        wait::flush();
        let mark = ears.mark();
        let held = SignalsHeld::hold();
        match child_process::fork() {
            Err(error) => job.refuse(Refused::CannotStart(error)),
            Ok(Forked::Child) => {
                let _leaves = LeavesByPanic;
                if let Some(mark) = mark {
                    mark.put();
                }
                let end = job.run_in_child(held);
                let _ = io::stdout().flush();
                ears.tell(&end);
                sys::exit_now(status(&end));
            }
            Ok(Forked::Parent { child }) => {
                let request = job.leave_to_child(child);
                self.children.lock().push(Child { pid: child, request, watched: None });
            }
        }
    }

    /// Has the end of each child be heard of by a wait, from here on.
    fn watch_children(&self) {
        let Some(ears) = self.ears.get() else { return };
        let mut new = Vec::new();
        for child in self.children.lock().iter_mut().filter(|child| child.watched.is_none()) {
            child.watched = ears.exits.add(child.pid).ok();
            new.push(child.pid);
        }
        // One that somebody else has reaped is none of ours any more, and its number may be another's.
        for pid in new {
            self.collect(ears, pid);
        }
    }

    /// Reaps the children that have ended, and ends their requests.
    fn collect_children(&self) {
        let Some(ears) = self.ears.get() else { return };
        let is_any = |by_descriptor| {
            let is_it = |child: &Child| child.is_watched_by_descriptor() == by_descriptor;
            self.children.lock().iter().any(is_it)
        };
        let heard =
            if is_any(true) || ears.exits.hears_of_all() { Some(ears.exits.ended()) } else { None };
        for pid in heard.iter().flat_map(Ended::children) {
            self.collect(ears, pid);
        }
        let rung = heard.is_some_and(|heard| heard.rung);
        if rung && ears.exits.are_reaped_by_the_kernel() {
            self.collect_each(ears);
        }
        let mark = if rung { ears.mark() } else { None };
        let reap_orphan = |pid| mark.is_some_and(|mark| mark.reap(pid));
        // One question for all of them; and if the answer is somebody else's child, which hides ours until it
        // is reaped, one for each.
        while mark.is_some() || is_any(false) {
            let Some(pid) = child_process::ended_child() else { return };
            if self.collect(ears, pid) || reap_orphan(pid) {
                continue;
            }
            self.collect_each(ears);
            if mark.is_some() {
                for pid in child_process::children() {
                    reap_orphan(pid);
                }
            }
            return;
        }
    }

    fn collect_each(&self, ears: &Ears) {
        for pid in self.active_children() {
            self.collect(ears, pid);
        }
    }

    /// Reaps a child, if it is ours and has ended, and ends its request. Says whether that is so.
    fn collect(&self, ears: &Ears, pid: i32) -> bool {
        let place_of = |children: &[Child]| children.iter().position(|child| child.pid == pid);
        if place_of(&self.children.lock()).is_none() {
            return false;
        }
        let end = match child_process::reap(pid) {
            ChildState::Running => return false,
            ChildState::Exited(status) => ears.end(pid, status),
            // Other signals are what a crash ends by, which nobody here has sent.
            ChildState::Killed(signal) => {
                not_by_itself(CloseReason::Killed, signal == libc::SIGKILL)
            }
            ChildState::Gone => not_by_itself(CloseReason::Released, true),
        };
        let child = {
            let mut children = self.children.lock();
            place_of(&children).map(|place| children.swap_remove(place))
        };
        let Some(child) = child else { return false };
        if let Some(watched) = child.watched {
            ears.exits.remove(watched);
        }
        // Without the lock: an observer is told, and may ask for the children.
        if let Some(request) = child.request {
            request.ended(end);
        }
        true
    }

    /// Waits for the children to end, until the deadline.
    fn wait_for_children(&self, deadline: Instant) {
        let Some(ears) = self.ears.get() else { return };
        loop {
            self.watch_children();
            self.collect_children();
            if self.children.lock().is_empty() || Instant::now() >= deadline {
                return;
            }
            let exit = Waiting { fd: ears.exits.as_fd(), interest: Interest::Read, slot: None };
            if wait::any(&[exit], Some(deadline)).is_err() {
                return;
            }
        }
    }

    fn signal_all(&self, signal: libc::c_int) {
        for child in self.children.lock().iter() {
            child_process::signal(child.pid, signal);
        }
    }
}

impl Mixin for Forking {
    fn serve(&self, accept_loop: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
        let ready = child_process::no_other_threads().and_then(|()| self.enter_process());
        ready.map_err(|error| Error::io("fork", "for requests", error))?;
        accept_loop()
    }

    fn process_request(&self, job: Job) {
        self.fork(job);
    }

    fn ready(&self) -> bool {
        let is_room = || self.children.lock().len() < self.max_children;
        is_room() || {
            self.watch_children();
            is_room()
        }
    }

    /// Who asks for it is about to wait.
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.watch_children();
        self.ears.get().map(|ears| ears.exits.as_fd())
    }

    fn service_actions(&self) {
        self.collect_children();
    }

    fn block_on_close(&self) -> bool {
        self.block_on_close
    }

    fn forks(&self) -> bool {
        true
    }

    /// Tells the children, and waits for them.
    fn drain(&self, deadline: Instant) {
        // The number of one that somebody else has reaped may be a stranger's by now.
        self.watch_children();
        self.signal_all(libc::SIGTERM);
        self.wait_for_children(deadline);
    }

    fn force(&self) {
        self.signal_all(libc::SIGKILL);
    }

    /// Who is not waited for is told all the same.
    fn server_close(&self, _deadline: Instant) {
        self.watch_children();
        self.signal_all(libc::SIGTERM);
        self.collect_children();
    }
}

/// In the child: a panic that nobody has caught ends it here. Beyond this everything is the parent's, whose
/// destructors must not run twice.
struct LeavesByPanic;

impl Drop for LeavesByPanic {
    fn drop(&mut self) {
        sys::exit_now(PANICKED);
    }
}

/// The longest last words: what one write puts into a socket's buffer as a whole.
const LONGEST_WORDS: usize = 2_048;

impl Ears {
    fn mark(&self) -> Option<Mark> {
        Mark::of_number(self.mark.load(Ordering::Relaxed))
    }

    /// In the child.
    fn tell(&self, end: &ChildEnd) {
        let Some(text) = &end.fatal else { return };
        let mut message = format!("{} {text}", std::process::id()).into_bytes();
        message.truncate(LONGEST_WORDS);
        message.push(0);
        let _ = (&self.last_words.1).write_all(&message);
    }

    /// In the parent: what a child's status says, and its last words.
    fn end(&self, child: i32, status: i32) -> ChildEnd {
        let (reason, stop) = end_of(status);
        let fatal = (reason == CloseReason::Fatal).then(|| self.words_of(child)).flatten();
        ChildEnd { reason, fatal, stop, cut_off: false }
    }

    fn words_of(&self, child: i32) -> Option<String> {
        let mut bytes = Vec::new();
        // Non-blocking: what is there is what the child, which has ended, has written.
        let _ = (&self.last_words.0).read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let prefix = format!("{child} ");
        text.split('\0').find_map(|words| words.strip_prefix(&prefix)).map(str::to_owned)
    }
}

/// The part of a [`Work`](super::Work) that takes two processes: the server implements it, in `server/fork.rs`, where
/// the order of the calls is shown.
pub(crate) trait ServeInChild {
    /// In the parent, before the fork: makes what children inherit.
    fn prepare_fork(&self);

    /// In the child, which has nothing else to do: serves the request. The signals are held back until they are taken
    /// for what they mean to a child.
    fn run_in_child(self: Box<Self>, signals: SignalsHeld) -> ChildEnd;

    /// In the parent, after the fork: closes its copy of the connection, and keeps the request's slot in the live list
    /// and its permit until the child has ended.
    fn leave_to_child(self: Box<Self>, child: i32) -> Box<dyn RequestOfChild>;
}

/// A request that a child serves, in its parent.
pub(crate) trait RequestOfChild: Send {
    fn ended(self: Box<Self>, end: ChildEnd);
}

/// How a request ended in a child.
#[derive(Clone, Debug)]
pub(crate) struct ChildEnd {
    pub(crate) reason: CloseReason,
    /// The text of a `Fatal`.
    pub(crate) fatal: Option<String>,
    /// The handler has requested a stop of its server.
    pub(crate) stop: bool,
    /// It did not end by itself: if its server has cut it off, that was why.
    pub(crate) cut_off: bool,
}

/// See [`ServeInChild`]. A job that has been taken already has nothing to do in either process.
impl Job {
    fn prepare_fork(&self) {
        if let Some(work) = &self.work {
            work.prepare_fork();
        }
    }

    fn run_in_child(mut self, signals: SignalsHeld) -> ChildEnd {
        match self.work.take() {
            Some(work) => work.run_in_child(signals),
            None => not_by_itself(CloseReason::Failed, false),
        }
    }

    fn leave_to_child(mut self, child: i32) -> Option<Box<dyn RequestOfChild>> {
        self.work.take().map(|work| work.leave_to_child(child))
    }
}
