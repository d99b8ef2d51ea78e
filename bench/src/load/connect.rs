//! Many connections to a server, all of which it is known to have accepted.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::interrupt;

/// The number of connections after which the load checks that the server has accepted all of them. It is below the
/// shortest backlog of any server, because connections beyond the backlog are lost silently.
const WAVE: usize = 64;
/// How long the answer may take: the server may have to start a thread for each connection of the wave.
const ANSWER: Duration = Duration::from_secs(10);

/// Opens connections to a server in echo mode. Queues are first come, first served, so that an echo
/// over the last of a wave says that the others are accepted, too.
pub fn connect_all(address: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    for number in 1..=count {
        let stream = connect(address)?;
        if number % WAVE == 0 || number == count {
            interrupt::check()?;
            ask(&stream)?;
        }
        streams.push(stream);
    }
    Ok(streams)
}

/// One connection, without Nagle's algorithm.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn ask(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}
