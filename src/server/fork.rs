//! The effects of a fork on a server. All changes that a server makes in a forked child begin in this file.
//!
//! A process may be forked for two reasons, and the two children have nothing in common:
//!
//! - **A program forks**, with a server that it has bound: as a daemon, or as a parent of several processes that serve
//!   one listener. The child goes on for itself and serves. [`Core::enter_process`] replaces the parts that are still
//!   its parent's.
//! - **[`Forking`](crate::Forking) forks** for one request. The child serves this request and leaves by `_exit`: it
//!   begins no run, and everything that it has no use for stays as it was, which costs nothing. This is the order:
//!
//! ```text
//! parent                                      child
//! ServeInChild::prepare_fork
//!   the signals' actions, a block of buffer
//! SIGTERM and SIGINT are held back
//! fork ---------------------------------------+
//! leave_to_child:                             run_in_child:
//!   closes its copy of the connection           closes its copies of all listeners
//!   keeps the slot and the permit               from here on its Role is Child
//! SIGTERM and SIGINT are let through            the signals are about this request,
//!   ..                                            and are let through
//! SIGTERM, when a drain begins  ------------->  tells the handler, ends an idle read
//!   ..                                          serves the request
//! reaps it  <---------------------------------  _exit(status)
//! RequestOfChild::ended: counts, observer
//! ```

use std::convert::Infallible;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Once, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Core;
use super::catch_panic::{catch_panic, drop_catching};
use super::handover::Coordinator;
use super::job::TypedJob;
use super::open_request::OpenRequest;
use super::served_by_child::ServedByChild;
use crate::error::{Error, Result};
use crate::events::{CloseReason, ServerEvent};
use crate::live::{Activity, Entry, FirstReads};
use crate::mixin::{ChildEnd, RequestOfChild, ServeInChild};
use crate::process;
use crate::request::{Ticket, keep_block};
use crate::server_context::ServerContext;
use crate::sys::fork::SignalsHeld;
use crate::sys::fork_count::note_children;
use crate::sys::{self, PerProcess, Repeat, Repeats};
use crate::transport::{HandoverSocket, Transport};
use crate::wait;

impl<T: Transport> Core<T> {
    /// Makes the server this process's own, if this is a child that goes on for itself. Called before anything that
    /// belongs to one process. It costs one `getpid` for each run, and nothing for a request.
    pub(super) fn enter_process(&self) -> Result<()> {
        enter_process(&self.context)?;
        // The acceptor comes after the runs: its epoll set watches the stop's event, which is this process's own by now.
        let entered = self.worker_acceptor.enter_process(self.context.runs.stop_waiting().fd);
        entered.map_err(|error| cannot_go_on(&self.context, error))
    }
}

/// Finds out whether this process has been forked from the one that has used the server before. If so, replaces the
/// parts that are still the parent's. In a child that serves one request everything stays as it was.
pub(super) fn enter_process(context: &ServerContext) -> Result<()> {
    /// Two threads may begin runs of one server at once: the second one finds the work done.
    static ONE_AT_A_TIME: PerProcess<std::sync::Mutex<()>> =
        PerProcess::new(std::sync::Mutex::default);
    note_children();
    process::note();
    if !context.runs.is_forked() || context.role().is_child() {
        return Ok(());
    }
    let _lock = ONE_AT_A_TIME.get().lock();
    // Another thread may have done it by now; or the fork was made within a loop, which goes on in both processes.
    if !context.runs.is_forked() || context.runs.is_loop_thread() {
        return Ok(());
    }
    let enter = || {
        context.live.enter_process()?;
        context.idle_reaper.enter_process();
        context.gate.enter_process()?;
        // Last, because `is_forked` asks only the runs: once they are entered, all others have been, too.
        context.runs.enter_process()
    };
    enter().map_err(|error| cannot_go_on(context, error))
}

/// The error of a child that cannot go on. The usual cause is a lack of descriptors: each event takes a new one before it
/// gives the old one back.
fn cannot_go_on(context: &ServerContext, error: io::Error) -> Error {
    Error::io("go on in a forked child with", context.server_address(), error)
}

impl<T: Transport> ServeInChild for TypedJob<T> {
    /// Everything that the child needs and that takes memory, a lock or a count is made here: after the fork each page that
    /// the child writes to is copied.
    fn prepare_fork(&mut self, most: usize) -> Option<Arc<OwnedFd>> {
        // The parent shows the request's activity for the last time. After the fork the child does.
        self.ticket.entry().show_activity(Activity::Running);
        let begins_with_handshake =
            self.core.prefaces.begin_with_handshake(self.ticket.entry().peer_address());
        self.core.context.live.make_room(self.ticket.entry(), begins_with_handshake, most);
        prepare_signals(&self.core.context);
        keep_block();
        let entry = self.ticket.entry();
        self.counted = Some([Arc::clone(entry), Arc::clone(entry)]);
        let transport = &self.core.transport;
        if transport.closes_descriptor_alone() { transport.fileno() } else { None }
    }

    fn run_in_child(
        self: Box<Self>,
        listener: Option<Arc<OwnedFd>>,
        signals: SignalsHeld,
        leave: &dyn Fn(ChildEnd) -> Infallible,
    ) -> ! {
        // Taken out of its box for good: nothing that is the parent's is given back here. The end of the process frees
        // it all.
        let mut this = *self;
        let count = || [Arc::clone(this.ticket.entry()), Arc::clone(this.ticket.entry())];
        let [signalled, served] = this.counted.take().unwrap_or_else(count);
        let (core, context) = (&this.core, &this.core.context);
        // The listener's `Arc` is never dropped either: that would write its reference count, and so copy a page that is
        // shared with the parent.
        let listener = ManuallyDrop::new(listener);
        // The listeners are closed first, so that a child that serves for long keeps no port in use.
        give_up_listener(core, listener.as_ref());
        close_other_servers(core);
        if let Some(coordinator) = core.coordinator() {
            coordinator.close_in_child();
        }
        context.role.enter_child();
        wait::leave_loop();
        // Done before the signals are let through, so that a pending one acts on this request.
        take_signals(context, &this.ticket, signalled);
        signals.release_in_child();
        // A stop that was requested before the fork is known to the parent, and may be over when this request ends.
        let asked_before = context.runs.stop_requested();
        let make = |job, place: &mut _| {
            ManuallyDrop::<Self>::into_inner(job).make_request_of(served, place)
        };
        let leave = |open, reason| {
            let open = ManuallyDrop::<OpenRequest<T>>::new(open);
            let core = &open.core;
            // The handler may have gathered replies, and no later wait will send them.
            wait::flush();
            // Asked after the request: its handler may have requested a stop at its end.
            let stop = core.context.runs.stop_requested();
            let text = match reason {
                CloseReason::Fatal => fatal_of(&core.context),
                _ => open.entry.failed_step(),
            };
            // The parent itself knows of a cut: a child that is cut off is killed, and does not get here.
            leave(ChildEnd { reason, text, stop: stop && !asked_before, cut_off: false })
        };
        process::no_return(Self::serve_by(ManuallyDrop::new(this), make, leave))
    }

    fn leave_to_child(self: Box<Self>, child: i32) -> Box<dyn RequestOfChild> {
        let Self { raw, ticket, core, .. } = *self;
        // The child has its own copy. The peer sees the end only when the last copy is closed.
        drop(drop_catching(raw));
        // The entry stays in the live list: the child's request counts against `Limits::live`.
        ticket.entry().hand_over(child);
        Box::new(ServedByChild::new(ticket, core))
    }
}

/// Gives up a child's copy of the listener.
///
/// The listener's number is made to refer to another file that the child has open anyway. So the variable that holds the
/// listener stays as it is: its page is shared with the parent, and would be copied if the child wrote to it.
#[inline]
fn give_up_listener<T: Transport>(core: &Core<T>, listener: Option<&Arc<OwnedFd>>) {
    let stop = core.context.runs.stop_waiting().fd;
    let is_replaced = listener.is_some_and(|listener| sys::replace_by(listener, stop).is_ok());
    if !is_replaced {
        core.transport.close_in_child();
    }
}

/// The text of the `Fatal` with which the handler of a child has failed, if it has.
#[cold]
fn fatal_of(context: &ServerContext) -> Option<String> {
    let fatal = catch_panic(|| {
        let failure = context.runs.take_failure();
        Ok(failure.as_ref().and_then(Error::as_fatal).map(ToString::to_string))
    });
    fatal.unwrap_or_default()
}

// The signals of a child. They tell the child that its parent drains; the parent has no other way to reach it.
//
// The parent registers the actions once, before it forks for the first time. A child inherits them, and only says which
// request it serves: a child that registered its own would write to pages of memory that it shares with its parent. For
// the same reason all that a child has to note is in one static.

/// One static, because a child writes to it: see above.
static SIGNALLED: Signalled = Signalled {
    server_of_children: Mutex::new(Weak::new()),
    noted: AtomicPtr::new(ptr::null_mut()),
    served: Mutex::new(None),
};

/// Shared by a server, its children and the actions of their signals.
struct Signalled {
    /// The server whose requests are forked next. No signal's action locks this, so a signal may come while it is locked.
    server_of_children: Mutex<Weak<ServerContext>>,
    /// The address of that server's context, or null. A parent compares it before each fork, because taking the lock would
    /// write to a page.
    noted: AtomicPtr<ServerContext>,
    /// The request that this process serves, if it is a child. It is changed while signals are held back: so an action
    /// finds it locked by no one but another action.
    served: Mutex<Option<ServedHere>>,
}

/// The request that this process, a child, serves.
struct ServedHere {
    /// The server of the request, taken out of `server_of_children`: counting one more reference would write to a page
    /// that the child shares with its parent.
    server: Weak<ServerContext>,
    /// The request's entry in the live list, in memory that the parent has too. The reference is counted before the
    /// fork.
    entry: Arc<Entry>,
    /// How long the request waits for the first bytes of its peer after the first signal of a drain.
    first_read: Duration,
    /// When the first signal of a drain came.
    drained: Option<Instant>,
    /// Counts the Ctrl-Cs that this child has got.
    interrupted: Repeats,
}

/// Called in the parent before each fork. Makes the children that are forked from here on take SIGTERM, by which the
/// parent tells them of a drain. If the parent takes Ctrl-C, which a terminal sends to all of them, the children take
/// it too. In the parent nothing changes.
fn prepare_signals(context: &Arc<ServerContext>) {
    static SIGTERM: Once = Once::new();
    static SIGINT: Once = Once::new();
    let register = |signal| {
        // If the action cannot be registered, the signal ends the child, which is the default.
        drop(sys::on_signal_in_children(signal, serves_a_request, move || drain(signal)));
    };
    SIGTERM.call_once(|| register(libc::SIGTERM));
    // Without `run` a Ctrl-C ends the parent and all children, as it does any program.
    let is_taken = context.runs.is_served_by_run();
    // A signal that the parent ignores is ignored by its children too.
    if is_taken && !SIGINT.is_completed() && !sys::is_ignored(libc::SIGINT) {
        SIGINT.call_once(|| register(libc::SIGINT));
    }
    // The address is compared before the lock is taken: see `noted`. While the weak reference is there, no other server
    // can be at the same address.
    let this = Arc::as_ptr(context).cast_mut();
    if SIGNALLED.noted.load(Ordering::SeqCst) != this {
        *SIGNALLED.server_of_children.lock() = Arc::downgrade(context);
        SIGNALLED.noted.store(this, Ordering::SeqCst);
    }
}

/// Called in the child: from here on the signals are about this request. They are still held back; one that is pending
/// acts when they are let through.
#[inline]
fn take_signals(context: &ServerContext, ticket: &Ticket, entry: Arc<Entry>) {
    // A parent that does not wait for its children sends no second signal: the first one then ends first reads too.
    let first_read =
        if context.waits_at_close { ticket.limits().first_read } else { Duration::ZERO };
    let server = std::mem::take(&mut *SIGNALLED.server_of_children.lock());
    // The handler may run a server that forks too, which then has to note its own context.
    SIGNALLED.noted.store(ptr::null_mut(), Ordering::SeqCst);
    let served =
        ServedHere { server, entry, first_read, drained: None, interrupted: Repeats::default() };
    *SIGNALLED.served.lock() = Some(served);
}

/// Whether this process is a child that serves a request. The actions of signals ask this.
fn serves_a_request() -> bool {
    SIGNALLED.served.try_lock().is_none_or(|served| served.is_some())
}

/// The action of a signal in a child: stores that the server drains, and then ends the wait of an idle request. A
/// request that becomes idle stores that first and then looks for the drain, so at least one of the two sees the other.
/// The action makes atomic stores, tries locks, reads the clock, and calls shutdown(2).
///
/// The parent signals a second time when `Limits::first_read` has passed. Others may signal as well, and earlier: a
/// supervisor signals all processes that it has started. So the action checks the clock, and counts a signal as the
/// parent's second one if at least half of that time has passed. (The parent's clock began before the first signal came.)
fn drain(signal: libc::c_int) {
    let Some(mut served) = SIGNALLED.served.try_lock() else { return };
    let Some(served) = &mut *served else { return };
    // A second Ctrl-C ends the process at once, as it does in the parent.
    if signal == libc::SIGINT && served.interrupted.note() == Repeat::Second {
        sys::exit_now(128 + signal);
    }
    // If the parent has only chosen this child's handshake to end, to make room for others, the signal begins no drain.
    if served.entry.end_if_crowded_out() {
        return;
    }
    let drained = *served.drained.get_or_insert_with(Instant::now);
    let is_over = drained.elapsed() >= served.first_read / 2;
    let first_reads = if is_over { FirstReads::Over } else { FirstReads::Awaited };
    if let Some(server) = served.server.upgrade() {
        server.runs.begin_drain();
        if is_over {
            server.runs.end_first_reads();
        }
        // The last reference would free memory, which an action must not.
        std::mem::forget(server);
    }
    served.entry.tell_of_stop();
    served.entry.end_input_if_idle(first_reads);
}

// The servers of the process. A child closes the sockets of all of them: otherwise it would keep their ports in use after
// the parent has closed them.

/// All servers of this process.
static SERVERS: Mutex<Vec<Weak<dyn AnyServer>>> = Mutex::new(Vec::new());

/// How many servers the process has. If there is only one, its child reads nothing but this number, and takes no lock.
static SERVER_COUNT: AtomicUsize = AtomicUsize::new(0);

/// A server with its types erased.
pub(super) trait AnyServer: Send + Sync {
    /// Closes this process's copies of its sockets, in a child that another server has forked.
    fn close_in_others_child(&self);
    /// The part without types. Its address tells one server from another.
    fn context(&self) -> &ServerContext;
    /// See [`Transport::handover`].
    fn handover(&self) -> Option<&dyn HandoverSocket>;
    /// Gives the server the coordinator of its run. The server tells the coordinator when it serves; if it forks, its
    /// loop also does the coordinator's work.
    fn meet_coordinator(&self, coordinator: &Arc<Coordinator>);
    /// Calls the server's observers.
    fn tell(&self, event: &ServerEvent<'_>);
    /// Calls the server's hook `warning`.
    fn warn(&self, text: &str);
}

impl<T: Transport> AnyServer for Core<T> {
    fn close_in_others_child(&self) {
        self.close_duplicates();
        self.transport.close_in_others_child();
    }

    fn context(&self) -> &ServerContext {
        &self.context
    }

    fn handover(&self) -> Option<&dyn HandoverSocket> {
        self.transport.handover()
    }

    fn meet_coordinator(&self, coordinator: &Arc<Coordinator>) {
        // A server is run once, because its run closes it: so this is the first coordinator that it meets, and the only one.
        let _ = self.coordinator.set(Arc::clone(coordinator));
    }

    fn tell(&self, event: &ServerEvent<'_>) {
        Self::tell(self, event);
    }

    fn warn(&self, text: &str) {
        Self::warn(self, text);
    }
}

/// The server with this context, if it is one of this crate's and still there. For the coordinator of handovers, which has only
/// the context of servers whose types are erased.
pub(super) fn find(context: &ServerContext) -> Option<Arc<dyn AnyServer>> {
    // Collected first: if a reference becomes the last one meanwhile, its drop takes this very lock (`unregister`).
    let all: Vec<_> = SERVERS.lock().iter().filter_map(Weak::upgrade).collect();
    all.into_iter().find(|server| ptr::eq(server.context(), context))
}

/// Lists a server among those of the process. Called when it has been made, before it binds.
pub(super) fn register<T: Transport>(core: &Arc<Core<T>>) {
    let core = Arc::clone(core) as Arc<dyn AnyServer>;
    SERVERS.lock().push(Arc::downgrade(&core));
    SERVER_COUNT.fetch_add(1, Ordering::SeqCst);
}

/// Takes a server off the list. Called when its core is dropped: by then no reference to it is left.
pub(super) fn unregister() {
    SERVERS.lock().retain(|server| server.strong_count() > 0);
    SERVER_COUNT.fetch_sub(1, Ordering::SeqCst);
}

/// Closes the copies of the other servers' sockets, in a child that this server has forked.
#[inline]
fn close_other_servers<T: Transport>(core: &Core<T>) {
    if SERVER_COUNT.load(Ordering::SeqCst) > 1 {
        close_all_but(core);
    }
}

/// The rest of [`close_other_servers`], in a function of its own because most children only read the count.
#[cold]
fn close_all_but<T: Transport>(core: &Core<T>) {
    // Collected first: no lock is held while a transport closes, which may be the user's.
    let all: Vec<_> = SERVERS.lock().iter().filter_map(Weak::upgrade).collect();
    for server in all {
        if !ptr::eq(server.context(), &*core.context) {
            server.close_in_others_child();
        }
        // If this is the last reference, its drop would end things that are the parent's.
        std::mem::forget(server);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_that_notes_its_server_takes_no_signal_meanwhile() {
        let _noting = SIGNALLED.server_of_children.lock();
        assert!(!serves_a_request(), "SIGTERM would be lost");
    }
}
