//! How often this process has forked: whether another one may have its descriptors.

use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

static FORKS: AtomicU64 = AtomicU64::new(0);

/// This process, and how often it has forked since somebody first asked. A descriptor that was made at one moment is in no
/// other process at another by a fork, if this is the same at both.
///
/// Programs that are started by
/// [posix_spawn(3)](https://man7.org/linux/man-pages/man3/posix_spawn.3.html) do not count, as `std::process::Command`
/// mostly does it: what is close-on-exec they do not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    process: u32,
    forks: u64,
}

impl Moment {
    pub(crate) fn now() -> Self {
        static COUNTS: Once = Once::new();
        COUNTS.call_once(|| {
            // SAFETY: the function is one that may run in the parent after any fork: it is an atomic addition. There is
            // no other handler. Without memory for it the forks are not counted, which an allocation would not survive.
            unsafe { libc::pthread_atfork(None, Some(count), None) };
        });
        Self { process: std::process::id(), forks: FORKS.load(Ordering::SeqCst) }
    }
}

extern "C" fn count() {
    if !UNCOUNTED.get() {
        FORKS.fetch_add(1, Ordering::SeqCst);
    }
}

thread_local! {
    /// This thread is about to fork a child that closes what it is not to have.
    static UNCOUNTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a fork that does not count. The count is not even written to: its page would be copied each time.
pub(super) fn uncounted<R>(fork: impl FnOnce() -> R) -> R {
    UNCOUNTED.set(true);
    let forked = fork();
    UNCOUNTED.set(false);
    forked
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[test]
    fn a_fork_is_counted_and_a_spawn_that_inherits_nothing_is_not() {
        let before = Moment::now();
        assert!(Command::new("true").status().unwrap().success());
        assert_eq!(Moment::now(), before);
        let mut forked = Command::new("true");
        // SAFETY: it does nothing, and has std fork by itself.
        unsafe { forked.pre_exec(|| Ok(())) };
        assert!(forked.status().unwrap().success());
        assert_ne!(Moment::now(), before);
    }
}
