//! [`Address`]: the address of a server or a peer.
//!
//! | the system's form | here |
//! |---|---|
//! | `sockaddr_in`; `sockaddr_in6`, even if it maps an IPv4 address | `Inet`, canonical |
//! | `sockaddr_un` with a path | `Unix` |
//! | `sockaddr_un` with a NUL first | `Abstract`, without the NUL |
//! | `sockaddr_un` of no length; an unknown family | `Unnamed` |

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use socket2::SockAddr;

/// The address of one end of a connection, or of a server: Python's `client_address` and
/// `server_address`.
///
/// An address is printed as people write it: `127.0.0.1:9999`, `[::1]:9999`, `/run/echo.sock`, `@name`; control
/// characters in a name that a peer has chosen are escaped.
///
/// ```
/// use socketserver::Address;
///
/// let mapped: std::net::SocketAddr = "[::ffff:127.0.0.1]:9999".parse().unwrap();
/// let address = Address::from(mapped);
/// assert_eq!(address.to_string(), "127.0.0.1:9999");
/// assert!(address.is_local());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// TCP and UDP. A peer that reached a dual-stack socket over IPv4 has an IPv4 address here, and not the `::ffff:`
    /// address that the kernel maps it to.
    Inet(SocketAddr),
    /// A Unix socket at a path.
    Unix(PathBuf),
    /// A Unix socket with an abstract name (Linux): no file, and so no permissions.
    Abstract(Vec<u8>),
    /// A Unix socket without a name, as most clients have.
    Unnamed,
    /// Any other address, as a transport outside this crate names it.
    Other(String),
}

impl Address {
    /// The internet address; none for an address of another kind.
    #[must_use]
    pub fn as_inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            _ => None,
        }
    }

    /// The IP address without the port; none if this is not an internet address.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.as_inet().map(|address| address.ip())
    }

    /// The port; none if this is not an internet address.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.as_inet().map(|address| address.port())
    }

    /// The path of a Unix socket; none for a socket without a path, and for all other addresses.
    #[must_use]
    pub fn as_path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            _ => None,
        }
    }

    /// Whether only this machine can reach the address: true for loopback addresses and Unix sockets.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            // `From` never gives a mapped address of IPv4, but a program may write `Inet` with one.
            Self::Inet(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) | Self::Abstract(_) | Self::Unnamed => true,
            // Only the transport of this address could tell.
            Self::Other(_) => false,
        }
    }

    /// The form that the system takes. The length of a Unix socket's name is checked.
    ///
    /// # Errors
    ///
    /// If nothing can be sent or connected to such an address, or its name is too long for a socket.
    pub(crate) fn to_socket(&self) -> io::Result<SockAddr> {
        // Sentences without the address: the callers put it before them.
        let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why);
        let too_long = |_| wrong("the name is too long for a Unix socket (107 bytes)");
        match self {
            Self::Inet(inet) => Ok((*inet).into()),
            Self::Unix(path) => SockAddr::unix(path).map_err(too_long),
            Self::Abstract(name) => {
                // See unix(7): the first byte of the path is NUL, and the name is not terminated.
                let bytes = [b"\0", &**name].concat();
                SockAddr::unix(OsStr::from_bytes(&bytes)).map_err(too_long)
            }
            Self::Unnamed => Err(wrong("it has no address")),
            Self::Other(_) => Err(wrong("it is the address of a program's own transport")),
        }
    }

    /// Converts a system address. An address of an unknown family becomes [`Unnamed`](Self::Unnamed).
    pub(crate) fn from_socket(address: &SockAddr) -> Self {
        if let Some(inet) = address.as_socket() {
            return inet.into();
        }
        if let Some(path) = address.as_pathname() {
            return Self::Unix(path.to_owned());
        }
        match address.as_abstract_namespace() {
            Some(name) => Self::Abstract(name.to_owned()),
            None => Self::Unnamed,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        // Canonical, so that for limits and messages a client is the same one over an IPv4 socket and over a dual-stack
        // one.
        match address.ip().to_canonical() {
            // The whole address, so that the scope and the flow of real IPv6 stay.
            same if same == address.ip() => Self::Inet(address),
            v4 => Self::Inet(SocketAddr::new(v4, address.port())),
        }
    }
}

/// Lets a client connect with `TcpStream::connect(server.server_address())`. Any address but an internet address is an
/// error of kind `InvalidInput`.
impl ToSocketAddrs for Address {
    type Iter = std::option::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        let why = || format!("{self} is no internet address");
        let found =
            self.as_inet().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, why()))?;
        Ok(Some(found).into_iter())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // std writes the scope of a link-local address as well (`[fe80::1%2]:80`).
            Self::Inet(address) => address.fmt(f),
            // A client chooses the path of its own socket, and may choose one with control sequences for the terminal at
            // which a log is read. Only those are escaped: a name in any script stays readable.
            Self::Unix(path) => {
                for character in path.display().to_string().chars() {
                    if character.is_control() {
                        write!(f, "{}", character.escape_default())?;
                    } else {
                        f.write_char(character)?;
                    }
                }
                Ok(())
            }
            Self::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
            Self::Unnamed => f.write_str("(unnamed)"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_path_cannot_steer_the_terminal_of_who_prints_it() {
        let path = Address::Unix("/tmp/a\x1b[2J\nrefused".into());
        assert_eq!(path.to_string(), "/tmp/a\\u{1b}[2J\\nrefused");
        assert_eq!(Address::Unix("/tmp/王 小明".into()).to_string(), "/tmp/王 小明");
    }

    #[test]
    fn a_mapped_peer_is_shown_as_ipv4() {
        let mapped: SocketAddr = "[::ffff:127.0.0.1]:5".parse().unwrap();
        assert_eq!(Address::from(mapped).to_string(), "127.0.0.1:5");
        assert!(Address::from(mapped).is_local());
    }
}
