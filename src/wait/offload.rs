//! Work that blocks, on threads beside the coroutines: [`offload`].
//!
//! ```text
//! coroutine                            an offload thread
//! submit: into the queue  ------------>  takes the oldest work, or sleeps; leaves after KEEP_OFFLOAD_THREAD without any
//! parks                                  runs it
//!                         <------------  stores the result, then notifies the event
//! takes the result
//! ```
//!
//! The result is stored before the event is notified, and the event stays set. So a coroutine that does not find the result
//! yet is woken when it is there.
//!
//! # After a fork
//!
//! A handler may fork while others offload. The child then has none of the threads, and perhaps a copy of a lock that one of
//! them held. So each process has its own threads, queue and locks ([`PerProcess`]): a child makes new ones, and leaves the
//! inherited queue as it is, because a drop of its closures would run the program's code in the wrong process.

use std::collections::VecDeque;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::entered_span::CallersSpan;
use super::serving::Serving;
use super::{Event, any, flush, is_parked_here};
use crate::panic_payload::catch_and_drop;
use crate::sys::PerProcess;

/// Runs work that blocks (a database call, DNS, a large file) without stopping other requests of the same thread.
///
/// On a plain thread this calls `work` and nothing else. In a coroutine, `work` runs on one of at most
/// 64 threads that all servers of the process share (see below), and the coroutine is suspended until it has ended.
///
/// # The threads
///
/// A thread is started when work comes and no thread is free, up to 64. Beyond that, work waits for its turn, first
/// come first served. A thread without work ends after five seconds. Work that waits for other offloaded work may never
/// end: when all 64 threads wait in this way, nothing else runs. Give work that may last for minutes, or for ever, a
/// thread of its own ([`std::thread::spawn`]).
///
/// If the request is cut off while its work runs, the coroutine stops waiting, and the work goes on to its end. Work
/// that has not begun is dropped.
///
/// # Errors
///
/// If no thread can be started for the work, or if the coroutine cannot wait: it is panicking, or its request was cut
/// off.
///
/// # Panics
///
/// If `work` panics, with the same payload.
///
/// ```
/// use std::io::Write;
/// use socketserver::{offload, stream_fn};
///
/// let names = stream_fn(|request| {
///     let text = offload(|| std::fs::read_to_string("/etc/hostname"))??;
///     Ok(request.write_all(text.as_bytes())?)
/// });
/// # let _ = socketserver::ThreadingTcpServer::bind("127.0.0.1:0", names);
/// ```
pub fn offload<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> io::Result<R> {
    static OFFLOADED: PerProcess<OffloadThreads> =
        PerProcess::new(|| OffloadThreads::new("offload"));
    // The wait has no deadline, so it ends with a result or an error.
    let ended = OFFLOADED.get().run(work, None)?;
    ended.ok_or_else(|| io::Error::other("the work was not waited for"))
}

/// Runs the look-up of a name, as [`offload`] would, but waits for it only until the deadline. None: the deadline has passed,
/// and the result will be thrown away. A plain thread does the work itself, to its end.
///
/// Look-ups have threads of their own, because clients may choose names that no name server answers for.
pub(crate) fn look_up_until<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
    deadline: Option<Instant>,
) -> io::Result<Option<R>> {
    static LOOK_UPS: PerProcess<OffloadThreads> =
        PerProcess::new(|| OffloadThreads::new("look-up"));
    LOOK_UPS.get().run(work, deadline)
}

/// The most threads of one kind. Work that blocks waits for a disk or a network, so there may be more threads than
/// processors.
const MAX_OFFLOAD_THREADS: usize = 64;

/// How long a thread stays without work.
const KEEP_OFFLOAD_THREAD: Duration = Duration::from_secs(5);

type OffloadedWork = Box<dyn FnOnce() + Send>;

/// Threads that run work in the order in which it comes.
struct OffloadThreads {
    /// The name of its threads.
    name: &'static str,
    /// Never locked while work runs.
    state: Mutex<OffloadState>,
    /// Notified once for each work that is queued.
    queued: Condvar,
}

struct OffloadState {
    queue: VecDeque<OffloadedWork>,
    /// How many threads there are, and how many of them wait for work.
    threads: usize,
    idle: usize,
}

impl OffloadThreads {
    const fn new(name: &'static str) -> Self {
        let state = OffloadState { queue: VecDeque::new(), threads: 0, idle: 0 };
        Self { name, state: Mutex::new(state), queued: Condvar::new() }
    }

    /// Locks the state. Nothing panics while it is locked, so poison means nothing here.
    fn lock(&self) -> MutexGuard<'_, OffloadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the work on a thread, and waits for it as a coroutine does. None: the deadline has passed. A plain thread does
    /// the work itself, to its end.
    fn run<R: Send + 'static>(
        &'static self,
        work: impl FnOnce() -> R + Send + 'static,
        deadline: Option<Instant>,
    ) -> io::Result<Option<R>> {
        if !is_parked_here() {
            flush();
            return Ok(Some(work()));
        }
        let end = Arc::new(WorkEnd { result: Mutex::new(None), event: Event::new()? });
        let theirs = Arc::clone(&end);
        // The list of servers and the span belong to the coroutine, and are read on its own thread. If the work closes the
        // server, the close must not wait for the request that waits for the work.
        let (serving, span) = (Serving::inherit(), CallersSpan::current());
        self.submit(Box::new(move || {
            // The coroutine has dropped its half: its request was cut off, or the deadline has passed. If it does so only
            // after this check, the work is done in vain.
            if Arc::strong_count(&theirs) == 1 {
                return;
            }
            let result = panic::catch_unwind(AssertUnwindSafe(|| {
                let (_serving, _span) = (serving.enter(), span.enter());
                work()
            }));
            // If the coroutine has stopped waiting, the result is dropped with this closure.
            *theirs.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            theirs.event.notify();
        }))?;
        loop {
            let result = end.result.lock().unwrap_or_else(PoisonError::into_inner).take();
            match result {
                Some(Ok(result)) => return Ok(Some(result)),
                Some(Err(payload)) => panic::resume_unwind(payload),
                None if deadline.is_some_and(|at| Instant::now() >= at) => return Ok(None),
                None => any(&[end.event.waiting()], deadline)?,
            };
        }
    }

    /// Queues the work, and starts a thread if more work waits than threads are free.
    fn submit(&'static self, work: OffloadedWork) -> io::Result<()> {
        let mut state = self.lock();
        state.queue.push_back(work);
        if state.queue.len() > state.idle && state.threads < MAX_OFFLOAD_THREADS {
            match thread::Builder::new().name(self.name.into()).spawn(|| self.work()) {
                Ok(_) => state.threads += 1,
                // The threads that exist take the work in its turn.
                Err(_) if state.threads > 0 => {}
                Err(error) => {
                    state.queue.pop_back();
                    return Err(error);
                }
            }
        }
        // A thread that was started just now looks into the queue first, and finds the work without being notified.
        self.queued.notify_one();
        Ok(())
    }

    /// Runs on each thread: does work until none has come for [`KEEP_OFFLOAD_THREAD`].
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(work) = state.queue.pop_front() {
                drop(state);
                // A panic of the work is caught inside. This catches one in the drop of its captured values.
                catch_and_drop(work);
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let waited = self.queued.wait_timeout(state, KEEP_OFFLOAD_THREAD);
            let (woken, end) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            // A notification and the end of KEEP_OFFLOAD_THREAD may come together, so the queue decides.
            if end.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

/// The end of one piece of work, shared by its thread and its coroutine.
struct WorkEnd<R> {
    /// Stored before the event is notified.
    result: Mutex<Option<thread::Result<R>>>,
    event: Event,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn work_runs_in_its_order_on_a_bounded_number_of_threads() {
        static THREADS: OffloadThreads = OffloadThreads::new("test");
        let (hold, held) = channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let (report, order) = channel();
        // This work takes all threads, and keeps them.
        for _ in 0..MAX_OFFLOAD_THREADS {
            let held = Arc::clone(&held);
            let work = move || {
                let _ = held.lock().unwrap().recv();
            };
            THREADS.submit(Box::new(work)).unwrap();
        }
        for number in 0..100 {
            let report = report.clone();
            THREADS.submit(Box::new(move || report.send(number).unwrap())).unwrap();
        }
        assert_eq!(THREADS.lock().threads, MAX_OFFLOAD_THREADS);
        // One thread is free again, and runs the queue in its order.
        hold.send(()).unwrap();
        for number in 0..100 {
            assert_eq!(order.recv_timeout(SOON).unwrap(), number);
        }
        drop(hold);
    }

    #[test]
    fn a_panic_costs_no_thread() {
        static THREADS: OffloadThreads = OffloadThreads::new("test");
        struct PanicsInDrop;
        impl Drop for PanicsInDrop {
            fn drop(&mut self) {
                panic!("on purpose");
            }
        }
        let captured = PanicsInDrop;
        THREADS.submit(Box::new(move || drop(captured))).unwrap();
        let (report, reported) = channel();
        THREADS.submit(Box::new(move || report.send(()).unwrap())).unwrap();
        reported.recv_timeout(SOON).unwrap();
    }

    #[test]
    fn on_a_plain_thread_work_is_a_call() {
        let here = thread::current().id();
        assert_eq!(offload(|| thread::current().id()).unwrap(), here);
        assert_eq!(look_up_until(|| thread::current().id(), None).unwrap(), Some(here));
    }
}
