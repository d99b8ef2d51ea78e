//! A queue without a server: which worker runs which job, which workers start, which leave.

use std::thread::ThreadId;
use std::time::Instant;

use super::*;
use crate::mixin::Accepted;
use crate::mixin::fake_job::{FakeJobs, FakeServer};

const SOON: Duration = Duration::from_secs(10);

fn queue(keep: Duration) -> Arc<WorkerQueue> {
    queue_of(keep, ThreadOptions::default(), None)
}

fn queue_with(threads: ThreadOptions, gate: Option<&Arc<Gate>>) -> Arc<WorkerQueue> {
    queue_of(SOON, threads, gate.cloned())
}

fn queue_of(keep: Duration, threads: ThreadOptions, gate: Option<Arc<Gate>>) -> Arc<WorkerQueue> {
    let max = gate.as_ref().map_or(usize::MAX, |gate| gate.max());
    let (size, when_full) = (Size::Growing { max, keep }, WhenFull::Wait);
    Arc::new(WorkerQueue::new(QueueSettings { size, gate, when_full, threads }))
}

fn threads_with(on_start: impl Fn() + Send + Sync + 'static) -> ThreadOptions {
    ThreadOptions { on_start: Some(Arc::new(on_start)), ..ThreadOptions::default() }
}

/// Queues this many requests at once, and ends them when all run. Returns their threads.
fn serve(queue: &Arc<WorkerQueue>, at_once: usize) -> Vec<ThreadId> {
    let jobs = FakeJobs::new();
    for _ in 0..at_once {
        queue.process_request(jobs.job());
    }
    let threads = (0..at_once).map(|_| jobs.ran.recv_timeout(SOON).unwrap()).collect();
    (0..at_once).for_each(|_| jobs.ends.send(()).unwrap());
    threads
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < SOON, "{what}");
        std::thread::yield_now();
    }
}

fn idle(queue: &Arc<WorkerQueue>) -> usize {
    queue.state.lock().idle.len()
}

#[test]
fn each_of_several_requests_at_once_has_a_thread_and_one_after_the_other_share_one() {
    let queue = queue(SOON);
    let mut threads = serve(&queue, 5);
    threads.sort_by_key(|thread| format!("{thread:?}"));
    threads.dedup();
    assert_eq!(threads.len(), 5);
    eventually("all are idle again", || idle(&queue) == 5);
    let last_in = queue.state.lock().idle.last_in().unwrap();
    for _ in 0..3 {
        assert_eq!(serve(&queue, 1), [last_in], "the one whose stack is warm");
        eventually("all are idle again", || idle(&queue) == 5);
    }
}

#[test]
fn threads_without_a_request_leave_but_for_one() {
    let queue = queue(Duration::from_millis(200));
    serve(&queue, 4);
    eventually("all but one have left", || queue.group.len() == 1);
    eventually("which waits", || idle(&queue) == 1);
    assert_eq!(serve(&queue, 1).len(), 1, "and serves");
    queue.close();
    queue.group.wait_until_gone(Instant::now() + SOON);
    assert_eq!(queue.group.len(), 0);
}

#[test]
fn a_place_that_is_free_again_is_not_waited_for() {
    let gate = Gate::new(1).unwrap();
    let queue = queue_with(ThreadOptions::default(), Some(&gate));
    let jobs = FakeJobs::new();
    queue.process_request(jobs.job());
    jobs.ran.recv_timeout(SOON).expect("it runs, though no other one ends");
    queue.process_request(jobs.job());
    queue.process_request(jobs.job());
    assert!(jobs.ran.try_recv().is_err() && gate.count() == 1, "there is one place");
    (0..3).for_each(|_| jobs.ends.send(()).unwrap());
    for _ in 0..2 {
        jobs.ran.recv_timeout(SOON).expect("one after the other");
    }
    eventually("the place is free", || gate.count() == 0);
}

#[test]
fn a_request_past_the_maximum_has_the_place_of_the_one_before_it() {
    let gate = Gate::new(1).unwrap();
    let queue = queue_with(ThreadOptions::default(), Some(&gate));
    let jobs = FakeJobs::new();
    queue.process_request(jobs.job());
    queue.process_request(jobs.job());
    for _ in 0..2 {
        jobs.ran.recv_timeout(SOON).expect("it runs");
        assert_eq!((gate.count(), queue.group.len()), (1, 1), "one at a time");
        jobs.ends.send(()).unwrap();
    }
    eventually("the place is free", || gate.count() == 0);
}

#[test]
fn a_request_that_waits_behind_one_that_cannot_start_is_not_forgotten() {
    let threads = ThreadOptions { stack_bytes: Some(usize::MAX / 4), ..ThreadOptions::default() };
    let gate = Gate::new(1).unwrap();
    let queue = queue_with(threads, Some(&gate));
    let jobs = FakeJobs::new();
    let permit = gate.try_enter();
    queue.process_request(jobs.job());
    let state = queue.state.lock();
    queue.sender.send(QueuedJob { job: jobs.job(), permit }).unwrap();
    queue.wake(state);
    for _ in 0..2 {
        jobs.refusals.recv_timeout(SOON).expect("it waits for no thread that is not started");
    }
    assert_eq!(gate.count(), 0);
}

#[test]
fn a_hook_that_takes_its_time_does_it_in_all_new_threads_at_once() {
    const AT_ONCE: usize = 6;
    let all_are_there = std::sync::Barrier::new(AT_ONCE);
    let queue = queue_with(threads_with(move || _ = all_are_there.wait()), None);
    assert_eq!(serve(&queue, AT_ONCE).len(), AT_ONCE);
    eventually("all are idle", || idle(&queue) == AT_ONCE);
    assert_eq!(serve(&queue, AT_ONCE).len(), AT_ONCE, "without the hook");
    assert_eq!(queue.group.len(), AT_ONCE);
}

#[test]
fn a_hook_that_panics_in_every_new_thread_loses_no_request_silently() {
    let queue = queue_with(threads_with(|| panic!("no database")), None);
    let jobs = FakeJobs::new();
    for _ in 0..3 {
        queue.process_request(jobs.job());
    }
    for _ in 0..3 {
        let why = jobs.refusals.recv_timeout(SOON).unwrap();
        assert!(why.contains("the thread ended before its first request"), "{why}");
    }
}

/// Queues one request, whose worker accepts afterwards. Returns the worker's thread.
fn have_one_accept(server: &Arc<FakeServer>, queue: &Arc<WorkerQueue>) -> ThreadId {
    let jobs = FakeJobs::new();
    queue.process_request(jobs.job_of(server.erased()));
    let thread = jobs.ran.recv_timeout(SOON).unwrap();
    jobs.ends.send(()).unwrap();
    eventually("it accepts", || server.is_accepting());
    thread
}

#[test]
fn a_thread_that_accepts_is_called_back_to_the_queue_before_a_new_one_starts() {
    let (queue, server) = (queue(SOON), FakeServer::new());
    let accepts = have_one_accept(&server, &queue);
    for _ in 0..100 {
        assert_eq!(have_one_accept(&server, &queue), accepts);
    }
    assert_eq!(queue.group.len(), 1);
    assert_eq!(serve(&queue, 3).len(), 3, "each of more at once has one of its own all the same");
    queue.close();
    queue.group.wait_until_gone(Instant::now() + SOON);
    assert_eq!(queue.group.len(), 0, "and a thread that accepts leaves when it is sent away");
}

#[test]
fn a_worker_that_is_called_and_comes_with_a_request_leaves_the_queue_to_another() {
    let (queue, server) = (queue(SOON), FakeServer::new());
    let accepts = have_one_accept(&server, &queue);
    let jobs = FakeJobs::new();
    // The queue is locked, so that the worker that accepts cannot come back to it between the next two calls.
    let state = queue.state.lock();
    server.bring(jobs.job_of(server.erased()));
    queue.sender.send(QueuedJob { job: jobs.job_of(server.erased()), permit: None }).unwrap();
    queue.wake(state);
    let both = [jobs.ran.recv_timeout(SOON).unwrap(), jobs.ran.recv_timeout(SOON).unwrap()];
    assert!(both.contains(&accepts) && both[0] != both[1], "both run at once");
    (0..2).for_each(|_| jobs.ends.send(()).unwrap());
}

#[test]
fn threads_beside_one_that_accepts_all_leave_in_time() {
    let (queue, server) = (queue(Duration::from_millis(200)), FakeServer::new());
    serve(&queue, 4);
    have_one_accept(&server, &queue);
    eventually("all others have left", || idle(&queue) == 0 && queue.group.len() == 1);
    assert!(server.is_accepting(), "and this one stays");
}

/// A server that has room, and whose client is gone when the test says so.
struct ClientGone {
    has_room: Sender<()>,
    is_gone: Receiver<()>,
}

impl WorkerAccept for ClientGone {
    fn accept(self: Arc<Self>, room: &mut dyn FnMut() -> bool) -> Accepted {
        assert!(room());
        self.has_room.send(()).unwrap();
        // At the second call the test has dropped its end of the channel.
        if self.is_gone.recv().is_err() { Accepted::Leave } else { Accepted::TryAgain }
    }

    fn interrupt(&self) {}

    fn clear_interrupt(&self) {}

    fn let_go(self: Arc<Self>) -> bool {
        Arc::into_inner(self).is_some()
    }
}

#[test]
fn a_request_gets_the_place_that_a_worker_has_taken_for_a_client_that_is_gone() {
    let gate = Gate::new(1).unwrap();
    let queue = queue_with(ThreadOptions::default(), Some(&gate));
    let ((has_room, had_room), (goes, is_gone)) = (unbounded(), unbounded());
    let jobs = FakeJobs::new();
    queue.process_request(jobs.job_of(Some(Arc::new(ClientGone { has_room, is_gone }))));
    jobs.ran.recv_timeout(SOON).unwrap();
    jobs.ends.send(()).unwrap();
    had_room.recv_timeout(SOON).expect("its thread accepts and has the only place");
    queue.process_request(jobs.job());
    goes.send(()).unwrap();
    jobs.ran.recv_timeout(SOON).expect("it runs, though no other client comes");
    jobs.ends.send(()).unwrap();
}

#[test]
fn a_worker_that_is_called_while_it_accepts_is_neither_idle_nor_counted_twice() {
    let queue = queue(SOON);
    let ((has_room, had_room), (goes, is_gone)) = (unbounded(), unbounded());
    let (long, short) = (FakeJobs::new(), FakeJobs::new());
    queue.process_request(long.job());
    long.ran.recv_timeout(SOON).unwrap();
    queue.process_request(short.job_of(Some(Arc::new(ClientGone { has_room, is_gone }))));
    short.ran.recv_timeout(SOON).unwrap();
    short.ends.send(()).unwrap();
    had_room.recv_timeout(SOON).expect("the thread of the short one accepts");
    let figures = || {
        let WorkerFigures { busy, idle, queued, .. } = queue.figures();
        (busy, idle, queued)
    };
    assert_eq!(figures(), (Some(1), Some(1), Some(0)));
    // The worker that accepts is called, but comes back only when the test sends to `goes`.
    queue.process_request(short.job());
    assert_eq!(figures(), (Some(1), Some(0), Some(1)));
    goes.send(()).unwrap();
    short.ran.recv_timeout(SOON).unwrap();
    assert_eq!(figures(), (Some(2), Some(0), Some(0)));
    drop((goes, short.ends, long.ends));
}

/// A server to which only its worker still has a reference.
struct LastOfServer {
    queue: Arc<WorkerQueue>,
    found_free: Sender<bool>,
}

impl WorkerAccept for LastOfServer {
    fn accept(self: Arc<Self>, _room: &mut dyn FnMut() -> bool) -> Accepted {
        Accepted::Leave
    }

    fn interrupt(&self) {}

    fn clear_interrupt(&self) {}

    fn let_go(self: Arc<Self>) -> bool {
        Arc::into_inner(self).is_some()
    }
}

impl Drop for LastOfServer {
    fn drop(&mut self) {
        // The user's hooks and handlers are dropped with the server, and their drops may wait for a thread that closes the
        // queue.
        self.found_free.send(self.queue.state.try_lock().is_some()).unwrap();
    }
}

#[test]
fn the_last_reference_to_a_server_is_not_dropped_under_the_lock() {
    let (queue, (found_free, is_free)) = (queue(SOON), unbounded());
    let jobs = FakeJobs::new();
    let server = Arc::new(LastOfServer { queue: Arc::clone(&queue), found_free });
    queue.process_request(jobs.job_of(Some(server)));
    jobs.ran.recv_timeout(SOON).unwrap();
    jobs.ends.send(()).unwrap();
    assert!(is_free.recv_timeout(SOON).expect("an idle worker keeps no server"));
    queue.close();
}
