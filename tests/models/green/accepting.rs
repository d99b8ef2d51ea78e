//! The accept loop, which moves from a worker that is held, and ends with its server.

use std::cell::RefCell;
use std::panic;
use std::rc::Rc;
use std::sync::Arc;

use loom::thread::JoinHandle;

use super::Group;
use super::accept_coroutine::{AcceptCoroutine, AcceptHandle};
use super::acceptor::AcceptorStart;
use super::inbox::Message;
use crate::check;
use crate::error::Result;
use crate::exclusive;
use crate::sys::coroutine::stack::{SlabStack, Then};
use crate::sys::coroutine::switch::SwitchEnd;

/// The payload of the unwinding of a loop that is retired.
struct Retired;

thread_local! {
    /// The running coroutine. Its body takes it from here, before the model makes another step.
    static RUNS: RefCell<Option<AcceptHandle>> = const { RefCell::new(None) };
}

/// A coroutine of a worker that accepts twice, and once more in its last piece. Whenever it goes on it checks whether it
/// is retired, as every wait of the library does.
fn start(order: AcceptorStart) -> Option<AcceptCoroutine> {
    let me: Rc<RefCell<Option<AcceptHandle>>> = Rc::default();
    let (first, second) = (Rc::clone(&me), Rc::clone(&me));
    let is_retired = |me: &RefCell<Option<AcceptHandle>>| {
        me.borrow().as_ref().is_some_and(AcceptHandle::is_retired)
    };
    let stack = SlabStack::default()
        .with(move || {
            if is_retired(&first) {
                return Then::GoOn;
            }
            exclusive::used();
            Then::Suspend
        })
        .with(move || {
            RUNS.set(second.borrow().clone());
            Then::GoOn
        });
    let coroutine = order.into_coroutine(|| Ok(stack))?;
    me.replace(Some(coroutine.handle()));
    Some(coroutine)
}

/// The loop's body: its last piece.
fn last_piece() -> Result<()> {
    let me = RUNS.take().expect("set just before");
    if me.is_retired() {
        panic::resume_unwind(Box::new(Retired));
    }
    exclusive::used();
    Ok(())
}

fn accept_loop() -> Arc<dyn Fn() -> Result<()> + Send + Sync> {
    Arc::new(last_piece)
}

/// A worker: reads its inbox, and resumes what it has, until it is told to quit and has nothing left.
fn worker(group: &Arc<Group>, number: usize) -> JoinHandle<()> {
    let group = Arc::clone(group);
    loom::thread::spawn(move || {
        let (mut coroutines, mut quits) = (Vec::new(), false);
        let handle = &group.workers[number];
        loop {
            coroutines.retain_mut(|coroutine: &mut AcceptCoroutine| {
                matches!(coroutine.resume(), SwitchEnd::Suspended)
            });
            if quits && coroutines.is_empty() && handle.inbox.close() {
                return;
            }
            if coroutines.is_empty() {
                handle.wake_up.wait();
            }
            for message in handle.inbox.take() {
                match message {
                    Message::Accept(order) => coroutines.extend(start(order)),
                    Message::Quit => quits = true,
                    _ => {}
                }
            }
        }
    })
}

fn quit(group: &Group, workers: Vec<JoinHandle<()>>) {
    for worker in &group.workers {
        assert!(worker.inbox.send(Message::Quit).is_none());
    }
    for worker in workers {
        worker.join().expect("a worker ends");
    }
}

/// The watchdog moves the loop, and moves it back, while it begins, runs, waits or ends: two threads never use the
/// loop's own value at once, and one of them always comes to its end. The model fails if `retire` does not check whether
/// the coroutine is suspended, if `into_coroutine` does not compare the start or gives the lock back before there is a
/// coroutine, if a move keeps the number of the start, and if a loop that was moved may say that it has ended. (Three
/// interruptions take a minute.)
#[test]
fn a_loop_that_moves_is_one_loop() {
    check(2, || {
        let (group, _end) = (Group::of(2), exclusive::begin());
        let workers = (0..2).map(|number| worker(&group, number)).collect();
        let mover = {
            let group = Arc::clone(&group);
            loom::thread::spawn(move || {
                group.acceptors.move_away(&group, 0);
                group.acceptors.move_away(&group, 1);
            })
        };
        let result = group.acceptors.run(&group, &accept_loop());
        assert!(result.is_ok());
        // The thread that serves uses the loop's value again.
        exclusive::used();
        mover.join().expect("the mover ends");
        quit(&group, workers);
    });
}

/// The server is closed: the thread that serves returns, and from then on nothing of the loop runs but its unwinding.
/// The model fails if that thread does not wait for a piece that runs or does not retire the loop, if a loop that is
/// abandoned is still started, and if the unwinding of such a loop counts as its result.
#[test]
fn a_loop_that_is_abandoned_does_nothing_more() {
    check(3, || {
        let (group, _end) = (Group::of(1), exclusive::begin());
        let workers = vec![worker(&group, 0)];
        let closer = {
            let group = Arc::clone(&group);
            loom::thread::spawn(move || group.acceptors.abandon())
        };
        let result = group.acceptors.run(&group, &accept_loop());
        assert!(result.is_ok());
        exclusive::used();
        closer.join().expect("the closer ends");
        quit(&group, workers);
    });
}
