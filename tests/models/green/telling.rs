//! Messages to a worker.

use std::sync::Arc;

use super::Group;
use super::inbox::Message;
use crate::check;
use crate::mixin::Job;

/// A message is taken, or given back: none is lost, and none waits while the worker sleeps. The model fails if `take`
/// clears the event after the messages, if `send` notifies for a message other than the first, and if `close` closes
/// without checking for messages.
#[test]
fn no_message_is_lost() {
    check(3, || {
        let group = Group::of(1);
        let senders = [(1, false), (2, true)].map(|(number, quits)| {
            let group = Arc::clone(&group);
            loom::thread::spawn(move || {
                if quits {
                    assert!(group.workers[0].inbox.send(Message::Quit).is_none());
                }
                group.workers[0].inbox.send(Message::Job(Job(number))).is_some()
            })
        });
        let worker = &group.workers[0];
        let (mut taken, mut quits) = (0, false);
        while !(quits && worker.inbox.close()) {
            worker.wake_up.wait();
            for message in worker.inbox.take() {
                match message {
                    Message::Job(_) => taken += 1,
                    _ => quits = true,
                }
            }
        }
        let given_back =
            senders.into_iter().filter_map(|sender| sender.join().ok()).filter(|back| *back);
        assert_eq!(taken + given_back.count(), 2);
    });
}
