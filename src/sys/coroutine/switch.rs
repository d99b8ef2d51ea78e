//! Switching between stacks: a [`Coroutine`] runs until it calls [`suspend`], and goes on when it is resumed.
//!
//! ```text
//! worker's stack                    coroutine's stack
//! resume ------------------------>  body() ..
//!        <------------------------  suspend()         the frames stay where they are
//! resume ------------------------>  .. returns from suspend ..
//!        <------------------------  body returns      SwitchEnd::Ended gives the stack back
//! ```
//!
//! A coroutine never leaves its thread: the type is neither `Send` nor `Sync`. One that is dropped before its end is
//! leaked with its stack, and its destructors never run: another thread may still use values that lie there.
//!
//! A switch is a handful of instructions of corosensei's: they save the registers that the code needs again, exchange the
//! stack pointers, and jump. No system call is made, and the kernel knows nothing of it. For the thread all of this is one
//! flow of control, so:
//!
//! - Thread-locals are those of the worker, and change under a handler's feet while it is suspended.
//! - A lock that is held across a suspension is held by the thread: another coroutine of the worker that waits for it
//!   waits for ever. The same is true of a `RefCell` of the worker that is borrowed.
//! - A signal's handler may run on a coroutine's stack, unless it asks for the alternate one (SA_ONSTACK).
//!
//! A worker's loop alone resumes, on the thread's own stack; `suspend` is called where a wait parks
//! (`mixin/green/coroutine_wait.rs`). A coroutine that resumes another one would work as well: `RUNNING` is put back when the
//! inner one suspends itself.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ptr;

use corosensei::{Coroutine as Switch, CoroutineResult, Yielder};

use super::stack::{Extent, SlabStack};

/// A function call on a stack of its own, which can be suspended.
pub(crate) struct Coroutine {
    /// Never dropped before its end: that would unwind the stack, through code of the program that may catch it.
    switch: ManuallyDrop<Switch<(), (), (), SlabStack>>,
    /// Pointers to the parts at the bottom of the coroutine's stack; nulls before the first resume.
    bottom: Bottom,
    /// The coroutine has returned, and must not be resumed.
    ended: bool,
}

/// Pointers to the parts of a coroutine that lie at the bottom of its own stack, for as long as its body runs. There are
/// two pointers, and not one to a pair, because a suspension then touches one cache line less.
#[derive(Clone, Copy)]
struct Bottom {
    /// The handle by which the body suspends itself. corosensei keeps it there from the first resume until the body
    /// returns.
    yielder: *const Yielder<(), ()>,
    /// The data for the report of an overflow.
    running: *const RunningCoroutine,
}

impl Bottom {
    /// The value while a thread runs on its own stack.
    const NONE: Self = Self { yielder: ptr::null(), running: ptr::null() };
}

/// A coroutine that runs, as the report of an overflow needs it.
#[derive(Clone, Debug)]
pub(super) struct RunningCoroutine {
    /// The name of its handler.
    pub(super) label: &'static str,
    /// The addresses of its stack.
    pub(super) extent: Extent,
}

/// How far a resumed coroutine has come.
#[derive(Debug)]
pub(crate) enum SwitchEnd {
    /// The coroutine waits.
    Suspended,
    /// The coroutine has returned. Its stack is free.
    Ended(SlabStack),
}

thread_local! {
    /// The innermost coroutine that runs on this thread; nulls on the thread's own stack.
    static RUNNING: Cell<Bottom> = const { Cell::new(Bottom::NONE) };
}

/// Ends the process if a panic leaves the body of a coroutine: there is nothing below it to unwind to.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

impl Coroutine {
    /// A coroutine that has not begun. A panic that leaves `body` ends the process.
    ///
    /// The closure is moved to the top of the new stack, which touches its first page. `label` names the handler in the
    /// report of an overflow.
    pub(crate) fn new(
        stack: SlabStack,
        label: &'static str,
        body: impl FnOnce() + 'static,
    ) -> Self {
        let running = RunningCoroutine { label, extent: stack.extent() };
        let switch = Switch::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
            let _abort = AbortOnUnwind;
            RUNNING.set(Bottom { yielder, running: &raw const running });
            body();
        });
        Self { switch: ManuallyDrop::new(switch), bottom: Bottom::NONE, ended: false }
    }

    /// Runs the coroutine until it suspends itself or returns.
    ///
    /// # Panics
    ///
    /// If it has returned before.
    #[inline(always)]
    pub(crate) fn resume(&mut self) -> SwitchEnd {
        assert!(!self.ended, "a coroutine that has ended cannot be resumed");
        // At the first resume the body itself sets `RUNNING`.
        let outer = RUNNING.replace(self.bottom);
        let result = self.switch.resume(());
        self.bottom = RUNNING.replace(outer);
        match result {
            CoroutineResult::Yield(()) => SwitchEnd::Suspended,
            CoroutineResult::Return(()) => {
                self.ended = true;
                // SAFETY: it is taken once, because `ended` keeps every later call out, and `ManuallyDrop` does not drop it.
                let switch = unsafe { ManuallyDrop::take(&mut self.switch) };
                SwitchEnd::Ended(switch.into_stack())
            }
        }
    }
}

/// The coroutine that runs on this thread, if one does. May be called by the handler of a fault.
///
/// In a handler of a signal this is sound because `RUNNING` is constant-initialised and has no destructor: reading it
/// never allocates, on any thread and at any moment of its life. Nothing is allocated by the clone.
pub(super) fn running() -> Option<RunningCoroutine> {
    // SAFETY: as in `suspend`. A fault of its stack leaves the bottom of the stack as it is.
    unsafe { RUNNING.get().running.as_ref() }.cloned()
}

/// The label of the coroutine that runs on this thread; empty outside of one.
pub(crate) fn label() -> &'static str {
    running().map_or("", |running| running.label)
}

/// Suspends the coroutine that runs on this thread, until it is resumed. Outside of a coroutine it does nothing.
///
/// The caller must have arranged to be resumed (a registration, a timer, a message to its worker), or it sleeps for ever.
/// It must not hold a lock or a borrow that the worker's loop takes.
#[inline]
pub(crate) fn suspend() {
    let yielder = RUNNING.with(|running| running.get().yielder);
    // SAFETY: `RUNNING` is the innermost coroutine of this thread, so the caller runs on that coroutine's stack, at whose
    // bottom its yielder lies until the body has returned.
    let Some(yielder) = (unsafe { yielder.as_ref() }) else { return };
    yielder.suspend(());
}
