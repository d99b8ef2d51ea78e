//! The threads of a mixin: named, counted, and waited for at the end. No list of them is kept, so that
//! nothing grows with the number of requests served.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::process::OwnerProcess;
use crate::sys;

type Hook = Arc<dyn Fn() + Send + Sync>;

/// How a mixin's threads are made.
#[derive(Clone, Default)]
pub(crate) struct ThreadOptions {
    pub(crate) name: Option<String>,
    pub(crate) stack_bytes: Option<usize>,
    pub(crate) on_start: Option<Hook>,
    pub(crate) on_stop: Option<Hook>,
}

/// What the way from the beginning of a thread to its handler needs in any build, and some calls within it.
pub(crate) const LEAST_STACK: usize = 64 * 1024;

impl ThreadOptions {
    /// Whether there are stacks of the size that was asked for: only a thread that has one shows it.
    pub(crate) fn check(&self) -> Result<()> {
        let Some(bytes) = self.stack_bytes else { return Ok(()) };
        let started = thread::Builder::new().stack_size(bytes).spawn(|| ());
        let started = started.map(|thread| thread.join().is_ok());
        started.map(drop).map_err(|error| Error::io("use", format!("stack_size {bytes}"), error))
    }
}

impl fmt::Debug for ThreadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadOptions")
            .field("name", &self.name)
            .field("stack_bytes", &self.stack_bytes)
            .finish_non_exhaustive()
    }
}

/// The setters that every mixin with threads has.
macro_rules! thread_options {
    () => {
        /// The beginning of the threads' names; a number follows. Default: the handler's type name.
        /// Linux shows the first 15 bytes.
        #[must_use]
        pub fn thread_name(mut self, name: impl Into<String>) -> Self {
            self.threads.name = Some(name.into());
            self
        }

        /// The size of each thread's stack, in bytes. Default: std's, which is 2 MiB of addresses;
        /// memory is taken only for what is touched. Less than 64 KiB is taken for that, which is little for a
        /// handler; with a size that cannot be had `bind` fails.
        #[must_use]
        pub fn stack_size(mut self, bytes: usize) -> Self {
            self.threads.stack_bytes = Some(bytes.max(crate::mixin::thread_group::LEAST_STACK));
            self
        }

        /// Runs in each thread before its first request: to open a database connection, say.
        #[must_use]
        pub fn on_thread_start(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
            self.threads.on_start = Some(std::sync::Arc::new(hook));
            self
        }

        /// Runs in each thread after its last request.
        #[must_use]
        pub fn on_thread_stop(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
            self.threads.on_stop = Some(std::sync::Arc::new(hook));
            self
        }
    };
}
pub(crate) use thread_options;

/// The threads that are alive.
#[derive(Debug, Default)]
pub(crate) struct ThreadGroup {
    alive: Mutex<usize>,
    ended: Condvar,
    started: AtomicU64,
    /// The process in which the last one was started.
    owner: OwnerProcess,
}

impl ThreadGroup {
    /// Starts a thread. When that fails, `main` is gone: it may own nothing that is needed then.
    pub(crate) fn spawn(
        self: &Arc<Self>,
        options: &ThreadOptions,
        label: &str,
        main: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        let name = options.name.as_deref().unwrap_or_else(|| short_name(label));
        let mut builder = thread::Builder::new().name(format!("{name}-{number}"));
        if let Some(bytes) = options.stack_bytes {
            builder = builder.stack_size(bytes);
        }
        self.owner.become_noted();
        // Moved into the thread, and dropped with the closure if there is none: either way, and also
        // after a panic of a hook, the count does not remember the dead.
        let alive = Alive::new(Arc::clone(self))?;
        let (on_start, on_stop) = (options.on_start.clone(), options.on_stop.clone());
        builder.spawn(move || {
            let _alive = alive;
            if let Some(hook) = on_start {
                hook();
            }
            main();
            if let Some(hook) = on_stop {
                hook();
            }
        })?;
        Ok(())
    }

    fn is_left_behind(&self) -> bool {
        !self.owner.is_noted() && *self.alive.lock() > 0
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        *self.alive.lock()
    }

    /// Waits until no thread is left, or until the deadline.
    pub(crate) fn wait_until_gone(&self, deadline: Instant) {
        if self.is_left_behind() {
            return;
        }
        let mut alive = self.alive.lock();
        while *alive > 0 {
            if self.ended.wait_until(&mut alive, deadline).timed_out() {
                return;
            }
        }
    }
}

/// Before a run of a mixin with threads. A forked child makes the gate its own; it cannot go on if its parent has the
/// threads.
pub(crate) fn enter_process(
    group: Option<&Arc<ThreadGroup>>,
    gate: Option<&Arc<Gate>>,
) -> Result<()> {
    let cannot = |error| Error::io("go on in", "a forked child", error);
    if group.is_some_and(|group| group.is_left_behind()) {
        let why = "the threads that serve requests have stayed in the process that has forked this one, and so has what \
                   they had locked; fork before the first request, or serve the listener's descriptor by a server of \
                   the child's own (`from_fd`)";
        return Err(cannot(io::Error::other(why)));
    }
    gate.map_or(Ok(()), |gate| gate.enter_process()).map_err(cannot)
}

struct Alive {
    group: Arc<ThreadGroup>,
}

/// The threads of all crews.
static THREADS: AtomicUsize = AtomicUsize::new(0);

impl Alive {
    /// Fails if the process has as many as it can have: one more would end it.
    fn new(group: Arc<ThreadGroup>) -> io::Result<Self> {
        let most = sys::most_threads();
        let one_more = |count: usize| (count < most).then_some(count + 1);
        if THREADS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
            let text =
                format!("the process has {most} threads already, and memory mappings for no more");
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, text));
        }
        *group.alive.lock() += 1;
        Ok(Self { group })
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::Relaxed);
        *self.group.alive.lock() -= 1;
        self.group.ended.notify_all();
    }
}

/// `program::echo::Echo` is `Echo`: what fits into 15 bytes and is still told from others.
fn short_name(label: &str) -> &str {
    let plain = label.split('<').next().unwrap_or(label);
    plain.rsplit("::").find(|part| !part.starts_with('{')).unwrap_or(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_named_by_the_last_part_of_the_type() {
        assert_eq!(short_name("a::b::Echo"), "Echo");
        assert_eq!(short_name("a::main::{{closure}}"), "main");
        assert_eq!(short_name("a::Echo<b::C>"), "Echo");
        assert_eq!(short_name(""), "");
    }
}
