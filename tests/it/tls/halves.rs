//! The halves of a connection under TLS, and connections under TLS that a handler makes.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::mpsc::channel;
use std::time::Duration;

use parking_lot::Mutex;
use socketserver::mixin::Mixin;
use socketserver::monitor::{CloseReason, ServerEvent};
use socketserver::outgoing::{HalfClose, connect};
use socketserver::request::PeerFault;
use socketserver::tls::rustls::StreamOwned;
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, Builder, HandlerResult, Limits, StreamRequest, join, stream_fn,
};

use super::client::{Client, VERSIONS, localhost};
use crate::handlers::Echo;
use crate::support::{SOON, eventually, exchange, inet, read_line, read_to_end};

const BLOCK: usize = 64 * 1024;
const BLOCKS: usize = 100;

fn server<M: Mixin + Default + 'static>(
    handle: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
) -> (BackgroundServer<Tcp, M>, std::sync::mpsc::Receiver<CloseReason>) {
    let (ends, ended) = channel();
    let ends = Mutex::new(ends);
    let server = Builder::<Tcp, M>::new(M::default())
        .tls(localhost())
        .limits(Limits::default().drain(Duration::from_millis(200)))
        .observer(move |event: &ServerEvent<'_>| {
            if let ServerEvent::RequestEnded { reason, .. } = event {
                let _ = ends.lock().send(*reason);
            }
        })
        .bind("127.0.0.1:0", stream_fn(handle))
        .unwrap();
    (server.serve_in_background().unwrap(), ended)
}

fn both_directions_move_at_once_each_to_its_farewell<M: Mixin + Default + 'static>() {
    let (server, ended) = server::<M>(|request| {
        let (mut input, mut output) = request.split()?;
        let (count, sent) = join(
            || io::copy(&mut input, &mut io::sink()),
            || -> io::Result<()> {
                for _ in 0..BLOCKS {
                    output.write_all(&[7; BLOCK])?;
                }
                output.shutdown_write()
            },
        )?;
        sent?;
        assert_eq!(count?, (BLOCK * BLOCKS) as u64 + 4);
        Ok(())
    });
    for version in VERSIONS {
        let mut client = Client::speaking(&[version]).connect(inet(&*server));
        let mut block = vec![0; BLOCK];
        // Neither side waits for the other one's end.
        for _ in 0..BLOCKS {
            client.write_all(&block).unwrap();
            client.read_exact(&mut block).unwrap();
            assert!(block.iter().all(|byte| *byte == 7));
        }
        assert_eq!(client.read(&mut block).unwrap(), 0, "the farewell");
        // The other direction goes on after close_notify.
        client.write_all(b"last").unwrap();
        client.end_output();
        assert_eq!(ended.recv_timeout(SOON).unwrap(), CloseReason::Completed);
    }
}

fn a_close_is_no_farewell_and_no_fault_of_the_peer<M: Mixin + Default + 'static>() {
    let (saw, seen) = channel();
    let saw = Mutex::new(saw);
    let (server, _ended) = server::<M>(move |request| {
        let (mut input, mut output) = request.split()?;
        let (read, ()) = join(
            || input.read(&mut [0]),
            || {
                writeln!(output, "and then").unwrap();
                output.close();
            },
        )?;
        let error = read.unwrap_err();
        saw.lock().send((error.kind(), PeerFault::find(&error).is_none())).unwrap();
        Ok(())
    });
    for version in VERSIONS {
        let mut client = Client::speaking(&[version]).connect(inet(&*server));
        assert_eq!(read_line(&mut client), "and then\n");
        let cut = client.read(&mut [0]).expect_err("nothing says that it was whole");
        assert!(matches!(cut.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset));
        assert_eq!(seen.recv_timeout(SOON).unwrap(), (ErrorKind::ConnectionAborted, true));
    }
}

fn an_operator_ends_both_halves_and_a_drain_does<M: Mixin + Default + 'static>() {
    for by_operator in [true, false] {
        let (server, ended) = server::<M>(|request| {
            let (mut input, mut output) = request.split()?;
            let (read, written) = join(
                || input.read_exact(&mut [0; 2]).unwrap_err(),
                || output.write_all(&vec![7; BLOCK * BLOCKS * 4]).unwrap_err(),
            )?;
            drop(read);
            Err(written.into())
        });
        let mut client = Client::new().connect(inet(&*server));
        client.write_all(b"x").unwrap();
        eventually("both wait", || {
            let live = server.context().live();
            live.first().is_some_and(|live| live.clear_bytes_in == 1 && live.bytes_out > 100_000)
        });
        // The client waits until nothing more fits: a write that finds room does not wait.
        let sent = || server.context().live().first().map(|live| live.bytes_out);
        let pause = Duration::from_millis(100);
        let mut before = None;
        while before != sent() {
            before = sent();
            std::thread::sleep(pause);
        }
        let reason = if by_operator {
            assert!(server.context().close_live(server.context().live()[0].id));
            CloseReason::ClosedHere
        } else {
            let report = server.stop().unwrap();
            // The request has ended, or does so a moment later if the machine is busy: the next line waits for it.
            assert_eq!(report.forced.len(), 1, "{report}");
            CloseReason::Forced
        };
        assert_eq!(ended.recv_timeout(SOON).unwrap(), reason);
    }
}

/// A handler uses rustls over an outgoing connection, as over one of std's.
fn a_handler_speaks_tls_to_another_server<M: Mixin + Default + 'static>() {
    let upstream = Builder::<Tcp, M>::new(M::default()).tls(localhost());
    let upstream = upstream.bind("127.0.0.1:0", || Echo).unwrap().serve_in_background().unwrap();
    let upstream_at = inet(&*upstream);
    let (server, _ended) = server::<M>(move |request| {
        let stream = connect(upstream_at, SOON)?;
        let mut upstream = StreamOwned::new(Client::new().session(), stream);
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            upstream.write_all(format!("{text}\n").as_bytes())?;
            let mut answer = vec![0; text.len() + 1];
            upstream.read_exact(&mut answer)?;
            request.write_all(&answer)?;
        }
        Ok(())
    });
    let mut client = Client::new().connect(inet(&*server));
    for line in ["one", "two"] {
        assert_eq!(exchange(&mut client, line), format!("{line}\n"));
    }
    client.end_output();
    assert_eq!(read_to_end(&mut client), b"");
}

macro_rules! under_each {
    ($($test:ident,)*) => {
        mod threading {
            $(#[test] fn $test() { super::$test::<socketserver::Threading>(); })*
        }
        #[cfg(has_green)]
        mod green {
            $(#[test] fn $test() { super::$test::<socketserver::Green>(); })*
        }
    };
}

under_each! {
    both_directions_move_at_once_each_to_its_farewell,
    a_close_is_no_farewell_and_no_fault_of_the_peer,
    an_operator_ends_both_halves_and_a_drain_does,
    a_handler_speaks_tls_to_another_server,
}
