//! Outboxes under TLS: lines of other threads, encrypted in their order, and many in one record.

use std::io::{Read, Write};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::request::OutboxError;
use socketserver::transport::Tcp;
use socketserver::{BackgroundServer, Limits, Outbox, Threading, ThreadingTcpServer, stream_fn};

use super::client::{Client, VERSIONS, localhost};
use crate::support::{SOON, eventually, inet, read_line};

/// A server whose handler gives its outbox away, and then reads lines and answers "got LINE", until "end".
fn server(limits: Limits, give: Sender<Outbox>) -> BackgroundServer<Tcp, Threading> {
    let handler = stream_fn(move |request| {
        let mut line = String::new();
        give.send(request.outbox()?)?;
        while let Some(text) = request.next_line(&mut line)? {
            if text == "end" {
                break;
            }
            writeln!(request, "got {text}")?;
        }
        Ok(())
    });
    ThreadingTcpServer::builder()
        .tls(localhost())
        .limits(limits)
        .bind("127.0.0.1:0", handler)
        .unwrap()
        .serve_in_background()
        .unwrap()
}

#[test]
fn lines_of_many_threads_and_of_the_handler_come_whole_and_each_thread_in_order() {
    const THREADS: usize = 4;
    const LINES: usize = 500;
    for version in VERSIONS {
        let (give, given) = channel();
        let server = server(Limits::default().outbox_bytes(10_000_000), give);
        let mut client = Client::speaking(&[version]).connect(inet(&*server));
        client.handshake().unwrap();
        let outbox: Outbox = given.recv_timeout(SOON).unwrap();
        thread::scope(|scope| {
            for sender in 0..THREADS {
                let outbox = outbox.clone();
                scope.spawn(move || {
                    for number in 0..LINES {
                        outbox
                            .send(format!("{sender} {number} {}\n", "x".repeat(number % 90)))
                            .unwrap();
                    }
                });
            }
            let (mut next, mut answers) = ([0; THREADS], 0);
            for number in 0..100 {
                client.write_all(format!("line {number}\n").as_bytes()).unwrap();
            }
            while answers < 100 || next != [LINES; THREADS] {
                let line = read_line(&mut client);
                if line.starts_with("got ") {
                    assert_eq!(line, format!("got line {answers}\n"));
                    answers += 1;
                } else {
                    let mut words = line.split(' ');
                    let mut word = || words.next().unwrap().parse::<usize>().unwrap();
                    let (sender, number) = (word(), word());
                    assert_eq!(number, next[sender], "the lines of one thread are in order");
                    next[sender] += 1;
                }
            }
        });
        client.write_all(b"end\n").unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect("the end is said");
        assert_eq!(outbox.send("late"), Err(OutboxError::Closed));
    }
}

#[test]
fn lines_that_gather_share_a_record_and_the_capacity_counts_what_is_in_clear() {
    let (give, given) = channel();
    let server = server(Limits::default().outbox_bytes(100_000), give);
    let mut client = Client::new().connect(inet(&*server));
    client.handshake().unwrap();
    let outbox: Outbox = given.recv_timeout(SOON).unwrap();
    let before = server.context().live()[0].clone();
    // The sender makes no pause: its lines leave together, at the latest when 64 KiB have gathered.
    let sender = outbox.clone();
    thread::spawn(move || {
        for _ in 0..10_000 {
            while sender.send("line\n").is_err() {
                thread::yield_now();
            }
        }
    });
    let mut lines = vec![0; 50_000];
    client.read_exact(&mut lines).unwrap();
    eventually("all is counted", || server.context().live()[0].clear_bytes_out == 50_000);
    let after = server.context().live()[0].clone();
    let wire = after.bytes_out - before.bytes_out;
    // A record has 22 bytes of its own. One for each line would be 270,000 bytes.
    assert!((50_022..90_000).contains(&wire), "{wire} bytes on the wire");
    assert_eq!(outbox.waiting_bytes(), 0);
}

#[test]
fn a_peer_that_reads_nothing_fills_its_outbox_and_is_closed() {
    let (give, given) = channel();
    let server = server(Limits::default().outbox_bytes(100_000), give);
    let mut client = Client::new().connect(inet(&*server));
    client.handshake().unwrap();
    let outbox: Outbox = given.recv_timeout(SOON).unwrap();
    let message = [b'.'; 10_000];
    let began = Instant::now();
    while outbox.send(message) != Err(OutboxError::Full) {
        assert!(began.elapsed() < SOON, "it is full at some time");
    }
    assert!((80_000..=100_000).contains(&outbox.waiting_bytes()), "{}", outbox.waiting_bytes());
    outbox.close();
    eventually("the request has ended", || server.context().live().is_empty());
    let mut all = Vec::new();
    assert!(
        client.read_to_end(&mut all).is_err(),
        "no farewell fits, and the peer knows that the end is cut"
    );
}

#[test]
fn an_outbox_waits_for_a_slow_peer_and_loses_nothing() {
    let (give, given) = channel();
    let server = server(Limits::default().outbox_bytes(20_000_000), give);
    let mut client = Client::new().connect(inet(&*server));
    client.handshake().unwrap();
    let outbox: Outbox = given.recv_timeout(SOON).unwrap();
    let message: Vec<u8> = (0..10_000_000_u32).map(|at| (at % 253) as u8).collect();
    outbox.send(&message).unwrap();
    // The handler ends while most of the message waits, and the end waits for the message.
    client.write_all(b"end\n").unwrap();
    thread::sleep(Duration::from_millis(50));
    let mut all = Vec::new();
    client.read_to_end(&mut all).expect("the end is said");
    assert!(all == message);
}

#[test]
fn no_farewell_follows_what_an_outbox_has_dropped() {
    let (give, given) = channel();
    // close_notify may take as long as a write: long enough for a client that reads again.
    let limits = Limits::default().outbox_bytes(20_000_000).write(Duration::from_secs(1));
    let server = server(limits, give);
    let mut client = Client::new().connect(inet(&*server));
    client.handshake().unwrap();
    let outbox: Outbox = given.recv_timeout(SOON).unwrap();
    outbox.send(vec![b'.'; 19_000_000]).unwrap();
    client.write_all(b"end\n").unwrap();
    eventually("the handler's end gives up", || outbox.waiting_bytes() == 0);
    let mut all = Vec::new();
    let result = client.read_to_end(&mut all);
    assert!(all.len() < 19_000_000, "some of it was dropped");
    assert!(result.is_err(), "a cut answer does not pass for a whole one");
}
