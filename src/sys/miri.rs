//! Calls of the system that Miri does not have. The tests of the library define them here, as far as they need them;
//! Miri calls a function of the program in place of one that it does not know.

use std::ptr;
use std::slice;

use libc::{c_int, c_void, epoll_event, nfds_t, pollfd, rlimit};

/// poll(2), over epoll. Miri knows edge-triggered sets only. But such a set reports the present state of each descriptor
/// that is added to it, once; and this set is made for one call.
// SAFETY: nothing else defines it under Miri.
#[unsafe(no_mangle)]
extern "C" fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    let mut events = [epoll_event { events: 0, u64: 0 }; 16];
    // SAFETY: the arguments of poll(2); all other pointers are to live values.
    unsafe {
        let fds = slice::from_raw_parts_mut(fds, count as usize);
        let set = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        for (at, fd) in fds.iter_mut().enumerate() {
            fd.revents = 0;
            let flags = fd.events as u32 | libc::EPOLLET as u32;
            let mut event = epoll_event { events: flags, u64: at as u64 };
            libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd.fd, &raw mut event);
        }
        let ready = libc::epoll_wait(set, events.as_mut_ptr(), 16, timeout);
        for event in events.iter().take(usize::try_from(ready).unwrap_or(0)) {
            fds[event.u64 as usize].revents = event.events as i16;
        }
        libc::close(set);
        ready
    }
}

/// madvise(2). Memory that is given back is cleared by a write, so that Miri checks whether anybody still has a reference
/// to it. A light guard leaves the memory as it is.
// SAFETY: nothing else defines it under Miri.
#[unsafe(no_mangle)]
extern "C" fn madvise(start: *mut c_void, bytes: usize, advice: c_int) -> c_int {
    if advice == libc::MADV_DONTNEED {
        // SAFETY: the caller gives memory of its own.
        unsafe { ptr::write_bytes(start.cast::<u8>(), 0, bytes) };
    }
    0
}

/// pthread_atfork(3). Nothing forks.
// SAFETY: nothing else defines it under Miri.
#[unsafe(no_mangle)]
extern "C" fn pthread_atfork(
    _prepare: Option<unsafe extern "C" fn()>,
    _parent: Option<unsafe extern "C" fn()>,
    _child: Option<unsafe extern "C" fn()>,
) -> c_int {
    0
}

/// getrlimit(2): the usual number of descriptors.
// SAFETY: nothing else defines it under Miri.
#[unsafe(no_mangle)]
extern "C" fn getrlimit(_resource: libc::__rlimit_resource_t, into: *mut rlimit) -> c_int {
    // SAFETY: the caller gives a place for the answer.
    unsafe { into.write(rlimit { rlim_cur: 1_024, rlim_max: 1_024 }) };
    0
}
