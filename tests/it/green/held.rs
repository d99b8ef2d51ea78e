//! A handler that does not wait holds its worker, and nothing else.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use socketserver::monitor::{Cut, DrainReport, ServerEvent};
use socketserver::transport::{Bind, Transport};
use socketserver::{
    Address, BackgroundServer, Builder, Green, HandlerResult, Limits, StreamRequest, TcpServer,
    UnixStreamServer, stream_fn,
};

use crate::support::{
    SOON, StopOnPanic, connect, eventually, exchange, folder, inet, read_line, read_to_end, soon,
};

/// Answers lines; "spin" computes until the flag is set.
fn spins(over: &Arc<AtomicBool>) -> impl Fn(&mut StreamRequest) -> HandlerResult + use<> {
    let over = Arc::clone(over);
    move |request| {
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            let answer = format!("{text}\n");
            if text == "spin" {
                writeln!(request, "spinning")?;
                while !over.load(Ordering::SeqCst) {
                    std::hint::spin_loop();
                }
            }
            request.write_all(answer.as_bytes())?;
        }
        Ok(())
    }
}

#[test]
fn a_handler_that_spins_delays_only_its_worker_and_is_named() {
    let over = Arc::new(AtomicBool::new(false));
    let (held, told) = channel();
    let server = TcpServer::builder()
        .mixin(Green::new().workers(2).watchdog(Duration::from_millis(100)))
        .observer(move |event| {
            if let ServerEvent::WorkerHeld { id, held: time, .. } = event {
                let _ = held.send((*id, *time, event.to_string()));
            }
        });
    let server = server.bind("127.0.0.1:0", stream_fn(spins(&over))).unwrap();
    let server = server.serve_in_background().unwrap();
    // Each worker has one of these clients. Whichever worker accepts, one of the two handlers that spin holds it.
    let mut clients: Vec<_> = (0..2).map(|_| connect(inet(&*server))).collect();
    for client in &mut clients {
        assert_eq!(exchange(client, "hello"), "hello\n");
    }
    for _ in 0..2 {
        over.store(false, Ordering::SeqCst);
        let mut spinner = connect(inet(&*server));
        spinner.write_all(b"spin\n").unwrap();
        assert_eq!(read_line(&mut spinner), "spinning\n");
        let (id, time, text) = told.recv_timeout(SOON).unwrap();
        assert!(
            time >= Duration::from_millis(100) && text.contains("has held its worker"),
            "{text}"
        );
        assert!(server.context().live().iter().any(|live| live.id == id));
        // New clients are accepted, whatever the loads of the workers are: those that come to the held worker wait for it.
        let mut served = 0;
        let mut waiting = Vec::new();
        while served < 4 {
            let mut client = connect(inet(&*server));
            client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            client.write_all(b"new\n").unwrap();
            let mut answer = [0; 4];
            if std::io::Read::read_exact(&mut client, &mut answer).is_ok() {
                served += 1;
            } else {
                assert!(waiting.len() < 8, "nobody is served");
                waiting.push(client);
            }
        }
        over.store(true, Ordering::SeqCst);
        assert_eq!(read_line(&mut spinner), "spin\n");
        for client in &mut waiting {
            client.set_read_timeout(Some(SOON)).unwrap();
            assert_eq!(read_line(client), "new\n");
        }
    }
    for client in &mut clients {
        assert_eq!(exchange(client, "still"), "still\n");
    }
    assert!(server.stop().unwrap().is_clean());
}

#[test]
fn a_server_closes_in_time_although_a_handler_blocks_the_only_worker() {
    let (free, freed) = channel::<()>();
    let freed = Arc::new(std::sync::Mutex::new(freed));
    let gone = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&gone);
    let handler = stream_fn(move |request: &mut StreamRequest| -> HandlerResult {
        writeln!(request, "here")?;
        let _ = freed.lock().unwrap().recv();
        told.store(true, Ordering::SeqCst);
        Ok(())
    });
    let server = TcpServer::builder()
        .mixin(Green::new().workers(1))
        .limits(Limits::default().drain(Duration::from_millis(200)));
    let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    assert_eq!(read_line(&mut client), "here\n");
    let began = Instant::now();
    let report = soon("a stop", move || server.stop()).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{report}");
    assert_eq!((report.forced.len(), report.left_running.len()), (1, 1), "{report}");
    free.send(()).unwrap();
    eventually("the handler ends", || gone.load(Ordering::SeqCst));
}

/// A drain ends the input of a connection at the moment at which half of a request arrives. The only worker is held then, so
/// that it finds the end and the bytes at once. Returns the report of the close.
fn drained_as_half_a_request_comes<T: Transport<Request = StreamRequest>>(
    server: &BackgroundServer<T, Green>,
    over: &AtomicBool,
    holder: &mut (impl Read + Write),
    client: &mut (impl Read + Write),
    end: impl FnOnce(),
) -> DrainReport {
    assert_eq!(exchange(client, "whole"), "whole\n");
    assert_eq!(exchange(holder, "spin"), "spinning\n");
    client.write_all(b"half").unwrap();
    end();
    thread::scope(|scope| {
        let closing = scope.spawn(|| server.server_close());
        let _stop = StopOnPanic(&**server);
        eventually("the drain ends its input", || {
            server.context().live().iter().any(|request| request.cut == Some(Cut::Drained))
        });
        over.store(true, Ordering::SeqCst);
        closing.join().unwrap()
    })
}

fn with_one_worker<T: Bind<Request = StreamRequest>>(
    builder: Builder<T, Green>,
    at: Address,
    over: &Arc<AtomicBool>,
) -> BackgroundServer<T, Green> {
    let limits = Limits::default().drain(SOON).read(Duration::from_secs(3_600));
    builder.limits(limits).bind(at, stream_fn(spins(over))).unwrap().serve_in_background().unwrap()
}

#[test]
fn a_close_does_not_wait_for_the_rest_of_a_request_from_a_peer_that_has_ended_its_output() {
    let over = Arc::default();
    let builder = TcpServer::builder().mixin(Green::new().workers(1));
    let at = "127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap();
    let server = with_one_worker(builder, at.into(), &over);
    let (mut holder, mut client) = (connect(inet(&*server)), connect(inet(&*server)));
    let copy = client.try_clone().unwrap();
    let end = || copy.shutdown(Shutdown::Write).unwrap();
    let report = drained_as_half_a_request_comes(&server, &over, &mut holder, &mut client, end);
    assert!(report.took < SOON / 2, "{report}");
    assert_eq!(read_to_end(&mut client), b"half\n", "a last line without a newline is a line");
}

#[test]
fn a_close_does_not_wait_for_the_rest_of_a_request_that_a_unix_socket_cannot_bring() {
    let over = Arc::default();
    let folder = folder();
    let path = folder.path().join("s");
    let builder = UnixStreamServer::builder().mixin(Green::new().workers(1));
    let server = with_one_worker(builder, Address::Unix(path.clone()), &over);
    let unix = || UnixStream::connect(&path).unwrap();
    let (mut holder, mut client) = (unix(), unix());
    let report = drained_as_half_a_request_comes(&server, &over, &mut holder, &mut client, || ());
    assert!(report.took < SOON / 2, "{report}");
    assert_eq!(report.stopped, 2, "also the other one, between two requests: {report}");
}
