//! Rows 15 to 19: the steps of a request, their order, and the consequences of a failure in each.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use socketserver::monitor::AcceptOutcome;
use socketserver::{HandlerResult, StreamRequest, StreamRequestHandler, TcpServer};

use super::life;
use crate::handlers::Steps;
use crate::support::{connect, inet, read_line};

/// The life of a request whose handler fails in some of its steps.
fn life_that_fails_in(fail_in: &'static [&'static str]) -> String {
    let (diary, turn) = life(true, move |diary| Steps { diary, fail_in });
    assert_eq!(turn, AcceptOutcome::Handled);
    let text = diary.text();
    let begin = "get_request verify_request process_request finish_request ";
    text.strip_prefix(begin).expect("the same beginning for all").to_owned()
}

#[test]
fn row_015_the_steps_of_a_request_come_in_pythons_order() {
    let (diary, turn) = life(true, |diary| Steps { diary, fail_in: &[] });
    assert_eq!(turn, AcceptOutcome::Handled);
    assert_eq!(
        diary.text(),
        "get_request verify_request process_request finish_request setup handle finish \
         shutdown_request close_request"
    );
}

/// Counts the requests of one handler: always one, because every request has its own.
struct Tally {
    number: usize,
    served: usize,
}

impl StreamRequestHandler for Tally {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        self.served += 1;
        let (client, server) = (request.client_address(), request.server().server_address());
        let text = format!("{} {} {client} {server}", self.number, self.served);
        writeln!(request, "{text}")?;
        Ok(())
    }
}

#[test]
fn row_016_every_request_has_a_handler_of_its_own_which_sees_client_and_server() {
    let made = AtomicUsize::new(0);
    let make = move || Tally { number: made.fetch_add(1, Ordering::SeqCst) + 1, served: 0 };
    let server = TcpServer::bind("127.0.0.1:0", make).unwrap().serve_in_background().unwrap();
    for number in 1..=3 {
        let mut client = connect(inet(&*server));
        let me = client.local_addr().unwrap();
        let expected = format!("{number} 1 {me} {}\n", inet(&*server));
        assert_eq!(read_line(&mut client), expected);
    }
}

#[test]
fn row_017_finish_runs_after_a_failed_handle() {
    assert_eq!(
        life_that_fails_in(&["handle"]),
        "setup handle finish handle_error(handle: handle fails) shutdown_request close_request"
    );
}

/// Notes its steps and panics in `handle`.
struct PanicsInHandle {
    steps: Steps,
}

impl StreamRequestHandler for PanicsInHandle {
    fn setup(&mut self, request: &mut StreamRequest) -> HandlerResult {
        StreamRequestHandler::setup(&mut self.steps, request)
    }

    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        StreamRequestHandler::handle(&mut self.steps, request)?;
        panic!("out of tea")
    }

    fn finish(&mut self, request: &mut StreamRequest) -> HandlerResult {
        StreamRequestHandler::finish(&mut self.steps, request)
    }
}

#[test]
fn row_017_finish_runs_after_a_panic_in_handle_as_well() {
    let (diary, _turn) =
        life(true, |diary| PanicsInHandle { steps: Steps { diary, fail_in: &[] } });
    assert!(
        diary.text().ends_with(
            "setup handle finish handle_error(handle: a panic: out of tea) \
             shutdown_request close_request"
        ),
        "{}",
        diary.text()
    );
}

#[test]
fn row_018_finish_does_not_run_after_a_failed_setup() {
    assert_eq!(
        life_that_fails_in(&["setup"]),
        "setup handle_error(setup: setup fails) shutdown_request close_request"
    );
}

#[test]
fn row_019_an_error_of_finish_is_reported_and_the_request_is_closed() {
    assert_eq!(
        life_that_fails_in(&["finish"]),
        "setup handle finish handle_error(finish: finish fails) shutdown_request close_request"
    );
}

#[test]
fn row_019_of_two_errors_the_earlier_one_is_reported() {
    assert_eq!(
        life_that_fails_in(&["handle", "finish"]),
        "setup handle finish handle_error(handle: handle fails) shutdown_request close_request"
    );
}
