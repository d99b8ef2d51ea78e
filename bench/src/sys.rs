//! System calls that neither std nor socket2 has, for the load and for the peers.

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::time::Duration;

pub use libc::epoll_event as Event;

/// Ready to be read, or at its end.
pub const READABLE: u32 = libc::EPOLLIN as u32;
/// Ready to be written.
pub const WRITABLE: u32 = libc::EPOLLOUT as u32;
/// The peer sends no more.
pub const ENDED: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;
/// Report changes only.
pub const EDGE: u32 = libc::EPOLLET as u32;

/// The result of a call that returns -1 on failure.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An epoll set. Each watched descriptor has a number of the caller's.
pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the descriptor, if there is one, is new and has no other owner.
        unsafe {
            let fd = check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?;
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// Watches `fd`, which leaves the set by itself when it is closed.
    pub fn add(&self, fd: &impl AsFd, events: u32, token: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, events, token)
    }

    /// Changes the events that `fd` is watched for.
    pub fn modify(&self, fd: &impl AsFd, events: u32, token: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, events, token)
    }

    fn control(&self, how: i32, fd: &impl AsFd, events: u32, token: usize) -> io::Result<()> {
        let mut event = Event { events, u64: token as u64 };
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: `event` lives through the call, which only reads it.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), how, fd, &raw mut event) })?;
        Ok(())
    }

    /// Waits for events. Without a limit it waits for ever; an interrupted wait returns none.
    pub fn wait<'a>(
        &self,
        events: &'a mut [Event],
        limit: Option<Duration>,
    ) -> io::Result<&'a [Event]> {
        let limit = limit.map_or(-1, |limit| limit.as_millis().try_into().unwrap_or(i32::MAX));
        let room = events.len().try_into().unwrap_or(i32::MAX);
        // SAFETY: the kernel writes at most `room` events, for which there is room.
        let got = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), room, limit) };
        match check(got) {
            Ok(count) => Ok(&events[..count as usize]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(&[]),
            Err(error) => Err(error),
        }
    }
}

/// Accepts a connection whose calls do not block, in one call where std needs two.
pub fn accept(listener: &impl AsFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: the pointers are null because the peer's address is not wanted; the descriptor is new and has no other owner.
    unsafe {
        let fd = check(libc::accept4(fd, ptr::null_mut(), ptr::null_mut(), flags))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Room for the events of one wait.
pub fn events() -> Vec<Event> {
    vec![Event { events: 0, u64: 0 }; 1024]
}

/// The processors that this process may use.
pub fn processors() -> io::Result<Vec<usize>> {
    // SAFETY: the set is plain bits, valid as zeros; the kernel writes within its size; the macros'
    // indices are below CPU_SETSIZE.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        check(libc::sched_getaffinity(0, size_of_val(&set), &raw mut set))?;
        Ok((0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &set)).collect())
    }
}

/// Binds the calling thread, and what it starts from now on, to one processor. It allocates nothing,
/// so that a child may call it between fork and exec.
pub fn pin(processor: usize) -> io::Result<()> {
    // SAFETY: as in `processors`; the kernel only reads the set.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        check(libc::sched_setaffinity(0, size_of_val(&set), &raw const set))?;
    }
    Ok(())
}

/// Asks the kernel to kill the calling process when the thread that started it ends.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    Ok(())
}

/// Kills all processes of a group. One that is gone already is no error.
pub fn kill_group(group: u32) {
    // SAFETY: no pointers. The group is that of a child of ours that has not been waited for, so that
    // its number cannot be anybody else's.
    unsafe { libc::killpg(group as libc::pid_t, libc::SIGKILL) };
}

/// The CPU time that a process has used with all its threads, also those that have ended. Exact to
/// the nanosecond, where /proc counts in hundredths of a second.
pub fn process_cpu(pid: u32) -> Option<Duration> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both pointers are to locals that live through the calls.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) != 0
            || libc::clock_gettime(clock, &raw mut time) != 0
    };
    (!failed).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Ticks of /proc in a second.
pub fn ticks() -> f64 {
    // SAFETY: no pointers.
    (unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).max(1) as f64
}

/// Raises the limit of descriptors as far as it may, and returns it.
pub fn raise_descriptors() -> io::Result<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointers are to a local that lives through the calls.
    unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
    }
    Ok(limit.rlim_cur as usize)
}

/// Datagrams in one batch.
pub const BATCH: usize = 64;
/// Bytes of room for each datagram.
const PACKET: usize = 2048;

/// Up to [`BATCH`] datagrams that come and go by one call each way. A datagram goes back to where it
/// came from; on a connected socket that is its only peer.
pub struct Batch {
    packets: Vec<[u8; PACKET]>,
    names: Vec<libc::sockaddr_storage>,
    slices: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Batch {
    pub fn new() -> Self {
        let slice = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: plain data, valid as zeros.
        let (name, header) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        Self {
            packets: vec![[0; PACKET]; BATCH],
            names: vec![name; BATCH],
            slices: vec![slice; BATCH],
            headers: vec![header; BATCH],
        }
    }

    /// Points the first `count` headers to their packets and names. `length` says how much of a packet
    /// counts, by its header.
    fn aim(&mut self, count: usize, length: impl Fn(&libc::mmsghdr) -> usize) {
        let headers = self.headers[..count].iter_mut();
        let rest = self.slices.iter_mut().zip(&mut self.names).zip(&mut self.packets);
        for (header, ((slice, name), packet)) in headers.zip(rest) {
            slice.iov_base = packet.as_mut_ptr().cast();
            slice.iov_len = length(header).min(PACKET);
            header.msg_hdr.msg_iov = slice;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
        }
    }

    /// Receives available datagrams, up to a batch. On a socket that is not connected, `named` keeps the senders' addresses.
    pub fn receive(&mut self, fd: &impl AsFd, named: bool, flags: i32) -> io::Result<usize> {
        self.aim(BATCH, |_| PACKET);
        let name = if named { size_of::<libc::sockaddr_storage>() } else { 0 };
        for header in &mut self.headers {
            header.msg_hdr.msg_namelen = name as u32;
        }
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: BATCH headers, each of whose pointers is to memory of `self` of the length it says.
        let got = unsafe {
            libc::recvmmsg(fd, self.headers.as_mut_ptr(), BATCH as u32, flags, ptr::null_mut())
        };
        Ok(check(got)? as usize)
    }

    /// The datagram in one place of the batch.
    pub fn packet(&mut self, place: usize) -> &mut [u8] {
        let length = (self.headers[place].msg_len as usize).min(PACKET);
        &mut self.packets[place][..length]
    }

    /// Puts a datagram for a connected socket into one place of the batch.
    pub fn put(&mut self, place: usize, bytes: &[u8]) {
        self.packets[place][..bytes.len()].copy_from_slice(bytes);
        self.headers[place].msg_len = bytes.len() as u32;
        self.headers[place].msg_hdr.msg_namelen = 0;
    }

    /// Sends the first `count` datagrams as they stand, and says how many went.
    pub fn send(&mut self, fd: &impl AsFd, count: usize) -> io::Result<usize> {
        let count = count.min(BATCH);
        self.aim(count, |header| header.msg_len as usize);
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: as in `receive`, with `count` headers.
        let sent = unsafe { libc::sendmmsg(fd, self.headers.as_mut_ptr(), count as u32, 0) };
        Ok(check(sent)? as usize)
    }
}

/// Room in the file system of a path, in bytes.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all zeros are a statvfs, and both pointers live as long as the call.
    unsafe {
        let mut stat: libc::statvfs = mem::zeroed();
        check(libc::statvfs(path.as_ptr(), &raw mut stat))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// A file in memory, without a path, for a server's stderr: writing to it never blocks.
pub fn memory_file() -> io::Result<std::fs::File> {
    // SAFETY: the name ends with a zero; the descriptor is new and has no other owner.
    unsafe {
        let fd = check(libc::memfd_create(c"bench".as_ptr(), libc::MFD_CLOEXEC))?;
        Ok(OwnedFd::from_raw_fd(fd).into())
    }
}
