//! A process for each connection: fork, serve, exit; the parent reaps ended children after each accept.

use std::io;
use std::net::TcpListener;

use super::threads::line;
use super::{Mode, announce, unsupported};

pub fn serve(mode: Mode) -> io::Result<()> {
    if mode != Mode::Line {
        return unsupported();
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce(listener.local_addr()?)?;
    for stream in listener.incoming() {
        let stream = stream?;
        // SAFETY: the process has one thread, so that no lock is held by one that the child lacks.
        match unsafe { libc::fork() } {
            0 => {
                let failed = line(&stream).is_err();
                // SAFETY: no preconditions. It ends the child at once, without the parent's exit functions; the
                // connection closes with it.
                unsafe { libc::_exit(failed.into()) }
            }
            -1 => return Err(io::Error::last_os_error()),
            _ => drop(stream),
        }
        reap();
    }
    Ok(())
}

/// Waits for all children that have ended.
fn reap() {
    // SAFETY: the pointer is null because the status is not wanted.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
}
