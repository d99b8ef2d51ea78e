//! Actions of signals in this process, added to those that were there before.
//!
//! signal-hook-registry runs all actions of a signal, in the order in which they were registered, after the handler that
//! was there before. So a signal that this crate takes goes this way:
//!
//! ```text
//! the kernel -> the registry's handler -> the program's own handler, if there was one
//!                                     -> the default, if no guard is left (`bring_back_default`)
//!                                     -> the action of each guard
//! ```
//!
//! An action interrupts a thread anywhere. It calls only functions that signal-safety(7) allows, touches only
//! atomics, and at most tries a lock.
//!
//! A signal to the process goes to one of the threads that do not block it, whichever the kernel finds first. A fork's
//! child inherits actions and the mask; an exec keeps the mask and the ignored signals, and sets handlers back to the
//! default.
//!
//! **Locks.** `TAKEN` is taken by ordinary code alone, never by an action: a signal may interrupt its holder, which could
//! then never go on. Actions read `GUARDS` and `CHILD_TAKES` alone.

use std::io;
use std::mem;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::check;
use super::clock::monotonic_micros;

/// Runs `action` whenever the process gets `signal`, beside the handler that was there before. While any guard exists, of
/// any signal, none of the signals that were ever taken in this way has its default effect.
///
/// `action` runs in the signal's handler: it may only store to atomics, write to or shut down a descriptor, try a lock,
/// and end the process.
pub(crate) fn on_signal(
    signal: libc::c_int,
    action: impl Fn() + Send + Sync + 'static,
) -> io::Result<SignalGuard> {
    on_signal_with_info(signal, move |_info| action())
}

/// As [`on_signal`], with an action that gets the kernel's information about the signal.
///
/// # Errors
///
/// EINVAL for a number that is no signal. signal-hook-registry panics for SIGKILL, SIGSTOP, SIGILL, SIGFPE and SIGSEGV,
/// which no caller asks for.
pub(super) fn on_signal_with_info(
    signal: libc::c_int,
    action: impl Fn(&libc::siginfo_t) + Send + Sync + 'static,
) -> io::Result<SignalGuard> {
    bring_back_default(signal)?;
    // SAFETY: the callers, all within this crate, do no more in `action` than the docs of `on_signal` allow.
    let id = unsafe { signal_hook_registry::register_sigaction(signal, action) }?;
    // The guard is counted after the registration, so that a failure leaves the count as it was. A signal in between has
    // its default effect.
    GUARDS.fetch_add(1, Ordering::SeqCst);
    Ok(SignalGuard { id })
}

/// As [`on_signal`], for as long as the process lives, and for its children. The action runs in this process as well,
/// and must do nothing there. If there is no guard and `takes` says no, the signal has its default effect.
///
/// `takes` runs in the signal's handler, and is the same function for all signals. So a child needs no guard: to
/// make one it would have to write to the count of guards.
pub(crate) fn on_signal_in_children(
    signal: libc::c_int,
    takes: fn() -> bool,
    action: impl Fn() + Send + Sync + 'static,
) -> io::Result<()> {
    CHILD_TAKES.get_or_init(|| takes);
    bring_back_default(signal)?;
    // SAFETY: as in `on_signal`.
    unsafe { signal_hook_registry::register(signal, action) }.map(drop)
}

/// Asks whether this process is a child that takes its signals.
static CHILD_TAKES: OnceLock<fn() -> bool> = OnceLock::new();

/// How many guards there are.
///
/// Read by actions, on any thread.
static GUARDS: AtomicUsize = AtomicUsize::new(0);

/// Registers an action, for good, that produces the default effect while there is no guard. It comes before any other action of
/// the signal. The registry itself never gives a signal back: when its last action is gone, the signal is ignored.
fn bring_back_default(signal: libc::c_int) -> io::Result<()> {
    // This is done once for each signal: a second such action would produce the default effect twice.
    let mut taken = TAKEN.lock();
    if taken.iter().any(|(other, _)| *other == signal) {
        return Ok(());
    }
    let before = action_of(signal)?;
    let was_default = before.sa_sigaction == libc::SIG_DFL;
    // A handler of the program's runs as before: the registry calls it. A signal that was ignored has no effect beyond that of
    // the actions.
    if was_default {
        let default = move || {
            // For the first process of a container the kernel ignores signals that have their default action. So
            // `default_effect` would only remove the handler.
            let is_taken = || CHILD_TAKES.get().is_some_and(|takes| takes());
            if GUARDS.load(Ordering::SeqCst) == 0 && !is_taken() && std::process::id() != 1 {
                default_effect(signal);
            }
        };
        // SAFETY: the action loads an atomic, and makes calls that may be made in a signal's handler.
        unsafe { signal_hook_registry::register(signal, default) }?;
    }
    taken.push((signal, was_default));
    Ok(())
}

/// Produces the effect that a signal has on a process without an action for it. A signal's action calls it; if the effect
/// is the end of the process, this call ends it.
fn default_effect(signal: libc::c_int) {
    match signal {
        // Without an action these do nothing: see signal(7).
        libc::SIGCHLD | libc::SIGCONT | libc::SIGURG | libc::SIGWINCH => {}
        libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => raise(libc::SIGSTOP),
        _ => {
            // SAFETY: `SIG_DFL` is an action of any signal, and both calls may be made in a signal's handler.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            // While its handler runs, a signal is blocked. So it is unblocked before it is raised.
            change_mask(libc::SIG_UNBLOCK, &[signal]);
            raise(signal);
        }
    }
}

/// Sends a signal to this thread. [raise(3)](https://man7.org/linux/man-pages/man3/raise.3.html) fails only for a number
/// that is no signal.
///
/// Unless it is blocked, the signal has come when the call returns.
fn raise(signal: libc::c_int) {
    // SAFETY: the call has no conditions.
    unsafe { libc::raise(signal) };
}

/// The signals that this crate has ever had an action for, and whether each had its default effect before.
static TAKEN: Mutex<Vec<(libc::c_int, bool)>> = Mutex::new(Vec::new());

/// The action of a signal as it is now. [sigaction(2)](https://man7.org/linux/man-pages/man2/sigaction.2.html)
pub(super) fn action_of(signal: libc::c_int) -> io::Result<libc::sigaction> {
    // SAFETY: all zeros is a valid sigaction, and the pointer is to a live one; nothing is set.
    unsafe {
        let mut action = mem::zeroed::<libc::sigaction>();
        check(libc::sigaction(signal, std::ptr::null(), &raw mut action))?;
        Ok(action)
    }
}

/// Whether the process ignores a signal, since its start or by a call of its own.
///
/// False if the system does not tell.
pub(crate) fn is_ignored(signal: libc::c_int) -> bool {
    action_of(signal).is_ok_and(|action| action.sa_sigaction == libc::SIG_IGN)
}

/// Whether a signal has its default effect, except for the actions of this crate: the program has no handler for it.
pub(crate) fn is_default(signal: libc::c_int) -> bool {
    let taken = TAKEN.lock().iter().find(|(other, _)| *other == signal).copied();
    taken.map_or_else(
        || action_of(signal).is_ok_and(|action| action.sa_sigaction == libc::SIG_DFL),
        |(_, was_default)| was_default,
    )
}

/// Sets SIGCHLD to its default if it is ignored, because the kernel would keep no statuses of children. Also unblocks it in
/// this thread: otherwise the threads that it starts, and the programs that they start, would wait for the signal in vain.
///
/// A parent that ignores or blocks SIGCHLD hands that down: some shells and supervisors do. A handler of the program's, and
/// SA_NOCLDWAIT, stay as they are.
pub(crate) fn keep_statuses() {
    if is_ignored(libc::SIGCHLD) {
        // SAFETY: no handler is installed.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    }
    change_mask(libc::SIG_UNBLOCK, &[libc::SIGCHLD]);
}

/// From here on a write beyond the limit of a file's size (`ulimit -f`) fails with EFBIG and does not end the process.
///
/// SIGXFSZ gets a handler that does nothing. It is not ignored, because programs that this process starts would
/// inherit that. A handler is replaced by the default at exec.
pub(crate) fn keep_from_file_size_signal() {
    extern "C" fn nothing(_signal: libc::c_int) {}
    let is_default = |action: libc::sigaction| action.sa_sigaction == libc::SIG_DFL;
    if action_of(libc::SIGXFSZ).is_ok_and(is_default) {
        // SAFETY: all zeros is a valid action. Its handler does nothing, so it may be called at any time, and the flags are
        // valid; the pointer is to a live local. A failure leaves the signal as it is.
        unsafe {
            let mut action = mem::zeroed::<libc::sigaction>();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
            // SA_RESTART: calls go on after it. SA_ONSTACK: it runs on the alternate stack of a thread that has one.
            action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGXFSZ, &raw const action, std::ptr::null_mut());
        }
    }
}

/// Unblocks signals for this thread, until this is dropped, in the same thread.
///
/// A process inherits the mask of its starter across exec. A signal that the starter has blocked would stay pending for
/// ever, and Ctrl-C would do nothing.
#[derive(Debug)]
pub(crate) struct LetThrough {
    /// The signals that were blocked before.
    blocked: Vec<libc::c_int>,
}

impl LetThrough {
    /// Unblocks these signals. A mask belongs to one thread: a signal to the process may also reach another thread that
    /// does not block it.
    pub(crate) fn new(signals: &[libc::c_int]) -> Self {
        let before = change_mask(libc::SIG_UNBLOCK, signals);
        // Only the signals that were blocked before are blocked again at the end.
        // SAFETY: the set is one that the system has given.
        let is_in =
            |signal: &libc::c_int| unsafe { libc::sigismember(&raw const before, *signal) == 1 };
        Self { blocked: signals.iter().copied().filter(is_in).collect() }
    }
}

impl Drop for LetThrough {
    fn drop(&mut self) {
        change_mask(libc::SIG_BLOCK, &self.blocked);
    }
}

/// Changes the mask of this thread, and returns the old one.
/// [sigprocmask(2)](https://man7.org/linux/man-pages/man2/sigprocmask.2.html)
///
/// pthread_sigmask(3) fails only for a `how` that it does not know.
pub(super) fn change_mask(how: libc::c_int, signals: &[libc::c_int]) -> libc::sigset_t {
    // SAFETY: all zeros is a valid sigset_t, which sigemptyset then makes an empty one; all pointers are to live locals.
    unsafe {
        let mut set = mem::zeroed::<libc::sigset_t>();
        let mut before = mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        libc::pthread_sigmask(how, &raw const set, &raw mut before);
        before
    }
}

/// Removes a signal's action when dropped.
#[derive(Debug)]
pub(crate) struct SignalGuard {
    id: signal_hook_registry::SigId,
}

impl Drop for SignalGuard {
    fn drop(&mut self) {
        signal_hook_registry::unregister(self.id);
        GUARDS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Signals that give the same order, and when the first of them has come.
///
/// They distinguish a second order, of a user who has lost patience, from an echo of the first. An echo comes from timeout(1),
/// which signals its program and then the program's group, or from a wrapper that passes on the Ctrl-C that the terminal has
/// sent to both.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    /// When the first signal came, by the monotonic clock in microseconds. Zero: none has come.
    first: AtomicU64,
}

/// The place of a signal among [`Repeats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// The first signal: it begins the drain, or carries out another order.
    First,
    /// The same order by another way: nothing more is done.
    Echo,
    /// An order to end at once.
    Second,
}

/// The longest time after the first signal in which another counts as its echo. An echo follows within microseconds, but on a
/// busy machine the sender and this process may both lose the processor. A user who repeats the order sooner than this has
/// to repeat it again.
const ECHO_MICROS: u64 = 300_000;

impl Repeats {
    /// Notes a signal. May be called by signal handlers: it uses an atomic and the clock alone.
    pub(crate) fn note(&self) -> Repeat {
        // Zero stands for no signal.
        let now = monotonic_micros().max(1);
        match self.first.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => Repeat::First,
            Err(first) if now.saturating_sub(first) < ECHO_MICROS => Repeat::Echo,
            Err(_) => Repeat::Second,
        }
    }
}

/// Ends the process at once: no destructors, no exit handlers. For signal handlers.
///
/// [_exit(2)](https://man7.org/linux/man-pages/man2/_exit.2.html). Buffers of standard output are lost.
#[inline]
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` may be called anywhere, a signal's handler included.
    unsafe { libc::_exit(status) }
}
