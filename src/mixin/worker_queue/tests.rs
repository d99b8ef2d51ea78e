//! Staff without a server: who runs what, who starts, who leaves.

use super::*;
use crate::mixin::Way;
use crate::mixin::fake_job::{Probe, ProbeDoor};
use crossbeam_channel::{Receiver, Sender, unbounded};

const SOON: Duration = Duration::from_secs(10);

fn staff(keep: Duration) -> Arc<Staff> {
    Arc::new(Staff::new(ThreadOptions::default(), keep, None))
}

fn staff_with(threads: ThreadOptions, gate: Option<&Arc<Gate>>) -> Arc<Staff> {
    Arc::new(Staff::new(threads, SOON, gate.cloned()))
}

/// Hands so many requests over at once, and ends them when all run. Says which threads they had.
fn serve(staff: &Arc<Staff>, at_once: usize) -> Vec<std::thread::ThreadId> {
    let (runs, ran) = unbounded();
    let (ends, end) = unbounded();
    let (refused, _) = unbounded();
    for _ in 0..at_once {
        let probe =
            Probe { runs: runs.clone(), end: end.clone(), refused: refused.clone(), door: None };
        staff.process_request(Job::new(Box::new(probe)), WhenFull::Wait);
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

fn idle(staff: &Arc<Staff>) -> usize {
    staff.state.lock().idle.len()
}

#[test]
fn each_of_several_requests_at_once_has_a_thread_and_one_after_the_other_share_one() {
    let staff = staff(SOON);
    let mut threads = serve(&staff, 5);
    threads.sort_by_key(|thread| format!("{thread:?}"));
    threads.dedup();
    assert_eq!(threads.len(), 5);
    eventually("all are idle again", || idle(&staff) == 5);
    let last_in = staff.state.lock().idle.last_in().unwrap();
    for _ in 0..3 {
        assert_eq!(serve(&staff, 1), [last_in], "the one whose stack is warm");
        eventually("all are idle again", || idle(&staff) == 5);
    }
}

#[test]
fn threads_without_a_request_leave_but_for_one() {
    let staff = staff(Duration::from_millis(200));
    serve(&staff, 4);
    eventually("all but one have left", || staff.crew.len() == 1);
    eventually("which waits", || idle(&staff) == 1);
    assert_eq!(serve(&staff, 1).len(), 1, "and serves");
    staff.dismiss();
    staff.wait_until_gone(Instant::now() + SOON);
    assert_eq!(staff.crew.len(), 0);
}

#[test]
fn a_place_that_is_free_again_is_not_waited_for() {
    let gate = Gate::new(1).unwrap();
    let staff = staff_with(ThreadOptions::default(), Some(&gate));
    let ((runs, ran), (ends, end), (refused, _)) = (unbounded(), unbounded(), unbounded());
    let probe =
        || Probe { runs: runs.clone(), end: end.clone(), refused: refused.clone(), door: None };
    let job = || Job::new(Box::new(probe()));
    staff.process_request(job(), WhenFull::Wait);
    ran.recv_timeout(SOON).expect("it runs, though nobody else ends");
    staff.process_request(job(), WhenFull::Wait);
    staff.process_request(job(), WhenFull::Wait);
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
    let staff = staff_with(threads, Some(&gate));
    let ((runs, _), (_, end), (refused, refusals)) = (unbounded(), unbounded(), unbounded());
    let job = || {
        let (runs, end, refused) = (runs.clone(), end.clone(), refused.clone());
        Job::new(Box::new(Probe { runs, end, refused, door: None }))
    };
    let permit = gate.try_enter();
    staff.process_request(job(), WhenFull::Wait);
    let mut state = staff.state.lock();
    state.queue.push_back(Task { job: job(), permit });
    staff.call(state);
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
    let staff = Arc::new(Staff::new(threads, SOON, None));
    assert_eq!(serve(&staff, AT_ONCE).len(), AT_ONCE);
    eventually("all are idle", || idle(&staff) == AT_ONCE);
    assert_eq!(serve(&staff, AT_ONCE).len(), AT_ONCE, "without the hook");
    assert_eq!(staff.crew.len(), AT_ONCE);
}

#[test]
fn a_hook_that_panics_in_every_new_thread_loses_no_request_silently() {
    let on_start: Arc<dyn Fn() + Send + Sync> = Arc::new(|| panic!("no database"));
    let threads = ThreadOptions { on_start: Some(on_start), ..ThreadOptions::default() };
    let staff = Arc::new(Staff::new(threads, SOON, None));
    let ((runs, _), (_, end), (refused, refusals)) = (unbounded(), unbounded(), unbounded());
    for _ in 0..3 {
        let probe =
            Probe { runs: runs.clone(), end: end.clone(), refused: refused.clone(), door: None };
        staff.process_request(Job::new(Box::new(probe)), WhenFull::Wait);
    }
    for _ in 0..3 {
        let why = refusals.recv_timeout(SOON).unwrap();
        assert!(why.contains("the thread ended before its first request"), "{why}");
    }
}

/// Hands over one request whose thread waits at the door after it, and gives the thread.
fn have_one_at(door: &Arc<ProbeDoor>, staff: &Arc<Staff>) -> std::thread::ThreadId {
    let ((runs, ran), (ends, end), (refused, _)) = (unbounded(), unbounded(), unbounded());
    let probe = Probe { runs, end, refused, door: Some(door.door()) };
    staff.process_request(Job::new(Box::new(probe)), WhenFull::Wait);
    let thread = ran.recv_timeout(SOON).unwrap();
    ends.send(()).unwrap();
    eventually("it waits at the door", || door.is_waited_at());
    thread
}

#[test]
fn a_thread_at_the_door_is_called_back_to_the_queue_before_a_new_one_starts() {
    let (staff, door) = (staff(SOON), ProbeDoor::new());
    let at_door = have_one_at(&door, &staff);
    for _ in 0..100 {
        assert_eq!(have_one_at(&door, &staff), at_door);
    }
    assert_eq!(staff.crew.len(), 1);
    assert_eq!(serve(&staff, 3).len(), 3, "each of more at once has one of its own all the same");
    staff.dismiss();
    staff.wait_until_gone(Instant::now() + SOON);
    assert_eq!(staff.crew.len(), 0, "and a thread at the door leaves when it is sent away");
}

#[test]
fn who_is_called_and_comes_with_a_request_leaves_the_queue_to_another() {
    let (staff, door) = (staff(SOON), ProbeDoor::new());
    let at_door = have_one_at(&door, &staff);
    let ((runs, ran), (ends, end), (refused, _)) = (unbounded(), unbounded(), unbounded());
    let job = || {
        let (runs, end, refused) = (runs.clone(), end.clone(), refused.clone());
        Job::new(Box::new(Probe { runs, end, refused, door: Some(door.door()) }))
    };
    // Under the lock, so that the thread cannot be back between the two.
    let mut state = staff.state.lock();
    door.bring(job());
    state.queue.push_back(Task { job: job(), permit: None });
    staff.call(state);
    let both = [ran.recv_timeout(SOON).unwrap(), ran.recv_timeout(SOON).unwrap()];
    assert!(both.contains(&at_door) && both[0] != both[1], "both run at once");
    (0..2).for_each(|_| ends.send(()).unwrap());
}

#[test]
fn threads_beside_one_at_the_door_all_leave_in_time() {
    let (staff, door) = (staff(Duration::from_millis(200)), ProbeDoor::new());
    serve(&staff, 4);
    have_one_at(&door, &staff);
    eventually("all others have left", || idle(&staff) == 0 && staff.crew.len() == 1);
    assert!(door.is_waited_at(), "and this one stays");
}

/// A door at which there is room and a client, who is gone again when the test says so.
struct GoneAgain {
    has_room: Sender<()>,
    is_gone: Receiver<()>,
}

impl Way for GoneAgain {
    fn next(self: Arc<Self>, room: &mut dyn FnMut() -> bool) -> Came {
        assert!(room());
        self.has_room.send(()).unwrap();
        // The second time nobody says anything any more.
        if self.is_gone.recv().is_err() { Came::Called } else { Came::Nobody }
    }

    fn call(&self) {}

    fn settle(&self) {}
}

#[test]
fn who_waits_for_a_place_that_was_taken_for_nobody_gets_it() {
    let gate = Gate::new(1).unwrap();
    let staff = staff_with(ThreadOptions::default(), Some(&gate));
    let ((runs, ran), (ends, end), (refused, _)) = (unbounded(), unbounded(), unbounded());
    let ((has_room, had_room), (goes, is_gone)) = (unbounded(), unbounded());
    let door = Door::new(Arc::new(GoneAgain { has_room, is_gone }));
    let job = |door| {
        let (runs, end, refused) = (runs.clone(), end.clone(), refused.clone());
        Job::new(Box::new(Probe { runs, end, refused, door }))
    };
    staff.process_request(job(Some(door)), WhenFull::Wait);
    ran.recv_timeout(SOON).unwrap();
    ends.send(()).unwrap();
    had_room.recv_timeout(SOON).expect("its thread is at the door and has the only place");
    staff.process_request(job(None), WhenFull::Wait);
    goes.send(()).unwrap();
    ran.recv_timeout(SOON).expect("it runs, though nobody else comes");
    ends.send(()).unwrap();
}
