//! [`join`]: two things at once, within one request.
//!
//! | the caller is | `b` runs |
//! |---|---|
//! | a plain thread | on a thread of its own, which ends before `join` returns |
//! | a coroutine, of a parker that [spawns](super::Parker::spawn) | in a coroutine of its own, on the same thread |
//! | a coroutine, of any other parker | on a thread of its own; the caller parks until that has ended |
//!
//! Both closures borrow from the caller's stack, so the caller must not leave it before both have ended: neither by a
//! panic of `a`, nor because its wait is cancelled. A panic of either closure is caught where the closure runs, and
//! goes on in the caller when both have ended. The one lifetime that the compiler cannot see, that of `b` in another
//! coroutine, is in `sys::scoped_closure`: a closure is lent, and the loan ends only when the closure has been called or
//! dropped.

use std::cell::Cell;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use super::entered_span::CallersSpan;
use super::serving::Serving;
use super::{Event, FlushPromise, any, flush, parker, shield};
use crate::on_drop::OnDrop;
use crate::panic_payload::drop_payload;
use crate::sys::scoped_closure::lend_once;

/// Runs two closures at once, and returns both results when both have ended: a handler that has to wait for two things, such
/// as the two directions of a connection.
///
/// `a` runs where the handler runs. `b` runs beside it: on a thread of its own, or, where handlers are coroutines, in
/// a coroutine of the same thread. Both may borrow from the handler, and neither closure outlives the call: `join`
/// neither returns nor unwinds before both have ended, and it interrupts neither. So each closure has to end by
/// itself when the other one has failed. The halves of a connection have [`close`](crate::outgoing::HalfClose::close)
/// for that: it ends the waits of the other half.
///
/// With the feature `tracing`, events of `b` are in the span of the request; where the handler runs on a plain thread, only
/// if the subscriber says which span a thread is in.
///
/// At the deadline of a drain the waits of both fail, as those of the handler alone would. A call of
/// [`server_close`](crate::BaseServer::server_close) in `b` does not wait for the request; nor does such a call in the
/// handler itself.
///
/// # Errors
///
/// If no thread and no coroutine can be started for `b`. Then neither closure has been called. (Running them one
/// after the other would not be what was asked for, and would wait for ever where one needs the other.)
///
/// # Panics
///
/// If one of the closures panics: with the same payload, when the other closure has ended. If both panic, with the
/// payload of `a`.
///
/// ```
/// use std::io::{Read, Write};
/// use socketserver::{HandlerResult, StreamRequest, join, stream_fn};
///
/// /// Counts the bytes that come, and sends something meanwhile.
/// fn both_ways(request: &mut StreamRequest) -> HandlerResult {
///     let (mut input, mut output) = request.split()?;
///     let (count, sent) = join(
///         || std::io::copy(&mut input, &mut std::io::sink()),
///         || output.write_all(b"go on, I am listening\n"),
///     )?;
///     sent?;
///     writeln!(request, "{} bytes", count?)?;
///     Ok(())
/// }
/// # let _handler = stream_fn(both_ways);
/// ```
#[doc(alias("spawn", "select", "gather"))]
pub fn join<A, B: Send>(a: impl FnOnce() -> A, b: impl FnOnce() -> B + Send) -> io::Result<(A, B)> {
    let Some(parker) = parker() else { return beside_a_thread(a, b, None) };
    let end = Rc::new(Event::new()?);
    // The closures are in cells, so that both are still here if no coroutine can be started.
    let (a, b) = (Cell::new(Some(a)), Cell::new(Some(b)));
    let (a_ended, b_ended) = (Cell::new(None), Cell::new(None));
    let notifies = Rc::clone(&end);
    let span = CallersSpan::current();
    lend_once(
        Box::new(|| {
            let _span = span.enter();
            b_ended.set(b.take().map(caught));
        }),
        Rc::new(move || notifies.notify()),
        |lent| match parker.spawn(lent) {
            Ok(()) => a_ended.set(a.take().map(caught)),
            // The coroutine was not started. Its closure is dropped, and `b` stays in the cell.
            Err(not_started) => drop(not_started),
        },
        || wait_patiently(&end),
    );
    match (a_ended.take(), b_ended.take(), a.take(), b.take()) {
        (Some(a), Some(b), ..) => both(a, b),
        (None, None, Some(a), Some(b)) => beside_a_thread(a, b, Some(&end)),
        // A program's own parker has dropped the closure that it promised to run.
        (Some(Err(payload)), ..) => panic::resume_unwind(payload),
        _ => Err(io::Error::other("the parker has not run what was spawned")),
    }
}

/// The result of a closure, or the payload of its panic.
fn caught<R>(work: impl FnOnce() -> R) -> thread::Result<R> {
    panic::catch_unwind(AssertUnwindSafe(work))
}

/// Runs `b` on a thread of its own. `end` is given by a coroutine, which must not block its thread.
fn beside_a_thread<A, B: Send>(
    a: impl FnOnce() -> A,
    b: impl FnOnce() -> B + Send,
    end: Option<&Event>,
) -> io::Result<(A, B)> {
    let name = format!("{} join", thread::current().name().unwrap_or("handler"));
    let (serving, span) = (Serving::inherit(), CallersSpan::current());
    if let Some(end) = end {
        // The attempt with a coroutine has notified the event, when its closure was dropped.
        end.clear();
    }
    thread::scope(|scope| {
        let work = move || {
            let _notifies = end.map(|end| OnDrop(move || end.notify()));
            let (_serving, _span) = (serving.enter(), span.enter());
            // Messages and datagrams of `b` leave when it waits, and at the latest when it has ended.
            let _promise = FlushPromise::start();
            b()
        };
        let thread =
            thread::Builder::new().name(name).spawn_scoped(scope, work).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot start a thread for join: {error}"))
            })?;
        let a = caught(a);
        // This comes before the join, which blocks the thread: a coroutine parks until `b` has ended, and then the join
        // returns at once.
        match end {
            Some(end) => wait_patiently(end),
            None => flush(),
        }
        both(a, thread.join())
    })
}

/// Waits for the end of the other closure, whatever happens. A cancellation does not end this wait: the other closure
/// is cancelled as well, and it borrows from here.
fn wait_patiently(end: &Event) {
    shield(|| {
        while !end.is_set() {
            if any(&[end.waiting()], None).is_err() {
                // The parker could not wait, for want of memory say. The thread sleeps a moment instead.
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
}

/// Returns both results, when both closures have ended. A panic goes on here, in the caller.
fn both<A, B>(a: thread::Result<A>, b: thread::Result<B>) -> io::Result<(A, B)> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (Err(payload), Err(other)) => {
            // A payload may be any value of the program's, and then its drop runs code of the program.
            drop_payload(other);
            panic::resume_unwind(payload)
        }
        (Err(payload), Ok(_)) | (Ok(_), Err(payload)) => panic::resume_unwind(payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn both_run_at_once_and_may_borrow() {
        let ((to_b, from_a), (to_a, from_b)) = (channel(), channel());
        let (mut a_saw, mut b_saw) = (0, 0);
        let (from_a, from_b) = (parking_lot::Mutex::new(from_a), parking_lot::Mutex::new(from_b));
        let name = thread::Builder::new().name("handler 7".into());
        let (a, b) = thread::scope(|scope| {
            let run = || {
                join(
                    || {
                        to_b.send(1).unwrap();
                        a_saw = from_b.lock().recv_timeout(SOON).unwrap();
                        thread::current().id()
                    },
                    || {
                        b_saw = from_a.lock().recv_timeout(SOON).unwrap();
                        to_a.send(2).unwrap();
                        thread::current().name().unwrap().to_owned()
                    },
                )
            };
            name.spawn_scoped(scope, run).unwrap().join().unwrap().unwrap()
        });
        assert_ne!(a, thread::current().id());
        assert_eq!((b.as_str(), a_saw, b_saw), ("handler 7 join", 2, 1));
    }

    #[test]
    fn a_panic_goes_on_when_the_other_one_has_ended() {
        let ended = Cell::new(false);
        let of_b = caught(|| {
            join(
                || {
                    thread::sleep(Duration::from_millis(20));
                    ended.set(true);
                },
                || panic::panic_any("b"),
            )
        });
        assert_eq!((of_b.unwrap_err().downcast_ref(), ended.get()), (Some(&"b"), true));
        let (done, was_done) = channel();
        let of_a = caught(|| {
            join(
                || panic::panic_any("a"),
                || {
                    thread::sleep(Duration::from_millis(20));
                    done.send(()).unwrap();
                },
            )
        });
        assert_eq!(of_a.unwrap_err().downcast_ref(), Some(&"a"));
        was_done.try_recv().unwrap();
        let of_both = caught(|| join(|| panic::panic_any("a"), || panic::panic_any("b")));
        assert_eq!(of_both.unwrap_err().downcast_ref(), Some(&"a"));
    }

    #[test]
    fn b_serves_what_its_caller_does() {
        let _serving = Serving::start(77);
        let (_, serves) = join(|| (), || super::super::is_serving(77)).unwrap();
        assert!(serves);
    }
}
