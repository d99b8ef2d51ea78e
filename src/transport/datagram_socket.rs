//! A datagram socket, UDP or Unix: received in batches, replies gathered and sent in batches.
//!
//! ```text
//! accept loop                                        a worker (Threading, Pool, Forking)
//! get_request: the batch is empty
//!   flush()
//!   receive(): one recvmmsg, 64 at the most
//!   take one datagram ------------------------------> make_request, handle, reply(): sent at once
//!   Inline: handle, reply(): gathered while more
//!           of the batch waits ... the last: flush()
//! any wait of this thread: flush() comes first
//! ```
//!
//! **Invariants.** No lock is held across a wait. A reply is gathered only by the one thread that has promised to
//! flush before it waits (`wait::flush_before_waiting`), and only while more datagrams of the same batch have to be
//! handled. So no reply is late by more than the handlers of its batch. Gathered replies leave before any reply that
//! is sent at once.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::incoming_datagram::IncomingDatagram;
use super::reply_loop::ReplyLoopGuard;
use super::server_socket::ServerSocket;
use crate::address::Address;
use crate::process::OwnerProcess;
use crate::sys::peer_name::PeerName;
use crate::sys::recv_batch::{Destinations, RecvBatch};
use crate::sys::send_batch::{Gso, OutgoingDatagram, SendBatch, gso_of, send_batch};
use crate::wait::{self, Flush, Interest, Waiting};

/// The longest reply that is gathered. It is below every system's smallest limit on Unix datagrams (Linux: the send
/// buffer, at least 4,608 bytes), and above the packets of Ethernet.
const GATHERED_BYTES: usize = 2_048;

/// How many datagrams one system call receives or sends. Measured: 64 gain 4 to 6 % over one, and more gain nothing.
const BATCH: usize = 64;

/// If a handler takes longer than this, batches are pointless, and gathered replies are late.
const SLOW_HANDLER: Duration = Duration::from_millis(2);

/// After a slow handler, the replies to this many datagrams are not gathered.
const UNGATHERED_REPLIES: u32 = 256;

/// A datagram socket with its batches. None of its locks is held across a wait.
pub(super) struct DatagramSocket {
    /// The socket itself. A wait has a share of it, and no lock.
    pub(super) socket: ServerSocket,
    /// See [`bound_address`](Self::bound_address).
    bound: OnceLock<Address>,
    /// How many bytes of a datagram are kept at most. `RecvBatch` replaces zero by 1, and anything above 16 MiB by 16 MiB.
    max_packet_size: usize,
    /// Datagrams that were received and not taken yet. The queue outlives a run: nothing that was received is lost.
    queue: Mutex<ReceiveQueue>,
    /// The replies that wait to leave together. Locked to gather a reply, and to take all of them out for a flush, and
    /// never while they are sent.
    replies: Mutex<ReplyQueue>,
    /// Whether the server is closing, and receives nothing more.
    closing: AtomicBool,
    /// Whether the batch has more datagrams than the one that was taken last.
    batch_has_more: AtomicBool,
    /// How many more replies are sent without being gathered: see [`UNGATHERED_REPLIES`].
    ungathered: AtomicU32,
    /// Whether the kernel cuts bursts into datagrams. Found out with the first batch of replies.
    gso: OnceLock<Gso>,
}

/// Everything that a receive changes, under one lock.
#[derive(Default)]
struct ReceiveQueue {
    /// Made by the first receive, so that a server that is never run has no buffers.
    receiver: Option<RecvBatch>,
    /// Made together with the receiver.
    guard: Option<ReplyLoopGuard>,
    /// When the previous datagram of the batch was taken. None at the beginning of a batch, because the time before
    /// it is a wait and no handler's.
    last_taken: Option<Instant>,
    /// The process that has received the datagrams.
    owner: OwnerProcess,
}

impl ReceiveQueue {
    /// In a forked child: drops the datagrams that the parent has received before the fork, because the parent
    /// answers them.
    fn leave_to_parent(&mut self) {
        if !self.owner.is_noted() {
            self.owner.become_noted();
            self.receiver = None;
        }
    }

    /// Whether the next `get_request` has to receive.
    fn is_empty(&self) -> bool {
        self.receiver.as_ref().is_none_or(|receiver| receiver.len() == 0)
    }

    /// Whether the handler of the previous datagram was slow. A slow handler delays the gathered replies, so after one no
    /// reply is gathered for a while.
    fn was_slow(&mut self, now: Instant) -> bool {
        self.last_taken.replace(now).is_some_and(|last| now - last > SLOW_HANDLER)
    }
}

/// The replies that wait to leave together.
#[derive(Default)]
struct ReplyQueue {
    /// The gathered replies, in their order. A flush takes the batch out, and puts it back empty, which keeps its memory.
    gathered: SendBatch,
    /// The number of the thread that has promised to flush before it waits. Only this thread gathers.
    promised: Option<usize>,
}

impl DatagramSocket {
    /// `longest` is the length in bytes that no datagram of this transport exceeds.
    pub(super) fn new(socket: ServerSocket, longest: usize) -> Arc<Self> {
        Arc::new(Self {
            max_packet_size: socket.options.max_packet_size.min(longest),
            socket,
            bound: OnceLock::new(),
            queue: Mutex::default(),
            replies: Mutex::default(),
            closing: AtomicBool::new(false),
            batch_has_more: AtomicBool::new(false),
            ungathered: AtomicU32::new(0),
            gso: OnceLock::new(),
        })
    }

    /// Takes the next datagram of the batch, or receives a batch.
    ///
    /// Called by the loop, never waits for a datagram, and flushes gathered replies where they would become late:
    /// before a batch is received, and after a slow handler. `WouldBlock` if there is none.
    pub(super) fn get_request(self: &Arc<Self>) -> io::Result<Box<IncomingDatagram>> {
        let now = Instant::now();
        let (packet, slow) = {
            let mut queue = self.queue.lock();
            // In a forked child the rest of the batch is the parent's to answer.
            queue.leave_to_parent();
            (self.take_from(&mut queue, now), queue.was_slow(now))
        };
        // No lock is held from here on: a flush may wait for room.
        if slow {
            self.ungathered.store(UNGATHERED_REPLIES, Ordering::Relaxed);
        }
        // The clients of a batch get their answers before the next batch is received.
        if slow || packet.is_none() {
            self.flush();
        }
        match packet {
            Some(packet) => Ok(packet),
            None => self.receive(),
        }
    }

    /// Receives a batch, and takes its first datagram. `WouldBlock` if nothing has come, if all of it came from the
    /// server itself, or once the server closes.
    fn receive(self: &Arc<Self>) -> io::Result<Box<IncomingDatagram>> {
        let mut queue = self.queue.lock();
        // Another thread may have received a batch in the meantime.
        if queue.is_empty() {
            // Datagrams that come from here on stay in the kernel, and are lost with the socket.
            if self.closing.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            queue.last_taken = None;
            // The buffers are made with the first batch, because the socket is bound by then: its address says whether the
            // kernel has to tell destinations.
            let make = || {
                let is_any = self.bound_address().ip().is_some_and(|ip| ip.is_unspecified());
                let destinations = if is_any { Destinations::Told } else { Destinations::Unknown };
                RecvBatch::new(BATCH, self.max_packet_size, destinations)
            };
            let receiver = queue.receiver.get_or_insert_with(make);
            // The queue stays locked during the receive, but not across a wait: recvmmsg does not block.
            self.socket.with(|fd| receiver.receive(fd.as_fd()))?;
            queue.guard.get_or_insert_with(|| ReplyLoopGuard::new(self.socket.local_name()));
        }
        self.take_from(&mut queue, Instant::now()).ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    /// The next datagram of the batch that is not the server's own. None if the batch is empty.
    fn take_from(
        self: &Arc<Self>,
        queue: &mut ReceiveQueue,
        now: Instant,
    ) -> Option<Box<IncomingDatagram>> {
        let (receiver, guard) = (queue.receiver.as_mut()?, queue.guard.as_mut()?);
        let packet = loop {
            match receiver.take() {
                Some(received) if guard.is_from_self(&received) => {}
                Some(received) => break Some(IncomingDatagram::new(received, now, self)),
                None => break None,
            }
        };
        // This is for `reply`, which must not take the lock of the queue.
        self.batch_has_more.store(receiver.len() != 0, Ordering::Relaxed);
        packet
    }

    /// The address that the socket is bound to. The system is asked once, because the address does not change while
    /// datagrams arrive.
    pub(super) fn bound_address(&self) -> &Address {
        self.bound.get_or_init(|| self.socket.local_address().unwrap_or(Address::Unnamed))
    }

    /// Sends a reply, or gathers it in order to send it with others. It is gathered only in the loop, only while more
    /// datagrams of the same batch wait to be handled there, and only if it certainly fits, because the handler must
    /// get a "too long" error.
    pub(super) fn reply(self: &Arc<Self>, reply: OutgoingDatagram<'_>) -> io::Result<()> {
        // A worker has one datagram, so there is nothing to wait for.
        if !wait::is_in_loop() {
            return self.send(reply);
        }
        // Coroutines run when the loop has taken the whole batch, and their thread flushes when it has run all of them. To
        // a Unix socket they send at once: only over Unix sockets does a send tell the handler that the peer is gone or
        // does not read.
        let others_follow = wait::is_parked_here() && !matches!(reply.peer, PeerName::Other(_));
        let batch_has_more = self.batch_has_more.load(Ordering::Relaxed) || others_follow;
        // `may_gather` counts, so it is asked last.
        if reply.bytes.len() <= GATHERED_BYTES && self.may_gather() {
            if let Some(count) = self.gather(reply, batch_has_more) {
                if !batch_has_more || count >= BATCH {
                    self.flush();
                }
                return Ok(());
            }
        }
        // Replies leave in their order.
        self.flush();
        self.send(reply)
    }

    /// Gathers a reply, if this thread may and if another datagram follows. Returns how many replies are gathered.
    ///
    /// None: the reply has to be sent at once, after the gathered ones. The bytes are copied, so the handler may use its
    /// buffer again.
    fn gather(
        self: &Arc<Self>,
        reply: OutgoingDatagram<'_>,
        batch_has_more: bool,
    ) -> Option<usize> {
        let mut replies = self.replies.lock();
        // A batch of one gains nothing. If replies are gathered already, this reply follows them.
        if replies.gathered.len() == 0 && !batch_has_more {
            return None;
        }
        let me = wait::number_of_thread();
        if replies.promised.is_none() {
            // With the first reply of a batch this thread promises to flush. A thread without a `FlushPromise` cannot, and
            // sends at once.
            let flush: Arc<dyn Flush> = Arc::clone(self) as _;
            replies.promised = wait::flush_before_waiting(&flush).then_some(me);
        }
        // This thread has not promised to flush: it was refused, or another thread gathers. Only the thread that
        // gathers knows when it flushes.
        if replies.promised != Some(me) {
            return None;
        }
        replies.gathered.push(reply.peer.clone(), reply.local, reply.bytes);
        Some(replies.gathered.len())
    }

    /// Whether this reply may be gathered. Counts down the replies that are not gathered after a slow handler. Two threads
    /// that count at once may count one reply for two: the number is a guess anyway.
    fn may_gather(&self) -> bool {
        let ungathered = self.ungathered.load(Ordering::Relaxed);
        self.ungathered.store(ungathered.saturating_sub(1), Ordering::Relaxed);
        ungathered == 0
    }

    /// Sends one datagram. If the socket's buffer is full, it waits for room. Over a Unix socket it does not wait:
    /// there the receiver's queue is full, and the readiness of this socket says nothing about that.
    ///
    /// Called without a lock, on any thread. An error is that of the system, or `WouldBlock` after [`ROOM_WAIT`].
    pub(super) fn send(&self, outgoing: OutgoingDatagram<'_>) -> io::Result<()> {
        let Some(fd) = self.socket.fileno() else {
            // `LaterDatagram` gives this error a text for the program.
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        };
        let deadline = Instant::now() + ROOM_WAIT;
        loop {
            match outgoing.send(fd.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if matches!(outgoing.peer, PeerName::Other(_)) || Instant::now() >= deadline {
                        return Err(error);
                    }
                    let room = Waiting { fd: fd.as_fd(), interest: Interest::Write, slot: None };
                    // The wait may return early: the loop tries again.
                    wait::any(&[room], Some(deadline))?;
                }
                result => return result,
            }
        }
    }

    /// See [`Transport::refuse_new`](super::Transport::refuse_new). The rest of the batch is still handed out.
    pub(super) fn refuse_new(&self) -> bool {
        // The flag is set before the lock is taken. So a receive that has not seen the flag has put its batch into the queue
        // when this thread gets the lock.
        self.closing.store(true, Ordering::SeqCst);
        !self.queue.lock().is_empty()
    }

    /// Sends gathered replies and closes the socket, with its file.
    pub(super) fn server_close(&self) {
        self.flush();
        self.socket.server_close();
    }
}

/// How long a reply waits for room in the socket's buffer before it is lost. Other clients wait behind it.
const ROOM_WAIT: Duration = Duration::from_millis(100);

impl Flush for DatagramSocket {
    fn flush(&self) {
        // The replies are taken out under the lock and sent without it: a send may wait for room, and a handler on another
        // thread may reply meanwhile.
        let mut batch = {
            let mut replies = self.replies.lock();
            replies.promised = None;
            if replies.gathered.len() == 0 {
                return;
            }
            std::mem::take(&mut replies.gathered)
        };
        // After the close the replies are lost, as datagrams on the wire may be.
        let Some(fd) = self.socket.fileno() else { return };
        let mut gso = *self.gso.get_or_init(|| gso_of(fd.as_fd()));
        let mut sent = 0;
        while sent < batch.len() {
            match send_batch(fd.as_fd(), &batch, sent, gso) {
                Ok(count) => sent += count,
                // The route to some peer takes no bursts, or none of datagrams that long.
                Err(_) if gso == Gso::On => gso = Gso::Off,
                // The first of the replies that are left has failed. It is tried once more alone, and is lost if that fails as
                // well; the replies after it are sent all the same.
                Err(_) => {
                    let _ = self.send(batch.get(sent));
                    sent += 1;
                }
            }
        }
        batch.clear();
        let mut replies = self.replies.lock();
        // Keeps the memory, unless another thread has gathered replies in the meantime.
        if replies.gathered.len() == 0 {
            replies.gathered = batch;
        }
    }
}

impl fmt::Debug for DatagramSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramSocket").field("socket", &self.socket).finish_non_exhaustive()
    }
}
