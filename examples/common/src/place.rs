//! Where a program listens: an address that it binds to, or sockets that a service manager has opened.

use std::fmt;
use std::str::FromStr;

use socketserver::handover::Handover;
use socketserver::transport::{ActivatedSocket, BindAddress, SocketKind, activated_sockets};

use crate::{BadEndpoint, Endpoint, Failure, MixinName, ServeOptions};

/// A value of `--bind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An address, which the program binds to itself.
    At(Endpoint),
    /// `systemd`: all sockets of the service manager; `systemd:NAME`: those of this name.
    Systemd(Option<String>),
}

impl Place {
    /// The addresses to bind to, each with its transport. A socket of the service manager has an address already.
    fn endpoints(&self) -> Result<Vec<(Endpoint, BindAddress)>, Failure> {
        let name = match self {
            Self::At(endpoint) => {
                return Ok(vec![(endpoint.clone(), BindAddress::from(endpoint.address()))]);
            }
            Self::Systemd(name) => name,
        };
        let is_meant = |socket: &ActivatedSocket| {
            !socket.is_taken && name.as_ref().is_none_or(|name| socket.name == *name)
        };
        let sockets = activated_sockets()?.into_iter().filter(is_meant);
        let found: Vec<_> = sockets
            .map(|ActivatedSocket { number, kind, address, .. }| {
                let text = address.to_string();
                let endpoint = match kind {
                    SocketKind::UdpSocket => Endpoint::Udp(text),
                    SocketKind::UnixListener => Endpoint::Unix(text),
                    SocketKind::UnixDatagram => Endpoint::Unixgram(text),
                    // A socket of another kind makes the bind fail, with an error that names the kind.
                    _ => Endpoint::Tcp(text),
                };
                (endpoint, BindAddress::activated_number(number))
            })
            .collect();
        if !found.is_empty() {
            return Ok(found);
        }
        // No such socket was passed. The error of the bind says why, and what to write.
        let missing = name.clone().map_or_else(BindAddress::activated_only, BindAddress::activated);
        Ok(vec![(Endpoint::Tcp(self.to_string()), missing)])
    }
}

/// All places at which a program listens, and its side of a handover: from its predecessor and to its successor.
#[derive(Debug)]
pub struct Places {
    pub(crate) handover: Handover,
    /// The addresses to bind to, each with its transport.
    pub(crate) places: Vec<(Endpoint, BindAddress)>,
}

impl Places {
    /// Gets the sockets of the predecessor, if there is one, and finds all places that `--bind` means.
    ///
    /// # Errors
    ///
    /// If the handover fails, if the service manager contradicts itself, or if a forking server has several places.
    pub fn of(options: &ServeOptions) -> Result<Self, Failure> {
        let check = |count: usize| {
            if options.mixin == MixinName::Forking && count > 1 {
                let why = "a forking server has to run alone in its process: give one --bind";
                return Err(Failure::Usage(why.to_owned()));
            }
            Ok(())
        };
        // This is checked first, so that a mistake in the addresses begins no handover.
        check(options.bind.len())?;
        // The places are found after the handover, which may bring the service manager's sockets along.
        let handover = match &options.handover {
            Some(path) => Handover::at(path).map_err(|error| {
                let advice =
                    if error.is_permission_denied() { "; choose another path" } else { "" };
                Failure::Other(format!("--handover {}: {error}{advice}", path.display()))
            })?,
            None => Handover::by_signal()?,
        };
        let mut places = Vec::new();
        for place in &options.bind {
            places.append(&mut place.endpoints()?);
        }
        check(places.len())?;
        Ok(Self { handover: handover.within(options.handover_within), places })
    }

    /// The addresses, also those of a service manager's sockets.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.places.iter().map(|(endpoint, _)| endpoint.clone()).collect()
    }
}

impl FromStr for Place {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        Self::read(text, str::parse)
    }
}

impl Place {
    /// The place of a program that serves connections alone: see [`Endpoint::of_streams`].
    pub(crate) fn of_streams(text: &str) -> Result<Self, BadEndpoint> {
        Self::read(text, Endpoint::of_streams)
    }

    /// A place of the service manager, or an address as `endpoint` reads it.
    fn read(
        text: &str,
        endpoint: fn(&str) -> Result<Endpoint, BadEndpoint>,
    ) -> Result<Self, BadEndpoint> {
        match text.split_once(':') {
            None if text == "systemd" => Ok(Self::Systemd(None)),
            // A name is never a number, so `systemd:80` is a host called `systemd` and its port.
            Some(("systemd", name)) if !name.is_empty() && name.parse::<u16>().is_err() => {
                Ok(Self::Systemd(Some(name.to_owned())))
            }
            _ => endpoint(text).map(Self::At),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(endpoint) => endpoint.fmt(f),
            Self::Systemd(None) => f.write_str("systemd"),
            Self::Systemd(Some(name)) => write!(f, "systemd:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_back_as_they_are_written() {
        for text in ["systemd", "systemd:http", "127.0.0.1:80", "unix:@x", "systemd:80"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        let named = "systemd:http".parse().unwrap();
        assert!(matches!(named, Place::Systemd(Some(name)) if name == "http"));
        assert!(matches!("systemd:80".parse().unwrap(), Place::At(Endpoint::Tcp(_))));
        assert!("systemd:".parse::<Place>().is_err());
    }
}
