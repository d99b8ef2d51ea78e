//! A descriptor that every poll says is ready, and that nothing can be had from, keeps no processor busy.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socketserver::{
    Builder, DatagramRequest, HandlerResult, Inline, Outbox, ServerHooks, StreamRequest, TcpServer,
    Threading, Udp, datagram_fn, stream_fn,
};

use crate::support::system::{processor_seconds, set_option};
use crate::support::{SOON, alone, connect, eventually, inet};

/// Half a second in which nothing happens takes the process next to no time of a processor; a loop that spins takes all
/// that it can get, and on a busy machine still more than this.
fn rests() {
    let before = processor_seconds();
    thread::sleep(Duration::from_millis(500));
    let used = processor_seconds() - before;
    assert!(used < 0.05, "{used} s of processor time");
}

/// ICMP's errors are queued at the socket, by an option that the user has set.
struct QueuesErrors;

impl<R> ServerHooks<R> for QueuesErrors {
    fn before_bind(&self, socket: BorrowedFd<'_>) -> std::io::Result<()> {
        set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)
    }
}

#[test]
fn a_queue_of_errors_does_not_have_the_loop_spin() {
    alone("spins::a_queue_of_errors_does_not_have_the_loop_spin", || {
        let handler = datagram_fn(|request: &mut DatagramRequest| {
            // Its sender is gone by then.
            thread::sleep(Duration::from_millis(20));
            request.reply(b"late")?;
            Ok(())
        });
        let server = Builder::<Udp, _>::new(Inline).hooks(QueuesErrors);
        let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
        for _ in 0..5 {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"?", inet(&*server)).unwrap();
        }
        eventually("all are served", || server.context().counts().ended() == 5);
        rests();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        client.send_to(b"?", inet(&*server)).unwrap();
        assert_eq!(client.recv(&mut [0; 8]).unwrap(), 4);
    });
}

/// Each acknowledgement leaves a timestamp in the connection's queue of errors, and nobody fetches them.
fn leaves_timestamps(request: &StreamRequest) {
    const TX_SCHED_AND_ACK: i32 = 1 << 8 | 1 << 9;
    const SOFTWARE_IDS_WITHOUT_DATA: i32 = 1 << 4 | 1 << 7 | 1 << 11;
    let flags = TX_SCHED_AND_ACK | SOFTWARE_IDS_WITHOUT_DATA;
    let fd = request.fileno().unwrap();
    set_option(&fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, flags).unwrap();
}

/// More than the buffers between the two hold.
const MUCH: usize = 64 * 1024 * 1024;

#[test]
fn a_write_that_waits_does_not_spin() {
    alone("spins::a_write_that_waits_does_not_spin", || {
        let begun = Arc::new(AtomicBool::new(false));
        let writes = Arc::clone(&begun);
        let handler = stream_fn(move |request: &mut StreamRequest| -> HandlerResult {
            leaves_timestamps(request);
            request.write_all(b"one byte at least")?;
            writes.store(true, Ordering::SeqCst);
            request.write_all(&vec![b'x'; MUCH])?;
            Ok(())
        });
        let server = TcpServer::builder().mixin(Threading::new()).bind("127.0.0.1:0", handler);
        let server = server.unwrap().serve_in_background().unwrap();
        let client = connect(inet(&*server));
        eventually("it writes", || begun.load(Ordering::SeqCst));
        thread::sleep(Duration::from_millis(200));
        rests();
        drop(client);
    });
}

#[test]
fn an_outbox_that_waits_does_not_spin() {
    alone("spins::an_outbox_that_waits_does_not_spin", || {
        let boxes: Arc<Mutex<Vec<Outbox>>> = Arc::default();
        let members = Arc::clone(&boxes);
        let handler = stream_fn(move |request: &mut StreamRequest| -> HandlerResult {
            leaves_timestamps(request);
            members.lock().unwrap().push(request.outbox()?);
            request.next_line(&mut String::new())?;
            Ok(())
        });
        let server = TcpServer::builder().mixin(Threading::new()).bind("127.0.0.1:0", handler);
        let server = server.unwrap().serve_in_background().unwrap();
        let client = connect(inet(&*server));
        eventually("it is a member", || !boxes.lock().unwrap().is_empty());
        let outbox = boxes.lock().unwrap()[0].clone();
        eventually("it is full", || outbox.send([b'x'; 60_000]).is_err());
        thread::sleep(Duration::from_millis(200));
        rests();
        drop(client);
    });
}

#[test]
fn a_lingering_close_does_not_spin() {
    alone("spins::a_lingering_close_does_not_spin", || {
        let handler = stream_fn(|request: &mut StreamRequest| -> HandlerResult {
            leaves_timestamps(request);
            request.read_exact(&mut [0; 1])?;
            request.write_all(b"no, thank you")?;
            Ok(())
        });
        let server = TcpServer::builder().mixin(Threading::new()).bind("127.0.0.1:0", handler);
        let server = server.unwrap().serve_in_background().unwrap();
        let mut client = connect(inet(&*server));
        client.write_all(&[b'x'; 100_000]).unwrap();
        eventually("it has ended", || server.context().counts().ended() == 1);
        let mut answer = [0; 13];
        client.read_exact(&mut answer).unwrap();
        rests();
    });
}
