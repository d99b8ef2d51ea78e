//! Descriptors that are passed over a Unix socket: to a server that has not asked for them, and between two servers.

use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Sends bytes, and a dozen descriptors at most with them.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(12))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
}

/// Receives bytes until the buffer is full, and the descriptors that come with them.
pub fn receive(socket: impl AsFd, mut bytes: &mut [u8]) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    while !bytes.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(12))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let read =
            recvmsg(&socket, &mut [IoSliceMut::new(bytes)], &mut control, flags).unwrap().bytes;
        assert!(read > 0, "{} bytes are missing", bytes.len());
        bytes = &mut bytes[read..];
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                fds.extend(passed);
            }
        }
    }
    fds
}

/// One end of a pair of sockets. A dozen copies of the other end were passed on; when all of them are closed, this end
/// reads the end of input.
#[derive(Debug)]
pub struct Passed {
    read: UnixStream,
}

impl Passed {
    /// Sends a text, and the descriptors with it.
    pub fn with(text: &str, socket: BorrowedFd<'_>) -> Self {
        let (read, write) = UnixStream::pair().unwrap();
        send(socket, text.as_bytes(), &[write.as_fd(); 12]);
        Self { read }
    }

    /// Waits until the descriptors are closed in all processes.
    #[track_caller]
    pub fn are_closed(mut self) {
        let (done, end) = channel();
        // If the descriptors are kept, this thread ends with the process.
        thread::spawn(move || done.send(self.read.read(&mut [0])));
        let end = end.recv_timeout(Duration::from_secs(20)).expect("they are closed");
        assert_eq!(end.unwrap(), 0);
    }
}
