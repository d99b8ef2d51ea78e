//! Many connections on two workers: how they are shared, and that all are served.

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpStream;
use std::thread;

use socketserver::{Green, HandlerResult, StreamRequest, TcpServer, stream_fn};

use crate::support::{connect, eventually, exchange, inet, read_line};

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
    eventually("the storm is over", || server.context().live_count() == 1);
    assert!(server.stop().unwrap().is_clean());
}
