//! A standard error that nobody reads stops no server: reports are lost, counted, and never waited for.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::fcntl_getfl;
use rustix::stdio::dup2_stderr;
use socketserver::{Console, Mixin, Pool, StreamRequest, TcpServer, Threading, stream_fn};

use crate::support::{alone, connect, exchange, fill, inet, read_to_end, soon};

/// Has a server fail and warn with a standard error that is full, and then reads what is there.
fn nothing_waits<M: Mixin + 'static>(
    mixin: M,
    ours: impl Into<OwnedFd>,
    reader: impl Into<OwnedFd>,
) {
    let (ours, reader) = (ours.into(), reader.into());
    let before = io::stderr().as_fd().try_clone_to_owned().unwrap();
    let filled = fill(&ours);
    let mode = fcntl_getfl(&ours).unwrap();
    dup2_stderr(&ours).unwrap();
    // Whoever prints waits inside this lock; a report does not ask for it.
    let held = io::stderr().lock();
    soon("a server whose stderr is full serves", move || {
        let server = TcpServer::builder()
            .mixin(mixin)
            .bind(
                "127.0.0.1:0",
                stream_fn(|request: &mut StreamRequest| {
                    let mut line = String::new();
                    match request.next_line(&mut line)? {
                        Some("fail") => Err("as it was told to".into()),
                        text => Ok(writeln!(request, "{}", text.unwrap_or_default())?),
                    }
                }),
            )
            .unwrap()
            .serve_in_background()
            .unwrap();
        for _ in 0..50 {
            let mut client = connect(inet(&*server));
            client.write_all(b"fail\n").unwrap();
            assert_eq!(read_to_end(&mut client), b"");
        }
        assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
    });
    drop(held);
    // The reader is back, and one thing more is said.
    let reading = std::thread::spawn(move || {
        let mut all = vec![0; filled];
        let mut reader = std::fs::File::from(reader);
        reader.read_exact(&mut all).unwrap();
        assert!(all.iter().all(|byte| *byte == b'.'));
        reader
    });
    let mut reader = reading.join().unwrap();
    assert!(Console::Stderr.tell("here again\n"));
    assert_eq!(fcntl_getfl(&ours).unwrap(), mode, "the mode is shared, and was changed");
    dup2_stderr(&before).unwrap();
    drop(ours);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "(50 texts before this one are lost: nobody read them)\nhere again\n");
}

#[test]
fn inline_serves_on_when_nobody_reads_a_pipe() {
    alone("unread_stderr::inline_serves_on_when_nobody_reads_a_pipe", || {
        let (reader, writer) = io::pipe().unwrap();
        nothing_waits(socketserver::Inline, writer, reader);
    });
}

#[test]
fn a_pool_serves_on_when_nobody_reads_a_socket() {
    alone("unread_stderr::a_pool_serves_on_when_nobody_reads_a_socket", || {
        let (reader, writer) = UnixStream::pair().unwrap();
        nothing_waits(Pool::new(2), writer, reader);
    });
}

#[test]
fn threads_serve_on_when_nobody_reads_a_pipe() {
    alone("unread_stderr::threads_serve_on_when_nobody_reads_a_pipe", || {
        let (reader, writer) = io::pipe().unwrap();
        nothing_waits(Threading::new().max_threads(4), writer, reader);
    });
}
