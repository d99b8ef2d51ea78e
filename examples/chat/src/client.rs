//! The client: a line editor, with the lines of the others above it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::thread;

use common::Endpoint;
use parking_lot::Mutex;

use super::name::{NAME_CHARS, check_name};
use super::protocol::{GOODBYE, LINE_BYTES, clean};
use super::terminal::{Input, Output, Terminal, Typed, UNREADABLE};
use common::client::{ClientTls, Connection, broke, open};
use common::{Failure, warn};

/// Takes part in a room until its user or its server ends it.
pub fn run(endpoint: &Endpoint, tls: &ClientTls, name: Option<&str>) -> Result<(), Failure> {
    if let Some(Err(why)) = name.map(check_name) {
        return Err(Failure::Usage(why));
    }
    let connection = open(endpoint, tls)?;
    let lost = |error: &io::Error| broke(endpoint, error);
    // The first line, even an empty one, tells the server that this client ends its messages with newlines.
    let hello = name.map_or("\n".to_owned(), |name| format!("/nick {name}\n"));
    (&connection).write_all(hello.as_bytes()).map_err(|error| lost(&error))?;
    let Terminal { input, mut output, mode } = Terminal::open();
    let sending = Arc::new(Mutex::new(Sending::Goes));
    let typing = {
        let (connection, sending) = (connection.clone(), Arc::clone(&sending));
        thread::spawn(move || send_what_is_typed(input, &connection, &sending))
    };
    let result = show_what_comes(&connection, &mut output);
    // A write of the typing thread may wait for a server that does not read. The shutdown ends that write.
    let _ = connection.shutdown(Shutdown::Both);
    // The state is taken before `finish`: that call ends the input, and the typing thread would then set `HasLeft`.
    let sent = std::mem::replace(&mut *sending.lock(), Sending::Goes);
    output.finish(typing);
    drop(mode);
    let last = result.map_err(|ended| match ended {
        Ended::Connection(error) => lost(&error),
        Ended::Stdout(error) => Failure::of_stdout(&error),
    })?;
    match (last.strip_prefix("* "), sent) {
        _ if last == GOODBYE => Ok(()),
        (_, Sending::HasLeft) => Ok(()),
        (Some(words), _) => Err(Failure::Other(format!(
            "the server at {endpoint} has ended the connection: {words}"
        ))),
        (None, Sending::Failed(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(lost(&error))
        }
        (None, _) => Err(Failure::Other(format!(
            "the server at {endpoint} has ended the connection without a word; it may have as many clients as it \
             takes, or as it takes from one address"
        ))),
    }
}

/// The state of the sending.
enum Sending {
    Goes,
    /// The user has left.
    HasLeft,
    /// The connection broke. The kernel reports this once: to the write or to the read, whichever comes first.
    Failed(io::Error),
}

/// Why no more lines can be shown.
enum Ended {
    Connection(io::Error),
    /// The reader of stdout has gone. Nothing is wrong with the connection.
    Stdout(io::Error),
}

/// Sends what is typed, until the user leaves or the connection ends.
fn send_what_is_typed(mut input: Input, mut connection: &Connection, sending: &Mutex<Sending>) {
    loop {
        // One byte more shows that a line is too long. On a pipe a longer line arrives in parts.
        let text = match input.next(LINE_BYTES + 2) {
            Typed::Line(text) if matches!(&*text, "q" | "exit" | "/quit") => break,
            Typed::Line(text) => text,
            Typed::Unreadable => {
                warn(UNREADABLE);
                continue;
            }
            Typed::Interrupt | Typed::End | Typed::Closed => break,
        };
        if text.len() > LINE_BYTES {
            warn(&format!("a line may have {LINE_BYTES} bytes; this one was not sent"));
            continue;
        }
        // The lock is taken before the write. If the write takes the error from the socket, the other thread sees a plain
        // end, and then finds the error in `sending`.
        let mut sending = sending.lock();
        if let Err(error) = connection.write_all(format!("{text}\n").as_bytes()) {
            *sending = Sending::Failed(error);
            return;
        }
    }
    *sending.lock() = Sending::HasLeft;
    // The call fails if the connection is gone already.
    let _ = connection.shutdown(Shutdown::Write);
}

/// Shows the server's lines up to the end of the connection. Returns the last line.
fn show_what_comes(connection: &Connection, output: &mut Output) -> Result<String, Ended> {
    // A member's longest line, with the member's name in front, has no more bytes than this. Longer lines are cut into parts,
    // because the server may be any program.
    const MOST: usize = LINE_BYTES + 8 * NAME_CHARS;
    let mut reader = BufReader::new(connection);
    let (mut line, mut last) = (Vec::new(), String::new());
    loop {
        match (&mut reader).take(MOST as u64).read_until(b'\n', &mut line) {
            Ok(0) => return Ok(last),
            // A line that the user sends while the server ends the connection may cause a reset.
            Err(_) if last == GOODBYE => return Ok(last),
            result => result.map_err(Ended::Connection)?,
        };
        last = clean(line.strip_suffix(b"\n").unwrap_or(&line));
        output.show(format!("{last}\n")).map_err(Ended::Stdout)?;
        line.clear();
    }
}
