//! Outboxes that were left behind, kept, or shared with a slow reader.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::{Outbox, SocketOptions, ThreadingTcpServer, stream_fn};

use super::patient;
use super::runs::is_spinning;
use crate::support::{
    SOON, alone, connect, eventually, hear, inet, open_descriptors, read_line, read_to_end,
};

/// Waits until a handler's write of many bytes waits for its peer.
fn waits_for_room(outbox: &Outbox) {
    let mut last = 0;
    let began = Instant::now();
    loop {
        let now = outbox.waiting_bytes();
        if now > 0 && now == last {
            return;
        }
        assert!(began.elapsed() < SOON, "the write never waits");
        last = now;
        thread::sleep(Duration::from_millis(50));
    }
}

/// Connects as a client that takes only this many bytes before it reads.
fn connect_with_room(bytes: usize, server: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(bytes).unwrap();
    socket.connect_timeout(&server.into(), SOON).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// Where the outbox of the server's only connection is put for the test.
type Place = Arc<Mutex<Option<Outbox>>>;

fn outbox_in(place: &Place) -> Outbox {
    eventually("it has an outbox", || place.lock().unwrap().is_some());
    place.lock().unwrap().clone().unwrap()
}

#[test]
fn what_others_send_while_the_handler_writes_needs_no_further_help() {
    const OWN: usize = 300_000;
    const OTHERS: usize = 60_000;
    let place = Place::default();
    let inside = Arc::clone(&place);
    let server = ThreadingTcpServer::builder()
        .socket_options(SocketOptions::default().send_buffer_bytes(4 * 1024))
        .limits(patient().outbox_bytes(OWN + 2 * OTHERS))
        .bind(
            "127.0.0.1:0",
            stream_fn(move |request| {
                *inside.lock().unwrap() = Some(request.outbox()?);
                request.write_all(&vec![b'h'; OWN])?;
                request.read_to_end(&mut Vec::new())?;
                Ok(())
            }),
        );
    let server = server.unwrap().serve_in_background().unwrap();
    // Small buffers: neither part fits into them.
    let mut client = connect_with_room(16 * 1024, inet(&*server));
    let outbox = outbox_in(&place);
    waits_for_room(&outbox);
    outbox.send(vec![b'o'; OTHERS]).unwrap();
    let mut bytes = vec![0; OWN + OTHERS];
    client.read_exact(&mut bytes).expect("everything that was sent");
    assert!(bytes[..OWN].iter().all(|byte| *byte == b'h'));
    assert!(bytes[OWN..].iter().all(|byte| *byte == b'o'));
    // Later lines are sent as well.
    outbox.send("later\n").unwrap();
    assert_eq!(read_line(&mut client), "later\n");
}

#[test]
fn a_closed_outbox_with_bytes_in_it_keeps_nobody_busy() {
    alone("regressions::outboxes::a_closed_outbox_with_bytes_in_it_keeps_nobody_busy", || {
        let place = Place::default();
        let (release, released) = channel::<()>();
        let (inside, released) = (Arc::clone(&place), Mutex::new(released));
        let server = ThreadingTcpServer::builder()
            .socket_options(SocketOptions::default().send_buffer_bytes(16 * 1024))
            .limits(patient().outbox_bytes(16 * 1024 * 1024))
            .bind(
                "127.0.0.1:0",
                stream_fn(move |request| {
                    *inside.lock().unwrap() = Some(request.outbox()?);
                    // The handler does not notice what happens to its connection.
                    let _ = hear(&released);
                    Ok(())
                }),
            );
        let server = server.unwrap().serve_in_background().unwrap();
        let _client = connect(inet(&*server));
        let outbox = outbox_in(&place);
        outbox.send(vec![b'x'; 8 * 1024 * 1024]).unwrap();
        waits_for_room(&outbox);
        outbox.close();
        let spins = is_spinning();
        // The handler is released before the assertion: if that fails, the server's drop would wait for the handler.
        drop(release);
        assert!(!spins);
    });
}

#[test]
fn an_outbox_that_is_kept_does_not_keep_its_connection_open() {
    alone(
        "regressions::outboxes::an_outbox_that_is_kept_does_not_keep_its_connection_open",
        || {
            let room: Arc<Mutex<Vec<Outbox>>> = Arc::default();
            let inside = Arc::clone(&room);
            let server = ThreadingTcpServer::bind(
                "127.0.0.1:0",
                stream_fn(move |request| {
                    let outbox = request.outbox()?;
                    outbox.send("welcome\n")?;
                    inside.lock().unwrap().push(outbox);
                    Ok(())
                }),
            );
            let server = server.unwrap().serve_in_background().unwrap();
            let come_and_go = || {
                assert_eq!(read_to_end(&mut connect(inet(&*server))), b"welcome\n");
                eventually("it has ended", || server.context().live_count() == 0);
            };
            // The first connection starts the threads that all of them share.
            come_and_go();
            let before = open_descriptors();
            for _ in 0..30 {
                come_and_go();
            }
            assert_eq!(room.lock().unwrap().len(), 31);
            eventually("all are closed", || open_descriptors() <= before);
        },
    );
}

#[test]
fn a_slow_but_steady_reader_never_times_out_a_write_with_an_outbox() {
    const BYTES: usize = 8 * 1024 * 1024;
    // The limit is shorter than the whole write, and many times longer than any step of it.
    let (limit, step) = (Duration::from_millis(1_000), Duration::from_millis(50));
    let (told, result) = channel();
    let told = Mutex::new(told);
    let server = ThreadingTcpServer::builder()
        .socket_options(SocketOptions::default().send_buffer_bytes(64 * 1024))
        .limits(patient().write(limit))
        .bind(
            "127.0.0.1:0",
            stream_fn(move |request| {
                request.outbox()?;
                let written = request.write_all(&vec![b'x'; BYTES]);
                told.lock().unwrap().send(written)?;
                Ok(())
            }),
        );
    let server = server.unwrap().serve_in_background().unwrap();
    let mut client = connect_with_room(64 * 1024, inet(&*server));
    let began = Instant::now();
    let mut some = vec![0; 128 * 1024];
    let mut count = 0;
    while began.elapsed() < limit + limit / 2 {
        client.read_exact(&mut some).expect("it is still being written");
        count += some.len();
        thread::sleep(step);
    }
    assert!(result.try_recv().is_err(), "it has written {BYTES} already: {count} were read");
    count += read_to_end(&mut client).len();
    assert_eq!(count, BYTES);
    result.recv_timeout(SOON).unwrap().expect("the whole is written");
}
