//! `run`: serves until Ctrl-C or SIGTERM, then closes within a grace period.
//!
//! ```text
//! the calling thread                  thread "close"                       a signal's action
//! claim, prepare_process, join_service
//! serve_forever                       wait_for_stop
//!   Ready                               reloads <------------------------- SIGHUP: an order, or a stop
//!   ..                                  .. <------------------------------ handle.retire(): an order, or a stop
//!   the loop goes on                  server_close: LameDuck, if there is one
//!   the loop ends                       stops the loop: Closed, Draining, ..
//! notifies `over` ------------------> (closes, if it has not begun)
//! joins <---------------------------- DrainReport
//! ```
//!
//! The thread that closes obeys the orders, because the loop may be busy. A server that forks has only one thread.
//! There the loop obeys orders, keeps the lame duck by its clock, and then stops; the server is closed when the loop
//! has ended.
//!
//! A run first claims each server, so that nothing is changed for a run that cannot begin. Then it raises the process's
//! limits, registers the signals' actions, unblocks the signals, and joins the service group. Its guards undo this in the
//! reverse order. The raised limit of descriptors and the default of SIGCHLD stay.
//!
//! A signal's action runs on whichever thread the kernel picks, in the middle of anything. It only stores to atomics,
//! writes to events (`ShutdownHandle::retire`, `Orders::give_reload`) and may end the process; everything else is done by the
//! thread that wakes.

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::{BaseServer, DrainReport, Server, fork};
use crate::error::{Error, Result};
use crate::mixin::Mixin;
use crate::on_drop::OnDrop;
use crate::process::OwnerProcess;
use crate::service_group::ServiceGroup;
use crate::shutdown::{Claim, ShutdownHandle, TakenOrders};
use crate::sys::{self, Repeat, Repeats, SignalGuard};
use crate::systemd::ServiceManager;
use crate::transport::Transport;
use crate::wait::Event;

impl<T: Transport, M: Mixin> Server<T, M> {
    /// Serves until Ctrl-C (SIGINT), SIGTERM or `shutdown()`, then closes within `Limits::drain` and reports. A signal
    /// first begins a [lame duck](field@crate::Limits::lame_duck), if there is one. SIGHUP
    /// [reloads](super::Builder::on_reload); if there is nothing to reload, or if the terminal that the program was
    /// started from has ended, it stops the server as SIGTERM does. [`RunPhase`](crate::monitor::RunPhase) has the
    /// steps from the beginning to the end.
    ///
    /// `run` raises the process's limit on file descriptors to the highest allowed value;
    /// [`restore_limits`](crate::handler::restore_limits) gives programs that handlers start the old limit.
    ///
    /// A second signal ends the process at once, with status 128 + its number. Children of [`Forking`](crate::Forking)
    /// then continue within their own limits, unless the signal was sent to the whole process group. (A signal within
    /// 0.3 s of the first is ignored, because `timeout` and other wrappers may send the same order twice.)
    ///
    /// `run` treats the state that the process inherits as the user of a shell expects:
    ///
    /// - If one of the signals is *ignored*, it stays ignored, even in the children of `Forking`: a script that starts
    ///   `server &` has SIGINT ignored for it, so that a Ctrl-C for the script does not stop the server, and `nohup`
    ///   ignores SIGHUP. If the program has its own handler for SIGHUP, and nothing to reload, `run` leaves SIGHUP to
    ///   it.
    /// - If one of them is *blocked*, `run` unblocks it in this thread until `run` returns. A signal that was sent
    ///   earlier then stops the server cleanly. (A program with its own signal thread uses `serve_forever`.)
    /// - An ignored SIGCHLD is set to its default: otherwise the exit statuses of programs and children would be lost. A blocked
    ///   one is unblocked in this thread, and stays so: programs that handlers start may wait for it.
    /// - SIGXFSZ does not end the process, unless the program handles it: under `ulimit -f` a write that would make a file too
    ///   long fails with EFBIG, as in Python. Programs that handlers start have the default.
    /// - If a service manager listens (`NOTIFY_SOCKET`), it is told when the server is ready, reloads and stops: see
    ///   [`systemd`](crate::systemd).
    /// - If standard input, output or error is closed, it becomes `/dev/null`, as it does when a server is made: no
    ///   connection gets a number that `println!` writes to.
    ///
    /// ```no_run
    /// # use socketserver::{stream_fn, ThreadingTcpServer};
    /// # fn main() -> socketserver::Result<()> {
    /// let server = ThreadingTcpServer::bind("127.0.0.1:9999", stream_fn(|_request| Ok(())))?;
    /// let report = server.run()?;
    /// eprintln!("{report}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`serve_forever`](Self::serve_forever), returned after the close; a [`Fatal`](crate::Fatal) that a
    /// handler returns during the close; and an error if signals cannot be handled. If another thread already serves,
    /// `run` fails, and changes and closes nothing.
    #[doc(alias("KeyboardInterrupt", "SIGINT", "SIGTERM"))]
    pub fn run(&self) -> Result<DrainReport> {
        // The claim comes first: nothing of the process is changed for a run that cannot begin.
        let _claim = claim(self)?;
        let servers: [&dyn BaseServer; 1] = [self];
        let _signals = prepare_process(&servers)?;
        let _members = join_service(&servers);
        let (served, report) = serve_and_close(self, || self.server_close());
        served.map(|()| report)
    }
}

/// Runs several servers, of different types if need be, as [`Server::run`] runs one: a thread for each, one Ctrl-C for
/// all. When one of them ends with an error or a panic, all end. A single server runs in this thread.
///
/// `ready` is called once the signals are handled, and before anything is served. It is the moment to say that the
/// program listens: from here on a signal stops it cleanly.
///
/// # Errors
///
/// The error of the first server that ended with one, after all servers are closed. `run_all` also fails if signals
/// cannot be handled or threads cannot be started. If another thread already serves one of them, if one is listed twice,
/// or if one of several servers forks, which needs a process with one thread, it fails before anything is begun, and
/// closes nothing.
///
/// # Panics
///
/// If a hook or a mixin of the program's panics in one of the servers, after all servers are closed. (Handlers may
/// panic: that ends their request.)
pub fn run_all(
    servers: &[Box<dyn BaseServer + '_>],
    grace: Duration,
    ready: impl FnOnce(),
) -> Result<Vec<DrainReport>> {
    // All servers are claimed first: if one claim fails, the others are given back, and nothing has begun.
    let claims = servers.iter().map(|server| claim(&**server)).collect::<Result<Vec<_>>>()?;
    let all: Vec<&dyn BaseServer> = servers.iter().map(|server| &**server).collect();
    check_forks(&all)?;
    let _signals = prepare_process(&all)?;
    let _members = join_service(&all);
    // The signals are handled by now. If `ready` panics, the guards undo everything, and nothing has been served.
    ready();
    // A single server is served in this thread: a server that forks then runs in the main thread.
    if let [server] = servers {
        let (served, report) = serve_and_close(&**server, || server.server_close_within(grace));
        return served.map(|()| vec![report]);
    }
    // Called when one server fails: each thread then closes its own server.
    let stop_all = || servers.iter().for_each(|server| server.shutdown_handle().shutdown());
    thread::scope(|scope| {
        let mut running = Vec::new();
        let mut result = Ok(());
        for (server, claim) in servers.iter().zip(&claims) {
            let serve = || {
                // The claim was made by the calling thread. The run begins on this thread, which takes it over, because
                // only the claim's thread may begin it.
                claim.take_over();
                stopping_others(stop_all, || {
                    let (served, report) =
                        serve_and_close(&**server, || server.server_close_within(grace));
                    served.map(|()| report)
                })
            };
            let name = format!("serve {}", server.server_address());
            match thread::Builder::new().name(name).spawn_scoped(scope, serve) {
                Ok(thread) => running.push(thread),
                // The servers that have begun are stopped, and their threads are joined below.
                Err(error) => {
                    stop_all();
                    result = Err(Error::io("start a thread for", server.server_address(), error));
                    break;
                }
            }
        }
        // Joined in the order of the servers. A panic of one goes on here, and leaves the scope when all have ended.
        let mut reports = Vec::new();
        for thread in running {
            match thread.join().unwrap_or_else(|payload| resume_unwind(payload)) {
                Ok(report) => reports.push(report),
                // The first error is returned. All threads are joined in any case.
                Err(error) => result = result.and(Err(error)),
            }
        }
        result.map(|()| reports)
    })
}

/// Refuses a server that forks among several, which need a thread each: a fork needs a process with one thread. Called
/// before `ready`, so that the program does not announce servers that cannot run.
fn check_forks(servers: &[&dyn BaseServer]) -> Result<()> {
    let forks = |server: &&&dyn BaseServer| server.context().role().is_parent();
    match servers.iter().find(forks) {
        Some(server) if servers.len() > 1 => {
            let why = "forks, and has to run alone in its process";
            Err(Error::state(server.server_address(), why))
        }
        _ => Ok(()),
    }
}

/// Runs one of several servers. If it ends by an error or a panic, `stop_all` ends the others.
fn stopping_others<R>(stop_all: impl Fn(), run: impl FnOnce() -> Result<R>) -> Result<R> {
    let at_panic = OnDrop(&stop_all);
    let result = run();
    std::mem::forget(at_panic);
    result.inspect_err(|_| stop_all())
}

/// Gives the servers of a run their memberships in its group, until this is dropped. A later run of the same server begins
/// without a membership of this one.
fn join_service<'a>(servers: &'a [&'a dyn BaseServer]) -> OnDrop<impl FnMut() + 'a> {
    let named =
        |server: &&dyn BaseServer| (server.server_address().to_string(), server.shutdown_handle());
    let memberships =
        ServiceGroup::memberships(servers.iter().map(named), ServiceManager::from_environment());
    for (server, membership) in servers.iter().zip(memberships) {
        server.context().take_membership(Some(membership));
    }
    OnDrop(|| servers.iter().for_each(|server| server.context().take_membership(None)))
}

/// Claims a server for the calling thread, before anything else: a server that this call may not run must not be closed by
/// it. Waits only for the end of a run that accepts no more.
fn claim(server: &dyn BaseServer) -> Result<Claim> {
    // In a forked child the runs may still be the parent's.
    fork::enter_process(server.context())?;
    server.shutdown_handle().runs().claim(&server.server_address())
}

/// Serves and closes. Returns a report in any case, even of a run that has failed. If a handler returns a `Fatal` in
/// the drain, after the run, that also becomes the error of the run.
fn serve_and_close(
    server: &dyn BaseServer,
    close: impl Fn() -> DrainReport + Sync,
) -> (Result<()>, DrainReport) {
    let (served, report) = serve_until_closed(server, close);
    // Taken after the close, because until then a handler may still fail.
    let late_failure = server.shutdown_handle().runs().take_failure();
    (served.and(late_failure.map_or(Ok(()), Err)), report)
}

/// Serves until a stop is asked for, and closes.
///
/// A thread of its own closes, because the loop may be busy: under `Inline` it is inside a handler, which may wait
/// for a silent client and has to be told of the stop. A server that forks has only one thread, and its loop is never
/// busy for long.
fn serve_until_closed(
    server: &dyn BaseServer,
    close: impl Fn() -> DrainReport + Sync,
) -> (Result<()>, DrainReport) {
    let over = if server.context().role().is_parent() { None } else { Event::new().ok() };
    let handle = server.shutdown_handle();
    let Some(over) = over else {
        // This thread serves, and closes afterwards: the server forks, or there is no descriptor for the event.
        handle.runs().orders.leave_to_loop();
        return (server.serve_forever(), close());
    };
    // An order to retire ends the wait, so that only reloads come here.
    let obey = |orders: TakenOrders| {
        if orders.reload {
            server.reload();
        }
    };
    let wait_and_close = || {
        handle.runs().wait_for_stop(&over, obey);
        close()
    };
    thread::scope(|scope| {
        // The thread is scoped, because it borrows the server. So it is joined in any case.
        let closing =
            thread::Builder::new().name("close".into()).spawn_scoped(scope, wait_and_close);
        if closing.is_err() {
            handle.runs().orders.leave_to_loop();
        }
        let served = {
            // A drop notifies even after a panic: without it the thread that closes would never end.
            let _over = OnDrop(|| over.notify());
            server.serve_forever()
        };
        let report = match closing {
            Ok(thread) => thread.join().unwrap_or_else(|payload| resume_unwind(payload)),
            // No thread could be started, so this one closes the server, and only after the run.
            Err(_) => close(),
        };
        (served, report)
    })
}

/// Prepares the process. SIGINT and SIGTERM ask the servers to stop; a second signal of either kind ends the process.
/// SIGHUP makes the servers reload, or stops them. The limit of descriptors is raised as far as it may be: the usual
/// lower limit is for programs that use `select`.
fn prepare_process(servers: &[&dyn BaseServer]) -> Result<Signals> {
    // If the limit stays low, `descriptor_budget.rs` lowers `Limits::live`.
    let _ = sys::raise_descriptors();
    sys::keep_statuses();
    sys::keep_from_file_size_signal();
    sys::fill_standard_descriptors();
    for server in servers {
        let handle = server.shutdown_handle();
        handle.runs().set_served_by_run();
        let opened = handle.runs().orders.open();
        opened.map_err(|error| Error::io("make an event for", server.server_address(), error))?;
    }
    let stopped: Arc<[_]> = servers.iter().map(BaseServer::shutdown_handle).collect();
    let has_reloads = |server: &&&dyn BaseServer| !server.context().reloads.0.is_empty();
    let reloaded: Vec<_> =
        servers.iter().filter(has_reloads).map(BaseServer::shutdown_handle).collect();
    // All servers and both signals share this counter: a second signal of either kind ends the process.
    let asked = Arc::new(Repeats::default());
    let mut signals = Signals::default();
    for (signal, name) in [(libc::SIGINT, "SIGINT"), (libc::SIGTERM, "SIGTERM")] {
        let (asked, stopped) = (Arc::clone(&asked), Arc::clone(&stopped));
        // The action uses only atomics, the clock, a write for each server, and `_exit`. All are async-signal-safe.
        let action = move || match asked.note() {
            Repeat::First => stopped.iter().for_each(ShutdownHandle::retire),
            // A second order would end the lame duck.
            Repeat::Echo => {}
            // 128 and the number: what a shell reports for a program that a signal has ended.
            Repeat::Second => sys::exit_now(128 + signal),
        };
        signals.take(signal, name, |owner| {
            sys::on_signal(signal, move || {
                if owner.is_this_process() {
                    action();
                }
            })
        })?;
    }
    // A program that has its own action for SIGHUP, and nothing to reload, keeps that action.
    if !reloaded.is_empty() || sys::is_default(libc::SIGHUP) {
        signals.take(libc::SIGHUP, "SIGHUP", |owner| on_hangup(owner, reloaded, stopped))?;
    }
    signals.let_through();
    Ok(signals)
}

/// Takes SIGHUP as an order to reload; or as a stop, if there is nothing to reload or the terminal has ended.
fn on_hangup(
    owner: OwnerProcess,
    reloaded: Vec<ShutdownHandle>,
    stopped: Arc<[ShutdownHandle]>,
) -> io::Result<SignalGuard> {
    let is_stopped = AtomicBool::new(false);
    sys::on_hangup(sys::StartTerminal::look(), move |terminal_has_ended| {
        if !owner.is_this_process() {
            return;
        }
        if !terminal_has_ended && !reloaded.is_empty() {
            reloaded.iter().for_each(|handle| handle.runs().orders.give_reload());
        } else if !is_stopped.swap(true, Ordering::SeqCst) {
            // Done once, although both the kernel and the shell send SIGHUP when a terminal ends.
            stopped.iter().for_each(ShutdownHandle::retire);
        }
    })
}

/// The actions of the signals, for as long as `run` serves.
#[derive(Default)]
struct Signals {
    // Dropped first, in the order of the fields: a signal that was blocked is blocked again while its action is still
    // there.
    let_through: Option<sys::LetThrough>,
    /// Each guard's drop takes its action away; the signal then does what it did before the run.
    taken: Vec<(libc::c_int, SignalGuard)>,
}

impl Signals {
    /// Takes a signal by `register`, unless the process ignores it. A script's shell ignores SIGINT for a program that it
    /// starts by `&`, and `nohup` ignores SIGHUP: their users want it so.
    ///
    /// The action asks the owner whether this is its process: a forked child inherits the action, but has its own
    /// action for the signal (`fork.rs`).
    fn take(
        &mut self,
        signal: libc::c_int,
        name: &str,
        register: impl FnOnce(OwnerProcess) -> io::Result<SignalGuard>,
    ) -> Result<()> {
        if !sys::is_ignored(signal) {
            let guard = register(OwnerProcess::this_process());
            let guard = guard.map_err(|error| Error::io("handle the signal", name, error))?;
            self.taken.push((signal, guard));
        }
        Ok(())
    }

    /// Unblocks the signals, in this thread alone: others keep the masks that the program gave them. Called after the
    /// actions are registered, because a signal may be pending already, and must then stop the server cleanly.
    fn let_through(&mut self) {
        let mut signals = vec![libc::SIGINT, libc::SIGTERM];
        signals.extend(self.taken.iter().map(|(signal, _)| *signal).filter(|s| *s == libc::SIGHUP));
        self.let_through = Some(sys::LetThrough::new(&signals));
    }
}
