//! The client: a line editor, and the lines of the others above it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use socket2::Socket;
use socketserver::Endpoint;

use super::common::Failure;
use super::common::client::connect;
use super::protocol::{GOODBYE, LINE_BYTES, NAME_CHARS, check_name, clean};
use super::terminal::{Input, Output, Terminal, Typed};

/// Takes part in a room until its user or its server ends it.
pub fn run(endpoint: &Endpoint, name: Option<&str>) -> Result<(), Failure> {
    if let Some(Err(why)) = name.map(check_name) {
        return Err(Failure::Usage(why));
    }
    let socket = connect(endpoint)?;
    let lost = |error| Failure::Other(format!("the connection to {endpoint} broke: {error}"));
    // The first line, be it empty, says that this client knows of lines.
    let hello = name.map_or("\n".to_owned(), |name| format!("/nick {name}\n"));
    (&socket).write_all(hello.as_bytes()).map_err(lost)?;
    let Terminal { input, mut output, mode } = Terminal::open();
    let leaving = Arc::new(AtomicBool::new(false));
    let typing = {
        let (socket, leaving) = (socket.try_clone()?, Arc::clone(&leaving));
        thread::spawn(move || send_what_is_typed(input, &socket, &leaving))
    };
    let result = show_what_comes(&socket, &mut output);
    let has_left = leaving.load(Ordering::SeqCst);
    output.finish(typing);
    drop(mode);
    match result {
        Ok(last) if has_left || last == GOODBYE => Ok(()),
        Ok(last) => Err(Failure::Other(match last.strip_prefix("* ") {
            Some(words) => format!("the server at {endpoint} has ended the connection: {words}"),
            None => format!("the server at {endpoint} has ended the connection without a word"),
        })),
        Err(error) => Err(lost(error)),
    }
}

/// Ends when the user leaves or the connection does; the server then closes it.
fn send_what_is_typed(mut input: Input, mut socket: &Socket, leaving: &AtomicBool) {
    loop {
        // One byte more shows that a line is too long. The parts of one on a pipe are told apart so, too.
        let text = match input.next(LINE_BYTES + 2) {
            Typed::Line(text) if matches!(&*text, "q" | "exit" | "/quit") => break,
            Typed::Line(text) => text,
            Typed::Interrupt | Typed::End | Typed::Closed => break,
        };
        if text.len() > LINE_BYTES {
            eprintln!("a line may have {LINE_BYTES} bytes; this one was not sent");
        } else if socket.write_all(format!("{text}\n").as_bytes()).is_err() {
            // Who reads says why.
            return;
        }
    }
    leaving.store(true, Ordering::SeqCst);
    // It may be gone already.
    let _ = socket.shutdown(Shutdown::Write);
}

/// Shows lines until there are no more. Gives the last one.
fn show_what_comes(socket: &Socket, output: &mut Output) -> io::Result<String> {
    // A line of somebody else, with the name in front; nothing longer is believed, whoever sends it.
    const MOST: usize = LINE_BYTES + 8 * NAME_CHARS;
    let mut reader = BufReader::new(socket);
    let (mut line, mut last) = (Vec::new(), String::new());
    loop {
        match (&mut reader).take(MOST as u64).read_until(b'\n', &mut line) {
            Ok(0) => return Ok(last),
            // What was typed meanwhile meets nobody, and may have the connection reset.
            Err(_) if last == GOODBYE => return Ok(last),
            result => result?,
        };
        last = clean(line.strip_suffix(b"\n").unwrap_or(&line));
        output.show(format!("{last}\n"))?;
        line.clear();
    }
}
