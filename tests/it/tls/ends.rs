//! Ends of a connection: the farewell of TLS, and what its absence means.

use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::channel;

use socketserver::request::PeerFault;
use socketserver::{CloseReason, ServerEvent, ThreadingTcpServer, stream_fn};

use super::client::{Client, VERSIONS, localhost};
use crate::support::{inet, read_to_end};

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
    crate::support::eventually("it is completed", || server.context().counts().completed == 1);
}
