//! The room of a gate, and the loops that wait for it.

#[path = "../../src/gate/room.rs"]
mod room;

use std::sync::Arc;

use loom::thread::{JoinHandle, spawn};

use self::room::Room;
use crate::check;
use crate::wait::Event;

/// A gate that two loops share.
fn room(max: usize) -> Arc<Room> {
    let room = Arc::new(Room::new(max, Event::new().expect("an event")));
    // Nothing but the room keeps the event.
    drop(Event::last());
    room
}

/// Starts a loop that waits for room, takes a permit, and then calls `then`.
fn accept_loop(room: &Arc<Room>, then: fn(&Room)) -> JoinHandle<()> {
    let room = Arc::clone(room);
    spawn(move || {
        loop {
            if !room.is_open() {
                room.event.wait();
                // The event is readable a moment before `notified` says so: then the waker has to go on.
                loom::thread::yield_now();
            } else if room.enter() {
                return then(&room);
            }
        }
    })
}

/// One change makes room for both loops, and neither gives its permit back: there is no other wake-up. The model fails if
/// `is_open` does not notify again when it has cleared the event and found room; if it checks the count before it sets
/// `waiting`; and if `wake` clears `waiting` after it has notified.
#[test]
fn two_loops_that_wait_for_room_both_get_in() {
    check(4, || {
        let room = room(0);
        let loops = [(), ()].map(|()| accept_loop(&room, |_| ()));
        room.set_max(2);
        loops.into_iter().for_each(|one| one.join().expect("a loop gets in"));
        assert_eq!(room.count(), 2);
    });
}

/// There is one permit, and each loop gives it back. The model fails if `leave` wakes before it changes the count.
#[test]
fn a_permit_that_is_given_back_goes_to_the_other_loop() {
    check(3, || {
        let room = room(1);
        assert!(room.enter());
        let loops = [(), ()].map(|()| accept_loop(&room, Room::leave));
        room.leave();
        loops.into_iter().for_each(|one| one.join().expect("a loop gets in"));
        assert_eq!(room.count(), 0);
    });
}
