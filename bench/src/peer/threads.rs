//! A std thread for each connection, with std's sockets and nothing else.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::http::Http;
use super::{Mode, announce, unsupported};

pub fn serve(mode: Mode) -> io::Result<()> {
    if matches!(mode, Mode::Datagram | Mode::Store) {
        return unsupported();
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce(listener.local_addr()?)?;
    let room = Arc::new(Room::default());
    for (number, stream) in listener.incoming().enumerate() {
        let stream = stream?;
        let room = Arc::clone(&room);
        thread::spawn(move || {
            // A peer that resets its connection harms no other.
            let _ = match mode {
                Mode::Echo => echo(stream),
                Mode::Line => line(&stream),
                Mode::Sink => sink(stream),
                Mode::Web => web(stream),
                _ => chat(&stream, &room, number),
            };
        });
    }
    Ok(())
}

/// Is not inlined, so that each mode has a stack frame of its own. In a common frame, silent connections of this mode
/// would also have the buffers of other modes on their stacks, and cost a page more.
#[inline(never)]
fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count])?;
    }
}

pub fn line(mut stream: &TcpStream) -> io::Result<()> {
    let mut line = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut line)?;
    stream.write_all(&line)
}

/// Counts bytes. The buffer has the size that our own server uses, because the size decides the rate.
fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 65_536];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.write_all(format!("{total}\n").as_bytes()),
            count => total += count,
        }
    }
}

#[inline(never)]
fn web(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut http, mut kept) = (Http::default(), Vec::new());
    let mut buffer = [0; 8192];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        http.take(&mut kept, &buffer[..count])?;
        stream.write_all(&http.out)?;
    }
}

/// The members by number; each line is written to all the others under the lock.
#[derive(Default)]
struct Room(Mutex<HashMap<usize, TcpStream>>);

#[inline(never)]
fn chat(stream: &TcpStream, room: &Room, number: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    room.0.lock().unwrap().insert(number, stream.try_clone()?);
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        for (&member, mut stream) in &*room.0.lock().unwrap() {
            if member != number {
                // An error is ignored: the thread of a member that is gone removes it.
                let _ = stream.write_all(&line);
            }
        }
        line.clear();
    }
    room.0.lock().unwrap().remove(&number);
    Ok(())
}
