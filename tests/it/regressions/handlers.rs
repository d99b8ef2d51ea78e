//! Errors and panics of handlers in unusual places.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::channel;

use socketserver::hooks::Phase;
use socketserver::park::Cancelled;
use socketserver::{HandlerResult, StreamRequest, ThreadingTcpServer, stream_fn};

use super::runs::Phases;
use crate::support::{SOON, connect, eventually, inet, serve};

/// An error whose causes form a circle.
#[derive(Debug)]
struct Circle;

impl std::fmt::Display for Circle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("round and round")
    }
}

impl std::error::Error for Circle {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&Circle)
    }
}

#[test]
fn an_error_that_is_its_own_cause_is_reported_and_ends_its_request() {
    for wrapped in [false, true] {
        let handler = stream_fn(move |_request: &mut StreamRequest| {
            Err(if wrapped { io::Error::other(Circle).into() } else { Circle.into() })
        });
        let server = Arc::new(ThreadingTcpServer::bind("127.0.0.1:0", handler).unwrap());
        let served = serve(&server);
        // The client sees a reset or an end; a worker that spins gives neither within the client's patience.
        let mut client = connect(inet(&*server));
        match client.read(&mut [0]) {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
        }
        eventually("it has failed", || server.context().counts().failed == 1);
        server.server_close();
        served.recv_timeout(SOON).unwrap().unwrap();
    }
}

#[test]
fn a_cancellation_is_looked_for_in_an_error_that_is_its_own_cause() {
    assert_eq!(Cancelled::find(&Circle), None);
    assert_eq!(Cancelled::find(&io::Error::other(Circle)), None);
    assert!(Cancelled::find(&io::Error::other(Cancelled::error())).is_some());
}

/// A handler that panics in the named step.
struct Fragile(&'static str);

impl socketserver::StreamRequestHandler for Fragile {
    fn setup(&mut self, _request: &mut StreamRequest) -> HandlerResult {
        assert_ne!(self.0, "setup");
        Ok(())
    }

    fn handle(&mut self, _request: &mut StreamRequest) -> HandlerResult {
        Ok(())
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        assert_ne!(self.0, "drop");
    }
}

#[test]
fn a_panic_in_a_handlers_drop_is_of_the_end_and_one_in_its_making_of_the_beginning() {
    for (place, expected) in
        [("making", Phase::Setup), ("setup", Phase::Setup), ("drop", Phase::Finish)]
    {
        let (to, phases) = channel();
        let make = move || {
            assert_ne!(place, "making");
            Fragile(place)
        };
        let server = ThreadingTcpServer::builder().hooks(Phases { to }).bind("127.0.0.1:0", make);
        let server = server.unwrap().serve_in_background().unwrap();
        drop(connect(inet(&*server)));
        assert_eq!(phases.recv_timeout(SOON).unwrap(), expected, "{place}");
        drop(server);
    }
}
