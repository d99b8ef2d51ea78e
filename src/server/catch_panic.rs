//! Where a panic of what belongs to the user ends, and nowhere else: [`catch_panic`].

use std::panic::{self, AssertUnwindSafe};

use crate::error::{HandlerError, HandlerResult, Panicked};

/// Runs what belongs to the user. A panic becomes an error.
///
/// Unwind safety: what a panic may have left half-changed is the handler, which is dropped, and the
/// request, of which only `finish` and the close are left to see anything.
pub(super) fn catch_panic<R>(
    run: impl FnOnce() -> Result<R, HandlerError>,
) -> Result<R, HandlerError> {
    match panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result,
        Err(payload) => {
            let panicked = Panicked::new(&*payload);
            // A value that a panic was given may panic in its turn when it is dropped, and so may that one's:
            // the second is kept for good.
            if let Err(next) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(next);
            }
            Err(panicked.into())
        }
    }
}

/// Drops what belongs to the user: that runs code of his as well.
pub(super) fn drop_catching<V>(value: V) -> HandlerResult {
    catch_panic(|| {
        drop(value);
        Ok(())
    })
}
