//! Sending to connections from elsewhere: lines arrive whole under every mixin, and no member delays another.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socketserver::mixin::{Mixin, Refused};
use socketserver::monitor::{CloseReason, ServerEvent};
use socketserver::request::OutboxError;
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, Builder, HandlerResult, Inline, Limits, Outbox, Pool, ServerHooks,
    SocketOptions, StreamRequest, StreamRequestHandler, Threading,
};

use crate::handlers::{Diary, held};
use crate::support::{SOON, alone, connect, eventually, inet, read_line, read_to_end};

type Members = Arc<Mutex<HashMap<u64, Outbox>>>;

/// Joins the room, announces it, and sends every line to all others.
struct Member {
    members: Members,
}

impl StreamRequestHandler for Member {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let outbox = request.outbox()?;
        self.members.lock().unwrap().insert(request.id(), outbox);
        writeln!(request, "in")?;
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            for (id, outbox) in self.members.lock().unwrap().iter() {
                if *id != request.id() && outbox.send(format!("{text}\n")) == Err(OutboxError::Full)
                {
                    outbox.close();
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, request: &mut StreamRequest) -> HandlerResult {
        self.members.lock().unwrap().remove(&request.id());
        Ok(())
    }
}

fn room<M: Mixin + 'static>(mixin: M) -> (BackgroundServer<Tcp, M>, Members, Diary) {
    let members = Members::default();
    let diary = Diary::default();
    let (inside, ends) = (Arc::clone(&members), diary.clone());
    let mut options = SocketOptions::default();
    // The buffer is small, so that a member that reads nothing falls behind before megabytes have been sent.
    options.send_buffer_bytes = Some(64 * 1024);
    let server = Builder::<Tcp, _>::new(mixin)
        .socket_options(options)
        .limits(Limits::default().outbox_bytes(256 * 1024))
        .observer(move |event: &ServerEvent<'_>| {
            if let ServerEvent::RequestEnded { reason, .. } = event {
                ends.note(reason.to_string());
            }
        })
        .bind("127.0.0.1:0", move || Member { members: Arc::clone(&inside) })
        .unwrap();
    (server.serve_in_background().unwrap(), members, diary)
}

fn join<M: Mixin>(server: &BackgroundServer<Tcp, M>) -> TcpStream {
    let mut client = connect(inet(&**server));
    assert_eq!(read_line(&mut client), "in\n");
    client
}

fn talk<M: Mixin + 'static>(mixin: M) {
    let (server, _members, _diary) = room(mixin);
    let mut clients: Vec<_> = (0..5).map(|_| join(&server)).collect();
    for speaker in 0..5 {
        let line = format!("from {speaker}\n");
        clients[speaker].write_all(line.as_bytes()).unwrap();
        for (listener, client) in clients.iter_mut().enumerate() {
            if listener != speaker {
                assert_eq!(read_line(client), line);
            }
        }
    }
}

#[test]
fn a_line_reaches_all_the_others_under_threading() {
    talk(Threading::new());
}

#[test]
fn a_line_reaches_all_the_others_under_pool() {
    talk(Pool::new(8));
}

#[test]
fn what_others_send_reaches_whom_an_inline_server_serves() {
    let (server, members, _diary) = room(Inline);
    let only = || members.lock().unwrap().values().next().unwrap().clone();
    let mut client = join(&server);
    // The loop's only thread is in the handler, and waits for the client.
    let outbox = only();
    for number in 0..1_000 {
        outbox.send(format!("{number}\n")).unwrap();
    }
    for number in 0..1_000 {
        assert_eq!(read_line(&mut client), format!("{number}\n"));
    }
    outbox.send("farewell\n").unwrap();
    outbox.close();
    assert_eq!(read_to_end(&mut client), b"farewell\n");
    // The next one is served, and has an outbox of its own.
    let mut next = join(&server);
    assert_eq!(outbox.send("late\n"), Err(OutboxError::Closed));
    only().send("welcome\n").unwrap();
    assert_eq!(read_line(&mut next), "welcome\n");
}

#[test]
fn a_member_of_a_hundred_who_reads_nothing_delays_nobody_and_is_dropped() {
    alone("outbox::a_member_of_a_hundred_who_reads_nothing_delays_nobody_and_is_dropped", || {
        a_silent_member_of(100);
    });
}

fn a_silent_member_of(size: usize) {
    let (server, members, diary) = room(Threading::new());
    let mut silent = join(&server);
    let to_silent = members.lock().unwrap().values().next().unwrap().clone();
    let mut speaker = join(&server);
    let mut listeners: Vec<_> = (2..size).map(|_| join(&server)).collect();
    assert_eq!(members.lock().unwrap().len(), size);
    let text = "x".repeat(1_000);
    // How many lines all others have received while lines for the silent member waited, and how many after it was dropped.
    let (mut meanwhile, mut since) = (0, 0);
    for number in 0..20_000 {
        let line = format!("{number} {text}\n");
        speaker.write_all(line.as_bytes()).unwrap();
        for (listener, stream) in listeners.iter_mut().enumerate() {
            let mut got = vec![0; line.len()];
            stream.read_exact(&mut got).unwrap_or_else(|error| {
                panic!("listener {listener} waits for line {number}: {error}")
            });
            assert!(got == line.as_bytes(), "line {number} of listener {listener}");
        }
        if members.lock().unwrap().len() == size - 1 {
            since += 1;
        } else if to_silent.waiting_bytes() > line.len() {
            meanwhile += 1;
        }
        if since == 20 {
            break;
        }
    }
    // The outbox holds 256 KiB, and each line is a little longer than 1 KiB.
    assert!(meanwhile >= 100, "it was never behind: {meanwhile}");
    assert_eq!(since, 20, "the silent member is dropped, and the others go on");
    eventually("its request ends", || diary.contains(&CloseReason::ClosedHere.to_string()));
    // The bytes that were sent before can still be read: whole lines, except the last one.
    let mut rest = Vec::new();
    let ended = silent.read_to_end(&mut rest);
    let kind = ended.expect_err("the system keeps nothing for it").kind();
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
    let lines: Vec<&[u8]> = rest.split(|byte| *byte == b'\n').collect();
    for line in &lines[..lines.len() - 1] {
        assert!(line.ends_with(b"xxx"), "a torn line");
    }
}

#[test]
fn a_word_of_farewell_reaches_a_member_who_reads() {
    let (server, members, _diary) = room(Threading::new());
    let mut client = join(&server);
    let outbox = members.lock().unwrap().values().next().unwrap().clone();
    // Inside a request this line would leave when the handler waits. Here it leaves at once.
    outbox.send("farewell\n").unwrap();
    outbox.close();
    assert_eq!(read_to_end(&mut client), b"farewell\n");
}

#[test]
fn what_the_handler_writes_and_what_others_send_is_never_torn() {
    /// Writes long lines while others send theirs.
    struct Chatty {
        outboxes: Arc<Mutex<Vec<Outbox>>>,
    }
    impl StreamRequestHandler for Chatty {
        fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
            self.outboxes.lock().unwrap().push(request.outbox()?);
            let own = format!("{}\n", "o".repeat(100_000));
            for _ in 0..50 {
                request.write_all(own.as_bytes())?;
            }
            Ok(())
        }
    }
    let outboxes = Arc::new(Mutex::new(Vec::new()));
    let inside = Arc::clone(&outboxes);
    let server = socketserver::ThreadingTcpServer::bind("127.0.0.1:0", move || Chatty {
        outboxes: Arc::clone(&inside),
    });
    let server = server.unwrap().serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    eventually("it has an outbox", || !outboxes.lock().unwrap().is_empty());
    let outbox = outboxes.lock().unwrap()[0].clone();
    // This thread runs no handler, so that its lines are handed over at once.
    let sender = std::thread::spawn(move || {
        let mut sent = 0;
        loop {
            match outbox.send("s".repeat(100) + "\n") {
                Ok(()) => sent += 1,
                Err(OutboxError::Full) => std::thread::yield_now(),
                Err(_) => return sent,
            }
        }
    });
    let bytes = read_to_end(&mut client);
    let sent = sender.join().unwrap();
    let mut own = 0;
    let mut others = 0;
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match (line[0], line.len()) {
            (b'o', 100_000) => own += 1,
            (b's', 100) => others += 1,
            (_, length) => panic!("a torn line of {length} bytes"),
        }
        assert!(line.iter().all(|byte| *byte == line[0]), "two lines in one");
    }
    assert_eq!((own, others), (50, sent));
}

#[test]
fn an_outbox_outlives_its_request_and_says_so() {
    let (server, members, _diary) = room(Threading::new());
    let client = join(&server);
    let outbox = members.lock().unwrap().values().next().unwrap().clone();
    drop(client);
    eventually("the member leaves", || members.lock().unwrap().is_empty());
    eventually("it is closed", || outbox.send("late\n") == Err(OutboxError::Closed));
    assert_eq!(outbox.waiting_bytes(), 0);
}

fn what_is_due_is_sent_first(mixin: impl Mixin + 'static) {
    let handler = socketserver::stream_fn(|request: &mut StreamRequest| -> HandlerResult {
        let outbox = request.outbox()?;
        for number in 0..1_000 {
            outbox.send(format!("{number}\n"))?;
        }
        Ok(())
    });
    let server = Builder::<Tcp, _>::new(mixin).bind("127.0.0.1:0", handler);
    let server = server.unwrap().serve_in_background().unwrap();
    let text = String::from_utf8(read_to_end(&mut connect(inet(&*server)))).unwrap();
    let numbers: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (0..1_000).collect::<Vec<_>>());
}

#[test]
fn what_is_due_when_the_handler_returns_is_sent_first_under_threading() {
    what_is_due_is_sent_first(Threading::new());
}

#[test]
fn what_is_due_when_the_handler_returns_is_sent_first_under_inline() {
    what_is_due_is_sent_first(Inline);
}

#[test]
fn an_outbox_that_is_full_takes_nothing_of_a_message() {
    let (server, members, _diary) = room(Threading::new());
    let _client = join(&server);
    let outbox = members.lock().unwrap().values().next().unwrap().clone();
    assert_eq!(outbox.send(vec![b'x'; 256 * 1024 + 1]), Err(OutboxError::Full));
    assert_eq!(outbox.waiting_bytes(), 0);
    assert_eq!(outbox.send("fits\n"), Ok(()));
}

/// Answers the first refused client with more bytes than any buffer holds, and the next ones with a word.
struct Farewell {
    refused: AtomicUsize,
}

const MUCH: usize = 32 * 1024 * 1024;

impl ServerHooks<StreamRequest> for Farewell {
    fn overflow(&self, request: &mut StreamRequest, _why: &Refused) -> HandlerResult {
        let first = self.refused.fetch_add(1, Ordering::SeqCst) == 0;
        request.outbox()?.send(if first { vec![b'x'; MUCH] } else { b"busy\n".to_vec() })?;
        Ok(())
    }
}

#[test]
fn the_loop_waits_for_nothing_that_a_refusal_has_put_into_an_outbox() {
    let (handler, holder) = held();
    // Both limits are longer than the test waits.
    let (drain, write) = (SOON * 2, SOON * 2);
    let limits = Limits::default().outbox_bytes(2 * MUCH).drain(drain).write(write).per_peer(1);
    let server = Builder::<Tcp, _>::new(Threading::new())
        .limits(limits)
        .hooks(Farewell { refused: AtomicUsize::new(0) })
        .bind("127.0.0.1:0", move || handler.clone())
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let mut served = connect(inet(&*server));
    holder.started.recv_timeout(SOON).unwrap();
    let _reads_nothing = connect(inet(&*server));
    assert_eq!(read_to_end(&mut connect(inet(&*server))), b"busy\n");
    holder.release.send(()).unwrap();
    assert_eq!(read_line(&mut served), "released\n");
}

#[test]
#[cfg_attr(under_green, ignore = "its handler blocks its thread")]
fn what_is_due_to_others_leaves_before_a_write_that_need_not_wait() {
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let (members, told) = (Members::default(), Mutex::new(told));
    let handler = socketserver::stream_fn(move |request: &mut StreamRequest| -> HandlerResult {
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            let mut members = members.lock().unwrap();
            if text == "listen" {
                members.insert(request.id(), request.outbox()?);
                drop(members);
                writeln!(request, "in")?;
                continue;
            }
            for outbox in members.values() {
                outbox.send("to all\n")?;
            }
            // The handler's own connection has no outbox, and room for this line.
            writeln!(request, "done")?;
            // This wait for the listener's message is one of std, and the crate does not see it.
            told.lock().unwrap().recv()?;
        }
        Ok(())
    });
    let server = Builder::<Tcp, _>::new(Threading::new()).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let (mut listener, mut speaker) = (connect(inet(&*server)), connect(inet(&*server)));
    listener.write_all(b"listen\n").unwrap();
    assert_eq!(read_line(&mut listener), "in\n");
    speaker.write_all(b"speak\n").unwrap();
    assert_eq!(read_line(&mut listener), "to all\n");
    assert_eq!(read_line(&mut speaker), "done\n");
    tell.send(()).expect("it has waited for this");
}

#[test]
fn a_sender_that_waits_for_room_sends_more_than_the_outbox_holds() {
    const PIECES: usize = 2_000;
    let (server, members, _diary) = room(Threading::new());
    let mut listener = join(&server);
    let outbox = members.lock().unwrap().values().next().unwrap().clone();
    let burst = socketserver::stream_fn(move |request: &mut StreamRequest| -> HandlerResult {
        for number in 0..PIECES {
            assert!(outbox.wait_for_room(64 * 1024, SOON), "piece {number}");
            outbox.send([b'x'; 4096])?;
        }
        Ok(writeln!(request, "{}", outbox.sent_bytes() > PIECES as u64 * 2048)?)
    });
    let source = Builder::<Tcp, _>::new(Threading::new()).bind("127.0.0.1:0", burst).unwrap();
    let source = source.serve_in_background().unwrap();
    let mut asks = connect(inet(&*source));
    let mut got = vec![0; PIECES * 4096];
    listener.read_exact(&mut got).unwrap();
    assert!(got.iter().all(|byte| *byte == b'x'));
    assert_eq!(read_line(&mut asks), "true\n");
}

#[test]
fn a_wait_for_room_ends_in_time_and_goes_on_when_the_peer_does() {
    let (server, members, _diary) = room(Threading::new());
    let mut client = join(&server);
    let outbox = members.lock().unwrap().values().next().unwrap().clone();
    let fill = || while outbox.send([b'x'; 4096]).is_ok() {};
    eventually("the system takes no more", || {
        let before = outbox.sent_bytes();
        fill();
        outbox.sent_bytes() == before && !outbox.wait_for_room(1024, Duration::from_millis(100))
    });
    let (sent, waiting) = (outbox.sent_bytes(), outbox.waiting_bytes());
    assert!(waiting > 128 * 1024, "{waiting}");
    // This peer takes a little at a time, less than what makes the system report room.
    let reads = std::thread::spawn(move || {
        let mut got = vec![0; sent as usize - "in\n".len() + waiting];
        got.chunks_mut(1024).for_each(|chunk| client.read_exact(chunk).unwrap());
        client
    });
    assert!(outbox.wait_for_room(0, SOON));
    assert_eq!(outbox.sent_bytes(), sent + waiting as u64);
    let client = reads.join().unwrap();
    // The end of the connection ends a wait.
    fill();
    drop(client);
    assert!(outbox.wait_for_room(0, SOON));
}

/// The handler ends its output while messages wait, and goes on reading.
#[test]
fn messages_that_were_taken_leave_before_the_handler_ends_its_output() {
    const MESSAGES: usize = 200;
    let handler = socketserver::stream_fn(|request: &mut StreamRequest| {
        let outbox = request.outbox()?;
        for _ in 0..MESSAGES {
            outbox.send([b'm'; 4096])?;
        }
        request.shutdown_write()?;
        assert_eq!(outbox.send("late"), Err(OutboxError::Closed));
        Ok(())
    });
    let mut options = SocketOptions::default();
    options.send_buffer_bytes = Some(16 * 1024);
    let server = Builder::<Tcp, _>::new(Threading::new())
        .socket_options(options)
        .limits(Limits::default().outbox_bytes(MESSAGES * 4096))
        .bind("127.0.0.1:0", handler)
        .unwrap()
        .serve_in_background()
        .unwrap();
    let mut client = connect(inet(&*server));
    assert_eq!(read_to_end(&mut client).len(), MESSAGES * 4096);
}
