//! Many connections on two workers: how they are shared, and that all are served, drained and reported.

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpStream;
use std::thread;

use rustix::process::{Resource, getrlimit, setrlimit};
use socketserver::{Green, HandlerResult, Limits, StreamRequest, TcpServer, stream_fn};

use crate::support::{SOON, alone, connect, exchange, inet, read_line, read_to_end};

/// Says which worker serves it, and answers lines.
fn names_its_worker(request: &mut StreamRequest) -> HandlerResult {
    writeln!(request, "{}", thread::current().name().unwrap_or_default())?;
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        let answer = format!("{text}\n");
        request.write_all(answer.as_bytes())?;
    }
    Ok(())
}

#[test]
fn of_a_thousand_connections_opened_at_once_neither_of_two_workers_has_more_than_three_fifths() {
    let server = TcpServer::builder().mixin(Green::new().workers(2));
    let server = server.bind("127.0.0.1:0", stream_fn(names_its_worker)).unwrap();
    let server = server.serve_in_background().unwrap();
    let address = inet(&*server);
    let clients: Vec<TcpStream> = (0..1_000).map(|_| connect(address)).collect();
    let mut shares = HashMap::new();
    for mut client in &clients {
        *shares.entry(read_line(&mut client)).or_insert(0) += 1;
    }
    assert!(shares.len() == 2 && shares.values().all(|share| *share <= 600), "{shares:?}");
    assert!(server.stop().unwrap().is_clean());
}

#[test]
fn nine_thousand_connections_are_held_active_drained_and_reported() {
    alone("green::shares::nine_thousand_connections_are_held_active_drained_and_reported", || {
        // Both ends are in this process. 100 are for everything else.
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).unwrap();
        let room = limit.maximum.map_or(u64::MAX, |most| most.saturating_sub(100) / 2);
        let count = usize::try_from(room.min(9_000)).unwrap();
        let server = TcpServer::builder()
            .mixin(Green::new().workers(2))
            .limits(Limits::default().live(count + 1).drain(SOON));
        let server = server.bind("127.0.0.1:0", stream_fn(names_its_worker)).unwrap();
        let server = server.serve_in_background().unwrap();
        let address = inet(&*server);
        let mut clients: Vec<TcpStream> = (0..count).map(|_| connect(address)).collect();
        for client in &mut clients {
            read_line(client);
        }
        assert_eq!(server.context().live_count(), count);
        for client in &mut clients {
            client.write_all(b"active\n").unwrap();
        }
        for client in &mut clients {
            assert_eq!(read_line(client), "active\n");
        }
        let report = server.stop().unwrap();
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.open_at_start, count);
        for client in &mut clients {
            assert!(read_to_end(client).is_empty());
        }
    });
}

#[test]
fn a_storm_of_connections_that_send_nothing_delays_nobody_for_long() {
    let server = TcpServer::builder().mixin(Green::new().workers(2));
    let server = server.bind("127.0.0.1:0", stream_fn(names_its_worker)).unwrap();
    let server = server.serve_in_background().unwrap();
    let address = inet(&*server);
    let mut steady = connect(address);
    read_line(&mut steady);
    let storm = thread::spawn(move || (0..2_000).for_each(|_| drop(connect(address))));
    while !storm.is_finished() {
        assert_eq!(exchange(&mut steady, "still"), "still\n");
    }
    storm.join().unwrap();
    crate::support::eventually("the storm is over", || server.context().live_count() == 1);
    assert!(server.stop().unwrap().is_clean());
}
