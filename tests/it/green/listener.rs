//! The listener, for which the loop waits through a duplicate of the descriptor.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use socketserver::hooks::Incoming;
use socketserver::outgoing::{OutgoingStream, connect as connect_to};
use socketserver::{
    Green, HandlerError, HandlerResult, Limits, ServerHooks, StreamRequest, TcpServer, stream_fn,
};

use crate::handlers::Echo;
use crate::spins::rests;
use crate::support::process::in_a_process;
use crate::support::system::replace;
use crate::support::{SOON, connect, exchange, inet, read_line, soon};

#[test]
fn a_listener_that_is_replaced_ends_the_loop_with_an_error() {
    let name = "green::listener::a_listener_that_is_replaced_ends_the_loop_with_an_error";
    in_a_process(name, || {
        let builder = TcpServer::builder().mixin(Green::new().workers(2));
        let server = builder.bind("127.0.0.1:0", || Echo).unwrap().serve_in_background().unwrap();
        let address = inet(&*server);
        assert_eq!(exchange(&mut connect(address), "hello"), "hello\n");
        // The loop waits by now, or will find that it cannot accept.
        replace(&*server.fileno().unwrap(), &std::fs::File::open("/dev/null").unwrap());
        let _ = TcpStream::connect(address);
        assert!(server.shutdown_handle().wait_timeout(SOON), "it goes on without a listener");
        let error = server.join().unwrap_err().to_string();
        assert!(error.starts_with("cannot accept at "), "{error}");
        String::new()
    });
}

/// The loop is suspended, with the duplicate, in a worker that is held.
#[test]
fn the_address_is_free_after_a_close_although_the_loop_has_not_ended() {
    let (free, freed) = channel::<()>();
    let freed = Mutex::new(freed);
    let handler = stream_fn(move |request: &mut StreamRequest| -> HandlerResult {
        writeln!(request, "here")?;
        let _ = freed.lock().unwrap().recv();
        Ok(())
    });
    let server = TcpServer::builder()
        .mixin(Green::new().workers(1))
        .limits(Limits::default().drain(Duration::from_millis(100)));
    let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
    let address = inet(&*server);
    let mut client = connect(address);
    assert_eq!(read_line(&mut client), "here\n");
    let report = soon("a stop", move || server.stop()).unwrap();
    assert_eq!(report.left_running.len(), 1, "{report}");
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    // std sets SO_REUSEADDR, which would not help if another socket still listened.
    TcpListener::bind(address).unwrap();
    free.send(()).unwrap();
}

#[test]
fn a_hook_of_the_loop_that_waits_for_a_connection_leaves_the_processor_to_others() {
    struct Reads(Mutex<OutgoingStream>);
    impl ServerHooks<StreamRequest> for Reads {
        fn verify_request(&self, _incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
            Ok(self.0.lock().unwrap().read_exact(&mut [0]).map(|()| true)?)
        }
    }
    let name = "green::listener::a_hook_of_the_loop_that_waits_for_a_connection_leaves_the_processor_to_others";
    in_a_process(name, || {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let asked = connect_to(upstream.local_addr().unwrap(), SOON).unwrap();
        let mut answers = upstream.accept().unwrap().0;
        let hooks = Reads(Mutex::new(asked));
        let builder = TcpServer::builder().mixin(Green::new().workers(1)).hooks(hooks);
        let server = builder.bind("127.0.0.1:0", || Echo).unwrap().serve_in_background().unwrap();
        let mut first = connect(inet(&*server));
        answers.write_all(b"1").unwrap();
        assert_eq!(exchange(&mut first, "hello"), "hello\n");
        // The loop has waited for clients by now. The next client keeps the loop's hook waiting, and one more waits in the queue.
        let mut others = [connect(inet(&*server)), connect(inet(&*server))];
        rests();
        answers.write_all(b"23").unwrap();
        for client in &mut others {
            assert_eq!(exchange(client, "hello"), "hello\n");
        }
        drop((first, others));
        server.stop().unwrap();
        String::new()
    });
}
