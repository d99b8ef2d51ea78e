//! A SOCKS5 relay (CONNECT, without a login): `cargo run -p socketserver --example relay -- threading`. The words are
//! threading, forking, pool and green; the handler is the same text under each.
//!
//! Try it with any server: `curl --socks5-hostname 127.0.0.1:1080 http://localhost:8000/`, or
//! `nc -X 5 -x 127.0.0.1:1080 localhost 8000`. It connects wherever its clients ask, so it listens on this machine alone.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::{env, time::Duration};

use socketserver::mixin::Mixin;
use socketserver::outgoing::{HalfClose, connect};
use socketserver::transport::Tcp;
use socketserver::{Builder, Forking, Green, Pool, Threading};
use socketserver::{HandlerResult, StreamRequest, join, stream_fn};

fn relay(request: &mut StreamRequest) -> HandlerResult {
    request.deadline_in(Duration::from_secs(30));
    let ([version, count], mut methods) = (read(request)?, [0; 255]);
    if version != 5 {
        return Err(request.garbled("this is no SOCKS5").into());
    }
    request.read_exact(&mut methods[..count.into()])?;
    if !methods[..count.into()].contains(&0) {
        return Ok(request.write_all(&[5, 0xff])?); // Every method that the client offers is a login.
    }
    request.write_all(&[5, 0])?;
    let [_version, command, _reserved, kind] = read(request)?;
    let host = match kind {
        1 => Ipv4Addr::from(read::<4>(request)?).to_string(),
        4 => Ipv6Addr::from(read::<16>(request)?).to_string(),
        3 => {
            let ([length], mut name) = (read(request)?, [0; 255]);
            request.read_exact(&mut name[..length.into()])?;
            String::from_utf8(name[..length.into()].to_vec())
                .map_err(|error| request.garbled(error))?
        }
        _ => return answer(request, 8),
    };
    let port = u16::from_be_bytes(read(request)?);
    if command != 1 {
        return answer(request, 7);
    }
    let mut upstream = match connect((host, port), Duration::from_secs(10)) {
        Ok(upstream) => upstream,
        Err(error) => return answer(request, refusal(error.kind())),
    };
    answer(request, 0)?;
    request.deadline_in(None);
    request.end_together(&upstream);
    let (mut from_client, mut to_client) = request.split()?;
    let (from_server, to_server) = upstream.split();
    let (up, down) =
        join(|| pump(&mut from_client, to_server), || pump(from_server, &mut to_client))?;
    // If one direction fails, the relay closes the other one, whose error then says nothing new.
    let was_closed = up.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionAborted);
    Ok(if was_closed { down } else { up.and(down) }?)
}

/// Passes on all input, and then its end. A failure ends both connections, so that the other direction ends as well.
fn pump(from: &mut impl Read, to: &mut impl HalfClose) -> io::Result<()> {
    let moved = io::copy(from, to).and_then(|_count| to.shutdown_write());
    moved.inspect_err(|_error| to.close())
}

fn read<const N: usize>(request: &mut StreamRequest) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    request.read_exact(&mut bytes).map(|()| bytes)
}

/// Sends a reply with this code. The reply names 0.0.0.0:0 in place of the relay's own address.
fn answer(request: &mut StreamRequest, code: u8) -> HandlerResult {
    Ok(request.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0])?)
}

fn refusal(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::ConnectionRefused => 5,
        ErrorKind::NetworkUnreachable => 3,
        ErrorKind::TimedOut | ErrorKind::HostUnreachable => 4,
        _ => 1,
    }
}

fn main() -> socketserver::Result<()> {
    let word = env::args().nth(1).unwrap_or("threading".to_owned());
    let address = env::args().nth(2).unwrap_or("127.0.0.1:1080".to_owned());
    let mixin: Box<dyn Mixin> = match word.as_str() {
        "forking" => Box::new(Forking::new()),
        "pool" => Box::new(Pool::new(4)),
        "green" => Box::new(Green::new()),
        _ => Box::new(Threading::new()),
    };
    let server = Builder::<Tcp, _>::new(mixin).bind(address, stream_fn(relay))?;
    println!("listening on {}", server.server_address());
    server.run()?;
    Ok(())
}
