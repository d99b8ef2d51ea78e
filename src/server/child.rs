//! How a forked child hears that its server drains: by a signal, because its parent has nothing else to reach
//! it by.
//!
//! The parent registers what a signal does, once, before it forks for the first time; a child inherits it, and
//! only says which request it serves. If each child registered its own, it would do so over and over, on
//! pages of memory that it shares with its parent until it writes to them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

use parking_lot::Mutex;

use crate::context::ServerContext;
use crate::live::Entry;
use crate::sys;

/// What this process serves, if it is a forked child. It is set while signals are held back, so that a
/// signal's handler finds it locked by nobody but another one.
static SERVED: Mutex<Option<Served>> = Mutex::new(None);

struct Served {
    context: Arc<ServerContext>,
    entry: Arc<Entry>,
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
    if context.runs.signals_handled().load(Ordering::SeqCst) {
        SIGINT.call_once(|| drop(sys::on_signal_for_good(libc::SIGINT, || drain(libc::SIGINT))));
    }
}

/// In the child: from here on the signals are about this request. Those of the parent are not: a handler
/// may be a server that forks in its turn.
pub(super) fn take_signals(context: &Arc<ServerContext>, entry: &Arc<Entry>) {
    let (context, entry) = (Arc::clone(context), Arc::clone(entry));
    let served = Served { context, entry, interrupted: AtomicBool::new(false) };
    *SERVED.lock() = Some(served);
    sys::keep_from_default();
}

/// In a signal's handler: atomic stores, locks that are only tried, and shutdown(2). In this order: a
/// request that says that it is idle, and then looks at the drain, misses neither.
fn drain(signal: libc::c_int) {
    let Some(served) = SERVED.try_lock() else { return };
    let Some(served) = &*served else { return };
    // A second Ctrl-C is meant for all as well.
    if signal == libc::SIGINT && served.interrupted.swap(true, Ordering::SeqCst) {
        sys::exit_now(128 + signal);
    }
    served.context.runs.begin_drain();
    served.entry.end_input_if_idle();
}
