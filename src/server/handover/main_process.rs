//! Word to a service manager that another process is the service's main one from now on.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use socket2::{Domain, SockAddr, Socket, Type};

/// Tells the service manager, if there is one, as [sd_notify(3)](https://man7.org/linux/man-pages/man3/sd_notify.3.html)
/// says. The main process has to tell it: so the old one does, as its last word. It waits for nothing.
pub(super) fn tell(process: u32) -> io::Result<()> {
    let Some(place) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let mut place = place.as_bytes().to_owned();
    // An abstract name is a NUL and then the name: unix(7).
    if place.first() == Some(&b'@') {
        place[0] = 0;
    }
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    let message = format!("MAINPID={process}");
    socket.send_to(message.as_bytes(), &SockAddr::unix(OsStr::from_bytes(&place))?).map(drop)
}
