//! Very many unfinished handshakes: the oldest make room, others are served, and memory is bounded.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use socketserver::mixin::Refused;
use socketserver::monitor::{Activity, CloseReason, Limit, ServerEvent};
use socketserver::{Limits, StreamRequest, Threading, ThreadingTcpServer, stream_fn};

use super::client::{Client, localhost};
use crate::handlers::Echo;
use crate::support::{SOON, alone, connect, eventually, exchange, inet, read_line, system};

#[test]
fn the_oldest_unfinished_handshake_makes_room_for_a_new_one() {
    let (tell, ends) = channel();
    let reached = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reached);
    let server = ThreadingTcpServer::builder()
        .tls(localhost())
        .limits(Limits::default().handshakes(2))
        .observer(move |event| match event {
            ServerEvent::LimitReached { limit: Limit::Handshakes } => {
                count.fetch_add(1, Ordering::SeqCst);
            }
            ServerEvent::RequestEnded { id, reason, refused, .. } => {
                let why = refused.map(Refused::name);
                tell.send((*id, *reason, why)).unwrap();
            }
            _ => {}
        })
        .bind("127.0.0.1:0", || Echo)
        .unwrap()
        .serve_in_background()
        .unwrap();
    // A handshake that is finished does not count.
    let mut served = Client::new().connect(inet(&*server));
    assert_eq!(exchange(&mut served, "one"), "one\n");
    let mut silent: Vec<TcpStream> = Vec::new();
    for id in 2..7 {
        silent.push(connect(inet(&*server)));
        eventually("it waits in its handshake", || {
            let live = server.context().live();
            live.iter().any(|live| live.id == id && live.activity == Activity::Idle)
        });
        if id > 3 {
            let ended = ends.recv_timeout(SOON).unwrap();
            assert_eq!(ended, (id - 2, CloseReason::Refused, Some("too_many_handshakes")));
        }
    }
    assert_eq!(reached.load(Ordering::SeqCst), 3);
    // Another client comes, whose handshake ends well.
    let mut client = Client::new().connect(inet(&*server));
    assert_eq!(exchange(&mut client, "two"), "two\n");
    assert_eq!(exchange(&mut served, "still here"), "still here\n");
    drop(silent);
}

#[test]
fn a_handshake_that_an_old_connection_begins_late_is_not_the_oldest() {
    let tls = localhost();
    let handle = stream_fn(move |request: &mut StreamRequest| {
        let mut line = String::new();
        request.next_line(&mut line)?;
        writeln!(request, "go ahead")?;
        request.start_tls(&tls)?;
        Ok(writeln!(request, "encrypted")?)
    });
    let (tell, ends) = channel();
    let server = ThreadingTcpServer::builder()
        .limits(Limits::default().handshakes(1))
        .observer(move |event| {
            if let ServerEvent::RequestEnded { id, reason, .. } = event {
                tell.send((*id, *reason)).unwrap();
            }
        })
        .bind("127.0.0.1:0", handle)
        .unwrap()
        .serve_in_background()
        .unwrap();
    let mut old = connect(inet(&*server));
    eventually("it is there", || server.context().live().len() == 1);
    let mut silent = connect(inet(&*server));
    assert_eq!(exchange(&mut silent, "starttls"), "go ahead\n");
    silent.write_all(b"\x16\x03\x01").unwrap();
    eventually("its handshake has begun", || {
        server.context().live().iter().any(|live| live.bytes_in == 12)
    });
    assert_eq!(exchange(&mut old, "starttls"), "go ahead\n");
    let mut old = Client::new().over(old);
    old.handshake().unwrap();
    assert_eq!(read_line(&mut old.stream), "encrypted\n");
    // The silent client has made room, and its end is reported as a refusal and not as a time limit.
    let mut ended = [ends.recv_timeout(SOON).unwrap(), ends.recv_timeout(SOON).unwrap()];
    ended.sort_unstable_by_key(|(id, _)| *id);
    assert_eq!(ended, [(1, CloseReason::Completed), (2, CloseReason::Refused)]);
    drop(silent);
}

#[test]
fn ten_thousand_unfinished_handshakes_leave_others_served_and_memory_bounded() {
    alone(
        "tls::crowds::ten_thousand_unfinished_handshakes_leave_others_served_and_memory_bounded",
        || {
            const CLIENTS: usize = 10_000;
            // The clients' ends are this process's too.
            let (_, descriptors) = system::descriptor_limits();
            system::set_descriptor_limits(descriptors, descriptors);
            let at_once = CLIENTS.min(usize::try_from(descriptors).unwrap() / 2);
            let server = ThreadingTcpServer::builder()
                .mixin(Threading::new().stack_size(128 * 1024))
                .tls(localhost())
                .limits(Limits::default().handshakes(200))
                .bind("127.0.0.1:0", || Echo)
                .unwrap()
                .serve_in_background()
                .unwrap();
            let mut hello = Vec::new();
            Client::new().connect(inet(&*server)).stream.conn.write_tls(&mut hello).unwrap();
            let mut crowd = std::collections::VecDeque::new();
            let mut most = 0;
            for number in 0..CLIENTS {
                let mut client = connect(inet(&*server));
                // Some clients are silent, and some stop in the middle of their hello.
                let sent = [0, 3, hello.len() / 2, hello.len()][number % 4];
                let _ = client.write_all(&hello[..sent]);
                crowd.push_back(client);
                if crowd.len() > at_once {
                    crowd.pop_front();
                }
                if number % 500 == 499 {
                    let mut honest = Client::new().connect(inet(&*server));
                    assert_eq!(exchange(&mut honest, "hello"), "hello\n", "after {number}");
                    most = most.max(system::own_status("VmRSS"));
                }
            }
            eventually("no more than the limit are left", || server.context().live().len() <= 201);
            // This is the memory of 200 handshakes, of 10,000 clients' ends, and of the allocator.
            assert!(most < 200 * 1024, "{most} KiB");
            // The connections of the oldest are ended.
            let mut oldest = crowd.pop_front().unwrap();
            let _ = oldest.read_to_end(&mut Vec::new());
        },
    );
}
