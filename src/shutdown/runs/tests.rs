//! The transitions of a server's runs, without a server.

use super::*;
use crate::wait;

fn state(runs: &Runs) -> RunState {
    runs.state.lock().run
}

#[test]
fn a_run_goes_through_its_states_in_order() {
    let runs = Runs::new().unwrap();
    assert_eq!(state(&runs), RunState::Idle);
    runs.begin(&"here", RunKind::Forever).unwrap();
    assert!(runs.begin(&"here", RunKind::Forever).is_err(), "one run at a time");
    runs.enter_loop();
    assert!(runs.enter_worker(), "beside a loop");
    runs.request_stop();
    assert!(!runs.enter_worker(), "not any more");
    runs.leave_loop(|| unreachable!("nothing is to be closed"));
    assert_eq!(state(&runs), RunState::Finishing(RunKind::Forever));
    runs.leave_loop(|| unreachable!("nothing is to be closed"));
    runs.end(|| unreachable!("nothing is to be closed")).unwrap();
    assert_eq!(state(&runs), RunState::Over);
    assert!(!runs.stop_requested() && runs.accepts_no_more());
}

#[test]
fn a_stop_is_kept_for_the_first_run_and_by_a_single_request_until_it_is_reported() {
    let runs = Runs::new().unwrap();
    let nothing = || {};
    runs.request_stop();
    runs.begin(&"here", RunKind::OneRequest).unwrap();
    runs.end(nothing).unwrap();
    assert_eq!((state(&runs), runs.stop_requested()), (RunState::Idle, true));
    runs.begin(&"here", RunKind::OneRequest).unwrap();
    runs.report_stop();
    runs.end(nothing).unwrap();
    assert!(!runs.stop_requested());
    runs.request_stop();
    runs.begin(&"here", RunKind::Forever).unwrap();
    assert!(runs.stop_requested(), "the first one obeys it");
    runs.end(nothing).unwrap();
    runs.request_stop();
    runs.begin(&"here", RunKind::Forever).unwrap();
    assert!(!runs.stop_requested(), "the second one knows nothing of it");
}

#[test]
fn an_event_without_a_stop_is_cleared_and_one_with_a_stop_is_not() {
    let runs = Runs::new().unwrap();
    let is_readable = || wait::any(&[runs.stop_waiting()], Some(Instant::now())).unwrap();
    runs.request_stop();
    runs.settle();
    assert!(is_readable());
    runs.begin(&"here", RunKind::Forever).unwrap();
    runs.end(|| {}).unwrap();
    assert!(!is_readable());
}

#[test]
fn a_close_ends_the_run_closes_the_listener_and_lets_no_other_begin() {
    let runs = Runs::new().unwrap();
    assert!(!runs.is_draining());
    runs.begin(&"here", RunKind::Forever).unwrap();
    runs.enter_loop();
    assert_eq!(runs.close(), Closer::Loop);
    assert!(runs.is_draining() && !runs.first_reads_are_over());
    let closed = std::cell::Cell::new(0);
    runs.leave_loop(|| closed.set(closed.get() + 1));
    runs.end(|| unreachable!("it is closed")).unwrap();
    assert_eq!(closed.get(), 1);
    assert!(runs.begin(&"here", RunKind::Forever).unwrap_err().is_closed());
    runs.end_first_reads();
    runs.begin_drain();
    assert!(runs.first_reads_are_over(), "a drain never goes back");
}

#[test]
fn code_of_the_program_on_the_thread_of_a_run_that_finishes_does_not_wait_for_itself() {
    let runs = Arc::new(Runs::new().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    let of_run = Arc::clone(&runs);
    // Not joined: the thread would wait for ever, and the test would with it.
    thread::spawn(move || {
        of_run.begin(&"here", RunKind::Forever).unwrap();
        of_run.enter_loop();
        of_run.request_stop();
        of_run.leave_loop(|| {});
        assert_eq!(state(&of_run), RunState::Finishing(RunKind::Forever));
        let begun = of_run.begin(&"here", RunKind::OneRequest).is_err();
        let claimed = of_run.claim(&"here").is_err();
        of_run.end(|| {}).unwrap();
        tell.send((begun, claimed)).unwrap();
    });
    let refused = told.recv_timeout(std::time::Duration::from_secs(10));
    assert_eq!(refused, Ok((true, true)));
    assert!(runs.begin(&"here", RunKind::OneRequest).is_ok(), "a later run begins");
}
