//! [`BindAddress`]: the argument of `bind`.
//!
//! A `BindAddress` keeps the argument as the program has written it, because one text means different things to
//! different transports. Each transport asks for its own meaning: [`to_inet`](BindAddress::to_inet),
//! [`to_unix`](BindAddress::to_unix), or `to_activated` before both. Mistakes are errors that say what to write.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::address::Address;
use crate::error::{Error, Result};

/// The argument of `bind`: text, a pair of host and port, an address, or a path.
///
/// Which of them a server accepts depends on its transport: TCP and UDP take `"host:port"`,
/// `("host", port)` and the address types of `std::net`; Unix sockets take a path, or `"@name"` for
/// an abstract name. As in Python, an empty host of a pair means every interface; text has to name one.
///
/// | argument | TCP and UDP | Unix sockets |
/// |---|---|---|
/// | `"127.0.0.1:80"`, `"[::1]:80"` | this address | refused; `"./127.0.0.1:80"` is a file |
/// | `"localhost:80"` | the first address of the host that can be bound | a file of this name |
/// | `("localhost", 80)`, `(ip, 80)`, `SocketAddr` | this host or address | refused |
/// | `"@name"` | refused | an abstract name (Linux) |
/// | `"/run/echo.sock"`, `Path`, `PathBuf` | refused | this path |
/// | [`BindAddress::activated`]`("http")` | a socket that a service manager has opened | the same |
///
/// ```
/// use socketserver::{TcpServer, stream_fn};
///
/// # fn main() -> socketserver::Result<()> {
/// // Port 0 is any free one; `server_address` says which.
/// let by_text = TcpServer::bind("127.0.0.1:0", stream_fn(|_request| Ok(())))?;
/// let by_pair = TcpServer::bind(("127.0.0.1", 0), stream_fn(|_request| Ok(())))?;
/// assert_ne!(by_text.server_address(), by_pair.server_address());
///
/// // Text without a host is a mistake, and says what to write.
/// let error = TcpServer::bind(":80", stream_fn(|_request| Ok(()))).unwrap_err();
/// assert!(error.is_bad_address() && error.to_string().contains("0.0.0.0"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BindAddress {
    /// The argument as the program has written it. Only the transport knows its meaning: see `to_inet` and `to_unix`.
    kind: BindForm,
}

/// The forms that a program can write.
#[derive(Clone, Debug)]
enum BindForm {
    /// An address of any family as text: `HOST:PORT`, a path, or `@NAME`.
    Text(String),
    /// Python's pair. An empty host is every interface.
    HostPort(String, u16),
    /// A path, even if its text looks like another kind of address.
    Path(PathBuf),
    /// An address that is known in full.
    Address(Address),
    /// A socket that a service manager has opened.
    Activated(Activated),
}

/// Which of the service manager's sockets is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Activated {
    /// The only socket that fits the transport.
    Only,
    /// The socket in this place of the list, counted from 0.
    Number(usize),
    /// The first socket of this name that fits.
    Name(String),
}

impl fmt::Display for Activated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => f.write_str("the activated socket"),
            Self::Number(number) => write!(f, "the activated socket {number}"),
            Self::Name(name) => write!(f, "the activated socket {name:?}"),
        }
    }
}

impl BindAddress {
    /// The socket that a service manager has passed under this name: systemd's socket activation. The name is
    /// `FileDescriptorName=` of the `.socket` unit, or the unit's own name (`echo.socket`). If several sockets have
    /// this name, the server gets the first one that fits its transport and that no other server of the process has.
    ///
    /// ```no_run
    /// use std::io::Write;
    /// use socketserver::{ThreadingTcpServer, stream_fn};
    /// use socketserver::transport::BindAddress;
    ///
    /// # fn main() -> socketserver::Result<()> {
    /// let hello = stream_fn(|request| Ok(request.write_all(b"hello\n")?));
    /// ThreadingTcpServer::bind(BindAddress::activated("http"), hello)?.run()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    #[doc(alias("LISTEN_FDS", "LISTEN_FDNAMES", "systemd"))]
    pub fn activated(name: impl Into<String>) -> Self {
        Self { kind: BindForm::Activated(Activated::Name(name.into())) }
    }

    /// The socket that a service manager has passed in this place, counted from 0: the order of the lines `Listen..=`
    /// in the unit.
    #[must_use]
    pub fn activated_number(number: usize) -> Self {
        Self { kind: BindForm::Activated(Activated::Number(number)) }
    }

    /// The socket that a service manager has passed, if exactly one of them fits the transport. If several fit, the
    /// bind fails and lists them.
    #[must_use]
    pub fn activated_only() -> Self {
        Self { kind: BindForm::Activated(Activated::Only) }
    }

    /// Whether the argument means a Unix socket: the address of one, a path, `@name`, or text with a slash in it. For
    /// [`connect`](crate::outgoing::connect), where no transport decides this.
    pub(crate) fn is_unix(&self) -> bool {
        match &self.kind {
            // A slash alone proves nothing: `tcp://host:80` has two, and is a mistake that `to_inet` explains.
            BindForm::Text(text) => {
                text.starts_with('@') || (text.contains('/') && !has_scheme(text))
            }
            BindForm::Path(_) => true,
            BindForm::Address(address) => !matches!(address, Address::Inet(_)),
            BindForm::HostPort(..) | BindForm::Activated(_) => false,
        }
    }

    /// Whether [`to_inet`](Self::to_inet) asks a name server.
    pub(crate) fn is_looked_up(&self) -> bool {
        // An empty host is every interface, and numbers need no name server.
        let is_name = |host: &str| host.parse::<IpAddr>().is_err() && !host.is_empty();
        match &self.kind {
            BindForm::Text(text) => host_and_port(text).is_ok_and(|(host, _)| is_name(host)),
            BindForm::HostPort(host, _) => is_name(host),
            BindForm::Path(_) | BindForm::Address(_) | BindForm::Activated(_) => false,
        }
    }

    /// The activated socket that the argument means, if it means one.
    pub(crate) fn to_activated(&self) -> Option<&Activated> {
        match &self.kind {
            BindForm::Activated(which) => Some(which),
            _ => None,
        }
    }

    /// The internet addresses that the argument means. A host name may have several, which a server tries in order.
    /// The system's resolver looks a name up, which may take seconds without a network. An address in numbers needs
    /// no look-up.
    ///
    /// # Errors
    ///
    /// If it is not `HOST:PORT`, or if the host name cannot be looked up.
    pub fn to_inet(&self) -> Result<Vec<SocketAddr>> {
        let found = match &self.kind {
            BindForm::Text(text) => {
                // A scheme is looked for only after a mistake, because a host may be called `tcp`.
                let (host, port) = host_and_port(text).map_err(|why| match has_scheme(text) {
                    true => {
                        self.mistake("write HOST:PORT alone; the transport is the server's type")
                    }
                    false => self.mistake(why),
                })?;
                look_up(host, port)
            }
            BindForm::HostPort(host, port) => {
                // A mistaken host is refused here. The look-up would fail too, but only after a wait, and its text would be
                // about unknown names.
                host_alone(host).map_err(|why| self.mistake(why))?;
                look_up(host, *port)
            }
            BindForm::Address(Address::Inet(address)) => Ok(vec![*address]),
            BindForm::Address(_) | BindForm::Path(_) | BindForm::Activated(_) => {
                return Err(self.mistake("it is not HOST:PORT"));
            }
        };
        let found = found.map_err(|error| Error::io("look up", self, error))?;
        // A resolver may succeed and know no address.
        if found.is_empty() {
            return Err(self.mistake("the host has no address"));
        }
        Ok(found)
    }

    /// The path or abstract name that the argument means.
    ///
    /// # Errors
    ///
    /// If it is an internet address, also as text (a file of that name is `./127.0.0.1:80`), empty, or
    /// contains a NUL.
    pub fn to_unix(&self) -> Result<Address> {
        let address = match &self.kind {
            BindForm::Text(text) => match text.strip_prefix('@') {
                Some(name) => Address::Abstract(name.as_bytes().to_owned()),
                // An address in numbers alone is surely a mistake: the server would listen at a file of that name, and no
                // client would find it. `host:80` is let through, because it may be a file.
                None if text.parse::<SocketAddr>().is_ok() => {
                    let why = format!("a Unix socket takes a path; if it is one, write ./{text}");
                    return Err(self.mistake(why));
                }
                None => Address::Unix(text.into()),
            },
            // A `Path` is not searched for a port, because the program says that it is a path.
            BindForm::Path(path) => Address::Unix(path.clone()),
            BindForm::Address(address @ (Address::Unix(_) | Address::Abstract(_))) => {
                address.clone()
            }
            BindForm::HostPort(..) | BindForm::Address(_) | BindForm::Activated(_) => {
                return Err(self.mistake("a Unix socket takes a path"));
            }
        };
        // Only paths need the checks below.
        let bytes = match &address {
            Address::Unix(path) => path.as_os_str().as_bytes(),
            // Linux allows the empty name, but it is easily confused with no name, for which bind(2) lets the kernel
            // choose one.
            Address::Abstract(name) if name.is_empty() => {
                return Err(Error::address("@", "an abstract name needs at least one byte: @NAME"));
            }
            _ => return Ok(address),
        };
        if bytes.is_empty() {
            return Err(Error::address("", "a Unix socket needs a path, or @NAME"));
        }
        if bytes.contains(&0) {
            return Err(self.mistake("a path cannot contain a NUL"));
        }
        Ok(address)
    }

    /// The error for an argument that the transport cannot use.
    fn mistake(&self, why: impl Into<String>) -> Error {
        Error::address(self.to_string(), why)
    }
}

/// The parts of `HOST:PORT`, or a sentence about what is wrong with the text. Host names are not looked up.
fn host_and_port(text: &str) -> Result<(&str, u16), &'static str> {
    // Split from the right: an IPv6 address in brackets contains colons as well.
    let Some((host, port)) = text.rsplit_once(':') else { return Err("write it as HOST:PORT") };
    let Ok(port) = port.parse() else { return Err("the port is a number from 0 to 65535") };
    // Without brackets the colons of IPv6 cannot be told from the one before the port.
    let host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
        Some(Some(host)) => host,
        Some(None) => return Err("the bracket is not closed"),
        None if host.contains(':') => return Err("write IPv6 as [ADDRESS]:PORT"),
        None => host,
    };
    // In text an empty host is more likely a slip than a wish to listen everywhere.
    if host.is_empty() { Err("name a host; 0.0.0.0 means all of IPv4") } else { Ok((host, port)) }
}

/// Finds the usual mistakes in the host of a pair (brackets, a port, a scheme). Their messages are better than that of
/// a failed look-up.
fn host_alone(host: &str) -> Result<(), String> {
    // The resolver would look for a host with brackets in its name.
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return Err(format!("in a pair, IPv6 has no brackets; write (\"{inner}\", PORT)"));
    }
    if has_scheme(host) {
        return Err("write the host alone; the transport is the server's type".to_owned());
    }
    match host_and_port(host) {
        Ok((alone, port)) => Err(format!(
            "the host has a port already; write \"{host}\" alone, or (\"{alone}\", {port})"
        )),
        Err(_) => Ok(()),
    }
}

/// Resolves a host as Python's `bind` does: an empty host means every interface.
fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    // IPv4 alone, as for Python's `''`. All of IPv6 is "::".
    if host.is_empty() {
        return Ok(vec![(Ipv4Addr::UNSPECIFIED, port).into()]);
    }
    // The resolver may wait for a name server.
    Ok((host, port).to_socket_addrs()?.collect())
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            BindForm::Text(text) => f.write_str(text),
            BindForm::HostPort(host, port) => write!(f, "{host}:{port}"),
            BindForm::Path(path) => write!(f, "{}", path.display()),
            BindForm::Address(address) => address.fmt(f),
            BindForm::Activated(which) => which.fmt(f),
        }
    }
}

// A conversion never fails: `bind` reports a mistake in the address, together with its other errors.
macro_rules! bind_address {
    ($($from:ty, $value:ident => $kind:expr;)*) => {$(
        impl From<$from> for BindAddress {
            fn from($value: $from) -> Self {
                Self { kind: $kind }
            }
        }
    )*};
}

bind_address! {
    &str, text => BindForm::Text(text.to_owned());
    String, text => BindForm::Text(text);
    &String, text => BindForm::Text(text.clone());
    (&str, u16), pair => BindForm::HostPort(pair.0.to_owned(), pair.1);
    (String, u16), pair => BindForm::HostPort(pair.0, pair.1);
    (IpAddr, u16), pair => BindForm::Address(Address::Inet(pair.into()));
    (Ipv4Addr, u16), pair => BindForm::Address(Address::Inet(pair.into()));
    (Ipv6Addr, u16), pair => BindForm::Address(Address::Inet(pair.into()));
    SocketAddr, address => BindForm::Address(Address::Inet(address));
    &Path, path => BindForm::Path(path.to_owned());
    PathBuf, path => BindForm::Path(path);
    &PathBuf, path => BindForm::Path(path.clone());
    &OsStr, path => BindForm::Path(path.into());
    Address, address => BindForm::Address(address);
    &Address, address => BindForm::Address(address.clone());
}

/// Whether the text names a transport first, as the addresses of other programs do.
fn has_scheme(text: &str) -> bool {
    let scheme = text.split_once(':').map(|(scheme, _)| scheme);
    matches!(scheme, Some("tcp" | "udp" | "unix" | "unixgram"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_internet_address_is_no_path_unless_it_is_written_as_one() {
        for text in ["127.0.0.1:9000", "[::1]:9000"] {
            let error = BindAddress::from(text).to_unix().unwrap_err();
            assert!(error.is_bad_address(), "{error}");
            let path = format!("./{text}");
            assert!(error.to_string().contains(&path), "{error}");
            assert_eq!(BindAddress::from(&path).to_unix().unwrap(), Address::Unix(path.into()));
            // A path that the program gives as a path is not checked for a port.
            assert!(BindAddress::from(Path::new(text)).to_unix().is_ok());
        }
    }

    #[test]
    fn bind_addresses_are_understood_without_naming_a_family() {
        let inet = |address: BindAddress| address.to_inet().unwrap()[0].to_string();
        assert_eq!(inet("[::1]:7".into()), "[::1]:7");
        assert_eq!(inet(("::1", 7).into()), "[::1]:7");
        assert_eq!(inet(("", 7).into()), "0.0.0.0:7");
        for text in ["", "host", "::1:7", "[::1:7", "h:99999", ":7", "[]:7"] {
            assert!(BindAddress::from(text).to_inet().unwrap_err().is_bad_address(), "{text:?}");
        }
        assert!(BindAddress::from(Path::new("/x")).to_inet().is_err());
        assert!(BindAddress::from(("h", 1)).to_unix().is_err());
        assert!(BindAddress::from("a\0b").to_unix().is_err());
    }

    #[test]
    fn a_host_of_a_pair_that_has_more_than_a_host_says_what_to_write() {
        for (host, says) in [
            ("127.0.0.1:80", "write \"127.0.0.1:80\" alone, or (\"127.0.0.1\", 80)"),
            ("localhost:80", "write \"localhost:80\" alone, or (\"localhost\", 80)"),
            ("[::1]:80", "write \"[::1]:80\" alone, or (\"::1\", 80)"),
            ("[::1]", "write (\"::1\", PORT)"),
            ("udp:127.0.0.1", "the transport is the server's type"),
        ] {
            let error = BindAddress::from((host, 0)).to_inet().unwrap_err();
            assert!(error.is_bad_address() && error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn a_transport_before_an_address_is_not_taken_for_ipv6() {
        let error = BindAddress::from("udp:127.0.0.1:7").to_inet().unwrap_err();
        assert!(error.is_bad_address() && error.to_string().contains("HOST:PORT alone"), "{error}");
    }
}
