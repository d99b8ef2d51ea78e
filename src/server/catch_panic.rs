//! [`catch_panic`]: turns a panic of the program's own code into an error.
//!
//! It is around each single call, not around a whole request, so that the steps after a panic still run: `finish`, the
//! report and the close, all in `open_request.rs`. (Mixins and `wait/` catch panics with `panic_payload::catch_and_drop`,
//! which makes no error of them.)
//!
//! Two payloads are not panics of the program but this crate's way to unwind a coroutine: one that is cancelled, and an
//! accept loop that is retired. They become errors too: the frames that have called the program's code are the server's,
//! and these go on with the error.
//!
//! The drop of a payload, of an error, or of a value that a hook has left is the program's code as well. A drop that
//! panics while another panic unwinds ends the process, so each value is dropped here, on its own.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};

use crate::error::{HandlerError, HandlerResult, Panicked};
use crate::panic_payload::drop_payload;
use crate::wait::{Cancelled, CancelledUnwind, RetiredUnwind};

/// Runs code of the program: a handler, a hook, a drop. A panic becomes a [`Panicked`].
///
/// Unwind safety: a panic may leave the handler and the request half-changed. The handler is dropped, and only
/// `finish` and the close see the request again.
#[inline]
pub(super) fn catch_panic<R>(
    run: impl FnOnce() -> Result<R, HandlerError>,
) -> Result<R, HandlerError> {
    match panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result,
        Err(payload) => Err(error_of(payload)),
    }
}

/// The error for the payload of a panic.
#[cold]
fn error_of(payload: Box<dyn Any + Send>) -> HandlerError {
    if payload.is::<CancelledUnwind>() {
        // This is the error that the waits of a cancelled request return, so that the reason of its end is found in the
        // same way.
        return Cancelled::error().into();
    }
    // The accept loop that has called the hook is to end. If the caller ignores this error, the next wait ends the loop.
    if payload.is::<RetiredUnwind>() {
        return RetiredUnwind.into();
    }
    let panicked = Panicked::new(&*payload);
    // The payload's text is copied by now. The payload may be any value (`panic_any`), so that its drop may panic too.
    drop_payload(payload);
    panicked.into()
}

/// Runs code of the program that has no result. A panic in it ends nothing else, and only the panic hook reports it.
#[inline]
pub(super) fn run_catching(run: impl FnOnce()) {
    drop(catch_panic(|| {
        run();
        Ok(())
    }));
}

/// Drops a value of the program: its drop is code of the program.
#[inline]
pub(super) fn drop_catching<V>(value: V) -> HandlerResult {
    catch_panic(|| {
        drop(value);
        Ok(())
    })
}
