//! `AlternateStack`: memory on which a signal's handler runs when the thread's own stack has none left.

use std::io;
use std::marker::PhantomData;
use std::ptr;

use libc::{
    MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE,
};

use super::guard::page_size;
use crate::sys::check;

/// The alternate stack of the thread that has made it, until it is dropped.
///
/// std gives each of its threads such a stack, and then this value holds nothing. But std gives none if the program had an
/// action for SIGSEGV when it started (a sanitizer's, for one), or was not started by Rust.
///
/// The kernel has one setting for each thread, and switches to it for handlers with SA_ONSTACK when a signal comes. A new
/// thread begins with none, and a forked child has its parent's. The memory must stay mapped for as long as the thread has
/// it set: hence this guard, which the thread drops at its end.
#[derive(Debug)]
pub(crate) struct AlternateStack {
    /// The mapping, if std has made none for this thread.
    own: Option<*mut libc::c_void>,
    /// The alternate stack belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

/// Room for the handler, for the previous one, which it may call, and for the processor's state, which takes up to 11 KiB on
/// some machines.
///
/// MINSIGSTKSZ of the headers is no guide: it was fixed before processors had AVX-512 and AMX.
const ALTERNATE_STACK_BYTES: usize = 64 * 1024;

impl AlternateStack {
    /// Makes sure that this thread has an alternate stack.
    /// [sigaltstack(2)](https://man7.org/linux/man-pages/man2/sigaltstack.2.html)
    ///
    /// # Errors
    ///
    /// ENOMEM, if there is no memory or no mapping for it. Overflows of this thread are then faults without a message.
    pub(super) fn ensure() -> io::Result<Self> {
        let own = if is_there()? { None } else { Some(make()?) };
        Ok(Self { own, _not_send: PhantomData })
    }
}

/// Whether this thread has an alternate stack.
fn is_there() -> io::Result<bool> {
    Ok(current()?.ss_flags & libc::SS_DISABLE == 0)
}

/// The setting of this thread.
fn current() -> io::Result<libc::stack_t> {
    let mut found = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: the pointer is to a live structure; the call only reads the setting.
    check(unsafe { libc::sigaltstack(ptr::null(), &raw mut found) })?;
    Ok(found)
}

/// Maps an alternate stack with an inaccessible page below it, and sets it for this thread.
fn make() -> io::Result<*mut libc::c_void> {
    let (page, flags) = (page_size(), MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    // SAFETY: the kernel chooses an unused place, so no other memory changes.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            page + ALTERNATE_STACK_BYTES,
            PROT_READ | PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if start == MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let stack = libc::stack_t {
        ss_sp: start.wrapping_byte_add(page),
        ss_flags: 0,
        ss_size: ALTERNATE_STACK_BYTES,
    };
    // SAFETY: nobody uses the first page of the new mapping. The thread has no alternate stack, so it runs on none; and the new
    // one stays mapped until the thread has it no longer.
    let set = unsafe {
        check(libc::mprotect(start, page, PROT_NONE))
            .and_then(|_| check(libc::sigaltstack(&raw const stack, ptr::null_mut())))
    };
    if let Err(error) = set {
        // SAFETY: nobody uses the mapping.
        unsafe { libc::munmap(start, page + ALTERNATE_STACK_BYTES) };
        return Err(error);
    }
    Ok(start)
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        let Some(start) = self.own else { return };
        let page = page_size();
        // If the program has set another stack since, that one stays.
        let is_ours = current().is_ok_and(|now| now.ss_sp == start.wrapping_byte_add(page));
        let none = libc::stack_t {
            ss_sp: ptr::null_mut(),
            ss_flags: libc::SS_DISABLE,
            ss_size: ALTERNATE_STACK_BYTES,
        };
        // SAFETY: the alternate stack belongs to this thread. If the thread runs on it now, the call fails with EPERM and the
        // memory stays. After a call that succeeds nobody uses the mapping.
        unsafe {
            if !is_ours || libc::sigaltstack(&raw const none, ptr::null_mut()) == 0 {
                libc::munmap(start, page + ALTERNATE_STACK_BYTES);
            }
        }
    }
}
