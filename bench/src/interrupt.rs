//! Ctrl-C and SIGTERM: they set a flag that every load checks, so that the servers are killed before this program ends.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGINT, SIGTERM};

static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Begins to listen for the signals.
pub fn listen() -> io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&STOP))?;
    }
    Ok(())
}

/// Fails if one of the signals has come.
pub fn check() -> io::Result<()> {
    if STOP.load(Ordering::Relaxed) {
        // The error is not `Interrupted`, because calls that try again would swallow that.
        return Err(io::Error::other("stopped by a signal"));
    }
    Ok(())
}
