//! Faults, each in a process of its own.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::sys::coroutine::guard::page_size;
use crate::sys::coroutine::stack::{DEFAULT_STACK_BYTES, StackSlab};
use crate::sys::coroutine::switch::Coroutine;

/// The variable with the name of the case that a child process runs.
const CASE: &str = "SOCKETSERVER_FAULT";

/// The cases, by their names.
const CASES: &[(&str, fn())] = &[
    ("coroutine", || {
        watch();
        overflow_in_coroutine();
    }),
    ("coroutine without an alternate stack", || {
        std::thread::spawn(|| {
            take_alternate_stack_away();
            let _watch = watch_for_overflows().unwrap();
            overflow_in_coroutine();
        })
        .join()
        .unwrap();
    }),
    ("thread", || {
        watch();
        let thread = std::thread::Builder::new().name("deep".into()).stack_size(128 * 1024);
        thread.spawn(|| deep(1 << 30)).unwrap().join().unwrap();
    }),
    ("thread from a coroutine", || {
        watch();
        in_coroutine(|| {
            std::thread::Builder::new()
                .name("deep".into())
                .spawn(|| deep(1 << 30))
                .unwrap()
                .join()
                .unwrap();
        });
    }),
    ("null", || {
        watch();
        touch(0);
    }),
    ("null in a coroutine", || {
        watch();
        in_coroutine(|| touch(0));
    }),
    ("guard of another coroutine", || {
        watch();
        let mut slab = StackSlab::new(DEFAULT_STACK_BYTES);
        let other = slab.take().unwrap().extent().guard;
        in_coroutine(move || touch(other.start));
    }),
    ("null, own handler before", || {
        own_handler(libc::SA_SIGINFO | libc::SA_ONSTACK);
        watch();
        touch(0);
    }),
    ("null, own handler on the thread's stack before", || {
        own_handler(libc::SA_SIGINFO);
        watch();
        touch(0);
    }),
    ("null in a coroutine, own handler on the interrupted stack before", || {
        own_handler(libc::SA_SIGINFO);
        watch();
        in_coroutine(|| touch(0));
    }),
    ("null, own handler for one time before", || {
        own_handler(libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND);
        watch();
        touch(0);
    }),
    ("null, own handler without information before", || {
        own_plain_handler();
        watch();
        touch(0);
    }),
    ("null, own handler after", || {
        watch();
        own_handler(libc::SA_SIGINFO | libc::SA_ONSTACK);
        touch(0);
    }),
    ("overflow, own handler before", || {
        own_handler(libc::SA_SIGINFO | libc::SA_ONSTACK);
        watch();
        overflow_in_coroutine();
    }),
    ("overflow, own handler after, which calls ours", || {
        watch();
        handler_that_passes_on();
        overflow_in_coroutine();
    }),
    ("overflow, own handler before, which repairs a fault first", || {
        repairing_handler();
        watch();
        repaired_fault();
        repaired_fault();
        overflow_in_coroutine();
    }),
    ("null, ignored before", || {
        set(libc::SIG_IGN, 0);
        watch();
        touch(0);
    }),
    ("null, default before", || {
        set(libc::SIG_DFL, 0);
        watch();
        touch(0);
    }),
    ("sent, ignored before", || {
        set(libc::SIG_IGN, 0);
        watch();
        send();
        send();
        overflow_in_coroutine();
    }),
    ("sent, default before", || {
        set(libc::SIG_DFL, 0);
        watch();
        send();
        wait_for_end();
    }),
    ("sent, own handler before", || {
        own_handler(libc::SA_SIGINFO | libc::SA_ONSTACK);
        watch();
        send();
        wait_for_end();
    }),
    ("sent, own handler on the thread's stack before", || {
        own_handler(libc::SA_SIGINFO);
        watch();
        send();
        wait_for_end();
    }),
];

/// Runs the case in the child that [`run`] has started.
#[test]
fn child() {
    let Ok(name) = std::env::var(CASE) else { return };
    let (_, case) = CASES.iter().find(|(found, _)| *found == name).expect("a case");
    let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live structure.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core) };
    case();
    std::process::exit(0);
}

/// Runs a case in a child process. Returns how the process has ended, and its standard error.
fn run(case: &str) -> (ExitStatus, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["sys::coroutine::overflow::tests::child", "--exact", "--nocapture"]);
    let output = command.env(CASE, case).stdin(Stdio::null()).output().unwrap();
    (output.status, String::from_utf8(output.stderr).unwrap())
}

fn watch() {
    mem::forget(watch_for_overflows().unwrap());
}

fn in_coroutine(body: impl FnOnce() + 'static) {
    let mut slab = StackSlab::new(DEFAULT_STACK_BYTES);
    Coroutine::new(slab.take().unwrap(), "echo::Deep", body).resume();
}

fn overflow_in_coroutine() {
    in_coroutine(|| {
        deep(1 << 30);
    });
}

/// Recurses until the stack is used up.
#[inline(never)]
fn deep(levels: usize) -> usize {
    let block = std::hint::black_box([levels; 64]);
    if levels == 0 { block[0] } else { deep(levels - 1) + block[3] }
}

/// Reads an address that faults.
fn touch(at: usize) {
    // SAFETY: no memory is mapped there. The read faults, and this process exists for that fault.
    let found = unsafe { std::ptr::with_exposed_provenance::<u8>(at).read_volatile() };
    std::process::exit(i32::from(found));
}

fn take_alternate_stack_away() {
    let none = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    // SAFETY: this thread does not run on its alternate stack.
    assert_eq!(unsafe { libc::sigaltstack(&raw const none, ptr::null_mut()) }, 0);
}

/// Sets the action of SIGSEGV, and returns the previous one.
fn set(handler: usize, flags: c_int) -> libc::sigaction {
    // SAFETY: all zeros is a valid action; its handler is then set to one of this file's, and the pointers are to live actions.
    unsafe {
        let mut action = mem::zeroed::<libc::sigaction>();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        let mut before = mem::zeroed::<libc::sigaction>();
        assert_eq!(libc::sigaction(libc::SIGSEGV, &raw const action, &raw mut before), 0);
        before
    }
}

/// Installs a handler of the program. It prints the signal's code, its address or value, and the stack on which the handler
/// runs. Then it ends the process with status 7.
fn own_handler(flags: c_int) {
    extern "C" fn handler(_signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
        let here = 0_u8;
        let here = ptr::from_ref(&here).addr();
        // SAFETY: the kernel has passed the pointer to the handler.
        let (code, at, value) = unsafe {
            ((*info).si_code, (*info).si_addr().addr(), (*info).si_value().sival_ptr.addr())
        };
        let mut stack = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: 0, ss_size: 0 };
        // SAFETY: the pointer is to a live structure.
        unsafe { libc::sigaltstack(ptr::null(), &raw mut stack) };
        let start = stack.ss_sp.addr();
        let place =
            if (start..start + stack.ss_size).contains(&here) { "alternate" } else { "own" };
        let what = if code > 0 { at } else { value };
        eprintln!("own handler: code {code}, {what:#x}, on the {place} stack");
        // SAFETY: always allowed.
        unsafe { libc::_exit(7) };
    }
    set(handler as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize, flags);
}

fn own_plain_handler() {
    extern "C" fn handler(signal: c_int) {
        eprintln!("own plain handler: {signal}");
        // SAFETY: always allowed.
        unsafe { libc::_exit(7) };
    }
    set(handler as extern "C" fn(c_int) as usize, libc::SA_ONSTACK);
}

/// Installs a handler that calls the previous one.
fn handler_that_passes_on() {
    static OTHER: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn handler(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
        eprintln!("own handler first");
        // SAFETY: the previous action was registered with this type.
        let other = unsafe {
            mem::transmute::<usize, extern "C" fn(c_int, *mut siginfo_t, *mut c_void)>(
                OTHER.load(Ordering::Relaxed),
            )
        };
        other(signal, info, context);
    }
    let before = set(
        handler as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize,
        libc::SA_SIGINFO | libc::SA_ONSTACK,
    );
    OTHER.store(before.sa_sigaction, Ordering::Relaxed);
}

/// Installs a handler that makes the faulting page accessible, so that the program goes on.
fn repairing_handler() {
    extern "C" fn handler(_signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
        // SAFETY: the page is one of `repaired_fault`.
        unsafe {
            let page = (*info).si_addr().map_addr(|at| at & !(page_size() - 1));
            let access = libc::PROT_READ | libc::PROT_WRITE;
            assert_eq!(libc::mprotect(page, page_size(), access), 0);
        }
    }
    set(
        handler as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize,
        libc::SA_SIGINFO | libc::SA_ONSTACK,
    );
}

/// A fault that [`repairing_handler`] repairs.
fn repaired_fault() {
    // SAFETY: new memory, which faults until the handler has repaired it.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap(ptr::null_mut(), page_size(), libc::PROT_NONE, flags, -1, 0);
        assert_eq!(page.cast::<u8>().read_volatile(), 0);
    }
}

/// Sends SIGSEGV to this process, with a value.
fn send() {
    let value = libc::sigval { sival_ptr: ptr::without_provenance_mut(0xbeef) };
    // SAFETY: no pointer is followed.
    assert_eq!(unsafe { libc::sigqueue(libc::getpid(), libc::SIGSEGV, value) }, 0);
}

/// Waits until the signal ends the process. Another thread may be the one that gets it.
fn wait_for_end() {
    std::thread::sleep(std::time::Duration::from_secs(20));
}

const REPORT: &str = "\nstack overflow in echo::Deep: its coroutine has a stack of 262144 bytes; Green::stack_bytes sets \
                      the size\n";

#[test]
fn an_overflow_of_a_coroutine_is_named() {
    for case in [
        "coroutine",
        "coroutine without an alternate stack",
        "overflow, own handler before",
        "overflow, own handler before, which repairs a fault first",
        "sent, ignored before",
    ] {
        let (status, text) = run(case);
        assert_eq!((status.signal(), &*text), (Some(libc::SIGABRT), REPORT), "{case}");
    }
    let (status, text) = run("overflow, own handler after, which calls ours");
    let expected = format!("own handler first\n{REPORT}");
    assert_eq!((status.signal(), text), (Some(libc::SIGABRT), expected));
}

#[test]
fn an_overflow_of_a_thread_is_still_std_s() {
    for case in ["thread", "thread from a coroutine"] {
        let (status, text) = run(case);
        assert_eq!(status.signal(), Some(libc::SIGABRT), "{case}: {text}");
        assert!(
            text.contains("thread 'deep'") && text.contains("has overflowed its stack"),
            "{text}"
        );
        assert!(!text.contains("coroutine"), "{text}");
    }
}

#[test]
fn every_other_fault_ends_the_process_as_before() {
    for case in [
        "null",
        "null in a coroutine",
        "guard of another coroutine",
        "null, ignored before",
        "null, default before",
        "sent, default before",
    ] {
        let (status, text) = run(case);
        assert_eq!((status.signal(), &*text), (Some(libc::SIGSEGV), ""), "{case}");
    }
}

#[test]
fn a_program_s_own_handler_gets_every_other_fault_as_it_was_registered() {
    const MAPPING: i32 = 1; // SEGV_MAPERR
    for (case, place) in [
        ("null, own handler before", "alternate"),
        ("null, own handler on the thread's stack before", "own"),
        ("null in a coroutine, own handler on the interrupted stack before", "own"),
        ("null, own handler for one time before", "alternate"),
        ("null, own handler after", "alternate"),
    ] {
        let (status, text) = run(case);
        let expected = format!("own handler: code {MAPPING}, 0x0, on the {place} stack\n");
        assert_eq!((status.code(), text), (Some(7), expected), "{case}");
    }
    for (case, place) in [
        ("sent, own handler before", "alternate"),
        ("sent, own handler on the thread's stack before", "own"),
    ] {
        let (status, text) = run(case);
        let expected =
            format!("own handler: code {}, 0xbeef, on the {place} stack\n", libc::SI_QUEUE);
        assert_eq!((status.code(), text), (Some(7), expected), "{case}");
    }
    let (status, text) = run("null, own handler without information before");
    assert_eq!((status.code(), &*text), (Some(7), "own plain handler: 11\n"));
}
