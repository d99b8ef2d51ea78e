//! A descriptor that every poll reports as ready, although nothing can be read from it, keeps no processor busy.

use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use socketserver::mixin::Mixin;
use socketserver::monitor::AcceptOutcome;
use socketserver::transport::{Bind, Tcp, Transport, Udp};
use socketserver::{
    Address, Builder, DatagramRequest, HandlerResult, Inline, Outbox, Pool, ServerHooks,
    SocketOptions, StreamRequest, TcpServer, Threading, datagram_fn, stream_fn,
};

use crate::over_tcp::{leave_connections_to_tcp, leave_to_tcp};
use crate::support::system::{processor_seconds, set_option};
use crate::support::{alone, connect, eventually, exchange, inet, receive, udp_client};

/// Asserts that `wait`, in which nothing happens for half a second, takes the process next to no time of a processor. A
/// loop that spins takes all the time that it can get, which even on a busy machine is more than the bound here.
fn rests_while(wait: impl FnOnce()) {
    let before = processor_seconds();
    wait();
    let used = processor_seconds() - before;
    assert!(used < 0.05, "{used} s of processor time");
}

/// Asserts that the process rests for half a second.
pub fn rests() {
    rests_while(|| thread::sleep(Duration::from_millis(500)));
}

/// Queues ICMP's errors at the socket, by an option that a user may set.
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
            // The sender of the datagram has ended by then.
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
        let client = udp_client();
        client.send_to(b"?", inet(&*server)).unwrap();
        assert_eq!(receive(&client).len(), 4);
    });
}

/// Makes each acknowledgement leave a timestamp in the connection's error queue. The handler reads none of them.
fn leaves_timestamps(request: &StreamRequest) {
    const TX_SCHED_AND_ACK: i32 = 1 << 8 | 1 << 9;
    const SOFTWARE_IDS_WITHOUT_DATA: i32 = 1 << 4 | 1 << 7 | 1 << 11;
    let flags = TX_SCHED_AND_ACK | SOFTWARE_IDS_WITHOUT_DATA;
    let fd = request.fileno().unwrap();
    set_option(&fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, flags).unwrap();
}

/// More than the buffers of both ends hold.
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

/// Leaves its clients in the listener's queue for a time, while poll reports them.
struct Shy {
    inner: Tcp,
    shy: Arc<AtomicBool>,
    /// The threads that have accepted a client.
    accepted: Arc<Mutex<Vec<ThreadId>>>,
}

impl Transport for Shy {
    leave_to_tcp!();
    leave_connections_to_tcp!();

    fn get_request(&self) -> io::Result<(Self::Raw, Address)> {
        if self.shy.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = self.inner.get_request()?;
        self.accepted.lock().unwrap().push(thread::current().id());
        Ok(taken)
    }

    fn waits_first(&self) -> bool {
        true
    }
}

fn a_client_that_is_not_taken_rests<M: Mixin + 'static>(mixin: M, workers_accept: bool) {
    let (shy, accepted) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let inner = Tcp::unbound(&"127.0.0.1:0".into(), &SocketOptions::default()).unwrap();
    let transport = Shy { inner, shy: Arc::clone(&shy), accepted: Arc::clone(&accepted) };
    let server = Builder::<Shy, M>::new(mixin);
    let server = server.with_transport(
        transport,
        stream_fn(|request: &mut StreamRequest| {
            let mut line = String::new();
            request.next_line(&mut line)?;
            Ok(writeln!(request, "{line}")?)
        }),
    );
    let server = server.unwrap().serve_in_background().unwrap();
    let ask = || assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
    eventually("it is accepted where it is to be", || {
        ask();
        let accepted = accepted.lock().unwrap();
        !workers_accept || accepted.first() != accepted.last()
    });
    eventually("all have ended", || server.context().live_count() == 0);
    // The thread that waits for the next request does so by now.
    thread::sleep(Duration::from_millis(200));
    shy.store(true, Ordering::SeqCst);
    let mut waits = connect(inet(&*server));
    rests();
    shy.store(false, Ordering::SeqCst);
    assert_eq!(exchange(&mut waits, "still here"), "still here\n");
    // Clients are accepted as before.
    eventually("it is accepted where it is to be again", || {
        ask();
        let accepted = accepted.lock().unwrap();
        !workers_accept || accepted.first() != accepted.last()
    });
}

#[test]
fn a_client_that_is_not_taken_does_not_have_the_loop_spin() {
    alone("spins::a_client_that_is_not_taken_does_not_have_the_loop_spin", || {
        a_client_that_is_not_taken_rests(Inline, false);
    });
}

#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn a_client_that_is_not_taken_does_not_have_a_worker_spin_threading() {
    alone("spins::a_client_that_is_not_taken_does_not_have_a_worker_spin_threading", || {
        a_client_that_is_not_taken_rests(Threading::new(), true);
    });
}

#[test]
fn a_client_that_is_not_taken_does_not_have_a_worker_spin_pool() {
    alone("spins::a_client_that_is_not_taken_does_not_have_a_worker_spin_pool", || {
        a_client_that_is_not_taken_rests(Pool::new(2), true);
    });
}

#[test]
fn a_handle_request_whose_clients_others_take_waits_until_its_timeout_and_does_not_spin() {
    let name =
        "a_handle_request_whose_clients_others_take_waits_until_its_timeout_and_does_not_spin";
    alone(&format!("spins::{name}"), || {
        const TIMEOUT: Duration = Duration::from_millis(500);
        let shy = Arc::new(AtomicBool::new(true));
        let inner = Tcp::unbound(&"127.0.0.1:0".into(), &SocketOptions::default()).unwrap();
        let transport = Shy { inner, shy: Arc::clone(&shy), accepted: Arc::default() };
        let server = Builder::<Shy, _>::new(Inline).timeout(TIMEOUT);
        let server = server.with_transport(transport, stream_fn(|_request| Ok(()))).unwrap();
        let _waits = connect(inet(&server));
        rests_while(|| {
            let began = Instant::now();
            assert_eq!(server.handle_request().unwrap(), AcceptOutcome::TimedOut);
            assert!(began.elapsed() >= TIMEOUT, "{:?}", began.elapsed());
        });
        assert_eq!(server.context().counts().accept_errors, 0);
        // A client that is left for this process is served after all.
        shy.store(false, Ordering::SeqCst);
        assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
    });
}
