//! [`Worker`]: a thread's coroutines, and the loop that runs them.
//!
//! ```text
//! run ─→ run queue: each is resumed once ─→ flush ─→ epoll_wait ─→ events: resumes those who wait
//!   ↑                                                                 deadlines: the same         │
//!   └─────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! If lines of many outboxes are due, a turn polls epoll once more before it flushes. If something has come, it goes on
//! without a flush, so that lines of many senders leave together, in one send for each receiver.
//!
//! A coroutine that a turn of the loop adds to the run queue runs in the next turn, so that a handler which gives way
//! again and again starves nobody.
//!
//! All of this is called on the worker's own thread: by the loop, on the thread's own stack, or by the coroutine that the loop
//! has resumed. So nothing here is locked or atomic. Other threads have the [`WorkerHandle`] alone: they send to the inbox
//! and read the status.
//!
//! Invariants:
//!
//! - **The loop alone resumes.** A coroutine that wakes another one puts it into the run queue. So coroutines do not nest: a
//!   chain of wake-ups, however long, takes no stack.
//! - **No borrow of a cell lasts across a switch.** The next coroutine borrows the same cells. So a value is cloned or
//!   taken out in a statement of its own before a call that may switch. (There is one exception: the body of the coroutine
//!   that runs stays borrowed. The loop alone borrows bodies, and goes on only when this coroutine is suspended or ends.)
//! - **`current` is a coroutine only while it runs.** A wait on the thread's own stack finds none, and polls: the deferred
//!   output of [`wait::flush`] may meet a full socket where no coroutine runs that could be suspended.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::panic;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::accept_set::AcceptSet;
use super::acceptor::AcceptorStart;
use super::cancellation::{CancelPhase, GRACE};
use super::dispatch::ACCEPTED_AT_ONCE;
use super::inbox::Message;
use super::registrations::Registrations;
use super::tasks::{Body, Task, TaskState, Tasks};
use super::timers::Timers;
use super::worker_thread::{WorkerStart, worker_of_thread};
use super::{Group, WorkerHandle};
use crate::mixin::{Job, Refused};
use crate::panic_payload::catch_and_drop;
use crate::sys::coroutine::stack::{SlabStack, StackSlab};
use crate::sys::coroutine::switch::{self, SwitchEnd};
use crate::sys::epoll::{Epoll, ReadyEvent, ReadyEvents};
use crate::sys::exit_now;
use crate::sys::fork_count::is_in_child;
use crate::wait::{self, RetiredUnwind};

/// The number of the events of the inbox.
pub(super) const INBOX: u64 = u64::MAX;

/// Marks the events of an accept loop's descriptors. The other bits are the number of its task.
pub(super) const ACCEPTOR: u64 = 0b11 << 62;

/// Marks the events of waits without a slot. The other bits are the number of the task.
pub(super) const WATCHED: u64 = 1 << 63;

/// How many events one wait takes. Further events come with the next wait. The memory for them, 12 to 16 KiB, is taken
/// once for each worker.
const EVENTS: usize = 1_024;

/// How many times at most a worker polls for more events before it flushes deferred output. A poll that finds none ends this.
///
/// A client that sends eight lines wakes the worker with the first. Without a second poll the answer to that line would be
/// sent on its own, and the other answers with the next flush: twice as many sends.
const MAX_EXTRA_POLLS: u32 = 8;

/// A worker. It never leaves its thread.
pub(super) struct Worker {
    /// Shared with the mixin, the other workers and the watchdog. It lives until its last worker has ended, also when the
    /// `Green` is dropped first.
    pub(super) group: Arc<Group>,
    /// The worker's place in `Group::workers`.
    pub(super) number: usize,
    /// The set of all descriptors that the thread waits for. `coroutine_wait.rs` says how long each kind stays in the set.
    pub(super) epoll: Epoll,
    /// Stacks for coroutines. A stack is taken when a coroutine begins, and given back when it has ended.
    stacks: RefCell<StackSlab>,
    /// All coroutines that have not ended, so that all can be cancelled. The worker ends when there is none.
    pub(super) tasks: Tasks,
    /// The coroutines that can go on, in the order in which they run. Each is in the queue once, and its state is `Queued`
    /// meanwhile.
    queue: RefCell<VecDeque<Rc<Task>>>,
    pub(super) registrations: Registrations,
    pub(super) timers: Timers,
    /// The coroutine that runs.
    current: RefCell<Option<Rc<Task>>>,
    /// Coroutines that wait for descriptors without a slot, by their numbers.
    pub(super) watched: RefCell<HashMap<u64, Rc<Task>>>,
    /// The descriptors of the accept loops that run here, a set for each. Mostly there is one loop or none; there are more
    /// where several servers share a `Green`, or where a retired loop has not gone on yet.
    pub(super) accept_sets: RefCell<Vec<AcceptSet>>,
    /// How many more requests the acceptor may take before other coroutines have their turn.
    pub(super) budget: Cell<u32>,
    /// The group has been closed: the thread ends when its last coroutine has.
    quits: Cell<bool>,
    /// How many times the worker has polled for more events since the last flush. At most [`MAX_EXTRA_POLLS`].
    looks: Cell<u32>,
    /// How far the cancellation of all requests has come. A request that begins now begins in this phase.
    cancels: Cell<CancelPhase>,
    /// When requests whose waits have failed are unwound: [`GRACE`] after `Message::Cancel`. None before that message, and
    /// after the unwinding has begun.
    unwinds_at: Cell<Option<Instant>>,
}

impl Worker {
    /// Makes the worker, on the thread that it stays on.
    pub(super) fn new(start: WorkerStart) -> Self {
        let WorkerStart { group, number, epoll } = start;
        Self {
            stacks: RefCell::new(StackSlab::new(group.stack_bytes)),
            group,
            number,
            epoll,
            tasks: Tasks::default(),
            queue: RefCell::default(),
            registrations: Registrations::new(),
            timers: Timers::default(),
            current: RefCell::default(),
            watched: RefCell::default(),
            accept_sets: RefCell::default(),
            budget: Cell::new(ACCEPTED_AT_ONCE),
            quits: Cell::new(false),
            looks: Cell::new(0),
            cancels: Cell::default(),
            unwinds_at: Cell::new(None),
        }
    }

    /// This worker, as other threads see it.
    fn handle(&self) -> &WorkerHandle {
        &self.group.workers[self.number]
    }

    /// Runs the loop until the worker has been told to quit and its last coroutine has ended.
    pub(super) fn run(&self) {
        let mut events = ReadyEvents::new(EVENTS);
        loop {
            // The first to run are the coroutines that the last turn's events have woken or begun.
            self.run_queue();
            self.handle().status.switch_to(None);
            // The close of the inbox comes last: an earlier message keeps the worker, a later one goes back to its sender.
            if self.quits.get() && self.tasks.len() == 0 && self.handle().inbox.close() {
                return;
            }
            self.wait(&mut events);
            // The clock is read once in each turn. A deadline that passes while events are dispatched is due in the next turn.
            let now = Instant::now();
            let fetches = self.fetches();
            for at in 0..events.len() {
                if fetches {
                    self.fetch(&events, at);
                }
                if let Some(event) = events.get(at) {
                    self.dispatch(event);
                }
            }
            // Deadlines come after the events: if an event and the deadline of one wait are both due, the wait has
            // succeeded.
            while let Some(task) = self.timers.take_due(now) {
                self.wake_now(&task);
            }
            if self.unwinds_at.get().is_some_and(|at| at <= now) {
                self.unwinds_at.set(None);
                self.cancel(CancelPhase::UNWINDS);
            }
        }
    }

    /// Moves the cancellation of all requests, and of those that still begin, to this phase.
    fn cancel(&self, phase: CancelPhase) {
        self.cancels.set(phase);
        for task in self.tasks.snapshot() {
            // An accept loop is not cancelled: a stop ends it, or it is retired.
            if task.acceptor.is_none() {
                task.cancellation.phase.set(phase);
                self.wake(&task);
            }
        }
    }

    /// Waits for events. Before that it sends the output that requests have deferred, unless further events have come whose
    /// output may go along.
    fn wait(&self, events: &mut ReadyEvents) {
        let looks = self.looks.get();
        if looks < MAX_EXTRA_POLLS && wait::gathers() {
            self.looks.set(looks + 1);
            self.epoll.wait_for_events(events, Some(Duration::ZERO));
            if events.len() > 0 {
                return;
            }
        }
        self.looks.set(0);
        wait::flush();
        let timeout = if self.queue.borrow().is_empty() {
            // A timer may come too early (`timers.rs`): that turn finds nothing due, and waits again.
            let next = [self.timers.next(), self.unwinds_at.get()].into_iter().flatten().min();
            next.map(|at| at.saturating_duration_since(Instant::now()))
        } else {
            Some(Duration::ZERO)
        };
        self.epoll.wait_for_events(events, timeout);
    }

    /// Resumes each coroutine that is in the queue now. Those that are added meanwhile run in the next turn.
    fn run_queue(&self) {
        let count = self.queue.borrow().len();
        for _ in 0..count {
            // The braces end the borrow before the coroutine runs, which may queue others.
            let Some(task) = ({ self.queue.borrow_mut().pop_front() }) else { return };
            self.resume(&task);
        }
    }

    #[inline(always)]
    fn dispatch(&self, event: ReadyEvent) {
        match event.number {
            INBOX => self.read_inbox(),
            number if number >= ACCEPTOR => {
                // No acceptor is found if an earlier event of this batch has ended its wait, or the accept loop itself.
                let number = number & !ACCEPTOR;
                let task = self.accept_sets.borrow().iter().find_map(|set| set.waiting(number));
                if let Some(task) = task {
                    self.budget.set(ACCEPTED_AT_ONCE);
                    self.wake_now(&task);
                }
            }
            number if number & WATCHED != 0 => {
                // No task is found if an earlier event of this batch has ended its wait.
                let task = self.watched.borrow().get(&(number & !WATCHED)).cloned();
                if let Some(task) = task {
                    self.wake_now(&task);
                }
            }
            _ => self.dispatch_to_connection(event),
        }
    }

    #[inline(always)]
    fn dispatch_to_connection(&self, event: ReadyEvent) {
        let (reader, writer) = self.registrations.arrived(event);
        // The usual case, without calls: after a switch the processor cannot predict where a call returns to.
        if let Some(task) = reader.filter(|task| task.state.get() == TaskState::Waiting) {
            self.resume_inlined(&task);
        }
        if let Some(task) = writer {
            self.wake_now(&task);
        }
    }

    #[inline(never)]
    fn read_inbox(&self) {
        // A job that is refused runs code of the program here. The watchdog must not blame the request that ran before.
        self.handle().status.switch_to(None);
        for message in self.handle().inbox.take() {
            match message {
                Message::Job(job) => self.start(job),
                Message::Accept(start) => self.accept(start),
                Message::Retire => self.retire(),
                // Only the first of these messages counts: a second close finds the requests cancelled already.
                Message::Cancel if self.cancels.get() == CancelPhase::None => {
                    self.cancel(CancelPhase::Asked);
                    self.unwinds_at.set(Some(Instant::now() + GRACE));
                }
                Message::Cancel => {}
                // The worker's requests go on to their ends: `run` checks this flag, and ends when no request is left.
                Message::Quit => self.quits.set(true),
            }
        }
    }

    /// Starts the accept loop.
    fn accept(&self, start: AcceptorStart) {
        if let Some(coroutine) = start.into_coroutine(|| self.stacks.borrow_mut().take()) {
            self.add(Body::Acceptor(coroutine), None, CancelPhase::None);
        }
    }

    /// Adds a coroutine, which begins in the next turn.
    fn add(&self, body: Body, request: Option<u64>, phase: CancelPhase) {
        let task = self.tasks.add(body, request, phase);
        self.queue.borrow_mut().push_back(task);
    }

    /// Begins a request of this worker, which runs in the next turn.
    pub(super) fn start(&self, job: Job) {
        let stack = self.stacks.borrow_mut().take();
        let stack = match stack {
            Ok(stack) => stack,
            Err(error) => {
                // The dealer has counted the request already.
                self.handle().status.end_request();
                return job.refuse(Refused::CannotStart(error));
            }
        };
        let (request, label) = (Some(job.id()), job.label());
        let (group, number) = (Arc::clone(&self.group), self.number);
        let body = move || {
            // The job itself catches the panics of the program. A panic of this crate must not end the process either: only
            // the request is lost.
            catch_and_drop(|| job.run());
            // This comes after the job's own drops: until then the worker has the request.
            group.workers[number].status.end_request();
        };
        let body = Body::Request(switch::Coroutine::new(stack, label, body));
        self.add(body, request, self.cancels.get());
    }

    /// Starts a coroutine for a part of the request that runs. It begins in the next turn. The closure is given back if no
    /// coroutine runs, or if there is no memory for a stack.
    pub(super) fn spawn(&self, run: Box<dyn FnOnce()>) -> Result<(), Box<dyn FnOnce()>> {
        // For the watchdog the part runs under the request's number. The load of the worker does not count the part.
        let Some(part_of) = self.current() else { return Err(run) };
        let Ok(stack) = ({ self.stacks.borrow_mut().take() }) else { return Err(run) };
        // Panics of the part are caught here, as in `start`.
        let body = move || _ = catch_and_drop(run);
        let body = Body::Request(switch::Coroutine::new(stack, switch::label(), body));
        self.add(body, part_of.request(), self.cancels.get());
        Ok(())
    }

    /// Resumes a coroutine that waits. Does nothing in any other state: the coroutine was woken already.
    fn wake_now(&self, task: &Rc<Task>) {
        if task.state.get() == TaskState::Waiting {
            self.resume(task);
        }
    }

    /// Puts a coroutine that waits into the queue.
    pub(super) fn wake(&self, task: &Rc<Task>) {
        if task.state.get() == TaskState::Waiting {
            task.state.set(TaskState::Queued);
            self.queue.borrow_mut().push_back(Rc::clone(task));
        }
    }

    /// A shared copy of [`resume_inlined`](Self::resume_inlined), for all callers but the usual wake-up.
    fn resume(&self, task: &Rc<Task>) {
        self.resume_inlined(task);
    }

    /// Runs a coroutine until it waits or ends. Called by the loop alone.
    #[inline(always)]
    fn resume_inlined(&self, task: &Rc<Task>) {
        // This is for the watchdog: two plain stores and no locked step, because a switch takes only a few nanoseconds.
        let status = &self.handle().status;
        status.switch_to(task.request());
        self.current.replace(Some(Rc::clone(task)));
        let progress = task.resume();
        // If the handler has forked, this may be the child: a flag of the thread says so, without a system call.
        if is_in_child() {
            end_child();
        }
        self.current.replace(None);
        // For the watchdog the request goes on until the next switch or the end of the turn: nothing in between takes time.
        if let SwitchEnd::Ended(stack) = progress {
            self.end(task, stack);
        }
    }

    /// Cleans up after a coroutine whose body has returned: its stack is free, and nothing here may refer to it any more.
    #[inline(never)]
    fn end(&self, task: &Rc<Task>, stack: SlabStack) {
        self.stacks.borrow_mut().give_back(stack);
        self.take_waits_back();
        self.timers.forget(task);
        self.tasks.remove(task);
        // If the set stayed, the loop's listeners would wake the worker again and again, and nothing would accept.
        if task.acceptor.is_some() {
            self.accept_sets.borrow_mut().retain(|set| !set.is_of(task));
        }
    }

    /// Makes this worker the parker of its thread again: a handler may have installed its own, and kept the guard.
    fn take_waits_back(&self) {
        if wait::is_installed(self) {
            return;
        }
        if let Some(worker) = worker_of_thread() {
            // The handler's parker is leaked, and not dropped: its drop would run the program's code outside its requests.
            std::mem::forget(wait::install(worker));
        }
    }

    /// The coroutine that runs. None on the thread's own stack.
    pub(super) fn current(&self) -> Option<Rc<Task>> {
        self.current.borrow().clone()
    }

    /// Wakes the accept loops that are retired, so that they end.
    fn retire(&self) {
        for task in self.tasks.snapshot() {
            if task.is_retired() {
                self.wake(&task);
            }
        }
    }

    /// Suspends the running coroutine, which goes on in the next turn.
    pub(super) fn give_way(&self, task: &Rc<Task>) {
        // The task is queued before the switch: nothing on the other side would queue it.
        task.state.set(TaskState::Queued);
        self.queue.borrow_mut().push_back(Rc::clone(task));
        switch::suspend();
        // With `panic = "abort"` nothing can unwind: the loop then ends at its next wait.
        if task.is_retired() && cfg!(panic = "unwind") {
            panic::resume_unwind(Box::new(RetiredUnwind));
        }
    }
}

/// Ends the child of a bare `fork`, in which the handler has now returned. (If a plain thread had forked, it would end here,
/// and the child with it.) If the worker went on in the child, it would take the parent's events.
#[cold]
fn end_child() -> ! {
    exit_now(0)
}
