//! How a forked child hears that its server drains: by a signal, because its parent has nothing else to reach
//! it by.
//!
//! The parent registers what a signal does, once, before it forks for the first time; a child inherits it, and
//! only says which request it serves. If each child registered its own, it would do so over and over, on
//! pages of memory that it shares with its parent until it writes to them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::context::ServerContext;
use crate::live::Entry;
use crate::request::Ticket;
use crate::sys;

/// What this process serves, if it is a forked child. It is set while signals are held back, so that a
/// signal's handler finds it locked by nobody but another one.
static SERVED: Mutex<Option<Served>> = Mutex::new(None);

struct Served {
    context: Arc<ServerContext>,
    entry: Arc<Entry>,
    /// How long it waits for the first bytes of its peer from the first word of a drain on.
    first_read: Duration,
    /// When that word came.
    drained: OnceLock<Instant>,
    /// There has been a Ctrl-C already.
    interrupted: AtomicBool,
}

/// Has children that are forked from here on take SIGTERM, by which the parent tells them of a drain, and
/// Ctrl-C, which a terminal sends to all, if the parent takes it. In the parent nothing changes.
pub(super) fn prepare_signals(context: &ServerContext) {
    static SIGTERM: Once = Once::new();
    static SIGINT: Once = Once::new();
    // Without a handler the signal does what it always does.
    SIGTERM.call_once(|| drop(sys::on_signal_for_good(libc::SIGTERM, || drain(libc::SIGTERM))));
    let is_taken = context.runs.signals_handled().load(Ordering::SeqCst);
    // One that is ignored is not the parent's to take, nor the children's.
    if is_taken && !SIGINT.is_completed() && !sys::is_ignored(libc::SIGINT) {
        SIGINT.call_once(|| drop(sys::on_signal_for_good(libc::SIGINT, || drain(libc::SIGINT))));
    }
}

/// In the child: from here on the signals are about this request. Those of the parent are not: a handler
/// may be a server that forks in its turn.
pub(super) fn take_signals(context: &Arc<ServerContext>, ticket: &Ticket) {
    let (context, entry) = (Arc::clone(context), Arc::clone(ticket.entry()));
    // A parent that does not wait says nothing a second time.
    let waits = context.waits_at_close();
    let first_read = if waits { ticket.limits().first_read } else { Duration::ZERO };
    let (drained, interrupted) = (OnceLock::new(), AtomicBool::new(false));
    *SERVED.lock() = Some(Served { context, entry, first_read, drained, interrupted });
    sys::keep_from_default();
}

/// In a signal's handler: atomic stores, locks that are only tried, the clock, and shutdown(2). In this order: a
/// request that says that it is idle, and then looks at the drain, misses neither.
///
/// The parent says it a second time when `Limits::first_read` has passed. Others may say it as well, and earlier: a
/// supervisor signals all that it has started. So this looks at the clock, and is content with half of the time, because
/// the parent's began before this process heard the first word.
fn drain(signal: libc::c_int) {
    let Some(served) = SERVED.try_lock() else { return };
    let Some(served) = &*served else { return };
    // A second Ctrl-C is meant for all as well.
    if signal == libc::SIGINT && served.interrupted.swap(true, Ordering::SeqCst) {
        sys::exit_now(128 + signal);
    }
    let runs = &served.context.runs;
    runs.begin_drain();
    let drained = served.drained.get_or_init(Instant::now);
    let over = drained.elapsed() >= served.first_read / 2;
    if over {
        runs.end_first_reads();
    }
    served.entry.tell_of_stop();
    served.entry.end_input_if_idle(over);
}
