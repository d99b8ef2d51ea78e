//! A transport and an address in one word, as the programs' command lines take them.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use socketserver::Address;
use socketserver::transport::BindAddress;

/// A transport and an address in one word, as programs take them on their command line.
///
/// | text | meaning |
/// |---|---|
/// | `HOST:PORT`, `tcp:HOST:PORT` | TCP; `[::1]:0` for IPv6 |
/// | `udp:HOST:PORT` | UDP |
/// | `unix:PATH`, `unix:@NAME` | a Unix stream socket, at a path or with an abstract name |
/// | `unixgram:PATH`, `unixgram:@NAME` | a Unix datagram socket |
///
/// It prints in the same form, but TCP has no prefix.
///
/// ```
/// # use common::Endpoint;
/// let endpoint: Endpoint = "unix:@echo".parse()?;
/// assert!(matches!(&endpoint, Endpoint::Unix(name) if name == "@echo"));
/// assert_eq!("tcp:[::1]:80".parse::<Endpoint>()?.to_string(), "[::1]:80");
/// # Ok::<(), common::BadEndpoint>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// TCP, as `HOST:PORT`.
    Tcp(String),
    /// UDP, as `HOST:PORT`.
    Udp(String),
    /// A Unix stream socket, as a path or `@NAME`.
    Unix(String),
    /// A Unix datagram socket, as a path or `@NAME`.
    Unixgram(String),
}

impl Endpoint {
    /// The address without its transport, ready for `bind`.
    #[must_use]
    pub fn address(&self) -> &str {
        match self {
            Self::Tcp(text) | Self::Udp(text) | Self::Unix(text) | Self::Unixgram(text) => text,
        }
    }

    /// Whether it is a datagram transport.
    #[must_use]
    pub fn is_datagram(&self) -> bool {
        matches!(self, Self::Udp(_) | Self::Unixgram(_))
    }

    /// Reads a word for a program that serves connections alone: the error names only the forms of connections. A word
    /// for a datagram transport is accepted nevertheless: the program refuses it later, with a better error.
    ///
    /// # Errors
    ///
    /// As for `parse`: if the word has none of the forms in the table above.
    pub fn of_streams(text: &str) -> Result<Self, BadEndpoint> {
        Self::read(text, |unix| format!("unix:{unix}"), "HOST:PORT or unix:PATH")
    }

    /// Reads a word. Its error tells the user to write the form that `unix` makes if the word begins with `@`, and one
    /// of `forms` otherwise.
    fn read(text: &str, unix: fn(&str) -> String, forms: &str) -> Result<Self, BadEndpoint> {
        let (scheme, rest) = with_scheme(text).unwrap_or(("tcp", text));
        let owned = rest.to_owned();
        let endpoint = match scheme {
            "udp" => Self::Udp(owned),
            "unix" => Self::Unix(owned),
            "unixgram" => Self::Unixgram(owned),
            _ => Self::Tcp(owned),
        };
        // The grammar is checked here, so that a wrong command line is refused. `bind` looks up host names.
        if let Self::Unix(_) | Self::Unixgram(_) = endpoint {
            BindAddress::from(rest).to_unix().map_err(|error| BadEndpoint(error.to_string()))?;
            return Ok(endpoint);
        }
        let Err(why) = host_and_port(rest) else { return Ok(endpoint) };
        let is_inet = rest.contains(':') && !rest.contains('/') && with_scheme(rest).is_none();
        let why = if rest.starts_with('@') {
            format!("write {}", unix(rest))
        } else if is_inet {
            why.to_owned()
        } else {
            format!("write {forms}")
        };
        Err(BadEndpoint(format!("cannot understand the address {text:?}: {why}")))
    }

    /// The same transport at another address: the real one of a server that was bound to port 0.
    #[must_use]
    pub fn at(&self, address: &Address) -> Self {
        let text = address.to_string();
        match self {
            Self::Tcp(_) => Self::Tcp(text),
            Self::Udp(_) => Self::Udp(text),
            Self::Unix(_) => Self::Unix(text),
            Self::Unixgram(_) => Self::Unixgram(text),
        }
    }
}

/// The error for a word that is not an [`Endpoint`]. It says what to write.
#[derive(Debug)]
pub struct BadEndpoint(String);

impl fmt::Display for BadEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for BadEndpoint {}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let unix = |unix: &str| format!("unix:{unix} or unixgram:{unix}");
        Self::read(text, unix, "HOST:PORT, udp:HOST:PORT, unix:PATH or unixgram:PATH")
    }
}

/// The transport that an address names, and the rest of the address.
fn with_scheme(text: &str) -> Option<(&str, &str)> {
    text.split_once(':')
        .filter(|(scheme, _)| matches!(*scheme, "tcp" | "udp" | "unix" | "unixgram"))
}

/// The parts of `HOST:PORT`, or the reason why the text is wrong. Host names are not looked up.
///
/// A copy of the function that `bind` calls, which is not public in the library. A test compares the two.
fn host_and_port(text: &str) -> Result<(&str, u16), &'static str> {
    let Some((host, port)) = text.rsplit_once(':') else { return Err("write it as HOST:PORT") };
    let Ok(port) = port.parse() else { return Err("the port is a number from 0 to 65535") };
    let host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
        Some(Some(host)) => host,
        Some(None) => return Err("the bracket is not closed"),
        None if host.contains(':') => return Err("write IPv6 as [ADDRESS]:PORT"),
        None => host,
    };
    if host.is_empty() { Err("name a host; 0.0.0.0 means all of IPv4") } else { Ok((host, port)) }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self {
            // A host may be called `udp`; the prefix keeps it from being read as a scheme.
            Self::Tcp(text) if with_scheme(text).is_some() => "tcp:",
            Self::Tcp(_) => "",
            Self::Udp(_) => "udp:",
            Self::Unix(_) => "unix:",
            Self::Unixgram(_) => "unixgram:",
        };
        write!(f, "{scheme}{}", self.address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_back_as_they_are_written() {
        for text in [
            "127.0.0.1:80",
            "udp:[::1]:0",
            "unix:/tmp/x",
            "unix:@x",
            "unixgram:/tmp/y",
            "tcp:udp:1",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert_eq!("tcp:h:1".parse::<Endpoint>().unwrap(), Endpoint::Tcp("h:1".into()));
    }

    #[test]
    fn bad_endpoints_say_what_to_write() {
        for text in [
            "",
            "80",
            ":80",
            "host:",
            "host:70000",
            "udp:",
            "unix:",
            "::1:7",
            "tcp:udp:h:1",
            "[]:1",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text:?}");
        }
        for (text, says) in [
            (":9000", "0.0.0.0 means all of IPv4"),
            ("127.0.0.1:99999", "from 0 to 65535"),
            ("udp:::1:7", "[ADDRESS]:PORT"),
            ("@x", "write unix:@x"),
            ("/run/x", "unix:PATH"),
            ("unxi:/run/x", "unix:PATH"),
            ("unix:127.0.0.1:9000", "write ./127.0.0.1:9000"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            let error = Endpoint::of_streams(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_program_of_connections_names_no_datagrams_among_its_forms() {
        for text in ["nonsense", "/run/x", "@x"] {
            let of_streams = Endpoint::of_streams(text).unwrap_err().to_string();
            assert!(
                !of_streams.contains("udp") && !of_streams.contains("unixgram"),
                "{of_streams}"
            );
            let of_all = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(of_all.contains("unixgram:"), "{of_all}");
        }
    }
}
