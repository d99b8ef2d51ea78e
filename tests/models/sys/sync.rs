//! The checker's locks and atomics, with the interface of those in `src/sys/sync.rs`.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

pub(crate) use std::sync::atomic::Ordering;

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

/// A guard: its lock, and the checker's guard, which is `None` only within a wait.
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    locked: Option<loom::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, locked: Some(self.take()) }
    }

    fn take(&self) -> loom::sync::MutexGuard<'_, T> {
        self.0.lock().expect("no thread panics")
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.locked.as_ref().expect("it is locked")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.locked.as_mut().expect("it is locked")
    }
}

#[derive(Debug)]
pub(crate) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(loom::sync::Condvar::new())
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let locked = guard.locked.take().expect("it is locked");
        guard.locked = Some(self.0.wait(locked).expect("no thread panics"));
    }

    pub(crate) fn wait_while<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) {
        while condition(guard) {
            self.wait(guard);
        }
    }

    /// Waits: the time passes while others run.
    #[allow(clippy::unused_self, reason = "the interface's")]
    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _time: Duration) {
        drop(guard.locked.take());
        loom::thread::yield_now();
        guard.locked = Some(guard.mutex.take());
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// The checker treats a `SeqCst` access like `AcqRel`, but it knows `SeqCst` fences. So a fence follows each write, as on
/// x86, for a thread that writes and then reads what another one writes.
macro_rules! atomic {
    ($name:ident, $value:ty) => {
        #[derive(Debug)]
        pub(crate) struct $name(loom::sync::atomic::$name);

        impl Default for $name {
            fn default() -> Self {
                Self::new(<$value>::default())
            }
        }

        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                self.0.load(if_ordered(order, Ordering::Acquire))
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                fenced(order, |order| self.0.store(value, if_ordered(order, Ordering::Release)));
            }
        }
    };
}

macro_rules! counter {
    ($name:ident, $value:ty) => {
        impl $name {
            pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                fenced(order, |order| self.0.fetch_add(value, order))
            }

            pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                fenced(order, |order| self.0.fetch_sub(value, order))
            }
        }
    };
}

impl AtomicBool {
    pub(crate) fn swap(&self, value: bool, order: Ordering) -> bool {
        fenced(order, |order| self.0.swap(value, order))
    }
}

impl AtomicUsize {
    pub(crate) fn fetch_update(
        &self,
        set: Ordering,
        fetch: Ordering,
        update: impl FnMut(usize) -> Option<usize>,
    ) -> Result<usize, usize> {
        let fetch = if_ordered(fetch, Ordering::Acquire);
        fenced(set, |set| self.0.fetch_update(set, fetch, update))
    }
}

atomic!(AtomicBool, bool);
atomic!(AtomicU64, u64);
atomic!(AtomicUsize, usize);
counter!(AtomicUsize, usize);

/// The order for a load or a store: `its_own` in place of an order for both.
fn if_ordered(order: Ordering, its_own: Ordering) -> Ordering {
    if order == Ordering::SeqCst || order == Ordering::AcqRel { its_own } else { order }
}

/// Makes a write, with a fence after it if it is `SeqCst`.
fn fenced<T>(order: Ordering, access: impl FnOnce(Ordering) -> T) -> T {
    if order != Ordering::SeqCst {
        return access(order);
    }
    let value = access(Ordering::AcqRel);
    loom::sync::atomic::fence(Ordering::SeqCst);
    value
}

pub(crate) mod thread {
    //! Threads that the sources start: the models play them.

    use std::io;

    pub(crate) struct JoinHandle<T>(std::marker::PhantomData<T>);

    pub(crate) struct Builder;

    impl Builder {
        pub(crate) fn new() -> Self {
            Self
        }

        pub(crate) fn name(self, _name: String) -> Self {
            self
        }

        #[allow(clippy::unnecessary_wraps, reason = "as std's")]
        pub(crate) fn spawn<T>(self, _run: impl FnOnce() -> T) -> io::Result<JoinHandle<T>> {
            Ok(JoinHandle(std::marker::PhantomData))
        }
    }
}
