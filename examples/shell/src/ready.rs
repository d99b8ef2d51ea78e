//! Waiting for several descriptors at once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Waits as [`wait_for`] does, in a handler. Under `green` another thread waits, with duplicates of the descriptors.
pub fn offloaded_wait<const N: usize>(
    sources: [Option<(BorrowedFd<'_>, PollFlags)>; N],
    time: Duration,
) -> io::Result<[PollFlags; N]> {
    let ready = wait_for(sources, Some(Duration::ZERO))?;
    if time.is_zero() || ready.iter().any(|events| !events.is_empty()) {
        return Ok(ready);
    }
    let copies = sources.map(|source| {
        source.map(|(fd, interest)| fd.try_clone_to_owned().map(|fd| (fd, interest))).transpose()
    });
    let mut owned = Vec::with_capacity(N);
    for copy in copies {
        owned.push(copy?);
    }
    socketserver::offload(move || {
        let mut sources = [None; N];
        for (source, copy) in sources.iter_mut().zip(&owned) {
            *source = copy.as_ref().map(|(fd, interest)| (fd.as_fd(), *interest));
        }
        wait_for(sources, Some(time))
    })?
}

/// Waits until one of these is ready or the time is over. Returns the events of each.
pub fn wait_for<const N: usize>(
    sources: [Option<(BorrowedFd<'_>, PollFlags)>; N],
    time: Option<Duration>,
) -> io::Result<[PollFlags; N]> {
    let watched = sources.iter().flatten();
    let mut fds: Vec<PollFd<'_>> =
        watched.map(|(fd, interest)| PollFd::from_borrowed_fd(*fd, *interest)).collect();
    let time = time.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    match poll(&mut fds, time.as_ref()) {
        // A signal interrupted the wait. If the caller watches that signal by a descriptor, its next wait returns at once.
        Err(rustix::io::Errno::INTR) => return Ok([PollFlags::empty(); N]),
        result => result?,
    };
    let mut polled = fds.iter();
    Ok(sources.map(|source| {
        let fd = source.and_then(|_| polled.next());
        fd.map_or(PollFlags::empty(), PollFd::revents)
    }))
}
