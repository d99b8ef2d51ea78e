//! Rows 26 to 29: how a connection ends, and that its handler may block.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use socketserver::monitor::{AcceptOutcome, Activity};
use socketserver::{Builder, Inline, TcpServer, stream_fn};

use super::{Noted, reset};
use crate::handlers::{Diary, Silent};
use crate::reports::reports;
use crate::support::{SOON, connect, eventually, exchange, inet, read_to_end};

#[test]
fn row_026_shutdown_request_ends_the_servers_direction_only() {
    let kept = Arc::default();
    let transport = Noted { kept: Some(Arc::clone(&kept)), ..Noted::new(&Diary::default()) };
    let server = Builder::<Noted, _>::new(Inline)
        .timeout(SOON)
        .with_transport(transport, || Silent)
        .unwrap();
    let mut client = connect(inet(&server));
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
    // The request is not closed, but the client sees the end of its connection, and its bytes still arrive.
    assert_eq!(read_to_end(&mut client), b"");
    client.write_all(b"heard\n").unwrap();
    let mut request = kept.lock().unwrap().pop().expect("a request that is still open");
    let mut line = String::new();
    assert_eq!(request.next_line(&mut line).unwrap(), Some("heard"));
}

#[test]
fn row_026_an_error_of_the_shutdown_is_ignored() {
    let (reports, reported) = reports();
    let (begun, begins) = channel();
    // The handler returns without an error when the peer has gone, and leaves a socket that cannot be shut down.
    let handler = stream_fn(move |request| {
        let _ = begun.send(());
        let end = request.read(&mut [0]);
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let fd = request.fileno().unwrap();
        assert!(socket2::SockRef::from(&fd).shutdown(Shutdown::Write).is_err());
        Ok(())
    });
    let server = TcpServer::builder().hooks(reports).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    for _ in 0..2 {
        let client = connect(inet(&*server));
        begins.recv_timeout(SOON).unwrap();
        reset(client);
    }
    eventually("both are over", || server.context().counts().completed == 2);
    assert!(server.stop().unwrap().is_clean());
    assert!(reported.try_recv().is_err());
}

#[test]
fn row_027_the_client_sees_the_end_even_if_a_clone_of_the_connection_lives() {
    let (clones, cloned) = channel();
    let handler = stream_fn(move |request| {
        writeln!(request, "that is all")?;
        let clone = request.fileno().unwrap().try_clone_to_owned()?;
        let _ = clones.send(clone);
        Ok(())
    });
    let server = TcpServer::bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    let clone: OwnedFd = cloned.recv_timeout(SOON).unwrap();
    assert_eq!(read_to_end(&mut client), b"that is all\n");
    let peer = socket2::SockRef::from(&clone).local_addr().unwrap();
    assert_eq!(peer.as_socket(), Some(client.peer_addr().unwrap()), "it was still open");
}

#[test]
fn row_029_a_handler_waits_whatever_the_mode_of_the_listener_is() {
    fn check(prepare: impl Fn(&TcpListener)) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        prepare(&listener);
        let (reports, reported) = reports();
        let handler = stream_fn(|request| {
            let mut line = String::new();
            // In non-blocking mode a wait would be a spin.
            assert!(!socket2::SockRef::from(&request.fileno().unwrap()).nonblocking()?);
            request.next_line(&mut line)?;
            Ok(writeln!(request, "{line}")?)
        });
        let server = TcpServer::builder().hooks(reports).from_fd(listener, handler).unwrap();
        let server = server.serve_in_background().unwrap();
        let mut client = connect(inet(&*server));
        eventually("the handler waits for its line", || {
            server.context().live().iter().any(|request| request.activity == Activity::Idle)
        });
        assert_eq!(exchange(&mut client, "at last"), "at last\n");
        server.stop().unwrap();
        assert!(reported.try_recv().is_err());
    }

    check(|listener| listener.set_nonblocking(false).unwrap());
    check(|listener| listener.set_nonblocking(true).unwrap());
    // An inherited timeout must not become the connection's: only the limits say how long the connection waits.
    check(|listener| {
        let socket = socket2::SockRef::from(listener);
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        socket.set_write_timeout(Some(Duration::from_millis(1))).unwrap();
    });
}
