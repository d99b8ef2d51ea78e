//! The watchdog's sleep, and the workers' loads, which it checks.

use std::sync::Arc;
use std::time::Duration;

use super::Group;
use crate::check;

const PAUSE: Duration = Duration::from_millis(25);

/// While a request runs the watchdog does not sleep: a first request wakes it, even if another one ends at the same
/// moment. The model fails with `Relaxed` for the flag in `pause` or for the load in `begin_request`, if `pause` does not
/// check the loads again, and if `wake` does not notify.
#[test]
fn a_first_request_wakes_the_watchdog() {
    check(3, || {
        let group = Group::of(2);
        // This starts the thread of the watchdog, which the model plays.
        group.begin_request(0);
        let dealer = {
            let group = Arc::clone(&group);
            loom::thread::spawn(move || {
                group.workers[0].status.end_request();
                group.begin_request(1);
            })
        };
        // The second request, which stays, wakes the watchdog at the latest.
        while group.workers[1].status.is_idle() {
            assert!(group.watchdog.pause(&group, PAUSE));
        }
        dealer.join().expect("the dealer ends");
    });
}

/// A watchdog that sleeps is ended. The model fails if `quit` does not notify, or `pause` sleeps without a look at
/// `quits`.
#[test]
fn a_watchdog_that_sleeps_is_ended() {
    check(3, || {
        let group = Group::of(1);
        let closer = {
            let group = Arc::clone(&group);
            loom::thread::spawn(move || group.watchdog.quit())
        };
        while group.watchdog.pause(&group, PAUSE) {}
        closer.join().expect("the closer ends");
    });
}

/// Two dealers and an end: nothing is counted twice, and a dealer that sees an old load only deals less evenly. The
/// model fails with a load that is read and then written.
#[test]
fn loads_end_at_zero() {
    check(3, || {
        let group = Group::of(2);
        let dealers = [0, 1].map(|_| {
            let group = Arc::clone(&group);
            loom::thread::spawn(move || {
                let worker = group.least_loaded();
                group.workers[worker].status.begin_request();
                loom::thread::yield_now();
                group.workers[worker].status.end_request();
            })
        });
        for dealer in dealers {
            dealer.join().expect("a dealer ends");
        }
        assert!(group.is_idle());
    });
}

/// A look at a worker shows the request that belongs to its count of switches, or a later one, and never an earlier one: so
/// the watchdog blames no request that has ended. The model fails if the count is stored before the number, or either
/// access of the count is `Relaxed`.
#[test]
fn a_look_at_a_worker_is_not_older_than_its_count() {
    check(3, || {
        let group = Group::of(1);
        let worker = {
            let group = Arc::clone(&group);
            loom::thread::spawn(move || {
                group.workers[0].status.switch_to(Some(7));
                group.workers[0].status.switch_to(Some(8));
            })
        };
        let look = group.workers[0].status.running();
        let old = "Some(RunningRequest { request: 7, switches: 2 })";
        assert_ne!(format!("{look:?}"), old);
        worker.join().expect("the worker ends");
        let last = group.workers[0].status.running();
        assert_eq!(format!("{last:?}"), "Some(RunningRequest { request: 8, switches: 2 })");
    });
}
