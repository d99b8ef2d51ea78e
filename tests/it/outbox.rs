//! Sending to connections from elsewhere: under every mixin, whole lines, and no member delays another.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use socketserver::{
    BackgroundServer, Builder, CloseReason, HandlerResult, Limits, Mixin, Outbox, OutboxError,
    Pool, Refused, ServerEvent, ServerHooks, StreamRequest, StreamRequestHandler, Tcp, Threading,
    WhenFull,
};

use crate::handlers::{Diary, held};
use crate::support::{SOON, connect, eventually, inet, read_line, read_to_end};

type Members = Arc<Mutex<HashMap<u64, Outbox>>>;

/// Puts itself into the room, says so, and tells every line to all others.
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
    let server = Builder::<Tcp, _>::new(mixin)
        .limits(Limits { outbox_bytes: 256 * 1024, ..Limits::default() })
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
fn a_member_who_reads_nothing_delays_nobody_and_is_dropped() {
    let (server, members, diary) = room(Threading::new());
    let mut stalled = join(&server);
    let mut speaker = join(&server);
    let mut listeners: Vec<_> = (0..20).map(|_| join(&server)).collect();
    let text = "x".repeat(1_000);
    // More than the sockets' buffers and the outbox hold together.
    for number in 0..20_000 {
        let line = format!("{number} {text}\n");
        speaker.write_all(line.as_bytes()).unwrap();
        for listener in &mut listeners {
            let mut got = vec![0; line.len()];
            listener.read_exact(&mut got).unwrap();
            assert!(got == line.as_bytes(), "line {number}");
        }
        if number > 100 && members.lock().unwrap().len() == 21 {
            break;
        }
    }
    assert_eq!(members.lock().unwrap().len(), 21, "the stalled member is dropped");
    eventually("its request ends", || diary.contains(&CloseReason::ClosedHere.to_string()));
    // What it had been sent before is still there to read, in whole lines but for the last one.
    let mut rest = Vec::new();
    let ended = stalled.read_to_end(&mut rest);
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
    // Inside a request this would leave when the handler waits, and here at once.
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
    // A thread that promises nothing: its lines are handed over at once.
    let sender = std::thread::spawn(move || {
        let mut sent = 0;
        loop {
            match outbox.send("s".repeat(100) + "\n") {
                Ok(()) => sent += 1,
                Err(OutboxError::Full) => std::thread::yield_now(),
                Err(OutboxError::Closed) => return sent,
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

#[test]
fn what_is_due_when_the_handler_returns_is_sent_first() {
    let server = socketserver::ThreadingTcpServer::bind("127.0.0.1:0", || {
        socketserver::stream_fn(|request: &mut StreamRequest| -> HandlerResult {
            let outbox = request.outbox()?;
            for number in 0..1_000 {
                outbox.send(format!("{number}\n"))?;
            }
            Ok(())
        })
    });
    let server = server.unwrap().serve_in_background().unwrap();
    let text = String::from_utf8(read_to_end(&mut connect(inet(&*server)))).unwrap();
    let numbers: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (0..1_000).collect::<Vec<_>>());
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

/// Sends the first one that it refuses more than fits anywhere, and the next ones a word.
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
    // Longer than the test has patience.
    let (drain, write) = (SOON * 2, SOON * 2);
    let limits = Limits { outbox_bytes: 2 * MUCH, drain, write, ..Limits::default() };
    let mixin = Threading::new().max_threads(1).when_full(WhenFull::Refuse);
    let server = Builder::<Tcp, _>::new(mixin)
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
