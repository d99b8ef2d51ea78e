//! Lines for many outboxes leave together with those that come before they are sent.

use std::io::{Read, Write};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use socketserver::{Green, HandlerResult, Outbox, StreamRequest, TcpServer, stream_fn};

use crate::support::{SOON, connect, inet, read_line};

/// More members than a flush serves before it looks for more lines.
const MEMBERS: usize = 20;

struct Room {
    members: Mutex<Vec<Outbox>>,
    /// Tells the test that the first line has been passed on to all.
    has_first: mpsc::Sender<()>,
    /// Tells the handler that the second line has been sent.
    may_go_on: Mutex<mpsc::Receiver<()>>,
}

impl Room {
    fn handle(&self, request: &mut StreamRequest) -> HandlerResult {
        self.members.lock().unwrap().push(request.outbox()?);
        request.write_all(b"ready\n")?;
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            let passed_on = format!("{text}\n");
            for member in &*self.members.lock().unwrap() {
                member.send(&passed_on)?;
            }
            if text == "first" {
                // The handler holds its worker, so that the second line is there before the batch of the first one ends.
                self.has_first.send(())?;
                self.may_go_on.lock().unwrap().recv_timeout(SOON)?;
            }
        }
        Ok(())
    }
}

#[test]
fn a_line_that_comes_before_those_of_others_have_left_goes_along_in_the_same_send() {
    let ((has_first, first), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel());
    let room =
        Arc::new(Room { members: Mutex::default(), has_first, may_go_on: Mutex::new(may_go_on) });
    let server = TcpServer::builder().mixin(Green::new().workers(1));
    let handler = stream_fn(move |request| room.handle(request));
    let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
    let mut members: Vec<_> = (0..MEMBERS).map(|_| connect(inet(&*server))).collect();
    for member in &mut members {
        assert_eq!(read_line(member), "ready\n");
    }
    members[0].write_all(b"first\n").unwrap();
    first.recv_timeout(SOON).unwrap();
    members[1].write_all(b"second\n").unwrap();
    go_on.send(()).unwrap();
    for member in &mut members {
        let mut lines = [0; 64];
        let count = member.read(&mut lines).unwrap();
        assert_eq!(&lines[..count], b"first\nsecond\n", "both in one packet");
    }
}
