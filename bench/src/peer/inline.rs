//! Accept and serve in one loop, one connection after the other.

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
        // A peer that resets its connection harms no other.
        let _ = line(&stream?);
    }
    Ok(())
}
