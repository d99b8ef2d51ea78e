//! The span of the facade `tracing` that a coroutine is in. It is left before each wait of the coroutine, and entered
//! again after it.
//!
//! A thread has one stack of spans. If a span stayed entered while its coroutine is suspended, all other coroutines
//! of the thread would be in it.
//!
//! ```text
//! coroutine A                  ENTERED   the thread's spans   coroutine B
//! in_span(a)                   a         a
//! wait: apart takes a out      none      none
//!   a is on A's stack                                         in_span(b)
//!                              b         b
//!                              none      none                 wait: the same
//! goes on: enters a again      a         a
//! ```
//!
//! A subscriber is the program's code, and is called at each step. If it panics, that request has no span from there on.

use std::cell::Cell;
use std::marker::PhantomData;

use tracing::Span;
use tracing::span::EnteredSpan;

use crate::panic_payload::catch_and_drop;

thread_local! {
    /// The span of the coroutine that runs. While a coroutine is suspended, its span is on its own stack: see
    /// [`apart`].
    static ENTERED: Cell<Option<EnteredSpan>> = const { Cell::new(None) };
}

/// Keeps a span entered while its coroutine runs, until this is dropped.
#[derive(Debug)]
pub(crate) struct InSpan {
    /// Makes the value neither `Send` nor `Sync`: a span is entered on one thread.
    not_send: PhantomData<*const ()>,
}

/// Enters a span, for the coroutine that runs.
pub(crate) fn in_span(span: Span) -> InSpan {
    ENTERED.set(Some(span.entered()));
    InSpan { not_send: PhantomData }
}

impl Drop for InSpan {
    fn drop(&mut self) {
        // There is none if the subscriber has panicked at an `enter` since.
        drop(ENTERED.take());
    }
}

/// The span that the caller is in. A thread or a coroutine that works for the caller enters it, because its events
/// belong to the same request.
pub(super) struct CallersSpan(Option<Span>);

impl CallersSpan {
    pub(super) fn current() -> Self {
        // The span of a coroutine is known here. On a plain thread only the subscriber knows it; most subscribers
        // return it.
        let entered = ENTERED.take();
        let own = entered.as_ref().and_then(|entered| catch_and_drop(|| Span::clone(entered)));
        ENTERED.set(entered);
        Self(own.or_else(|| catch_and_drop(Span::current)))
    }

    /// Enters the span, for work that has begun on another thread or coroutine.
    pub(super) fn enter(self) -> InSpan {
        ENTERED.set(self.0.and_then(|span| catch_and_drop(|| span.entered())));
        InSpan { not_send: PhantomData }
    }
}

/// Waits outside of the coroutine's span.
#[inline]
pub(super) fn apart<R>(wait: impl FnOnce() -> R) -> R {
    match ENTERED.take() {
        Some(entered) => leave_and_enter(entered, wait),
        None => wait(),
    }
}

#[cold]
fn leave_and_enter<R>(entered: EnteredSpan, wait: impl FnOnce() -> R) -> R {
    // Kept on this stack until the wait is over; no other coroutine touches it here.
    let _again = EnterAgain(catch_and_drop(|| entered.exit()));
    wait()
}

/// Enters the span again when this is dropped, also where a cancelled wait unwinds.
struct EnterAgain(Option<Span>);

impl Drop for EnterAgain {
    fn drop(&mut self) {
        if let Some(again) = self.0.take().and_then(|span| catch_and_drop(|| span.entered())) {
            ENTERED.set(Some(again));
        }
    }
}
