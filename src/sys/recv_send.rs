//! recv(2) and send(2) without the C library's points of cancellation: [`recv`] and [`send`].
//!
//! With these points a call in a process with threads takes two locked operations and some fifty instructions more, and Rust
//! cancels no threads.
//!
//! The last argument of both calls is left out. It would be passed on the stack, which is one more cache line of each
//! coroutine.
//!
//! `portable/recv_send.rs` has the C library's own functions, and stands in on Android, under Miri, and on other
//! processors, where the number of the call or the passing of arguments differs (32-bit x86 has one call, socketcall(2),
//! for all of them).

use std::ptr;

/// recv(2).
///
/// # Safety
///
/// The conditions of recv(2).
#[inline(always)]
pub(super) unsafe fn recv(
    fd: libc::c_int,
    into: *mut libc::c_void,
    len: usize,
    flags: libc::c_int,
) -> isize {
    let (fd, flags) = (libc::c_long::from(fd), libc::c_long::from(flags));
    let no_address = ptr::null_mut::<libc::sockaddr>();
    // SAFETY: the arguments of recvfrom(2), by the caller's promise. The last one, a pointer to the length of the sender's
    // address, is left out and may have any value: the kernel uses it only if there is room for an address.
    unsafe { libc::syscall(libc::SYS_recvfrom, fd, into, len, flags, no_address) as isize }
}

/// send(2).
///
/// # Safety
///
/// The conditions of send(2).
#[inline(always)]
pub(super) unsafe fn send(
    fd: libc::c_int,
    buf: *const libc::c_void,
    len: usize,
    flags: libc::c_int,
) -> isize {
    let (fd, flags) = (libc::c_long::from(fd), libc::c_long::from(flags));
    let no_address = ptr::null::<libc::sockaddr>();
    // SAFETY: the arguments of sendto(2), by the caller's promise. The last one, the length of the address, is left out and may
    // have any value: the kernel uses it only if there is an address.
    unsafe { libc::syscall(libc::SYS_sendto, fd, buf, len, flags, no_address) as isize }
}
