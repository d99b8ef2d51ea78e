//! tokio: a task for each connection. The chat is that of tokio's own examples: a channel for each
//! member, and each line written by itself.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_rustls::TlsAcceptor;

use super::{GREETING, Mode, announce};
use crate::tls::server_config;

pub fn serve(mode: Mode, threads: bool) -> io::Result<()> {
    let mut builder =
        if threads { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    let runtime = builder.enable_io().build()?;
    // The accepting task is spawned, because `block_on` would keep it off the workers.
    let task = runtime.spawn(async move {
        match mode {
            Mode::Datagram => datagrams().await,
            Mode::TlsEcho | Mode::TlsLine => tls(mode).await,
            _ => streams(mode).await,
        }
    });
    runtime.block_on(task)?
}

async fn streams(mode: Mode) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(listener.local_addr()?)?;
    let room = Arc::new(Room::default());
    for number in 0.. {
        let (stream, _) = listener.accept().await?;
        // A peer that resets its connection harms no other.
        match mode {
            Mode::Echo => drop(tokio::spawn(echo(stream))),
            Mode::Line => drop(tokio::spawn(line(stream))),
            Mode::Sink => drop(tokio::spawn(sink(stream))),
            _ => drop(tokio::spawn(chat(stream, Arc::clone(&room), number))),
        }
    }
    Ok(())
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

async fn line(mut stream: TcpStream) -> io::Result<()> {
    let mut line = Vec::new();
    BufReader::new(&mut stream).read_until(b'\n', &mut line).await?;
    stream.write_all(&line).await
}

async fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 65_536];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.write_all(format!("{total}\n").as_bytes()).await,
            count => total += count,
        }
    }
}

async fn tls(mode: Mode) -> io::Result<()> {
    let acceptor = TlsAcceptor::from(server_config()?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        // A peer that resets its connection harms no other.
        match mode {
            Mode::TlsEcho => drop(tokio::spawn(tls_echo(stream, acceptor))),
            _ => drop(tokio::spawn(tls_line(stream, acceptor))),
        }
    }
}

async fn tls_echo(stream: TcpStream, acceptor: TlsAcceptor) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
        // tokio-rustls may keep what it could not send at once.
        stream.flush().await?;
    }
}

async fn tls_line(stream: TcpStream, acceptor: TlsAcceptor) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    stream.write_all(GREETING).await?;
    stream.shutdown().await
}

async fn datagrams() -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    announce(socket.local_addr()?)?;
    let mut buffer = [0; 2048];
    loop {
        let (count, from) = socket.recv_from(&mut buffer).await?;
        socket.send_to(&buffer[..count], from).await?;
    }
}

type Line = Arc<[u8]>;

/// The members by number.
#[derive(Default)]
struct Room(Mutex<HashMap<usize, UnboundedSender<Line>>>);

async fn chat(stream: TcpStream, room: Arc<Room>, number: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let (sender, lines) = unbounded_channel();
    room.0.lock().unwrap().insert(number, sender);
    tokio::spawn(deliver(writer, lines));
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).await? > 0 {
        let shared: Line = line.as_slice().into();
        for (&member, sender) in &*room.0.lock().unwrap() {
            if member != number {
                // An error is ignored: the task of a member that is gone removes it.
                let _ = sender.send(Arc::clone(&shared));
            }
        }
        line.clear();
    }
    room.0.lock().unwrap().remove(&number);
    Ok(())
}

async fn deliver(mut writer: OwnedWriteHalf, mut lines: UnboundedReceiver<Line>) -> io::Result<()> {
    while let Some(line) = lines.recv().await {
        writer.write_all(&line).await?;
    }
    Ok(())
}
