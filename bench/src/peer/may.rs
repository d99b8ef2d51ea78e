//! may: a stackful coroutine for each connection; and may_minihttp, a small HTTP server on top of it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net;

use may::net::{TcpListener, TcpStream};
use may_minihttp::{HttpService, HttpServiceFactory, Request, Response};

use super::{Mode, announce, unsupported};

#[derive(Clone, Copy)]
struct Hello;

impl HttpService for Hello {
    fn call(&mut self, _: Request<'_, '_, '_>, response: &mut Response<'_>) -> io::Result<()> {
        response.header("Content-Type: text/plain").body("Hello, World");
        Ok(())
    }
}

impl HttpServiceFactory for Hello {
    type Service = Self;

    fn new_service(&self, _: usize) -> Self {
        *self
    }
}

pub fn serve(mode: Mode) -> io::Result<()> {
    match mode {
        Mode::Echo => serve_each(echo),
        Mode::Line => serve_each(line),
        Mode::Web => serve_web(),
        _ => unsupported(),
    }
}

fn serve_each(handle: fn(TcpStream) -> io::Result<()>) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce(listener.local_addr()?)?;
    for stream in listener.incoming() {
        let stream = stream?;
        may::go!(move || {
            // A peer that resets its connection harms no other.
            let _ = handle(stream);
        });
    }
    Ok(())
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // The buffer is not on the stack: a coroutine has little, and may's own example does the same.
    let mut buffer = vec![0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count])?;
    }
}

fn line(stream: TcpStream) -> io::Result<()> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream);
    reader.read_until(b'\n', &mut line)?;
    reader.get_mut().write_all(&line)
}

fn serve_web() -> io::Result<()> {
    // may_minihttp does not say which port it has been given, so it is given one that was free.
    let address = net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let server = Hello.start(address)?;
    announce(address)?;
    server.join().map_err(|_| io::Error::other("the server has ended"))
}
