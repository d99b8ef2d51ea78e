//! Handlers that do with a request, or with the process, whatever the types allow.

use std::io::{Read, Write};
use std::panic::panic_any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::monitor::ServerEvent;
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, Green, GreenTcpServer, HandlerResult, Limits, StreamRequest, TcpServer,
    sleep, stream_fn,
};

use crate::support::{connect, eventually, exchange, inet, read_line, read_to_end};

fn serving(
    handler: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
) -> BackgroundServer<Tcp, Green> {
    let server = TcpServer::builder()
        .mixin(Green::new().workers(2))
        .limits(Limits::default().drain(Duration::from_millis(100)))
        .observer(|_| {});
    server.bind("127.0.0.1:0", stream_fn(handler)).unwrap().serve_in_background().unwrap()
}

fn echo_lines(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        let answer = format!("{text}\n");
        request.write_all(answer.as_bytes())?;
    }
    Ok(())
}

#[test]
fn a_nested_server_is_run_inside_a_handler() {
    let server = serving(|request| {
        let inner = GreenTcpServer::bind("127.0.0.1:0", stream_fn(echo_lines))?;
        let inner = inner.serve_in_background()?;
        writeln!(request, "{}", inet(&*inner))?;
        let mut line = String::new();
        request.next_line(&mut line)?;
        inner.stop()?;
        writeln!(request, "stopped")?;
        Ok(())
    });
    let mut client = connect(inet(&*server));
    let inner = read_line(&mut client);
    let mut other = connect(inner.trim_end().parse().unwrap());
    assert_eq!(exchange(&mut other, "inner"), "inner\n");
    assert_eq!(exchange(&mut client, "stop"), "stopped\n");
    assert!(read_to_end(&mut other).is_empty());
    assert!(server.stop().unwrap().is_clean());
}

#[test]
fn descriptors_that_are_closed_and_used_anew_at_once_wake_nobody_by_mistake() {
    let server = serving(echo_lines);
    let address = inet(&*server);
    let mut steady: Vec<_> = (0..4).map(|_| connect(address)).collect();
    for round in 0..500 {
        let line = format!("round {round}");
        let mut short = connect(address);
        assert_eq!(exchange(&mut short, &line), format!("{line}\n"));
        drop(short);
        let client = &mut steady[round % 4];
        assert_eq!(exchange(client, &line), format!("{line}\n"));
    }
    drop(steady);
    eventually("all have ended", || server.context().live_count() == 0);
    assert!(server.stop().unwrap().is_clean());
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("in a drop");
    }
}

#[test]
fn a_payload_that_panics_when_it_is_dropped_ends_its_request_only() {
    let server = serving(|request| {
        let mut line = String::new();
        if request.next_line(&mut line)? == Some("bomb") {
            panic_any(Bomb);
        }
        writeln!(request, "well")?;
        Ok(())
    });
    for _ in 0..3 {
        let mut client = connect(inet(&*server));
        client.write_all(b"bomb\n").unwrap();
        let _ = client.read(&mut [0]);
        assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "well\n");
    }
    assert!(server.stop().unwrap().is_clean());
}

/// The handler returns when its wait has failed, so this is no unwinding, and the panic is one like any other. (In an
/// unwinding it ends the process: see `of_a_thread.rs`.)
#[test]
fn a_drop_that_panics_when_its_handler_is_cancelled_does_not_end_the_process() {
    struct Counts(Arc<AtomicUsize>);
    impl Drop for Counts {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
            assert!(thread::panicking(), "in a drop");
        }
    }
    let (dropped, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (drops, ends) = (Arc::clone(&dropped), Arc::clone(&ended));
    let handler = stream_fn(move |request: &mut StreamRequest| -> HandlerResult {
        let _both = [Counts(Arc::clone(&drops)), Counts(Arc::clone(&drops))];
        writeln!(request, "here")?;
        let never = socketserver::park::Event::new()?;
        loop {
            never.wait(None)?;
        }
    });
    let server = TcpServer::builder()
        .mixin(Green::new().workers(1))
        .limits(Limits::default().drain(Duration::from_millis(100)))
        .observer(move |event| {
            if let ServerEvent::RequestEnded { .. } = event {
                ends.fetch_add(1, Ordering::SeqCst);
            }
        });
    let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
    let mut clients = [connect(inet(&*server)), connect(inet(&*server))];
    for client in &mut clients {
        assert_eq!(read_line(client), "here\n");
    }
    let report = server.stop().unwrap();
    assert_eq!(report.forced.len(), 2, "{report}");
    eventually("both have ended", || ended.load(Ordering::SeqCst) == 2);
    assert_eq!(dropped.load(Ordering::SeqCst), 4, "of each, the other value is dropped as well");
}

/// A wait in the destructor of a thread-local, at the end of the thread, is a plain one.
#[test]
fn a_thread_local_whose_destructor_waits_does_not_keep_a_worker() {
    struct Waits(Arc<AtomicUsize>);
    impl Drop for Waits {
        fn drop(&mut self) {
            sleep(Duration::from_millis(5));
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    thread_local! {
        static WAITS: std::cell::RefCell<Option<Waits>> = const { std::cell::RefCell::new(None) };
    }
    let ended = Arc::new(AtomicUsize::new(0));
    let drops = Arc::clone(&ended);
    let server = serving(move |request| {
        WAITS.set(Some(Waits(Arc::clone(&drops))));
        echo_lines(request)
    });
    let mut client = connect(inet(&*server));
    assert_eq!(exchange(&mut client, "hello"), "hello\n");
    drop(client);
    let began = Instant::now();
    assert!(server.stop().unwrap().is_clean());
    assert!(began.elapsed() < Duration::from_secs(10));
    eventually("the worker's thread has ended", || ended.load(Ordering::SeqCst) == 1);
}
