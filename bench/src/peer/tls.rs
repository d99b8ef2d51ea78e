//! A std thread for each connection, with rustls above std's socket and nothing else: what any server with threads and
//! rustls costs at least.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{GREETING, Mode, announce};
use crate::tls::server_config;

pub fn serve(mode: Mode) -> io::Result<()> {
    let config = server_config()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce(listener.local_addr()?)?;
    for stream in listener.incoming() {
        let (stream, config) = (stream?, Arc::clone(&config));
        thread::spawn(move || {
            // A peer that resets its connection harms no other.
            let _ = match mode {
                Mode::TlsEcho => echo(stream, config),
                _ => line(stream, config),
            };
        });
    }
    Ok(())
}

fn session(
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> io::Result<StreamOwned<ServerConnection, TcpStream>> {
    stream.set_nodelay(true)?;
    let tls = ServerConnection::new(config).map_err(io::Error::other)?;
    Ok(StreamOwned::new(tls, stream))
}

fn echo(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
    let mut stream = session(stream, config)?;
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count])?;
        stream.flush()?;
    }
}

fn line(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
    let mut stream = session(stream, config)?;
    // The handshake is completed first: otherwise the line would leave before the client's last message has come.
    stream.conn.complete_io(&mut stream.sock)?;
    stream.write_all(GREETING)?;
    stream.conn.send_close_notify();
    stream.flush()
}
