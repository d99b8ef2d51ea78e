//! Ends of a connection: close_notify, and what its absence means.

use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::channel;

use socketserver::monitor::{Activity, CloseReason, ServerEvent};
use socketserver::request::PeerFault;
use socketserver::{Limits, ThreadingTcpServer, stream_fn};

use super::client::{Client, VERSIONS, localhost};
use crate::handlers::Echo;
use crate::support::{SOON, eventually, exchange, inet, read_to_end, soon};

#[test]
fn an_end_without_a_farewell_is_no_end_of_a_message() {
    for version in VERSIONS {
        let (tell, told) = channel();
        let (tell_end, ended) = channel();
        let server = ThreadingTcpServer::builder()
            .tls(localhost())
            .observer(move |event| {
                if let ServerEvent::RequestEnded { reason, .. } = event {
                    let _ = tell_end.send(*reason);
                }
            })
            .bind(
                "127.0.0.1:0",
                stream_fn(move |request| {
                    let mut all = Vec::new();
                    let result = request.read_to_end(&mut all);
                    // A second read says the same.
                    let again = request.read(&mut [0; 10]).map_err(|error| error.kind());
                    let fault = result.as_ref().err().is_some_and(|error| {
                        PeerFault::find(error).is_some_and(PeerFault::is_gone)
                    });
                    let kind = result.as_ref().map(drop).map_err(std::io::Error::kind);
                    tell.send((all, kind, fault, again))?;
                    request.write_all(b"received")?;
                    result?;
                    Ok(())
                }),
            )
            .unwrap()
            .serve_in_background()
            .unwrap();
        let mut client = Client::speaking(&[version]).connect(inet(&*server));
        client.write_all(b"all").unwrap();
        client.cut();
        let cut = Err(ErrorKind::UnexpectedEof);
        assert_eq!(told.recv().unwrap(), (b"all".to_vec(), cut, true, cut.map(|()| 0)));
        assert_eq!(read_to_end(&mut client), b"received", "only the input was cut");
        assert_eq!(ended.recv().unwrap(), CloseReason::Disconnected);

        let mut client = Client::speaking(&[version]).connect(inet(&*server));
        client.write_all(b"all").unwrap();
        client.end_output();
        assert_eq!(told.recv().unwrap(), (b"all".to_vec(), Ok(()), false, Ok(0)));
        assert_eq!(read_to_end(&mut client), b"received", "the output goes on");
        assert_eq!(ended.recv().unwrap(), CloseReason::Completed);
    }
}

#[test]
fn the_handler_ends_its_output_and_reads_on() {
    let server = ThreadingTcpServer::builder()
        .tls(localhost())
        .bind(
            "127.0.0.1:0",
            stream_fn(move |request| {
                request.write_all(b"go on")?;
                request.shutdown_write()?;
                assert_eq!(request.write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
                let mut all = String::new();
                request.read_to_string(&mut all)?;
                assert_eq!(all, "all of it");
                Ok(())
            }),
        )
        .unwrap()
        .serve_in_background()
        .unwrap();
    let mut client = Client::new().connect(inet(&*server));
    assert_eq!(read_to_end(&mut client), b"go on");
    client.write_all(b"all of it").unwrap();
    client.end_output();
    eventually("it is completed", || server.context().counts().completed == 1);
}

#[test]
fn lines_before_a_bad_record_are_read_and_the_error_stays() {
    let (tell, told) = channel();
    let server = ThreadingTcpServer::builder()
        .tls(localhost())
        .bind(
            "127.0.0.1:0",
            stream_fn(move |request| {
                request.write_all(b"!")?;
                let mut line = String::new();
                let mut read = || match request.next_line(&mut line) {
                    Ok(text) => Ok(text.map(str::to_owned)),
                    Err(error) => Err((error.kind(), PeerFault::find(&error).is_some())),
                };
                tell.send([read(), read(), read()])?;
                Ok(())
            }),
        )
        .unwrap()
        .serve_in_background()
        .unwrap();
    for version in VERSIONS {
        let mut client = Client::speaking(&[version]).connect(inet(&*server));
        client.handshake().unwrap();
        // This byte shows that the handler runs: bad bytes right behind the client's last message would fail the handshake.
        client.stream.read_exact(&mut [0]).unwrap();
        client.stream.conn.writer().write_all(b"good\n").unwrap();
        let mut records = Vec::new();
        client.stream.conn.write_tls(&mut records).unwrap();
        records.extend([23, 3, 3, 0, 20]);
        records.extend([9; 20]);
        client.stream.sock.write_all(&records).unwrap();
        let bad = Err((ErrorKind::InvalidData, true));
        let read = told.recv_timeout(SOON).unwrap();
        assert_eq!(read, [Ok(Some("good".to_owned())), bad.clone(), bad]);
    }
}

#[test]
fn a_drain_and_close_live_say_that_they_end() {
    for version in VERSIONS {
        for close in [false, true] {
            let server = ThreadingTcpServer::builder()
                .tls(localhost())
                .bind("127.0.0.1:0", || Echo)
                .unwrap()
                .serve_in_background()
                .unwrap();
            let mut client = Client::speaking(&[version]).connect(inet(&*server));
            assert_eq!(exchange(&mut client, "hello"), "hello\n");
            eventually("it waits for the next line", || {
                server.context().live()[0].activity == Activity::Idle
            });
            if close {
                let id = server.context().live()[0].id;
                assert!(server.context().close_live(id));
            } else {
                let server = server;
                let report = soon("a stop", move || server.stop()).unwrap();
                assert!(report.is_clean(), "{report}");
            }
            // Without close_notify this would be an error.
            assert!(read_to_end(&mut client).is_empty());
        }
    }
}

#[test]
fn a_drain_lets_a_handshake_that_has_begun_and_its_first_request_be_served() {
    let server = ThreadingTcpServer::builder()
        .tls(localhost())
        .limits(Limits::default().first_read(SOON).drain(SOON * 2))
        .bind("127.0.0.1:0", || Echo)
        .unwrap()
        .serve_in_background()
        .unwrap();
    let mut client = Client::new().connect(inet(&*server));
    let mut hello = Vec::new();
    client.stream.conn.write_tls(&mut hello).unwrap();
    client.stream.sock.write_all(&hello[..40]).unwrap();
    eventually("the handshake has begun", || {
        server.context().live().first().is_some_and(|live| live.bytes_in == 40)
    });
    let address = inet(&*server);
    let (tell, told) = channel();
    std::thread::spawn(move || drop(tell.send(server.stop())));
    eventually("it takes no more clients", || std::net::TcpStream::connect(address).is_err());
    client.stream.sock.write_all(&hello[40..]).unwrap();
    assert_eq!(exchange(&mut client, "in time"), "in time\n");
    assert!(read_to_end(&mut client).is_empty(), "the next line is not waited for");
    assert!(told.recv_timeout(SOON).unwrap().unwrap().is_clean());
}
