//! Which bytes are sent in the open, and who is at fault when a wrapper cannot be made.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socketserver::hooks::{Fault, Phase};
use socketserver::monitor::{Activity, CloseReason};
use socketserver::request::{OutboxError, PeerFault, Stopping, Stream, TimedOut, Timeout};
use socketserver::{HandlerResult, Limits, Outbox, StreamRequest};

use super::framed::{ALERT, Client, Framed};
use super::{HOUR, MOMENT, Way, patient, serve, serve_with, wrap};
use crate::support::{SOON, exchange, hear, read_line, read_to_end, soon};

/// Reads lines in the open until one says to wrap the connection, and reads on through the wrapper.
fn starts_tls(lines: Arc<Mutex<Vec<String>>>) -> impl Fn(&mut StreamRequest) -> HandlerResult {
    move |request| {
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            lines.lock().unwrap().push(text.to_owned());
            if text == "STARTTLS" {
                request.write_all(b"go ahead\n")?;
                wrap(request)?;
            } else {
                writeln!(request, "{line}")?;
            }
        }
        Ok(())
    }
}

fn nothing(_request: &mut StreamRequest) -> HandlerResult {
    Ok(())
}

#[test]
fn what_was_read_ahead_in_the_open_is_never_taken_for_what_came_through_the_wrapper() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let served = serve_with(Way::Middle, patient(), nothing, starts_tls(Arc::clone(&lines)));
    let mut client = served.bare();
    client.write_all(b"STARTTLS\nDELETE everything\n").unwrap();
    assert_eq!(read_line(&mut client), "go ahead\n");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, ALERT);
    let end = served.end();
    assert_eq!((end.reason, end.told), (CloseReason::Garbled, Some((Phase::Handle, Fault::Peer))));
    assert!(end.quiet);
    assert_eq!(*lines.lock().unwrap(), ["STARTTLS"]);
}

#[test]
fn a_hello_that_was_read_ahead_is_the_wrappers_first_input() {
    // In the middle of a request ..
    let lines = Arc::new(Mutex::new(Vec::new()));
    let served = serve_with(Way::Middle, patient(), nothing, starts_tls(Arc::clone(&lines)));
    let mut client = served.bare();
    client.write_all(b"STARTTLS\nKEY1\x00\x02\x3d\x5f").unwrap();
    assert_eq!(read_line(&mut client), "go ahead\n");
    let mut welcome = [0; 2];
    client.read_exact(&mut welcome).unwrap();
    assert_eq!(&welcome, b"OK");
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"\x00\x02\x3d\x5f");
    assert_eq!(*lines.lock().unwrap(), ["STARTTLS", "h"]);

    // .. and behind a header that a hook has read.
    let (headers, header) = channel();
    let headers = Mutex::new(headers);
    let behind_a_header = move |request: &mut StreamRequest| {
        let mut line = String::new();
        request.next_line(&mut line)?;
        headers.lock().unwrap().send(line)?;
        wrap(request)
    };
    let served = serve_with(Way::Hook, patient(), behind_a_header, |request| {
        let mut line = String::new();
        request.next_line(&mut line)?;
        Ok(writeln!(request, "{line}")?)
    });
    let mut client = served.bare();
    client.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nKEY1\x00\x02\x3d\x5f").unwrap();
    assert!(header.recv_timeout(SOON).unwrap().starts_with("PROXY TCP4"));
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"OK\x00\x02\x3d\x5f\x00\x00");
}

#[test]
fn what_is_held_back_leaves_in_the_open() {
    let served = serve_with(Way::Middle, patient(), nothing, |request| {
        request.set_wbufsize(1_000)?;
        request.write_all(b"go ahead\n")?;
        wrap(request)?;
        Ok(request.write_all(b"secret\n")?)
    });
    let mut client = served.bare();
    assert_eq!(read_line(&mut client), "go ahead\n");
    assert_eq!(read_to_end(&mut Client::new(client, 1)), b"secret\n");
}

#[test]
fn an_outbox_from_before_sends_nothing_past_the_wrapper() {
    let (outboxes, outbox) = channel::<Outbox>();
    let served = serve_with(Way::Middle, patient(), nothing, move |request| {
        let early = request.outbox()?;
        early.send("due in the open\n")?;
        outboxes.send(early.clone())?;
        wrap(request)?;
        assert_eq!(early.send("a secret\n"), Err(OutboxError::Wrapped));
        let late = request.outbox().unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::Unsupported);
        let mut line = String::new();
        request.next_line(&mut line)?;
        Ok(writeln!(request, "{line}")?)
    });
    let mut bare = served.bare();
    assert_eq!(read_line(&mut bare), "due in the open\n");
    let mut client = Client::new(bare, 1);
    let outbox = outbox.recv_timeout(SOON).unwrap();
    assert_eq!(outbox.send("a secret\n"), Err(OutboxError::Wrapped));
    outbox.flush();
    assert_eq!(outbox.waiting_bytes(), 0);
    // Bytes that bypass the wrapper would form no record.
    assert_eq!(exchange(&mut client, "hello"), "hello\n");
    assert_eq!(read_to_end(&mut client), b"");
    assert_eq!(outbox.send("too late\n"), Err(OutboxError::Wrapped));
}

#[test]
fn an_outbox_from_before_can_still_end_the_connection() {
    let (outboxes, outbox) = channel::<Outbox>();
    let served = serve_with(Way::Middle, patient(), nothing, move |request| {
        let early = request.outbox()?;
        wrap(request)?;
        outboxes.send(early)?;
        let mut line = String::new();
        request.next_line(&mut line)?;
        Ok(())
    });
    let mut client = Client::new(served.bare(), 1);
    outbox.recv_timeout(SOON).unwrap().close();
    assert_eq!(read_to_end(&mut client), b"", "an end in order");
    served.assert_ends_as(CloseReason::ClosedHere);
}

#[test]
fn what_does_not_leave_in_the_open_keeps_the_connection_as_it_was() {
    let limits = patient().write(MOMENT);
    let (told, tells) = channel();
    let served = serve_with(Way::Middle, limits, nothing, move |request| {
        let outbox = request.outbox()?;
        while outbox.send([b'x'; 65_536]).is_ok() {
            // A coroutine's thread sends when the coroutine waits.
            socketserver::sleep(Duration::from_millis(1));
        }
        let error = request.wrap_stream(|_inner| panic!("there is nothing to wrap yet"));
        let error = error.unwrap_err();
        told.send(TimedOut::find(&error).map(TimedOut::which))?;
        // The request is as before.
        assert_eq!(outbox.send([b'x'; 65_536]), Err(OutboxError::Full));
        Ok(())
    });
    let client = served.bare();
    assert_eq!(tells.recv_timeout(SOON).unwrap(), Some(Timeout::Write));
    drop(client);
    served.end();
}

/// Serves a request whose wrapper is made by `make` and whose client does `act`, and returns its end.
fn handshake(
    limits: Limits,
    make: impl Fn(Box<dyn Stream>) -> io::Result<Box<dyn Stream>> + Send + Sync + 'static,
    act: impl FnOnce(&mut TcpStream),
) -> super::End {
    let hook = move |request: &mut StreamRequest| Ok(request.wrap_stream(&make)?);
    let served = serve_with(Way::Hook, limits, hook, |_request| panic!("it is not wrapped"));
    let mut client = served.bare();
    act(&mut client);
    served.end()
}

fn accept(inner: Box<dyn Stream>) -> io::Result<Box<dyn Stream>> {
    Ok(Box::new(Framed::accept(inner)?))
}

#[test]
fn garbage_and_an_early_leave_in_a_handshake_are_the_peers() {
    let garbage = |client: &mut TcpStream| client.write_all(b"GET / HTTP/1.1\n").unwrap();
    let end = |client: &mut TcpStream| client.shutdown(Shutdown::Write).unwrap();
    let half = |client: &mut TcpStream| {
        client.write_all(b"KE").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    };
    let peers = Some((Phase::Wrap, Fault::Peer));
    for (reason, act) in [
        (CloseReason::Garbled, &garbage as &dyn Fn(&mut TcpStream)),
        (CloseReason::Disconnected, &end),
        (CloseReason::Disconnected, &half),
    ] {
        let end = handshake(patient(), accept, act);
        assert_eq!((end.reason, end.told, end.quiet), (reason, peers, true));
        // A wrapper that turns this error into one of its own changes nothing.
        let words = |inner| accept(inner).map_err(|error| io::Error::other(format!("{error}")));
        if reason == CloseReason::Disconnected {
            let end = handshake(patient(), words, act);
            assert_eq!((end.reason, end.told, end.quiet), (reason, peers, true));
        }
    }
    let hook = |request: &mut StreamRequest| {
        request.write_all(b"come in\n")?;
        wrap(request)
    };
    let served = serve_with(Way::Hook, patient(), hook, nothing);
    let mut client = served.bare();
    assert_eq!(read_line(&mut client), "come in\n");
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let gone = served.end();
    assert_eq!((gone.reason, gone.told, gone.quiet), (CloseReason::Disconnected, peers, true));
}

#[test]
fn a_handshake_that_takes_too_long_is_the_peers_and_quiet() {
    let limits = patient().handshake(MOMENT);
    for sent in [&b""[..], b"KE"] {
        let end = handshake(limits, accept, |client| client.write_all(sent).unwrap());
        let peers = Some((Phase::Wrap, Fault::Peer));
        assert_eq!((end.reason, end.told, end.quiet), (CloseReason::TimedOut, peers, true));
    }
}

#[test]
fn a_handshake_in_the_middle_of_a_request_has_its_limit_too() {
    let (told, tells) = channel();
    let limits = patient().handshake(MOMENT);
    let served = serve_with(Way::Middle, limits, nothing, move |request| {
        let error = wrap(request).unwrap_err();
        let limit = TimedOut::find(&*error).map(|limit| (limit.which(), limit.after()));
        told.send(limit)?;
        Ok(())
    });
    let _client = served.bare();
    assert_eq!(tells.recv_timeout(SOON).unwrap(), Some((Timeout::Handshake, MOMENT)));
}

#[test]
fn a_wrapper_cannot_give_itself_more_time() {
    let limits = patient().handshake(MOMENT);
    let greedy = |mut inner: Box<dyn Stream>| {
        inner.set_deadline(None);
        accept(inner)
    };
    let end = handshake(limits, greedy, |_client| ());
    assert_eq!(end.reason, CloseReason::TimedOut);
}

#[test]
fn a_fault_of_the_hook_itself_is_a_failure() {
    let failed = (CloseReason::Failed, Some((Phase::Wrap, Fault::Handler)), false);
    let end_of = |end: super::End| (end.reason, end.told, end.quiet);
    for kind in [io::ErrorKind::NotFound, io::ErrorKind::Other, io::ErrorKind::InvalidData] {
        // The error comes before any byte of the peer has been looked at.
        let make = move |_inner| Err(io::Error::new(kind, "no certificate"));
        let hello = |client: &mut TcpStream| client.write_all(b"KEY1").unwrap();
        assert_eq!(end_of(handshake(patient(), make, hello)), failed, "{kind:?}");
    }
    // An error after a read need not be about the bytes that were read.
    let make = |mut inner: Box<dyn Stream>| {
        inner.read_exact(&mut [0; 4])?;
        Err(io::Error::other("no certificate for it"))
    };
    let hello = |client: &mut TcpStream| client.write_all(b"KEY1").unwrap();
    assert_eq!(end_of(handshake(patient(), make, hello)), failed);
    // The error is that of an upstream which the hook asks.
    let make = |_inner| Err(io::ErrorKind::ConnectionReset.into());
    assert_eq!(end_of(handshake(patient(), make, |_client| ())), failed);
}

#[test]
fn a_header_that_is_none_is_said_to_be_the_peers() {
    let hook = |request: &mut StreamRequest| {
        let mut line = String::new();
        match request.next_line(&mut line)? {
            Some(line) if line.starts_with("PROXY ") => Ok(()),
            other => {
                let words = format!("no header: {other:?}");
                Err(request.garbled(words).into())
            }
        }
    };
    let served = serve_with(Way::Hook, patient(), hook, nothing);
    served.bare().write_all(b"hello\n").unwrap();
    let end = served.end();
    assert_eq!((end.reason, end.quiet), (CloseReason::Garbled, true));
}

#[test]
fn a_drain_cuts_a_handshake_off_when_first_reads_are_over() {
    // This holds for a handshake that has begun as well: its client is about to send a request.
    for (first_read, sent) in [(MOMENT, &b"KE"[..]), (Duration::ZERO, b"")] {
        let (errors, error) = channel();
        let errors = Mutex::new(errors);
        let limits = patient().first_read(first_read).drain(HOUR);
        let hook = move |request: &mut StreamRequest| {
            let error = wrap(request).unwrap_err();
            errors.lock().unwrap().send(Stopping::find(&*error).is_some())?;
            Err(error)
        };
        let served = serve_with(Way::Hook, limits, hook, nothing);
        let mut client = served.bare();
        client.write_all(sent).unwrap();
        let context = served.server.context();
        crate::support::eventually("it is in its handshake", || {
            context
                .live()
                .iter()
                .any(|live| live.bytes_in == sent.len() as u64 && live.activity == Activity::Idle)
        });
        let ends = Arc::clone(&served.ends);
        soon("a stop", move || served.server.stop()).unwrap();
        assert!(error.recv_timeout(SOON).unwrap(), "it is Stopping");
        assert_eq!(ends.lock().unwrap()[0].reason, CloseReason::Stopped);
        assert!(ends.lock().unwrap()[0].quiet);
        assert_eq!(read_to_end(&mut client), b"");
    }
}

#[test]
fn the_last_word_of_a_wrapper_that_fails_lingers() {
    let limits = patient().linger(SOON);
    for _ in 0..10 {
        let (release, released) = channel::<()>();
        let released = Mutex::new(released);
        let late = move |inner| {
            let _ = hear(&released);
            accept(inner)
        };
        let hook = move |request: &mut StreamRequest| Ok(request.wrap_stream(&late)?);
        let served = serve_with(Way::Hook, limits, hook, nothing);
        let mut client = served.bare();
        client.write_all(&[b'G'; 100_000]).unwrap();
        release.send(()).unwrap();
        // A reset would have discarded these bytes.
        assert_eq!(read_to_end(&mut client), ALERT);
    }
}

#[test]
fn a_garbled_record_is_the_peers() {
    let served = serve(Way::Hook, patient(), |request| {
        let mut line = String::new();
        let error = request.next_line(&mut line).map(|_| ()).unwrap_err();
        assert!(PeerFault::find(&error).is_some_and(|fault| !fault.is_gone()));
        Err(error.into())
    });
    let mut client = served.client();
    client.bare.write_all(&[0xff; 10]).unwrap();
    let end = served.end();
    assert_eq!((end.reason, end.told), (CloseReason::Garbled, Some((Phase::Handle, Fault::Peer))));
}

#[test]
fn a_connection_that_a_wrapper_has_given_away_is_not_ended() {
    let (others, other) = channel();
    let served = serve_with(Way::Middle, patient(), nothing, move |request| {
        struct Nobody;
        impl Read for Nobody {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Ok(0)
            }
        }
        impl Write for Nobody {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::NotConnected.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        impl Stream for Nobody {
            fn set_deadline(&mut self, _: Option<Instant>) {}
            fn shutdown(&mut self, _: Shutdown) -> io::Result<()> {
                Ok(())
            }
        }
        let others = others.clone();
        request.wrap_stream(move |inner| {
            let fd = inner.fileno().expect("a socket").try_clone_to_owned()?;
            others.send(TcpStream::from(fd)).unwrap();
            Ok(Box::new(Nobody))
        })?;
        Ok(())
    });
    let mut client = served.bare();
    let mut other = other.recv_timeout(SOON).unwrap();
    served.assert_ends_as(CloseReason::Completed);
    other.write_all(b"from somebody else\n").unwrap();
    assert_eq!(read_line(&mut client), "from somebody else\n");
}

/// A wrapper that takes every error for an end of input.
struct Careless(Box<dyn Stream>);

impl Read for Careless {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.read(buf).unwrap_or(0))
    }
}

impl Write for Careless {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Stream for Careless {
    fn set_deadline(&mut self, _deadline: Option<Instant>) {}

    /// Waits until its peer announces the end, as some wrappers do.
    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)?;
        self.0.read(&mut [0]).map(drop)
    }
}

fn careless(request: &mut StreamRequest) -> HandlerResult {
    Ok(request.wrap_stream(|inner| Ok(Box::new(Careless(inner))))?)
}

fn one_line(request: &mut StreamRequest) -> HandlerResult {
    request.next_line(&mut String::new())?;
    Ok(())
}

#[test]
fn a_limit_and_a_drain_are_no_end_of_input_whatever_the_wrapper_takes_them_for() {
    let limits = patient().idle(MOMENT).write(MOMENT);
    let served = serve_with(Way::Hook, limits, careless, one_line);
    let _client = served.bare();
    served.assert_ends_as(CloseReason::Idle);

    let limits = patient().first_read(Duration::ZERO).write(MOMENT);
    let served = serve_with(Way::Hook, limits, careless, one_line);
    let _client = served.bare();
    served.live();
    let ends = Arc::clone(&served.ends);
    soon("a stop", move || served.server.stop()).unwrap();
    assert_eq!(ends.lock().unwrap()[0].reason, CloseReason::Stopped);
}

#[test]
fn a_farewell_that_waits_for_the_peers_has_the_time_of_a_write() {
    let limits = patient().write(MOMENT);
    let served = serve_with(Way::Hook, limits, careless, nothing);
    let _silent = served.bare();
    served.assert_ends_as(CloseReason::Completed);
}

#[test]
fn a_wrapper_that_panics_ends_its_own_request() {
    let hook =
        |request: &mut StreamRequest| Ok(request.wrap_stream(|_inner| panic!("asked to panic"))?);
    let served = serve_with(Way::Hook, patient(), hook, nothing);
    for _ in 0..2 {
        let mut client = served.bare();
        assert_eq!(read_to_end(&mut client), b"");
    }
    served.assert_ends_as(CloseReason::Panicked);
}
