//! A server with an unread standard error goes on: reports are dropped, counted, and never waited for.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::fs::fcntl_getfl;
use rustix::stdio::dup2_stderr;
use socketserver::mixin::Mixin;
use socketserver::monitor::Console;
use socketserver::{Pool, StreamRequest, TcpServer, Threading, stream_fn};

use crate::support::system::{limit_descriptors, terminal};
use crate::support::{SOON, alone, connect, eventually, exchange, fill, inet, read_to_end, soon};

/// Makes a server fail and warn while its standard error is full, and then reads it.
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
    // A thread that prints waits inside this lock; a report does not take it.
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
    // The reader is back, and one thing more is reported.
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

/// A lack of descriptors is one of the things that a server reports.
#[test]
fn a_terminal_that_nobody_reads_is_not_waited_for_out_of_descriptors_and_takes_what_fits() {
    let name = "unread_stderr::\
        a_terminal_that_nobody_reads_is_not_waited_for_out_of_descriptors_and_takes_what_fits";
    alone(name, || {
        let (user, ours) = terminal();
        let mut user = std::fs::File::from(user);
        let before = io::stderr().as_fd().try_clone_to_owned().unwrap();
        dup2_stderr(&ours).unwrap();
        let _server =
            TcpServer::bind("127.0.0.1:0", stream_fn(|_: &mut StreamRequest| Ok(()))).unwrap();
        let filled = fill(&ours);
        // There is some room again, but not for a whole text.
        user.read_exact(&mut vec![0; filled.min(2_000)]).unwrap();
        limit_descriptors(3);
        let (say, said) = channel();
        thread::spawn(move || {
            let text = format!("{}\n", "x".repeat(3_000));
            (0..60).for_each(|_| say.send(Console::Stderr.tell(&text)).unwrap());
        });
        let mut told = Vec::new();
        while told.len() < 60 && told.last().is_none_or(Result::is_ok) {
            told.push(said.recv_timeout(SOON));
        }
        // From here on stderr is read.
        let read: Arc<Mutex<Vec<u8>>> = Arc::default();
        let reading = Arc::clone(&read);
        thread::spawn(move || {
            let mut some = [0; 4_096];
            while let Ok(count @ 1..) = user.read(&mut some) {
                reading.lock().unwrap().extend_from_slice(&some[..count]);
            }
        });
        let mut last = false;
        for _ in 0..1_000 {
            last = Console::Stderr.tell("here again\n");
            if last {
                break;
            }
            thread::sleep(std::time::Duration::from_millis(10));
        }
        // Output of a test is visible from here on.
        dup2_stderr(&before).unwrap();
        assert!(told.iter().all(Result::is_ok), "a text waits for the reader");
        assert!(told.contains(&Ok(false)), "everything fits");
        assert!(last, "nothing is said");
        eventually("it arrives", || {
            String::from_utf8_lossy(&read.lock().unwrap()).contains("here again")
        });
    });
}
