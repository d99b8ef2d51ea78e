//! The operating system, as safe functions named for what they do. One noun is one file:
//!
//! | file | content |
//! |---|---|
//! | `fd` | descriptors as numbers; errors of system calls |
//! | `poll`, `epoll`, `event` | waiting for descriptors; a descriptor that `notify` makes ready |
//! | `exclusive_epoll` | waiting for a listener, in several threads, so that one connection wakes one of them |
//! | `input_after_shutdown` | waiting for input that arrives after `shutdown(Read)` |
//! | `socket` | sends without a signal or a wait, options, unread bytes |
//! | `recv_buf` | memory to receive into, which need not be cleared |
//! | `recv_send` | recv(2) and send(2), without the C library's points of cancellation |
//! | `tcp_info` | how many bytes the peer's system has acknowledged |
//! | `socket_figures` | the kernel's figures of a server's socket: its queues and its drops |
//! | `error_queue`, `refuse_new_clients` | the error queue of a socket; the end of a listener's accept queue |
//! | `pass_fds` | descriptors passed from one process to another |
//! | `peer_credentials` | the process at the other end of a Unix socket |
//! | `recv_batch`, `send_batch` | datagrams by the batch |
//! | `recv_cmsg`, `send_cmsg`, `peer_name` | control messages of datagrams, and their senders' names |
//! | `directory` | a directory that is held open; modes and locks of files |
//! | `nonblocking_write` | writing to a standard stream without waiting for its reader |
//! | `fork`, `fork_count` | forking, in a process of one thread; whether another process may have a descriptor |
//! | `per_process` | a static value, with its lock, that a forked child makes anew |
//! | `child_process`, `exit_watch`, `orphan_reaper` | how a child has ended, how its parent learns of that, and the processes that it leaves |
//! | `shared_memory`, `shared_fd` | counters shared with children; a descriptor with several owners |
//! | `signal`, `hangup` | actions of signals; SIGHUP, and whether it tells of the terminal's end |
//! | `stdio`, `activation` | the three standard descriptors; those that a service manager has passed |
//! | `rlimit`, `thread_limit`, `address_space` | how many descriptors and threads there may be, and room for their memory |
//! | `clock` | the monotonic clock as a number |
//! | `scoped_closure` | a closure with borrows, for a coroutine that its caller waits for |
//! | `miri` | in tests under Miri: calls that Miri does not have |
//! | `registers` | processor state that makes a thread switch slow |
//!
//! **Unsafe code** stands in this folder and nowhere else in the library; DESIGN.md (section 6) names the files. Each block
//! has a SAFETY comment whose reason holds for every value that safe code can pass: a function whose soundness
//! depends on its caller is `pub(super)` at the most.
//!
//! **Other systems.** No `cfg` of a system stands outside this folder. A file here is the form for Linux and Android,
//! `cfg(linux_kernel)`; the form for every other Unix has the same name and the same functions in `portable/`. Where only
//! one function of a file differs, its two forms stand one below the other. `build.rs` says how the other forms are compiled
//! on Linux, which CI does (`.ci/run`). Inside a function's body no `cfg` names a system, with two exceptions: arms of a `match`
//! in the two files of control messages, for constants that some systems lack; and the two names of errno in
//! `coroutine/overflow.rs`.

mod activation;
pub(crate) mod address_space;
pub(crate) mod child_process;
mod clock;
#[cfg(has_green)]
pub(crate) mod coroutine;
pub(crate) mod directory;
#[cfg(linux_kernel)]
pub(crate) mod epoll;
#[cfg_attr(not(linux_kernel), path = "portable/error_queue.rs")]
mod error_queue;
#[cfg_attr(not(linux_kernel), path = "portable/event.rs")]
pub(crate) mod event;
#[cfg_attr(not(linux_kernel), path = "portable/exclusive_epoll.rs")]
pub(crate) mod exclusive_epoll;
#[cfg_attr(not(linux_kernel), path = "portable/exit_watch.rs")]
pub(crate) mod exit_watch;
mod fd;
#[cfg_attr(not(linux_kernel), path = "portable/fork.rs")]
pub(crate) mod fork;
pub(crate) mod fork_count;
#[cfg_attr(not(linux_kernel), path = "portable/hangup.rs")]
mod hangup;
#[cfg_attr(not(linux_kernel), path = "portable/input_after_shutdown.rs")]
pub(crate) mod input_after_shutdown;
#[cfg(all(test, miri))]
mod miri;
mod nonblocking_write;
#[cfg_attr(not(linux_kernel), path = "portable/orphan_reaper.rs")]
pub(crate) mod orphan_reaper;
pub(crate) mod pass_fds;
mod peer_credentials;
pub(crate) mod peer_name;
mod per_process;
mod poll;
pub(crate) mod recv_batch;
mod recv_buf;
pub(crate) mod recv_cmsg;
#[cfg_attr(
    any(
        miri,
        not(all(
            target_os = "linux",
            any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
        ))
    ),
    path = "portable/recv_send.rs"
)]
mod recv_send;
#[cfg_attr(not(linux_kernel), path = "portable/refuse_new_clients.rs")]
mod refuse_new_clients;
mod registers;
mod rlimit;
pub(crate) mod scoped_closure;
pub(crate) mod send_batch;
pub(crate) mod send_cmsg;
mod shared_fd;
mod shared_memory;
mod signal;
mod socket;
#[cfg_attr(not(linux_kernel), path = "portable/socket_figures.rs")]
mod socket_figures;
mod stdio;
pub(crate) mod sync;
pub(crate) mod tcp_info;
mod thread_limit;

pub(crate) use activation::take_passed;
pub(crate) use clock::monotonic_micros;
pub(crate) use directory::{set_mode_before_bind, try_lock};
pub(crate) use fd::{number, replace, replace_by};
pub(crate) use hangup::{StartTerminal, on_hangup};
pub(crate) use nonblocking_write::write_now;
pub use peer_credentials::Credentials;
pub(crate) use peer_credentials::{credentials, user};
pub(crate) use per_process::PerProcess;
pub(crate) use poll::{PollFd, is_readable, poll};
pub(crate) use recv_buf::RecvBuf;
pub(crate) use refuse_new_clients::refuse_clients;
pub(crate) use rlimit::{
    descriptors, descriptors_now, raise_descriptors, restore_descriptors, spare_descriptor,
};
pub(crate) use shared_fd::SharedFd;
pub(crate) use shared_memory::Common;
pub(crate) use signal::{
    LetThrough, Repeat, Repeats, SignalGuard, exit_now, is_default, is_ignored,
    keep_from_file_size_signal, keep_statuses, on_signal, on_signal_in_children,
};
pub(crate) use socket::{
    ACCEPTED_INHERITS_OPTIONS, Mode, SHORTEST_TIMEOUT, is_listener, send, send_before_end,
    set_receive_timeout, shutdown, unread,
};
pub(crate) use socket_figures::socket_figures;
pub(crate) use stdio::{fill_standard_descriptors, inherit_only_stdio};
pub(crate) use thread_limit::most_threads;

// These are for the files of this folder.
use fd::{check, check_len, owned, uninterrupted};
