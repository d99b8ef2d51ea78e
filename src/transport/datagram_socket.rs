//! A datagram socket, UDP or Unix: received in batches, replies gathered and sent in batches.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::reply_loop::ReplyLoopGuard;
use super::server_socket::ServerSocket;
use crate::address::Address;
use crate::process::OwnerProcess;
use crate::request::{DatagramRequest, Reply, Ticket};
use crate::sys::peer_name::PeerName;
use crate::sys::recv_batch::{Destinations, Received, RecvBatch};
use crate::sys::recv_cmsg::LocalAddress;
use crate::sys::send_batch::{Gso, Outgoing, SendBatch, gso_of, send_batch};
use crate::wait::{self, Flush, Interest, Waiting};

/// A datagram that has been received, and the way back to its sender.
///
/// In a box of its own from the beginning: what moves from hand to hand, until the handler has it, is one
/// pointer.
#[derive(Debug)]
pub struct IncomingDatagram {
    bytes: Vec<u8>,
    truncated: bool,
    peer: PeerName,
    local: Option<LocalAddress>,
    /// There is nobody to answer: the sender has no address.
    nobody: bool,
    /// When it was taken out of its batch.
    pub(super) taken: Instant,
    socket: Arc<DatagramSocket>,
    /// The server's socket, from when the handler first borrows it.
    fd: OnceLock<Option<Arc<OwnedFd>>>,
}

impl IncomingDatagram {
    fn new(received: Received<'_>, taken: Instant, socket: &Arc<DatagramSocket>) -> Box<Self> {
        let Received { bytes, peer, destination, truncated } = received;
        let (bytes, socket, fd) = (bytes.to_vec(), Arc::clone(socket), OnceLock::new());
        let local = destination.local;
        Box::new(Self { bytes, truncated, peer, local, nobody: false, taken, socket, fd })
    }

    /// Who has sent it.
    pub(super) fn client_address(&self) -> Address {
        self.peer.to_inet().map_or_else(Address::from_socket, Address::from)
    }

    /// Where it was sent to, over UDP.
    pub(super) fn local_address(&self) -> Address {
        let bound = self.socket.bound_address();
        match (self.local, bound.port()) {
            (Some(local), Some(port)) => std::net::SocketAddr::new(local.ip, port).into(),
            _ => bound.clone(),
        }
    }

    pub(super) fn into_request(
        mut self: Box<Self>,
        local: Address,
        ticket: Ticket,
    ) -> DatagramRequest {
        self.nobody = !can_be_answered(ticket.client_address());
        let bytes = std::mem::take(&mut self.bytes);
        DatagramRequest::new(bytes, self.truncated, local, self, ticket)
    }
}

/// Whether an answer to this address goes to who has sent from it, and to nobody else.
fn can_be_answered(peer: &Address) -> bool {
    match peer {
        // Port 0 is nobody's: a reply to it could only be an error.
        Address::Inet(inet) => inet.port() != 0,
        // The sender's folder is not ours: in ours the same name is another file, if it is one.
        Address::Unix(path) => path.is_absolute(),
        Address::Unnamed => false,
        Address::Abstract(_) | Address::Other(_) => true,
    }
}

impl Reply for IncomingDatagram {
    fn reply(&self, bytes: &[u8]) -> io::Result<bool> {
        if self.nobody {
            return Ok(false);
        }
        self.socket.reply(&self.peer, self.local, bytes)?;
        Ok(true)
    }

    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        self.fd.get_or_init(|| self.socket.socket.fileno()).as_ref().map(|fd| fd.as_fd())
    }
}

/// The longest reply that is gathered: below every system's smallest limit on Unix datagrams (Linux: the
/// send buffer, 4,608 bytes at the least), and above the packets of Ethernet.
const GATHERED_BYTES: usize = 2_048;

/// How many datagrams are received or sent by one system call. Measured: 64 gains 4 to 6 % over one,
/// and more gain nothing.
const BATCH: usize = 64;

/// A handler that takes longer than this makes batches pointless, and gathered replies late.
const SLOW: Duration = Duration::from_millis(2);

/// For so many datagrams after a slow one replies are sent at once.
const UNGATHERED: u32 = 256;

/// A datagram socket with its batches. No lock of it is held across a wait.
pub(super) struct DatagramSocket {
    pub(super) socket: ServerSocket,
    bound: OnceLock<Address>,
    max_packet_size: usize,
    /// Received and not yet taken. It outlives a run: nothing that was received is lost.
    queue: Mutex<ReceiveQueue>,
    replies: Mutex<ReplyQueue>,
    /// Nothing more is received: the server closes.
    receives_no_more: AtomicBool,
    /// More of the batch waits behind the packet that was taken last.
    more_waits: AtomicBool,
    /// How many more replies are sent at once; see [`UNGATHERED`].
    ungathered: AtomicU32,
    /// Asked with the first batch.
    gso: OnceLock<Gso>,
}

#[derive(Default)]
struct ReceiveQueue {
    // Made when the first packet is waited for: a server that is never run needs no buffers.
    receiver: Option<RecvBatch>,
    /// Made with it.
    guard: Option<ReplyLoopGuard>,
    last_taken: Option<Instant>,
    /// Who has received them.
    owner: OwnerProcess,
}

impl ReceiveQueue {
    /// In a forked child: what the parent has received before, the parent answers.
    fn leave_to_parent(&mut self) {
        if !self.owner.is_noted() {
            self.owner.become_noted();
            self.receiver = None;
        }
    }

    fn is_empty(&self) -> bool {
        self.receiver.as_ref().is_none_or(|receiver| receiver.len() == 0)
    }

    /// Whether the handler of the packet before this one was slow. Replies are held back only while
    /// handlers are fast: a slow one would make those before it wait. One that is slow for the first
    /// time does it once.
    fn was_slow(&mut self, now: Instant) -> bool {
        self.last_taken.replace(now).is_some_and(|last| now - last > SLOW)
    }
}

#[derive(Default)]
struct ReplyQueue {
    gathered: SendBatch,
    /// The number of the thread that has promised to flush them: it alone gathers, because others do not know
    /// when it waits next.
    promised: Option<usize>,
}

impl DatagramSocket {
    pub(super) fn new(socket: socket2::Socket, max_packet_size: usize) -> Arc<Self> {
        Arc::new(Self {
            socket: ServerSocket::new(socket),
            bound: OnceLock::new(),
            max_packet_size,
            queue: Mutex::default(),
            replies: Mutex::default(),
            receives_no_more: AtomicBool::new(false),
            more_waits: AtomicBool::new(false),
            ungathered: AtomicU32::new(0),
            gso: OnceLock::new(),
        })
    }

    /// Takes the next datagram of the batch, or receives a batch.
    pub(super) fn get_request(self: &Arc<Self>) -> io::Result<Box<IncomingDatagram>> {
        let now = Instant::now();
        let (packet, slow) = {
            let mut queue = self.queue.lock();
            queue.leave_to_parent();
            (self.take_from(&mut queue, now), queue.was_slow(now))
        };
        // No lock is held from here: a flush may wait for room.
        if slow {
            self.ungathered.store(UNGATHERED, Ordering::Relaxed);
        }
        // The clients of a batch get their answers before the next one is looked at.
        if slow || packet.is_none() {
            self.flush();
        }
        match packet {
            Some(packet) => Ok(packet),
            None => self.receive(),
        }
    }

    fn receive(self: &Arc<Self>) -> io::Result<Box<IncomingDatagram>> {
        let mut queue = self.queue.lock();
        // Another loop may have been faster.
        if queue.is_empty() {
            if self.receives_no_more.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            queue.last_taken = None;
            let make = || {
                let is_any = self.bound_address().ip().is_some_and(|ip| ip.is_unspecified());
                let destinations = if is_any { Destinations::Told } else { Destinations::Unknown };
                RecvBatch::new(BATCH, self.max_packet_size, destinations)
            };
            let receiver = queue.receiver.get_or_insert_with(make);
            self.socket.with(|fd| receiver.receive(fd.as_fd()))?;
            queue.guard.get_or_insert_with(|| ReplyLoopGuard::new(self.socket.local_name()));
        }
        self.take_from(&mut queue, Instant::now()).ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

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
        self.more_waits.store(receiver.len() != 0, Ordering::Relaxed);
        packet
    }

    /// Where the socket is bound. Asked once: it does not change while there are packets.
    pub(super) fn bound_address(&self) -> &Address {
        self.bound.get_or_init(|| self.socket.local_address().unwrap_or(Address::Unnamed))
    }

    /// Sends, or gathers for sending with others: only in the loop, only while more datagrams of the same
    /// batch are waiting to be handled there, and only what is sure to be short enough; that a reply is too
    /// long, its handler has to hear.
    fn reply(
        self: &Arc<Self>,
        peer: &PeerName,
        local: Option<LocalAddress>,
        bytes: &[u8],
    ) -> io::Result<()> {
        if !wait::is_in_loop() {
            return self.send(Outgoing { peer, local, bytes });
        }
        let more_waits = self.more_waits.load(Ordering::Relaxed);
        if bytes.len() <= GATHERED_BYTES && self.may_gather() {
            if let Some(count) = self.gather(peer, local, bytes, more_waits) {
                if !more_waits || count >= BATCH {
                    self.flush();
                }
                return Ok(());
            }
        }
        // Not before those that came before it.
        self.flush();
        self.send(Outgoing { peer, local, bytes })
    }

    /// Gathers a reply, if this thread may, and if there is more than one to gather. Says how many there
    /// are.
    fn gather(
        self: &Arc<Self>,
        peer: &PeerName,
        local: Option<LocalAddress>,
        bytes: &[u8],
        more_waits: bool,
    ) -> Option<usize> {
        let mut replies = self.replies.lock();
        if replies.gathered.len() == 0 && !more_waits {
            return None;
        }
        let me = wait::number_of_thread();
        if replies.promised.is_none() {
            let flush: Arc<dyn Flush> = Arc::clone(self) as _;
            replies.promised = wait::flush_before_waiting(&flush).then_some(me);
        }
        if replies.promised != Some(me) {
            return None;
        }
        replies.gathered.push(peer.clone(), local, bytes);
        Some(replies.gathered.len())
    }

    fn may_gather(&self) -> bool {
        let ungathered = self.ungathered.load(Ordering::Relaxed);
        self.ungathered.store(ungathered.saturating_sub(1), Ordering::Relaxed);
        ungathered == 0
    }

    /// Sends one datagram, and waits for room in the socket's buffer if there is none. On Unix there is
    /// nothing to wait for: it is the receiver's queue that is full, and the socket's own readiness says
    /// nothing of that.
    fn send(&self, outgoing: Outgoing<'_>) -> io::Result<()> {
        let Some(fd) = self.socket.fileno() else {
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
                    wait::any(&[room], Some(deadline))?;
                }
                result => return result,
            }
        }
    }

    /// What is left of the batch is still handed out.
    pub(super) fn refuse_new(&self) -> bool {
        self.receives_no_more.store(true, Ordering::SeqCst);
        !self.queue.lock().is_empty()
    }

    pub(super) fn server_close(&self) {
        self.flush();
        self.socket.close();
    }
}

/// How long a reply waits for room in the socket's buffer before it is given up as datagrams are: the next
/// clients wait behind it.
const ROOM_WAIT: Duration = Duration::from_millis(100);

impl Flush for DatagramSocket {
    fn flush(&self) {
        let mut batch = {
            let mut replies = self.replies.lock();
            replies.promised = None;
            if replies.gathered.len() == 0 {
                return;
            }
            std::mem::take(&mut replies.gathered)
        };
        let Some(fd) = self.socket.fileno() else { return };
        let mut gso = *self.gso.get_or_init(|| gso_of(fd.as_fd()));
        let mut sent = 0;
        while sent < batch.len() {
            match send_batch(fd.as_fd(), &batch, sent, gso) {
                Ok(count) => sent += count,
                // The way of some peer takes none, or none of datagrams that long.
                Err(_) if gso == Gso::On => gso = Gso::Off,
                // The first of the rest will not go like this; alone it may, and if it does not, it is
                // lost as datagrams are. Those behind it are tried.
                Err(_) => {
                    let _ = self.send(batch.get(sent));
                    sent += 1;
                }
            }
        }
        batch.clear();
        let mut replies = self.replies.lock();
        // Unless others have been gathered meanwhile.
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

/// The methods of [`Transport`](super::Transport) that are the same for every datagram socket. For an implementor with a
/// field `datagrams`, an `Arc<DatagramSocket>`.
macro_rules! datagram_methods {
    () => {
        fn fileno(&self) -> Option<std::sync::Arc<std::os::fd::OwnedFd>> {
            self.datagrams.socket.fileno()
        }

        fn get_request(&self) -> std::io::Result<(Self::Raw, crate::address::Address)> {
            let datagram = self.datagrams.get_request()?;
            let peer = datagram.client_address();
            Ok((datagram, peer))
        }

        fn received(raw: &Self::Raw) -> std::time::Instant {
            raw.taken
        }

        fn refuse_new(&self) -> bool {
            self.datagrams.refuse_new()
        }

        fn close_when(&self) -> crate::transport::CloseWhen {
            crate::transport::CloseWhen::RequestsHaveEnded
        }

        fn close_in_others_child(&self) {
            self.datagrams.socket.close();
        }
    };
}

pub(super) use datagram_methods;
