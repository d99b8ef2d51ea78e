//! Handlers that fork by themselves, while other threads of the server hold locks and have work in hand. The child has a copy
//! of its handler's thread alone; all other threads, requests and due bytes are its parent's.

#![allow(unsafe_code, reason = "std does not fork")]

use std::io::{self, Write};
use std::net::UdpSocket;
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, WaitOptions, waitpid};
use socketserver::mixin::Mixin;
use socketserver::park::sleep;
use socketserver::request::OutboxError;
use socketserver::{
    HandlerResult, Outbox, Pool, StreamRequest, TcpServer, Threading, UdpServer, datagram_fn,
    offload, stream_fn,
};

use crate::support::{SOON, alone, connect, exchange, inet, read_line};

/// Forks. Returns the child's number in the parent, and `None` in the child.
pub fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: glibc keeps its own locks in order over a fork. The child uses no lock that another thread of these tests
    // holds, and ends by `_exit`, here or in the library.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        child => Ok(Pid::from_raw(child)),
    }
}

/// Ends this process, a child, at once.
pub fn exit_now() -> ! {
    // SAFETY: it may be called anywhere.
    unsafe { libc::_exit(0) }
}

/// Waits for a child's end. Under `Green` only the handler's coroutine waits.
pub fn status_of(child: Pid) -> io::Result<Option<i32>> {
    let ended = offload(move || waitpid(Some(child), WaitOptions::empty()))??;
    Ok(ended.and_then(|(_, status)| status.exit_status()))
}

/// Sends by an outbox from before the fork, which fails, and by a new one.
fn send_in_child(request: &mut StreamRequest, before: &Outbox) -> io::Result<()> {
    if before.send("twice\n") != Err(OutboxError::Closed) || before.waiting_bytes() != 0 {
        exit(1);
    }
    request.write_all(b"from the child\n")?;
    let own = request.outbox()?;
    own.send("by its outbox\n").map_err(io::Error::other)
}

fn a_child_sends_by_an_outbox_of_its_own<M: Mixin + 'static>(mixin: M) {
    // Others send to these clients all the time, so that the lock of the writer's inbox is seldom free.
    let members: Mutex<Vec<Outbox>> = Mutex::default();
    let handler = stream_fn(move |request: &mut StreamRequest| -> HandlerResult {
        let outbox = request.outbox()?;
        let mut line = String::new();
        while let Some(text) = request.next_line(&mut line)? {
            match text {
                "join" => members.lock().push(outbox.clone()),
                "fork" => match fork()? {
                    Some(child) => {
                        let status = status_of(child)?;
                        writeln!(request, "{status:?}")?;
                    }
                    None => return Ok(send_in_child(request, &outbox)?),
                },
                _ => members.lock().iter().for_each(|member| _ = member.send("news\n")),
            }
            writeln!(request, "done")?;
        }
        Ok(())
    });
    let server = TcpServer::builder().mixin(mixin).observer(|_| {}).bind("127.0.0.1:0", handler);
    let server = server.unwrap().serve_in_background().unwrap();
    let is_over = AtomicBool::new(false);
    let address = inet(&*server);
    thread::scope(|scope| {
        let mut member = connect(address);
        assert_eq!(exchange(&mut member, "join"), "done\n");
        scope.spawn(move || while read_line(&mut member) == "news\n" {});
        let sends: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = connect(address);
                    while !is_over.load(Ordering::SeqCst) {
                        assert_eq!(exchange(&mut client, "tell"), "done\n");
                    }
                })
            })
            .collect();
        for _ in 0..20 {
            let mut client = connect(address);
            assert_eq!(exchange(&mut client, "fork"), "from the child\n");
            assert_eq!(read_line(&mut client), "by its outbox\n");
            assert_eq!(read_line(&mut client), "Some(0)\n");
            assert_eq!(read_line(&mut client), "done\n");
        }
        is_over.store(true, Ordering::SeqCst);
        sends.into_iter().for_each(|thread| thread.join().unwrap());
        server.stop().unwrap();
    });
}

#[test]
fn the_child_of_a_handler_sends_by_an_outbox_of_its_own() {
    alone("forks::the_child_of_a_handler_sends_by_an_outbox_of_its_own", || {
        a_child_sends_by_an_outbox_of_its_own(Threading::new());
        a_child_sends_by_an_outbox_of_its_own(Pool::new(8));
        #[cfg(has_green)]
        a_child_sends_by_an_outbox_of_its_own(socketserver::Green::new().workers(2));
    });
}

#[test]
fn a_reply_of_before_a_fork_leaves_once() {
    alone("forks::a_reply_of_before_a_fork_leaves_once", || {
        let handler = datagram_fn(|request| {
            request.reply(b"once")?;
            match fork()? {
                Some(child) => assert_eq!(status_of(child)?, Some(0)),
                // The child waits, and then returns: either would send the replies that the thread has deferred.
                None => sleep(Duration::from_millis(1)),
            }
            request.reply(b"the end")?;
            Ok(())
        });
        let server = UdpServer::builder().mixin(Threading::new()).bind("127.0.0.1:0", handler);
        let server = server.unwrap().serve_in_background().unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        client.connect(inet(&*server)).unwrap();
        client.send(b"fork").unwrap();
        let mut replies = Vec::new();
        while replies.last().is_none_or(|last| last != b"the end") {
            let mut reply = [0; 16];
            let count = client.recv(&mut reply).unwrap();
            replies.push(reply[..count].to_vec());
        }
        assert_eq!(replies, [&b"once"[..], b"the end"]);
        server.stop().unwrap();
    });
}
