//! Changes of a server to its own process for which std has no safe form.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};

/// Makes `pidfd_open` fail from here on with this error, as a container's filter does.
pub fn refuse_pidfds(error: &str) {
    let errno = match error {
        "EPERM" => libc::EPERM,
        "ENOSYS" => libc::ENOSYS,
        "EMFILE" => libc::EMFILE,
        _ => panic!("which error?"),
    };
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let load_number = step(0x20, 0, 0, 0);
    let is_it = step(0x15, 0, 1, u32::try_from(libc::SYS_pidfd_open).unwrap());
    let refuse = step(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap());
    let allow = step(0x06, 0, 0, libc::SECCOMP_RET_ALLOW);
    let mut filter = [load_number, is_it, refuse, allow];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its four steps outlive the calls, which copy them; the rest are numbers.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            + libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    assert_eq!(result, 0, "no filter: {}", std::io::Error::last_os_error());
}

pub fn ignore(signal: libc::c_int) {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Blocks a signal in this thread, the only one.
pub fn block(signal: libc::c_int) {
    // SAFETY: all zeros is a valid set, which is made an empty one; all pointers are to live locals.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// How often [`count_sigchld`]'s handler was called.
pub static SIGCHLDS: AtomicUsize = AtomicUsize::new(0);

/// A program's own handler of SIGCHLD.
pub fn count_sigchld() {
    extern "C" fn count(_signal: libc::c_int) {
        SIGCHLDS.fetch_add(1, Ordering::SeqCst);
    }
    let handler = count as extern "C" fn(libc::c_int);
    // SAFETY: the handler adds to an atomic and does nothing else.
    unsafe { libc::signal(libc::SIGCHLD, handler as libc::sighandler_t) };
}

/// Forks, in a process with one thread. Returns `None` in the child.
pub fn fork() -> Option<u32> {
    // SAFETY: the process has one thread, or the test is about a fork with others.
    match unsafe { libc::fork() } {
        0 => None,
        child => Some(u32::try_from(child).expect("a child")),
    }
}

/// Waits until a child has ended.
pub fn wait_for(child: u32) {
    let child = i32::try_from(child).unwrap();
    // SAFETY: no status is asked for, and no pointer passed.
    while unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) } == -1 {
        let error = std::io::Error::last_os_error();
        assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "{error}");
    }
}

/// Ends the process without destructors, as the parent of a daemon does.
pub fn leave_at_once() -> ! {
    // SAFETY: it may be called anywhere.
    unsafe { libc::_exit(0) }
}

/// Makes this process adopt the orphans of its descendants, as the first process of a container does.
pub fn become_subreaper() {
    // SAFETY: no pointers.
    let result = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Sets signals that this process has inherited as ignored or blocked to their defaults.
pub fn take_signals_as_usual() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGCHLD] {
        // SAFETY: no handler is installed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: all zeros is a valid set, which is made an empty one; the pointers are to live locals.
    unsafe {
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Closes standard input, output and error, and keeps copies of them elsewhere.
pub fn close_standard_descriptors() -> [libc::c_int; 3] {
    [0, 1, 2].map(|number| {
        // SAFETY: no pointers; no value owns the descriptor that is closed.
        unsafe {
            let copy = libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 100);
            assert_ne!(copy, -1);
            assert_eq!(libc::close(number), 0);
            copy
        }
    })
}

/// Restores standard input, output and error from their copies.
pub fn restore_standard_descriptors(copies: [libc::c_int; 3]) {
    for (number, copy) in (0..).zip(copies) {
        // SAFETY: no pointers; no value owns the descriptor that is replaced.
        unsafe { libc::dup2(copy, number) };
    }
}

/// Sends a signal to this process.
pub fn raise(signal: libc::c_int) {
    // SAFETY: no pointers.
    unsafe { libc::raise(signal) };
}

/// Registers a function to be called when this process ends by `exit`.
pub fn at_exit(function: extern "C" fn()) {
    // SAFETY: the function exists as long as the process does.
    assert_eq!(unsafe { libc::atexit(function) }, 0);
}

/// Reaps a child in place of its server, and returns its exit status, or `None` if a signal ended it.
pub fn status_of(child: i32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: the pointer is to a live int.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child, "it has been waited for already");
    libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))
}

/// Becomes another user that may start no process: the limit does not bind root.
pub fn become_nobody() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live structure; the rest are numbers.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_NPROC, &raw const none), 0);
        assert_eq!(libc::setuid(65_534), 0);
    }
}

/// How many listening TCP sockets this process holds.
pub fn listeners() -> usize {
    let is_listener = |fd: i32| {
        let mut value: libc::c_int = 0;
        let mut len = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap();
        let (level, name) = (libc::SOL_SOCKET, libc::SO_ACCEPTCONN);
        // SAFETY: the pointers are to live locals; a number that is no descriptor is an error.
        let result =
            unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut len) };
        result == 0 && value == 1
    };
    (0..1024).filter(|fd| is_listener(*fd)).count()
}
