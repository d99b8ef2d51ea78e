//! Which of the hooks that the loop calls are overridden: [`LoopHooks`].
//!
//! A hook that only the loop calls has every request accepted by the loop: a worker that accepts by itself would have to
//! call it as well, or to leave it out. So the server has to know whether such a hook is there, and nobody is to
//! declare what he has just written. It finds out by calling them, as it does in any case: a method that is not overridden
//! is the default one of *this* type, and says so.

use std::any::TypeId;
use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};

/// What has been found out about the hooks of one server.
#[derive(Debug)]
pub(super) struct LoopHooks {
    /// The type of the hooks. A default that runs for another one was called by an override that hands on.
    hooks: TypeId,
    /// Those that are known not to be overridden.
    default: AtomicU8,
}

/// A hook that the loop calls for each request.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum LoopHook {
    VerifyRequest = 1,
    ServiceActions = 2,
}

const ALL: u8 = 3;

thread_local! {
    /// The type for which a default ran last in this thread.
    static RAN: Cell<Option<TypeId>> = const { Cell::new(None) };
}

/// Said by the default of a hook.
pub(super) fn is_default<H: ?Sized + 'static>() {
    RAN.set(Some(TypeId::of::<H>()));
}

impl LoopHooks {
    pub(super) fn of<H: 'static>() -> Self {
        Self { hooks: TypeId::of::<H>(), default: AtomicU8::new(0) }
    }

    /// Of a type that is known to override none.
    pub(super) fn none_of<H: 'static>() -> Self {
        Self { hooks: TypeId::of::<H>(), default: AtomicU8::new(ALL) }
    }

    /// Calls a hook, and notes whether that was its default.
    pub(super) fn call<R>(&self, hook: LoopHook, call: impl FnOnce() -> R) -> R {
        if self.are_default() {
            return call();
        }
        RAN.set(None);
        let result = call();
        if RAN.get() == Some(self.hooks) {
            self.default.fetch_or(hook as u8, Ordering::Relaxed);
        }
        result
    }

    /// Whether none of them is overridden, as far as is known. The first request tells.
    pub(super) fn are_default(&self) -> bool {
        self.default.load(Ordering::Relaxed) == ALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Outer;
    struct Inner;

    #[test]
    fn an_override_that_hands_on_to_another_default_is_an_override() {
        let hooks = LoopHooks::of::<Outer>();
        hooks.call(LoopHook::VerifyRequest, is_default::<Inner>);
        hooks.call(LoopHook::ServiceActions, is_default::<Outer>);
        assert!(!hooks.are_default());
        hooks.call(LoopHook::VerifyRequest, is_default::<Outer>);
        assert!(hooks.are_default());
    }

    #[test]
    fn what_ran_before_says_nothing_of_the_next_one() {
        let hooks = LoopHooks::of::<Outer>();
        hooks.call(LoopHook::VerifyRequest, is_default::<Outer>);
        hooks.call(LoopHook::ServiceActions, || ());
        assert!(!hooks.are_default());
    }
}
