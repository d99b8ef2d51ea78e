//! A closure with borrows that somebody else on this thread calls later: [`lend_once`].
//!
//! A coroutine's body has to be `'static`, because a coroutine may outlive its maker. [`lend_once`] lends a closure
//! that borrows from its caller's frame, and returns only when that closure is gone:
//!
//! ```text
//! lend_once(work)                    the borrower
//!   within(lent)  -- Box ---------->   calls it, or drops it
//!   ..                                   work returns, or is dropped
//!   wait(), until it has ended  <----    LentEnd dropped: ended = true, and `on_end` is called
//! returns
//! ```

use std::cell::Cell;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;

use crate::panic_payload::drop_payload;

/// Gives `within` a closure that calls `work`. Does not return, or unwind, before that closure has been called or
/// dropped. Until then it calls `wait`, which should let the borrower go on. If the borrower forgets the closure,
/// `lend_once` waits for ever. `on_end` is called when `work` is gone, to wake `wait`.
///
/// A panic of `wait` is held back until the end; if there are several, the first counts.
pub(crate) fn lend_once<'a, X>(
    work: Box<dyn FnOnce() + 'a>,
    on_end: Rc<dyn Fn()>,
    within: impl FnOnce(Box<dyn FnOnce()>) -> X,
    wait: impl Fn(),
) -> X {
    let ended = Rc::new(Cell::new(false));
    // SAFETY: only the lifetime changes. `work` is dropped, or consumed by its call, before `ended` is set: `Lent` holds
    // both in this order. Every way out of this function leads through the loop below, which ends when `ended` is set, so
    // `work` is not used after `'a`. The closure is not `Send`, so `Cell` is seen by this thread alone; if the closure is
    // forgotten, `ended` is never set, and this function never returns.
    let work = unsafe { mem::transmute::<Box<dyn FnOnce() + 'a>, Box<dyn FnOnce()>>(work) };
    let lent = Lent { work, _end: LentEnd { ended: Rc::clone(&ended), on_end } };
    let result = panic::catch_unwind(AssertUnwindSafe(|| within(Box::new(move || lent.call()))));
    let mut payload = None;
    while !ended.get() {
        if let Err(next) = panic::catch_unwind(AssertUnwindSafe(&wait)) {
            match payload {
                None => payload = Some(next),
                Some(_) => drop_payload(next),
            }
        }
    }
    match (result, payload) {
        (Ok(result), None) => result,
        (Err(payload), _) | (Ok(_), Some(payload)) => panic::resume_unwind(payload),
    }
}

/// The closure, and the note of its end. They are dropped in the order of the fields.
///
/// The borrower holds this value. If the borrower drops it without a call, that ends the loan as well.
struct Lent {
    work: Box<dyn FnOnce()>,
    _end: LentEnd,
}

impl Lent {
    fn call(self) {
        let Self { work, _end } = self;
        // The call consumes `work`, even if it panics. After it `_end` is dropped.
        work();
    }
}

/// The part of a [`Lent`] whose drop notes that the closure is gone.
struct LentEnd {
    ended: Rc<Cell<bool>>,
    on_end: Rc<dyn Fn()>,
}

impl Drop for LentEnd {
    fn drop(&mut self) {
        self.ended.set(true);
        (self.on_end)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn nothing() -> Rc<dyn Fn()> {
        Rc::new(|| ())
    }

    #[test]
    fn it_is_called_within_or_while_it_is_waited_for_and_never_after() {
        for later in [false, true] {
            let mut count = 0;
            let kept: RefCell<Option<Box<dyn FnOnce()>>> = RefCell::default();
            let wakes = Rc::new(Cell::new(0));
            let counted = Rc::clone(&wakes);
            lend_once(
                Box::new(|| count += 1),
                Rc::new(move || counted.set(counted.get() + 1)),
                |lent| {
                    if later {
                        kept.replace(Some(lent));
                    } else {
                        lent();
                    }
                },
                || kept.take().expect("it was kept")(),
            );
            assert_eq!((count, wakes.get()), (1, 1));
        }
    }

    #[test]
    fn a_closure_that_is_dropped_is_gone_and_was_not_called() {
        let called = Cell::new(false);
        let result = lend_once(
            Box::new(|| called.set(true)),
            nothing(),
            |lent| {
                drop(lent);
                7
            },
            || unreachable!("it is gone"),
        );
        assert_eq!((result, called.get()), (7, false));
    }

    #[test]
    fn panics_within_and_of_the_wait_are_held_back_until_the_closure_is_gone() {
        for within_panics in [true, false] {
            let called = Cell::new(false);
            let kept: RefCell<Option<Box<dyn FnOnce()>>> = RefCell::default();
            let waits = Cell::new(0);
            let caught = panic::catch_unwind(AssertUnwindSafe(|| {
                lend_once(
                    Box::new(|| called.set(true)),
                    nothing(),
                    |lent| {
                        kept.replace(Some(lent));
                        if within_panics {
                            panic::panic_any("within");
                        }
                    },
                    || {
                        waits.set(waits.get() + 1);
                        if waits.get() < 3 {
                            panic::panic_any("wait");
                        }
                        kept.take().expect("it was kept")();
                    },
                );
            }));
            let expected = if within_panics { "within" } else { "wait" };
            assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&expected));
            assert_eq!((called.get(), waits.get()), (true, 3));
        }
    }
}
