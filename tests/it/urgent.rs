//! Urgent bytes: telnet's Ctrl-C, FTP's ABOR. They are received like other bytes, and turn no end into a reset.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use socket2::SockRef;
use socketserver::transport::{Bind, Transport};
use socketserver::{
    BackgroundServer, Limits, Server, StreamRequest, Threading, ThreadingTcpServer, stream_fn,
};

use crate::handlers::Echo;
use crate::support::{SOON, connect, folder, hear, inet, read_line, read_to_end, skip};

/// How often each end is tried: without SO_OOBINLINE nearly all of them are resets.
const TIMES: usize = 20;

fn send_urgent(stream: &impl AsFd, bytes: &[u8]) -> std::io::Result<()> {
    let sent = SockRef::from(stream).send_out_of_band(bytes)?;
    assert_eq!(sent, bytes.len());
    Ok(())
}

/// A server that answers one line of each client, when the test says that all has been sent.
fn answers_late<T>(address: &str) -> (BackgroundServer<T, Threading>, Sender<()>)
where
    T: Bind + Transport<Request = StreamRequest>,
{
    let (release, released) = channel();
    let released = Mutex::new(released);
    let handler = stream_fn(move |request| {
        let _ = hear(&released);
        let mut line = String::new();
        request.next_line(&mut line)?;
        Ok(writeln!(request, "{line}")?)
    });
    // The close lingers for so long that no peer notices its end.
    let limits = Limits::default().linger(SOON);
    let server = Server::<T, Threading>::builder().limits(limits).bind(address, handler).unwrap();
    (server.serve_in_background().unwrap(), release)
}

#[test]
fn an_urgent_byte_that_nobody_reads_leaves_the_end_in_order() {
    let (server, release) = answers_late::<socketserver::transport::Tcp>("127.0.0.1:0");
    for behind in [&b""[..], b"behind the mark\n"] {
        for _ in 0..TIMES {
            let mut client = connect(inet(&*server));
            client.write_all(b"one\n").unwrap();
            send_urgent(&client, b"!").unwrap();
            client.write_all(behind).unwrap();
            release.send(()).unwrap();
            assert_eq!(read_to_end(&mut client), b"one\n");
        }
    }
    server.stop().unwrap();
}

#[test]
fn the_same_over_a_unix_socket() {
    let folder = folder();
    let path = folder.path().join("s");
    let (server, release) =
        answers_late::<socketserver::transport::UnixStream>(path.to_str().expect("a plain path"));
    for _ in 0..TIMES {
        let mut client = UnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        client.write_all(b"one\n").unwrap();
        let sent = send_urgent(&client, b"!");
        release.send(()).unwrap();
        if let Err(error) = sent {
            skip(&format!("Unix sockets know no urgent bytes here: {error}"));
            break;
        }
        assert_eq!(read_to_end(&mut client), b"one\n");
    }
    server.stop().unwrap();
}

#[test]
fn an_urgent_byte_stands_in_the_line_where_it_was_sent() {
    let server = ThreadingTcpServer::bind("127.0.0.1:0", || Echo).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    client.write_all(b"AB").unwrap();
    send_urgent(&client, b"O").unwrap();
    client.write_all(b"R\nnext\n").unwrap();
    assert_eq!(
        (read_line(&mut client), read_line(&mut client)),
        ("ABOR\n".into(), "next\n".into())
    );
    // An urgent byte may also be the last one of a line.
    client.write_all(b"last").unwrap();
    send_urgent(&client, b"\n").unwrap();
    assert_eq!(read_line(&mut client), "last\n");
    server.stop().unwrap();
}
