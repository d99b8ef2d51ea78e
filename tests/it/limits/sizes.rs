//! Limits on bytes: of a line, and of an outbox.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use socketserver::Outbox;
use socketserver::monitor::CloseReason;
use socketserver::request::OutboxError;

use super::{Broken, change, echo, failing};
use crate::support::{SOON, connect, eventually, exchange, inet, read_line, read_to_end};

#[test]
fn line_bytes_holds_for_new_connections_and_running_ones_keep_theirs() {
    let (server, failures, told) = failing(echo);
    let line = "x".repeat(1_000);
    let mut old = connect(inet(&*server));
    assert_eq!(exchange(&mut old, &line), format!("{line}\n"));
    change(&server, |limits| limits.line_bytes = 999);
    let mut new = connect(inet(&*server));
    assert_eq!(exchange(&mut new, &line[1..]), format!("{}\n", &line[1..]));
    new.write_all(format!("{line}\n").as_bytes()).unwrap();
    assert!(read_to_end(&mut new).is_empty());
    assert_eq!(failures.recv_timeout(SOON).unwrap(), Broken::Line(999));
    eventually("its end is told", || told.ended(CloseReason::LineTooLong) == 1);
    assert_eq!(exchange(&mut old, &line), format!("{line}\n"));
}

#[test]
fn outbox_bytes_is_what_a_new_outbox_holds() {
    let outboxes: Arc<Mutex<Vec<Outbox>>> = Arc::default();
    let inside = Arc::clone(&outboxes);
    let (server, _failures, _told) = failing(move |request| {
        let outbox = request.outbox()?;
        inside.lock().unwrap().push(outbox);
        writeln!(request, "in")?;
        echo(request)
    });
    let join = || {
        let mut client = connect(inet(&*server));
        assert_eq!(read_line(&mut client), "in\n");
        (client, outboxes.lock().unwrap().pop().unwrap())
    };
    let (_old_client, old) = join();
    change(&server, |limits| limits.outbox_bytes = 100);
    let (mut client, outbox) = join();
    assert_eq!(outbox.send([b'x'; 101]), Err(OutboxError::Full));
    assert_eq!(old.send([b'x'; 101]), Ok(()));
    assert_eq!(outbox.send([b'x'; 100]), Ok(()));
    client.read_exact(&mut [0; 100]).unwrap();
}
