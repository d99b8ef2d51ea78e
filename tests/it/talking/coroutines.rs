//! Connections to other servers, joins, offloaded work and events in coroutines: they share a thread, and the wait of one
//! leaves the thread to the others.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use socketserver::outgoing::connect;
use socketserver::park::Event;
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, Builder, Green, HandlerResult, Limits, StreamRequest, ThreadingTcpServer,
    join, offload, sleep, stream_fn,
};

use crate::handlers::Echo;
use crate::support::{
    SOON, alone, connect as client_of, exchange, inet, open_descriptors, read_line, read_to_end,
    soon,
};

/// A server whose requests are all on one thread.
fn one_worker(
    handle: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
) -> BackgroundServer<Tcp, Green> {
    let limits = Limits::default().drain(Duration::from_millis(200));
    let server = Builder::<Tcp, _>::new(Green::new().workers(1)).limits(limits);
    server.bind("127.0.0.1:0", stream_fn(handle)).unwrap().serve_in_background().unwrap()
}

#[test]
fn both_closures_of_a_join_are_on_the_requests_own_thread_and_take_turns() {
    let server = one_worker(|request| {
        let (mut a_turns, mut b_turns) = (0, 0);
        let turn = |turns: &mut i32| {
            for _ in 0..5 {
                *turns += 1;
                sleep(Duration::from_millis(1));
            }
            thread::current().id()
        };
        let (a, b) = join(|| turn(&mut a_turns), || turn(&mut b_turns))?;
        let here = thread::current().id();
        writeln!(request, "{} {a_turns} {b_turns}", a == here && b == here)?;
        Ok(())
    });
    assert_eq!(read_to_end(&mut client_of(inet(&*server))), b"true 5 5\n");
    server.stop().unwrap();
}

#[test]
fn a_join_within_a_join_and_one_that_is_over_at_once() {
    let server = one_worker(|request| {
        let sum = join(|| join(|| 1, || 2), || join(|| 4, || 8))?;
        let ((a, b), (c, d)) = (sum.0?, sum.1?);
        writeln!(request, "{}", a + b + c + d)?;
        Ok(())
    });
    assert_eq!(read_to_end(&mut client_of(inet(&*server))), b"15\n");
    server.stop().unwrap();
}

/// Two hundred requests, each of which waits for another server, on one thread.
#[test]
fn connections_to_another_server_wait_beside_each_other() {
    let upstream = ThreadingTcpServer::bind("127.0.0.1:0", || Echo).unwrap();
    let upstream = upstream.serve_in_background().unwrap();
    let upstream_at = inet(&*upstream);
    let server = one_worker(move |request| {
        let mut upstream = BufReader::new(connect(("localhost", upstream_at.port()), SOON)?);
        let (mut line, mut answer) = (String::new(), String::new());
        while let Some(text) = request.next_line(&mut line)? {
            writeln!(upstream.get_mut(), "{text}")?;
            answer.clear();
            upstream.read_line(&mut answer)?;
            request.write_all(answer.as_bytes())?;
        }
        Ok(())
    });
    let mut clients: Vec<_> = (0..200).map(|_| client_of(inet(&*server))).collect();
    for round in 0..2 {
        for (number, client) in clients.iter_mut().enumerate() {
            let line = format!("client {number} round {round}");
            assert_eq!(exchange(client, &line), format!("{line}\n"));
        }
    }
    drop(clients);
    assert!(server.stop().unwrap().is_clean());
}

#[test]
fn a_silent_server_keeps_no_other_request_and_its_limit_holds() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let deaf_at = deaf.local_addr().unwrap();
    let server = one_worker(move |request| {
        let mut line = String::new();
        if request.next_line(&mut line)? == Some("ask") {
            let mut upstream = connect(deaf_at, SOON)?;
            upstream.set_timeout(Some(Duration::from_millis(300)));
            let error = upstream.read(&mut [0]).expect_err("it says nothing");
            writeln!(request, "{}", error.kind())?;
        } else {
            writeln!(request, "at once")?;
        }
        Ok(())
    });
    let mut waits = client_of(inet(&*server));
    waits.write_all(b"ask\n").unwrap();
    let _peer = deaf.accept().unwrap();
    let began = Instant::now();
    let mut other = client_of(inet(&*server));
    assert_eq!(exchange(&mut other, "x"), "at once\n");
    assert_eq!(read_line(&mut waits), "timed out\n");
    assert!(began.elapsed() >= Duration::from_millis(250));
    server.stop().unwrap();
}

/// Hundreds of calls block, on a few threads; and a panic of one goes on in its handler.
#[test]
fn offloaded_work_has_a_bounded_number_of_threads_and_keeps_no_worker() {
    static AT_ONCE: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let server = one_worker(|request| {
        let mut line = String::new();
        let panics = request.next_line(&mut line)? == Some("panic");
        let thread = offload(move || {
            assert!(!panics, "on purpose");
            MOST.fetch_max(AT_ONCE.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(20));
            AT_ONCE.fetch_sub(1, Ordering::SeqCst);
            thread::current().name().map(str::to_owned)
        })?;
        writeln!(request, "{}", thread.unwrap_or_default())?;
        Ok(())
    });
    let mut clients: Vec<_> = (0..300).map(|_| client_of(inet(&*server))).collect();
    clients.iter_mut().for_each(|client| client.write_all(b"work\n").unwrap());
    for client in &mut clients {
        assert_eq!(read_to_end(client), b"offload\n");
    }
    assert!((2..=64).contains(&MOST.load(Ordering::SeqCst)), "{MOST:?}");
    let mut client = client_of(inet(&*server));
    client.write_all(b"panic\n").unwrap();
    assert_eq!(read_to_end(&mut client), b"");
    assert_eq!(server.context().counts().panicked, 1);
    server.stop().unwrap();
}

/// At the deadline of a drain both waits of a join fail, and the request ends. A wait for a connection to another server
/// and a wait for offloaded work fail as well.
#[test]
fn the_deadline_of_a_drain_ends_every_kind_of_wait() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let deaf_at = deaf.local_addr().unwrap();
    let (begun, has_begun) = channel();
    let begun = Arc::new(parking_lot::Mutex::new(begun));
    let (release, released) = channel::<()>();
    let released = Arc::new(parking_lot::Mutex::new(released));
    let server = one_worker(move |request| {
        let mut line = String::new();
        match request.next_line(&mut line)?.unwrap_or_default() {
            "join" => {
                let (mut input, mut output) = request.split()?;
                begun.lock().send(()).unwrap();
                let (read, written) = join(
                    || input.read_exact(&mut [0; 2]),
                    || output.write_all(&vec![7; 16 << 20]),
                )?;
                Ok(read.and(written)?)
            }
            "sleeps" => {
                begun.lock().send(()).unwrap();
                join(|| sleep(Duration::MAX), || sleep(Duration::MAX))?;
                Ok(())
            }
            "upstream" => {
                let mut upstream = connect(deaf_at, SOON)?;
                upstream.set_timeout(Some(Duration::MAX));
                begun.lock().send(()).unwrap();
                upstream.read_exact(&mut [0])?;
                Ok(())
            }
            _ => {
                let (begun, released) = (Arc::clone(&begun), Arc::clone(&released));
                offload(move || {
                    begun.lock().send(()).unwrap();
                    let _ = released.lock().recv_timeout(SOON);
                })?;
                Ok(())
            }
        }
    });
    let mut clients: Vec<_> = (0..4).map(|_| client_of(inet(&*server))).collect();
    for (client, what) in clients.iter_mut().zip(["join", "sleeps", "upstream", "offload"]) {
        client.write_all(format!("{what}\n").as_bytes()).unwrap();
        has_begun.recv_timeout(SOON).unwrap();
    }
    let report = soon("it stops", move || server.stop().unwrap());
    assert_eq!((report.forced.len(), report.left_running.len()), (4, 0), "{report}");
    drop(release);
}

/// A thousand joins, each with a connection of its own, leave no descriptor behind.
#[test]
fn joins_and_connections_leave_no_descriptor_behind() {
    // This has a process of its own, because other tests open descriptors as well.
    alone(
        "talking::coroutines::joins_and_connections_leave_no_descriptor_behind",
        a_thousand_joins,
    );
}

fn a_thousand_joins() {
    let upstream = ThreadingTcpServer::bind("127.0.0.1:0", || Echo).unwrap();
    let upstream = upstream.serve_in_background().unwrap();
    let upstream_at = inet(&*upstream);
    let server = one_worker(move |request| {
        let mut line = String::new();
        request.next_line(&mut line)?;
        for _ in 0..100 {
            let mut upstream = connect(upstream_at, SOON)?;
            let (input, output) = upstream.split();
            let mut word = [0; 5];
            let (read, written) =
                join(|| input.read_exact(&mut word), || output.write_all(b"word\n"))?;
            read.and(written)?;
        }
        writeln!(request, "done")?;
        Ok(())
    });
    let mut first = client_of(inet(&*server));
    assert_eq!(exchange(&mut first, "go"), "done\n");
    let before = open_descriptors();
    for _ in 0..10 {
        assert_eq!(exchange(&mut client_of(inet(&*server)), "go"), "done\n");
    }
    assert!(open_descriptors() < before + 20, "{before} before, {} now", open_descriptors());
    server.stop().unwrap();
}

/// A queue of a mutex and an event: a handler that waits at it keeps no other handler waiting, and a
/// cancellation ends the wait.
#[test]
fn an_event_is_waited_for_beside_others() {
    let event = Arc::new(Event::new().unwrap());
    let waited = Arc::clone(&event);
    let server = one_worker(move |request| {
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            let timeout = if text == "short" { Some(Duration::from_millis(5)) } else { None };
            if text == "at once" {
                writeln!(request, "here")?;
            } else {
                let notified = waited.wait(timeout)?;
                writeln!(request, "{notified}")?;
            }
        }
        Ok(())
    });
    let mut waits = client_of(inet(&*server));
    let mut other = client_of(inet(&*server));
    assert_eq!(exchange(&mut other, "short"), "false\n");
    waits.write_all(b"long\n").unwrap();
    assert_eq!(exchange(&mut other, "at once"), "here\n");
    event.notify();
    assert_eq!(read_line(&mut waits), "true\n");
    event.clear();
    waits.write_all(b"long\n").unwrap();
    assert_eq!(exchange(&mut other, "at once"), "here\n");
    drop(other);
    let report = soon("it stops", move || server.stop().unwrap());
    assert_eq!((report.forced.len(), report.left_running.len()), (1, 0), "{report}");
}
