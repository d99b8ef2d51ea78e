//! The one request that no safe function makes: a descriptor becomes a tap.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Setter, ioctl, opcode};

/// Bytes of the kernel's `struct ifreq`.
const REQUEST: usize = 40;
/// `TUNSETIFF`
const SET_INTERFACE: rustix::ioctl::Opcode = opcode::write::<std::ffi::c_int>(b'T', 202);
/// `IFF_TAP | IFF_NO_PI`: whole frames, and nothing before them.
const FLAGS: u16 = 0x0002 | 0x1000;

/// Makes an interface of this name in the namespace of the calling thread. It lasts as long as the descriptor, from which
/// frames are read without waiting.
pub fn open(name: &str) -> Result<OwnedFd, Errno> {
    // The name ends with a zero byte.
    assert!(name.len() < 16, "too long for an interface: {name}");
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tap = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
    let mut request = [0; REQUEST];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&FLAGS.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which is as long as this array, and keeps no pointer to it.
    unsafe { ioctl(&tap, Setter::<SET_INTERFACE, [u8; REQUEST]>::new(request))? };
    Ok(tap)
}
