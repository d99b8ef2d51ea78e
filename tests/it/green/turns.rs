//! A request that never has to wait gives way all the same. Counted in receives, so that no clock is involved.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use socketserver::park::Event;
use socketserver::{Green, HandlerResult, StreamRequest, TcpServer, stream_fn};

use crate::support::{SOON, connect, inet, read_line};

/// How much a receive asks for.
const PIECE: usize = 64;

/// How much each upload has sent before its first byte is read. Every system takes so much without a reader.
const SENT: usize = 32 * 1024;

/// The most receives of one request in a row: its budget, which the library calls `CALL_BUDGET`, and one more.
const MOST: usize = 129;

struct Uploads {
    /// The event that all handlers wait for, so that one batch of events wakes them.
    may_begin: Event,
    /// The name of the connection for each receive, and `!` for each answer to a line.
    receives: Mutex<Vec<u8>>,
}

impl Uploads {
    fn note(&self, who: u8) {
        self.receives.lock().unwrap().push(who);
    }

    fn handle(&self, request: &mut StreamRequest) -> HandlerResult {
        request.set_rbufsize(1);
        let Some(name) = request.chunk()?.map(|name| name[0]) else { return Ok(()) };
        request.set_rbufsize(if name == b'!' { 1_024 } else { PIECE });
        request.write_all(b"ready\n")?;
        self.may_begin.wait(Some(SOON))?;
        if name == b'!' {
            let mut line = String::new();
            while let Some(text) = request.next_line(&mut line)? {
                self.note(name);
                let answer = format!("{text}\n");
                request.write_all(answer.as_bytes())?;
            }
            return Ok(());
        }
        let mut left = SENT;
        while left > 0 {
            // Each read is one receive.
            match request.read(&mut [0; PIECE])? {
                0 => return Ok(()),
                count => left -= count,
            }
            self.note(name);
        }
        Ok(request.write_all(b"done\n")?)
    }
}

#[test]
fn of_two_uploads_that_never_wait_neither_keeps_the_other_or_a_line_from_its_turn() {
    let may_begin = Event::new().unwrap();
    let uploads = Arc::new(Uploads { may_begin, receives: Mutex::default() });
    let handler = {
        let uploads = Arc::clone(&uploads);
        stream_fn(move |request| uploads.handle(request))
    };
    let server = TcpServer::builder().mixin(Green::new().workers(1));
    let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
    let begin = |name: u8| -> TcpStream {
        let mut client = connect(inet(&*server));
        client.write_all(&[name]).unwrap();
        client
    };
    let (mut both, mut line) = ([begin(b'a'), begin(b'b')], begin(b'!'));
    for client in both.iter_mut().chain([&mut line]) {
        assert_eq!(read_line(client), "ready\n");
    }
    // All bytes of the uploads have arrived before the first receive, and so has the line.
    both.iter_mut().for_each(|client| client.write_all(&[b'.'; SENT]).unwrap());
    line.write_all(b"hello\n").unwrap();
    uploads.may_begin.notify();
    assert_eq!(read_line(&mut line), "hello\n");
    for client in &mut both {
        assert_eq!(read_line(client), "done\n");
    }
    let receives = uploads.receives.lock().unwrap().clone();
    let count = |name| receives.iter().filter(|who| **who == name).count();
    assert!(count(b'a') >= SENT / PIECE && count(b'b') >= SENT / PIECE);
    // The receives of one upload count only until the other one is done.
    let of_a = receives.iter().rposition(|who| *who == b'a').unwrap();
    let of_b = receives.iter().rposition(|who| *who == b'b').unwrap();
    let longest = receives[..of_a.min(of_b)].chunk_by(|one, other| one == other).map(<[u8]>::len);
    let longest = longest.max().unwrap();
    assert!(longest <= MOST, "{longest} receives in a row");
    let answered = receives.iter().position(|who| *who == b'!').unwrap_or(usize::MAX);
    assert!(answered <= 2 * MOST, "the line was answered after {answered} receives");
    assert!(server.stop().unwrap().is_clean());
}
