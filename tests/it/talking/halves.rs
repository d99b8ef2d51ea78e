//! `split` and `join`: the two directions of a request at once.

use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socketserver::mixin::Mixin;
use socketserver::monitor::{Activity, CloseReason, ServerEvent};
use socketserver::outgoing::HalfClose;
use socketserver::request::{OutputHalf, PeerFault, Stopping, TimedOut, Timeout};
use socketserver::transport::{Tcp, UnixStream};
use socketserver::{
    BackgroundServer, Builder, HandlerResult, Limits, StreamRequest, join, stream_fn,
};

use crate::support::{
    SOON, connect, connect_any, eventually, exchange, folder, inet, read_line, read_to_end, soon,
};

/// More than fits into the buffers of a connection.
const MUCH: usize = 16 * 1024 * 1024;

/// A server, and how each of its requests ends.
fn server<M: Mixin + Default + 'static>(
    limits: Limits,
    handle: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
) -> (BackgroundServer<Tcp, M>, Receiver<CloseReason>) {
    let (ends, ended) = channel();
    let ends = Mutex::new(ends);
    let server = Builder::<Tcp, M>::new(M::default())
        .limits(limits)
        .observer(move |event: &ServerEvent<'_>| {
            if let ServerEvent::RequestEnded { reason, .. } = event {
                let _ = ends.lock().send(*reason);
            }
        })
        .hooks(super::Quiet)
        .bind("127.0.0.1:0", stream_fn(handle))
        .unwrap();
    (server.serve_in_background().unwrap(), ended)
}

/// A channel by which a handler reports something to its test.
fn report<T>() -> (Arc<Mutex<Sender<T>>>, Receiver<T>) {
    let (sender, receiver) = channel();
    (Arc::new(Mutex::new(sender)), receiver)
}

fn send_and_count(request: &mut StreamRequest) -> HandlerResult {
    // Output that was held back before the split leaves first.
    request.set_wbufsize(100)?;
    write!(request, "first ")?;
    let (mut input, mut output) = request.split()?;
    let (count, sent) = join(
        || io::copy(&mut input, &mut io::sink()),
        || -> io::Result<u64> {
            output.write_all(&vec![7; MUCH])?;
            output.shutdown_write()?;
            // A write after the end is a mistake of the handler, and no fault of the peer.
            let error = output.write_all(b"after the end").unwrap_err();
            assert!(PeerFault::find(&error).is_none(), "{error:?}");
            Ok(output.bytes_sent())
        },
    )?;
    assert_eq!((count?, sent?), (MUCH as u64, MUCH as u64 + 6));
    assert_eq!(request.bytes_sent(), MUCH as u64 + 6);
    Ok(())
}

/// Sends and receives at once: with one direction after the other both ends would wait for ever.
fn send_and_receive(mut client: TcpStream) {
    let mut reader = client.try_clone().unwrap();
    let reader = std::thread::spawn(move || read_to_end(&mut reader));
    client.write_all(&vec![1; MUCH]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let got = reader.join().unwrap();
    assert_eq!((&got[..6], got.len()), (&b"first "[..], MUCH + 6));
}

fn both_directions_move_at_once_each_to_its_own_end<M: Mixin + Default + 'static>() {
    let (server, ended) = server::<M>(Limits::default(), send_and_count);
    send_and_receive(connect(inet(&*server)));
    assert_eq!(ended.recv_timeout(SOON).unwrap(), CloseReason::Completed);
    // The same holds over a Unix socket, and beside an outbox: the lines of others stay whole.
    let folder = folder();
    let handle = |request: &mut StreamRequest| -> HandlerResult {
        let outbox = request.outbox()?;
        let (mut input, mut output) = request.split()?;
        let (echoed, ()) = join(
            || -> io::Result<()> {
                let mut line = String::new();
                while let Some(text) = input.next_line(&mut line)? {
                    writeln!(output, "own {text}")?;
                }
                output.shutdown_write()
            },
            || outbox.send("another's\n").unwrap(),
        )?;
        Ok(echoed?)
    };
    let unix = Builder::<UnixStream, M>::new(M::default());
    let unix = unix.bind(folder.path().join("s"), stream_fn(handle)).unwrap();
    let unix = unix.serve_in_background().unwrap();
    let mut client = connect_any(&unix.server_address());
    assert_eq!(read_line(&mut *client), "another's\n");
    assert_eq!(exchange(&mut *client, "line"), "own line\n");
}

fn the_request_goes_on_when_its_halves_are_gone<M: Mixin + Default + 'static>() {
    let (server, ended) = server::<M>(Limits::default(), |request| {
        request.set_timeout(Some(SOON));
        {
            let (mut input, mut output) = request.split()?;
            input.set_timeout(Some(Duration::from_millis(10)));
            output.set_timeout(Some(Duration::MAX));
            let error = input.read(&mut [0]).unwrap_err();
            assert_eq!(TimedOut::find(&error).map(TimedOut::which), Some(Timeout::Read));
            input.deadline_in(Duration::ZERO);
            let error = input.fill_buf().map(drop).unwrap_err();
            assert_eq!(TimedOut::find(&error).map(TimedOut::which), Some(Timeout::Deadline));
            assert!(!input.request().is_closed());
            input.set_timeout(Some(SOON));
            input.deadline_in(None);
            writeln!(output, "timed {}", "out".len())?;
        }
        let mut line = String::new();
        let text = request.next_line(&mut line)?.unwrap_or_default().to_owned();
        writeln!(request, "whole again: {text}")?;
        let (mut input, mut output) = request.split()?;
        let chunk = input.chunk()?.expect("one more");
        output.write_all(&chunk)?;
        Ok(())
    });
    let mut client = connect(inet(&*server));
    assert_eq!(read_line(&mut client), "timed 3\n");
    assert_eq!(exchange(&mut client, "line"), "whole again: line\n");
    assert_eq!(exchange(&mut client, "once more"), "once more\n");
    assert_eq!(read_to_end(&mut client), b"");
    assert_eq!(ended.recv_timeout(SOON).unwrap(), CloseReason::Completed);
}

fn a_peer_that_takes_what_it_is_sent_is_not_idle_and_one_that_does_nothing_is<
    M: Mixin + Default + 'static,
>() {
    let idle = Duration::from_millis(300);
    let (saw, seen) = report();
    let (server, _ended) = server::<M>(Limits::default().idle(idle), move |request| {
        let (mut input, mut output) = request.split()?;
        let (read, written) = join(
            || input.read(&mut [0]),
            || -> io::Result<Instant> {
                // Each pause is shorter than the limit, and all of them together are longer.
                for _ in 0..8 {
                    output.write_all(b".")?;
                    socketserver::sleep(idle / 4);
                }
                Ok(Instant::now())
            },
        )?;
        let (error, until) = (read.unwrap_err(), written?);
        saw.lock().send((TimedOut::find(&error).map(TimedOut::which), until.elapsed())).unwrap();
        Err(error.into())
    });
    let mut client = connect(inet(&*server));
    assert_eq!(read_to_end(&mut client), b"........");
    let (which, _after) = seen.recv_timeout(SOON).unwrap();
    assert_eq!(which, Some(Timeout::Idle));
}

fn a_stalled_write_ends_by_its_limit_while_the_input_goes_on<M: Mixin + Default + 'static>() {
    let limits = Limits::default().write(Duration::from_millis(200));
    let (server, ended) = server::<M>(limits, |request| {
        let (mut input, mut output) = request.split()?;
        let (line, stalled) = join(
            || input.next_line(&mut String::new()).map(|line| line.map(str::to_owned)),
            || output.write_all(&vec![7; MUCH]).unwrap_err(),
        )?;
        assert_eq!(TimedOut::find(&stalled).map(TimedOut::which), Some(Timeout::Write));
        assert_eq!(line?.as_deref(), Some("meanwhile"));
        Err(stalled.into())
    });
    let mut client = connect(inet(&*server));
    client.write_all(b"mean").unwrap();
    // The live list shows the wait of the input, and the write beside it when that wait has ended.
    eventually("half a line has come, and the input waits for the rest", || {
        let live = server.context().live();
        live.first().is_some_and(|it| it.bytes_in == 4 && it.activity == Activity::Receiving)
    });
    client.write_all(b"while\n").unwrap();
    assert_eq!(ended.recv_timeout(SOON).unwrap(), CloseReason::TimedOut);
}

fn the_list_shows_a_write_beside_an_input_that_waits_for_nothing<M: Mixin + Default + 'static>() {
    let (server, ended) = server::<M>(Limits::default(), |request| {
        let (_input, mut output) = request.split()?;
        output.write_all(&vec![7; MUCH])?;
        Ok(())
    });
    let mut client = connect(inet(&*server));
    eventually("it sends", || {
        server.context().live().first().is_some_and(|live| live.activity == Activity::Sending)
    });
    assert_eq!(read_to_end(&mut client).len(), MUCH);
    assert_eq!(ended.recv_timeout(SOON).unwrap(), CloseReason::Completed);
}

/// Waits in both directions at once; `then` is called with the errors.
fn waits_both_ways(
    then: impl Fn(io::Error, io::Error) -> HandlerResult + Send + Sync + 'static,
) -> impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static {
    move |request| {
        let (mut input, mut output) = request.split()?;
        let (read, written) = join(
            || input.read_exact(&mut [0; 2]).unwrap_err(),
            || output.write_all(&vec![7; MUCH]).unwrap_err(),
        )?;
        then(read, written)
    }
}

fn close_live_and_the_deadline_of_a_drain_end_both_halves<M: Mixin + Default + 'static>() {
    for by_operator in [true, false] {
        let (saw, seen) = report();
        let handle = waits_both_ways(move |read, written| {
            saw.lock().send((Stopping::find(&read).is_some(), written.kind())).unwrap();
            Err(read.into())
        });
        let limits = Limits::default().drain(Duration::from_millis(200));
        let (server, ended) = server::<M>(limits, handle);
        let mut client = connect(inet(&*server));
        client.write_all(b"x").unwrap();
        eventually("it receives", || {
            server.context().live().first().is_some_and(|live| live.bytes_in == 1)
        });
        let reason = if by_operator {
            assert!(server.context().close_live(server.context().live()[0].id));
            CloseReason::ClosedHere
        } else {
            let report = soon("it stops", move || server.stop().unwrap());
            // The request has ended, or does so a moment later if the machine is busy: the next lines wait for it.
            assert_eq!(report.forced.len(), 1, "{report}");
            CloseReason::Forced
        };
        assert_eq!(seen.recv_timeout(SOON).unwrap(), (true, io::ErrorKind::BrokenPipe));
        assert_eq!(ended.recv_timeout(SOON).unwrap(), reason);
    }
}

fn a_drain_ends_an_input_between_requests_and_lets_the_output_go_on<
    M: Mixin + Default + 'static,
>() {
    let (saw, seen) = report();
    let (go, goes) = channel();
    let goes = Mutex::new(goes);
    let (server, ended) = server::<M>(Limits::default(), move |request| {
        let mut line = String::new();
        request.next_line(&mut line)?;
        let (mut input, mut output) = request.split()?;
        let (read, written) = join(
            || input.next_line(&mut line).map(|line| line.map(str::to_owned)),
            || {
                goes.lock().recv_timeout(SOON).unwrap();
                output.write_all(b"to its end")
            },
        )?;
        written?;
        let error = read.unwrap_err();
        saw.lock().send(Stopping::find(&error).is_some()).unwrap();
        Err(error.into())
    });
    let mut client = connect(inet(&*server));
    client.write_all(b"line\n").unwrap();
    eventually("it waits for the next line", || {
        server.context().live().first().is_some_and(|live| live.activity == Activity::Idle)
    });
    let handle = server.context().shutdown_handle();
    let stopping = std::thread::spawn(move || server.stop().unwrap());
    eventually("it drains", || handle.is_shutdown());
    go.send(()).unwrap();
    assert_eq!(read_to_end(&mut client), b"to its end");
    assert!(seen.recv_timeout(SOON).unwrap());
    assert!(stopping.join().unwrap().is_clean());
    assert_eq!(ended.recv_timeout(SOON).unwrap(), CloseReason::Stopped);
}

fn a_close_of_the_output_half_ends_the_wait_of_the_input<M: Mixin + Default + 'static>() {
    let (saw, seen) = report();
    let (server, ended) = server::<M>(Limits::default(), move |request| {
        let (mut input, mut output) = request.split()?;
        let (read, ()) = join(
            || input.read(&mut [0]),
            || {
                output.write_all(b"enough").unwrap();
                output.close();
            },
        )?;
        let error = read.unwrap_err();
        saw.lock().send((error.kind(), PeerFault::find(&error).is_none())).unwrap();
        let error = output.write_all(b"more").unwrap_err();
        saw.lock().send((error.kind(), PeerFault::find(&error).is_none())).unwrap();
        Err(error.into())
    });
    let mut client = connect(inet(&*server));
    assert_eq!(read_to_end(&mut client), b"enough");
    for _ in ["the read", "a write after it"] {
        let seen = seen.recv_timeout(SOON).unwrap();
        assert_eq!(seen, (io::ErrorKind::ConnectionAborted, true));
    }
    assert_eq!(ended.recv_timeout(SOON).unwrap(), CloseReason::Failed);
}

fn a_peer_that_resets_is_at_fault_in_both_halves<M: Mixin + Default + 'static>() {
    let (saw, seen) = report();
    let handle = waits_both_ways(move |read, written| {
        let faults = [&read, &written].map(|error| PeerFault::find(error).is_some());
        saw.lock().send(faults).unwrap();
        Err(written.into())
    });
    let (server, ended) = server::<M>(Limits::default(), handle);
    let client = connect(inet(&*server));
    eventually("it sends", || {
        server.context().live().first().is_some_and(|live| live.bytes_out > 0)
    });
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(seen.recv_timeout(SOON).unwrap(), [true, true]);
    assert_eq!(ended.recv_timeout(SOON).unwrap(), CloseReason::Disconnected);
}

fn a_panic_in_one_closure_is_the_requests_and_the_other_one_ends_first<
    M: Mixin + Default + 'static,
>() {
    let (server, ended) = server::<M>(Limits::default(), |request| {
        let (mut input, mut output) = request.split()?;
        let end = |output: &mut OutputHalf<'_>| output.close();
        join(
            || input.read(&mut [0]).unwrap_err(),
            || {
                end(&mut output);
                panic!("on purpose")
            },
        )?;
        Ok(())
    });
    let mut client = connect(inet(&*server));
    assert_eq!(read_to_end(&mut client), b"");
    assert_eq!(ended.recv_timeout(SOON).unwrap(), CloseReason::Panicked);
}

fn a_stream_with_one_user_cannot_be_split_and_says_so<M: Mixin + Default + 'static>() {
    let (server, ended) = server::<M>(Limits::default(), |request| {
        request.wrap_stream(Ok)?;
        let error = request.split().map(drop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("one user at a time"), "{error}");
        writeln!(request, "as before")?;
        Ok(())
    });
    assert_eq!(read_to_end(&mut connect(inet(&*server))), b"as before\n");
    assert_eq!(ended.recv_timeout(SOON).unwrap(), CloseReason::Completed);
}

fn a_connection_that_was_split_can_be_wrapped_when_its_halves_are_gone<
    M: Mixin + Default + 'static,
>() {
    let (server, ended) = server::<M>(Limits::default(), |request| {
        drop(request.split()?);
        request.wrap_stream(Ok)?;
        let mut line = String::new();
        let text = request.next_line(&mut line)?.unwrap_or_default().to_owned();
        writeln!(request, "wrapped: {text}")?;
        Ok(())
    });
    assert_eq!(exchange(&mut connect(inet(&*server)), "x"), "wrapped: x\n");
    assert_eq!(ended.recv_timeout(SOON).unwrap(), CloseReason::Completed);
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
    both_directions_move_at_once_each_to_its_own_end,
    the_request_goes_on_when_its_halves_are_gone,
    a_peer_that_takes_what_it_is_sent_is_not_idle_and_one_that_does_nothing_is,
    a_stalled_write_ends_by_its_limit_while_the_input_goes_on,
    the_list_shows_a_write_beside_an_input_that_waits_for_nothing,
    close_live_and_the_deadline_of_a_drain_end_both_halves,
    a_drain_ends_an_input_between_requests_and_lets_the_output_go_on,
    a_close_of_the_output_half_ends_the_wait_of_the_input,
    a_peer_that_resets_is_at_fault_in_both_halves,
    a_panic_in_one_closure_is_the_requests_and_the_other_one_ends_first,
    a_stream_with_one_user_cannot_be_split_and_says_so,
    a_connection_that_was_split_can_be_wrapped_when_its_halves_are_gone,
}
