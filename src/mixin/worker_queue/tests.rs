//! WorkerQueue without a server: who runs what, who starts, who leaves.

use super::*;
use crate::mixin::WorkerAccept;
use crate::mixin::fake_job::{FakeJob, FakeWorkerAccept};
use crossbeam_channel::{Receiver, Sender, unbounded};

const SOON: Duration = Duration::from_secs(10);

fn queue(keep: Duration) -> Arc<WorkerQueue> {
    Arc::new(WorkerQueue::new(ThreadOptions::default(), keep, None))
}

fn queue_with(threads: ThreadOptions, gate: Option<&Arc<Gate>>) -> Arc<WorkerQueue> {
    Arc::new(WorkerQueue::new(threads, SOON, gate.cloned()))
}

/// Hands so many requests over at once, and ends them when all run. Says which threads they had.
fn serve(queue: &Arc<WorkerQueue>, at_once: usize) -> Vec<std::thread::ThreadId> {
    let (runs, ran) = unbounded();
    let (ends, end) = unbounded();
    let (refused, _) = unbounded();
    for _ in 0..at_once {
        let fake = FakeJob {
            runs: runs.clone(),
            end: end.clone(),
            refused: refused.clone(),
            worker_accept: None,
        };
        queue.process_request(Job::new(Box::new(fake)), WhenFull::Wait);
    }
    let threads = (0..at_once).map(|_| ran.recv_timeout(SOON).unwrap()).collect();
    (0..at_once).for_each(|_| ends.send(()).unwrap());
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
    queue.dismiss();
    queue.wait_until_gone(Instant::now() + SOON);
    assert_eq!(queue.group.len(), 0);
}

#[test]
fn a_place_that_is_free_again_is_not_waited_for() {
    let gate = Gate::new(1).unwrap();
    let queue = queue_with(ThreadOptions::default(), Some(&gate));
    let ((runs, ran), (ends, end), (refused, _)) = (unbounded(), unbounded(), unbounded());
    let fake = || FakeJob {
        runs: runs.clone(),
        end: end.clone(),
        refused: refused.clone(),
        worker_accept: None,
    };
    let job = || Job::new(Box::new(fake()));
    queue.process_request(job(), WhenFull::Wait);
    ran.recv_timeout(SOON).expect("it runs, though nobody else ends");
    queue.process_request(job(), WhenFull::Wait);
    queue.process_request(job(), WhenFull::Wait);
    assert!(ran.try_recv().is_err() && gate.count() == 1, "there is one place");
    (0..3).for_each(|_| ends.send(()).unwrap());
    for _ in 0..2 {
        ran.recv_timeout(SOON).expect("one after the other");
    }
    eventually("the place is free", || gate.count() == 0);
}

#[test]
fn who_waits_for_the_place_of_a_request_that_cannot_start_gets_it() {
    let threads = ThreadOptions { stack_bytes: Some(usize::MAX / 4), ..ThreadOptions::default() };
    let gate = Gate::new(1).unwrap();
    let queue = queue_with(threads, Some(&gate));
    let ((runs, _), (_, end), (refused, refusals)) = (unbounded(), unbounded(), unbounded());
    let job = || {
        let (runs, end, refused) = (runs.clone(), end.clone(), refused.clone());
        Job::new(Box::new(FakeJob { runs, end, refused, worker_accept: None }))
    };
    let permit = gate.try_enter();
    queue.process_request(job(), WhenFull::Wait);
    let mut state = queue.state.lock();
    state.queue.push_back(Task { job: job(), permit });
    queue.call(state);
    for _ in 0..2 {
        refusals.recv_timeout(SOON).expect("nobody waits for a thread that nobody starts");
    }
    assert_eq!(gate.count(), 0);
}

#[test]
fn a_hook_that_takes_its_time_does_it_in_all_new_threads_at_once() {
    const AT_ONCE: usize = 6;
    let all_are_there = Arc::new(std::sync::Barrier::new(AT_ONCE));
    let on_start: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
        all_are_there.wait();
    });
    let threads = ThreadOptions { on_start: Some(on_start), ..ThreadOptions::default() };
    let queue = Arc::new(WorkerQueue::new(threads, SOON, None));
    assert_eq!(serve(&queue, AT_ONCE).len(), AT_ONCE);
    eventually("all are idle", || idle(&queue) == AT_ONCE);
    assert_eq!(serve(&queue, AT_ONCE).len(), AT_ONCE, "without the hook");
    assert_eq!(queue.group.len(), AT_ONCE);
}

#[test]
fn a_hook_that_panics_in_every_new_thread_loses_no_request_silently() {
    let on_start: Arc<dyn Fn() + Send + Sync> = Arc::new(|| panic!("no database"));
    let threads = ThreadOptions { on_start: Some(on_start), ..ThreadOptions::default() };
    let queue = Arc::new(WorkerQueue::new(threads, SOON, None));
    let ((runs, _), (_, end), (refused, refusals)) = (unbounded(), unbounded(), unbounded());
    for _ in 0..3 {
        let fake = FakeJob {
            runs: runs.clone(),
            end: end.clone(),
            refused: refused.clone(),
            worker_accept: None,
        };
        queue.process_request(Job::new(Box::new(fake)), WhenFull::Wait);
    }
    for _ in 0..3 {
        let why = refusals.recv_timeout(SOON).unwrap();
        assert!(why.contains("the thread ended before its first request"), "{why}");
    }
}

/// Hands over one request whose thread waits at the accept after it, and gives the thread.
fn have_one_accept(
    accept: &Arc<FakeWorkerAccept>,
    queue: &Arc<WorkerQueue>,
) -> std::thread::ThreadId {
    let ((runs, ran), (ends, end), (refused, _)) = (unbounded(), unbounded(), unbounded());
    let fake = FakeJob { runs, end, refused, worker_accept: Some(accept.erased()) };
    queue.process_request(Job::new(Box::new(fake)), WhenFull::Wait);
    let thread = ran.recv_timeout(SOON).unwrap();
    ends.send(()).unwrap();
    eventually("it waits at the accept", || accept.is_accepting());
    thread
}

#[test]
fn a_thread_that_accepts_is_called_back_to_the_queue_before_a_new_one_starts() {
    let (queue, accept) = (queue(SOON), FakeWorkerAccept::new());
    let accepts = have_one_accept(&accept, &queue);
    for _ in 0..100 {
        assert_eq!(have_one_accept(&accept, &queue), accepts);
    }
    assert_eq!(queue.group.len(), 1);
    assert_eq!(serve(&queue, 3).len(), 3, "each of more at once has one of its own all the same");
    queue.dismiss();
    queue.wait_until_gone(Instant::now() + SOON);
    assert_eq!(queue.group.len(), 0, "and a thread at the accept leaves when it is sent away");
}

#[test]
fn who_is_called_and_comes_with_a_request_leaves_the_queue_to_another() {
    let (queue, accept) = (queue(SOON), FakeWorkerAccept::new());
    let accepts = have_one_accept(&accept, &queue);
    let ((runs, ran), (ends, end), (refused, _)) = (unbounded(), unbounded(), unbounded());
    let job = || {
        let (runs, end, refused) = (runs.clone(), end.clone(), refused.clone());
        Job::new(Box::new(FakeJob { runs, end, refused, worker_accept: Some(accept.erased()) }))
    };
    // Under the lock, so that the thread cannot be back between the two.
    let mut state = queue.state.lock();
    accept.bring(job());
    state.queue.push_back(Task { job: job(), permit: None });
    queue.call(state);
    let both = [ran.recv_timeout(SOON).unwrap(), ran.recv_timeout(SOON).unwrap()];
    assert!(both.contains(&accepts) && both[0] != both[1], "both run at once");
    (0..2).for_each(|_| ends.send(()).unwrap());
}

#[test]
fn threads_beside_one_that_accepts_all_leave_in_time() {
    let (queue, accept) = (queue(Duration::from_millis(200)), FakeWorkerAccept::new());
    serve(&queue, 4);
    have_one_accept(&accept, &queue);
    eventually("all others have left", || idle(&queue) == 0 && queue.group.len() == 1);
    assert!(accept.is_accepting(), "and this one stays");
}

/// A accept at which there is room and a client, who is gone again when the test says so.
struct GoneAgain {
    has_room: Sender<()>,
    is_gone: Receiver<()>,
}

impl WorkerAccept for GoneAgain {
    fn accept(self: Arc<Self>, room: &mut dyn FnMut() -> bool) -> Accepted {
        assert!(room());
        self.has_room.send(()).unwrap();
        // The second time nobody says anything any more.
        if self.is_gone.recv().is_err() { Accepted::Leave } else { Accepted::TryAgain }
    }

    fn interrupt(&self) {}

    fn clear_interrupt(&self) {}
}

#[test]
fn who_waits_for_a_place_that_was_taken_for_nobody_gets_it() {
    let gate = Gate::new(1).unwrap();
    let queue = queue_with(ThreadOptions::default(), Some(&gate));
    let ((runs, ran), (ends, end), (refused, _)) = (unbounded(), unbounded(), unbounded());
    let ((has_room, had_room), (goes, is_gone)) = (unbounded(), unbounded());
    let accept = Arc::new(GoneAgain { has_room, is_gone });
    let job = |accept| {
        let (runs, end, refused) = (runs.clone(), end.clone(), refused.clone());
        Job::new(Box::new(FakeJob { runs, end, refused, worker_accept: accept }))
    };
    queue.process_request(job(Some(accept)), WhenFull::Wait);
    ran.recv_timeout(SOON).unwrap();
    ends.send(()).unwrap();
    had_room.recv_timeout(SOON).expect("its thread is at the accept and has the only place");
    queue.process_request(job(None), WhenFull::Wait);
    goes.send(()).unwrap();
    ran.recv_timeout(SOON).expect("it runs, though nobody else comes");
    ends.send(()).unwrap();
}
