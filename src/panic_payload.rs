//! The payload of a panic that was caught: [`drop_payload`], and [`catch_and_drop`] for a panic that nobody hears of.

use std::any::Any;
use std::mem;
use std::panic::{self, AssertUnwindSafe};

/// How many drops in a row may panic. A payload whose drop panics is a mistake of the program. It is rare that the drop
/// of the new payload panics too.
const MAX_PANICKING_DROPS: usize = 4;

/// Drops a payload. Its drop is code of the program and may panic as well, with a new payload, which is then dropped
/// in the same way. After [`MAX_PANICKING_DROPS`] such panics the last payload is leaked, so that this ends.
pub(crate) fn drop_payload(payload: Box<dyn Any + Send>) {
    // The last payload is leaked, because its drop might panic here, outside of every catch. Usually none is left.
    mem::forget(last_of_many(payload));
}

/// Calls code of the program at a place where a panic can be reported to nobody, and must not reach the caller. Returns
/// `None` if the code has panicked; the payload is dropped by then.
pub(crate) fn catch_and_drop<R>(call: impl FnOnce() -> R) -> Option<R> {
    panic::catch_unwind(AssertUnwindSafe(call)).map_err(drop_payload).ok()
}

/// Returns the payload that is left when [`MAX_PANICKING_DROPS`] drops in a row have panicked. Usually there is none.
fn last_of_many(payload: Box<dyn Any + Send>) -> Option<Box<dyn Any + Send>> {
    let mut payload = payload;
    for _ in 0..MAX_PANICKING_DROPS {
        match panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            Ok(()) => return None,
            Err(next) => payload = next,
        }
    }
    Some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panics when it is dropped, with a payload that counts one less.
    struct Bomb(usize);

    impl Drop for Bomb {
        fn drop(&mut self) {
            if self.0 > 0 {
                panic::resume_unwind(Box::new(Bomb(self.0 - 1)));
            }
        }
    }

    #[test]
    fn what_the_drop_of_a_payload_panics_with_is_dropped_as_well() {
        for (bombs, left) in [
            (0, None),
            (1, None),
            (MAX_PANICKING_DROPS - 1, None),
            (MAX_PANICKING_DROPS, Some(0)),
            (100, Some(100 - MAX_PANICKING_DROPS)),
        ] {
            // Defused, so that the test itself leaks nothing.
            let found = last_of_many(Box::new(Bomb(bombs))).map(|payload| {
                let mut bomb = payload.downcast::<Bomb>().expect("a bomb");
                std::mem::take(&mut bomb.0)
            });
            assert_eq!(found, left, "{bombs}");
        }
    }
}
