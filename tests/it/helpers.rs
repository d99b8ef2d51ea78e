//! The helpers of these tests are tested where a fault of theirs would hide a fault of the library.

use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use socketserver::ThreadingTcpServer;

use crate::handlers::Echo;
use crate::support::{StopOnPanic, connect, exchange, inet, soon, uninterrupted};

#[test]
fn a_test_that_fails_beside_a_server_of_its_scope_shows_its_message() {
    let message = soon("the scope ends", || {
        let server = ThreadingTcpServer::bind("127.0.0.1:0", || Echo).unwrap();
        let failed = catch_unwind(AssertUnwindSafe(|| {
            thread::scope(|scope| {
                scope.spawn(|| server.serve_forever());
                let _stop = StopOnPanic(&server);
                let mut client = connect(inet(&server));
                assert_eq!(exchange(&mut client, "hello"), "something else\n", "the message");
            });
        }));
        let panic = failed.expect_err("the assertion fails");
        panic.downcast_ref::<String>().cloned().unwrap_or_default()
    });
    assert!(message.contains("the message"), "{message}");
}

#[test]
fn an_interrupted_call_is_made_again() {
    let mut results = vec![Ok(3), Err(std::io::ErrorKind::Interrupted.into())];
    assert_eq!(uninterrupted(|| results.pop().unwrap()).unwrap(), 3);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let error = uninterrupted(|| listener.accept()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}
