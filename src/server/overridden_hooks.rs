//! Which hooks of the loop a program has overridden: [`OverriddenHooks`].
//!
//! The loop calls two hooks for each request, [`LoopHook`]. A worker that accepts by itself would skip them, so the
//! server lets workers accept only if neither hook is overridden. A trait object does not say which of its methods are
//! overridden. So the server finds out by calling the hooks, which it does anyway:
//!
//! ```text
//!   call(VerifyRequest, || hooks.verify_request(..))
//!     LAST_DEFAULT = none
//!     the override runs            or   the default runs, and sets LAST_DEFAULT = its own type
//!     LAST_DEFAULT == the type of the hooks?     then the hook is not overridden: noted for good
//! ```
//!
//! An override may call the default of another type (as a wrapper around other hooks does). Then `LAST_DEFAULT` has that other
//! type, and the hook counts as overridden.

use std::any::TypeId;
use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};

use super::hooks::DefaultHooks;

/// The facts that are known about the hooks of one server. Any thread may add one; none is ever withdrawn.
#[derive(Debug)]
pub(super) struct OverriddenHooks {
    /// The type of the hooks.
    hooks: TypeId,
    /// Whether the program has given hooks: their type is not [`DefaultHooks`].
    are_given: bool,
    /// The hooks that are known to be defaults, a bit each.
    default: AtomicU8,
}

/// A hook that the loop calls for each request.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum LoopHook {
    /// Called before a request goes to its worker.
    VerifyRequest = 1,
    /// Called after a request has gone to its worker, and at each tick.
    ServiceActions = 2,
}

/// Both bits of [`LoopHook`].
const ALL: u8 = 3;

thread_local! {
    /// The type whose default ran last in this thread.
    static LAST_DEFAULT: Cell<Option<TypeId>> = const { Cell::new(None) };
}

/// Notes that a default has run. Called by the default of each [`LoopHook`].
pub(super) fn is_default<H: ?Sized + 'static>() {
    // Read by `call`, on the same thread, when the hook has returned.
    LAST_DEFAULT.set(Some(TypeId::of::<H>()));
}

impl OverriddenHooks {
    /// The facts that follow from the type of the hooks, which is known only before they are boxed. For the default
    /// hooks nothing is left to find out.
    pub(super) fn of<H: 'static>() -> Self {
        let hooks = TypeId::of::<H>();
        let are_given = hooks != TypeId::of::<DefaultHooks>();
        let default = AtomicU8::new(if are_given { 0 } else { ALL });
        Self { hooks, are_given, default }
    }

    /// Whether the program has given any hooks at all.
    pub(super) fn are_given(&self) -> bool {
        self.are_given
    }

    /// Calls a hook, and notes whether its default ran.
    pub(super) fn call<R>(&self, hook: LoopHook, call: impl FnOnce() -> R) -> R {
        // A request costs one load here, once an earlier one has shown that both hooks are defaults.
        if self.are_default() {
            return call();
        }
        // A default that ran before on this thread must not count.
        LAST_DEFAULT.set(None);
        let result = call();
        if LAST_DEFAULT.get() == Some(self.hooks) {
            // Relaxed: a thread that sees it late calls the hook once more, which does no harm.
            self.default.fetch_or(hook as u8, Ordering::Relaxed);
        }
        result
    }

    /// Whether both hooks are known to be defaults. The first request decides it.
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
        let hooks = OverriddenHooks::of::<Outer>();
        hooks.call(LoopHook::VerifyRequest, is_default::<Inner>);
        hooks.call(LoopHook::ServiceActions, is_default::<Outer>);
        assert!(!hooks.are_default());
        hooks.call(LoopHook::VerifyRequest, is_default::<Outer>);
        assert!(hooks.are_default());
    }

    #[test]
    fn a_default_that_ran_before_says_nothing_of_the_next_hook() {
        let hooks = OverriddenHooks::of::<Outer>();
        hooks.call(LoopHook::VerifyRequest, is_default::<Outer>);
        hooks.call(LoopHook::ServiceActions, || ());
        assert!(!hooks.are_default());
    }

    #[test]
    fn a_server_without_hooks_has_only_defaults() {
        let hooks = OverriddenHooks::of::<DefaultHooks>();
        assert!(hooks.are_default() && !hooks.are_given());
        assert!(OverriddenHooks::of::<Outer>().are_given());
    }
}
