//! The overflow of a coroutine's stack: a message that says which handler's it was, and the end of the process.
//!
//! A function that finds no room on its stack touches the guard below (`guard.rs`), which raises SIGSEGV, or SIGBUS. There
//! is no way back: the handler's destructors cannot run without a stack. So the process aborts, as Rust's does when a
//! thread overflows, and the message says why.
//!
//! ```text
//! the kernel -> on_fault, on the alternate stack of the thread
//!                 is it the guard of the coroutine that runs here?  -> message, abort
//!                 else                                              -> the previous action
//! ```
//!
//! The previous action is std's, which reports the overflows of threads, or the program's. It gets every other fault as if
//! this handler did not exist (`pass_on`). An action that a program installs later comes first, and decides itself
//! whether it calls this one.
//!
//! Each worker calls [`watch_for_overflows`] at its start, before it takes a stack, and keeps the result for as long as
//! it runs. The action is the process's, so a fault of any other thread comes through here as well and is passed on.
//!
//! Everything below `on_fault` runs in a signal's handler, after a fault in unknown code: a lock may be held, the allocator
//! may be in the middle of its work. So it reads a thread-local and atomics, formats into memory on its own stack, and
//! makes system calls. See [signal-safety(7)](https://man7.org/linux/man-pages/man7/signal-safety.7.html).
//!
//! **Limits.** A function in C with a frame longer than the guard may step over it. A fault in the guard of a coroutine other
//! than the running one is taken for an ordinary fault: it comes from a wild pointer.

use std::fmt::{self, Write};
use std::io;
use std::mem;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{c_int, c_void, siginfo_t};

use super::alternate_stack::AlternateStack;
use super::switch;
use crate::sys::check;

/// Reports overflows of coroutines from here on, in this process; and in this thread, for as long as the result lives.
///
/// The first call installs the handler. It stays, because nobody can tell whether the actions that were installed later
/// call it.
///
/// # Errors
///
/// If there is no memory for the thread's alternate stack.
pub(crate) fn watch_for_overflows() -> io::Result<AlternateStack> {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        for signal in SIGNALS {
            // Without the handler an overflow is a fault without a message.
            let _ = install(signal);
        }
    });
    AlternateStack::ensure()
}

/// The signals of a fault. Linux reports a guard by SIGSEGV. Other systems may use SIGBUS, and std takes both.
const SIGNALS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// The previous actions, in the order of `SIGNALS`; null before the handler is installed. They are never freed, so that
/// the handler may read them at any time.
static PREVIOUS_ACTIONS: [AtomicPtr<libc::sigaction>; 2] =
    [const { AtomicPtr::new(ptr::null_mut()) }; 2];

/// The place of the previous action of a signal.
fn before(signal: c_int) -> &'static AtomicPtr<libc::sigaction> {
    &PREVIOUS_ACTIONS[usize::from(signal != SIGNALS[0])]
}

/// Installs `on_fault` for a signal. [sigaction(2)](https://man7.org/linux/man-pages/man2/sigaction.2.html)
///
/// Reads the action that is there, stores it, and replaces it with ours. These are three steps; so if another thread has
/// installed a handler between the first and the last, the round is repeated with the handler that was in fact
/// replaced.
fn install(signal: c_int) -> io::Result<()> {
    let mut found = crate::sys::signal::action_of(signal)?;
    loop {
        // The earlier action is stored before the handler is installed: a fault may come at once, and is passed to this
        // action.
        before(signal).store(Box::leak(Box::new(found)), Ordering::Release);
        let mut ours = found;
        ours.sa_sigaction = on_fault as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
        // The other flags and the mask are the earlier action's, because that action runs within ours.
        ours.sa_flags |= libc::SA_SIGINFO | libc::SA_ONSTACK;
        ours.sa_flags &= !libc::SA_RESETHAND;
        let mut replaced = found;
        // SAFETY: `on_fault` may interrupt any code, and both pointers are to live actions.
        check(unsafe { libc::sigaction(signal, &raw const ours, &raw mut replaced) })?;
        // Another thread may have installed a handler in between.
        if replaced.sa_sigaction == found.sa_sigaction && replaced.sa_flags == found.sa_flags {
            return Ok(());
        }
        found = replaced;
    }
}

/// The handler of both signals. It calls only what signal-safety(7) allows, takes no lock and no memory.
extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler with SA_SIGINFO; and so does a handler that was installed
    // later and calls this one.
    let (code, at) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    // The kernel's codes are positive. A signal that a process sends is no fault, whatever it says about an address.
    if code > 0 {
        if let Some(running) = switch::running() {
            if running.extent.guard.contains(&at) {
                report(running.label, running.extent.stack_bytes());
                // SAFETY: always allowed, in a signal's handler as well.
                unsafe { libc::abort() };
            }
        }
    }
    // SAFETY: null, or an action that is never freed.
    let action = unsafe { before(signal).load(Ordering::Acquire).as_ref() };
    if let Some(action) = action {
        pass_on(action, signal, info, context, code > 0);
    }
}

/// Passes a signal on to the previous action, in the way in which that action was registered.
///
/// | the previous action | how |
/// |---|---|
/// | a handler that runs on the alternate stack, as ours does | called |
/// | ignored, and a process has sent the signal | nothing |
/// | the default; ignored; a handler that runs on the interrupted stack, or once | put back, and the signal comes again |
///
/// In the last case overflows are no longer reported afterwards, which matters only if the process lives on.
fn pass_on(
    action: &libc::sigaction,
    signal: c_int,
    info: *mut siginfo_t,
    context: *mut c_void,
    is_fault: bool,
) {
    let handler = action.sa_sigaction;
    let has = |flag: c_int| action.sa_flags & flag != 0;
    let is_handler = handler != libc::SIG_DFL && handler != libc::SIG_IGN;
    if is_handler && has(libc::SA_ONSTACK) && !has(libc::SA_RESETHAND) {
        if has(libc::SA_SIGINFO) {
            // SAFETY: a handler that was registered with SA_SIGINFO has this type.
            let handler = unsafe {
                mem::transmute::<usize, extern "C" fn(c_int, *mut siginfo_t, *mut c_void)>(handler)
            };
            handler(signal, info, context);
        } else {
            // SAFETY: a handler that was registered without SA_SIGINFO has this type.
            let handler = unsafe { mem::transmute::<usize, extern "C" fn(c_int)>(handler) };
            handler(signal);
        }
        return;
    }
    if handler == libc::SIG_IGN && !is_fault {
        return;
    }
    // SAFETY: the action is passed as it was registered, and no pointer for the replaced one. errno is put back, because it
    // belongs to the interrupted code.
    unsafe {
        let errno = *errno();
        libc::sigaction(signal, action, ptr::null_mut());
        // A fault comes again by itself, when this handler returns to the instruction. A signal that was sent is sent again to
        // this thread, with all that its sender has said; it is blocked until then.
        if !is_fault {
            let (process, thread) = (libc::getpid(), libc::syscall(libc::SYS_gettid));
            libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, signal, info);
        }
        *self::errno() = errno;
    }
}

/// The thread's errno.
///
/// A handler has to leave it as it was: the interrupted code may be about to read it.
fn errno() -> *mut c_int {
    #[cfg(target_os = "linux")]
    // SAFETY: the call has no conditions.
    unsafe {
        libc::__errno_location()
    }
    #[cfg(target_os = "android")]
    // SAFETY: the call has no conditions.
    unsafe {
        libc::__errno()
    }
}

/// Writes the message to standard error, in one write.
fn report(label: &str, stack_bytes: usize) {
    let mut text = Text { bytes: [0; 512], length: 0 };
    // This never fails: `Text` leaves out bytes that have no room.
    let _ = write!(
        text,
        "\nstack overflow in {label:.300}: its coroutine has a stack of {stack_bytes} bytes; \
         Green::stack_bytes sets the size\n"
    );
    text.tell();
}

/// Text in an array, for a signal's handler, which must not allocate.
struct Text {
    /// The message, up to `length`. It is on the alternate stack, which has room for it ([`AlternateStack`]).
    bytes: [u8; 512],
    length: usize,
}

impl Write for Text {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = &mut self.bytes[self.length..];
        let fits = more.len().min(room.len());
        room[..fits].copy_from_slice(&more.as_bytes()[..fits]);
        self.length += fits;
        Ok(())
    }
}

impl Text {
    /// Writes the text to standard error, unless that would wait for its reader: the process has to end.
    fn tell(&self) {
        let mut stderr = libc::pollfd { fd: 2, events: libc::POLLOUT, revents: 0 };
        // SAFETY: the pointers are to a live structure, and to live bytes of that length. A pipe or a terminal that poll
        // reports as writable takes so few bytes at once.
        unsafe {
            if libc::poll(&raw mut stderr, 1, 0) == 1 {
                libc::write(2, self.bytes.as_ptr().cast(), self.length);
            }
        }
    }
}

#[cfg(test)]
mod tests;
