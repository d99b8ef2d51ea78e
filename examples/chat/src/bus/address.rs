//! The address of the shared room, which may have a password in it; no message shows that.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};

use crate::name::check_name;
use common::{Failure, warn};

/// The address of the shared room.
#[derive(Clone)]
pub struct BusAddress {
    /// As given, for the operator, but without user and password.
    shown: String,
    pub host: String,
    pub port: u16,
    pub settings: RedisConnectionInfo,
    pub room: String,
    /// The texts that must not be shown: user and password, as given and as sent.
    passwords: Vec<String>,
}

/// Where the address was given.
pub const VARIABLE: &str = "CHAT_BUS";

const USAGE: &str = "write redis://HOST:PORT/ROOM, or redis://USER:PASSWORD@HOST:PORT/ROOM where \
                     Redis asks for a password, in which / @ : ? # are %2F %40 %3A %3F %23";

impl BusAddress {
    /// The address from the command line, a file, or the environment; the first of them counts. All users of the machine
    /// can see its command lines, but neither of the other two.
    pub fn given(argument: Option<&str>, file: Option<&Path>) -> Result<Option<Self>, Failure> {
        let usage =
            |from: &str, why: String| Failure::Usage(format!("the bus that {from} names: {why}"));
        if let Some(text) = argument {
            let address: Self = text.parse().map_err(|why| usage("--bus", why))?;
            if !address.passwords.is_empty() {
                warn(&format!(
                    "all users of this machine can see the password in --bus, as they can list its processes: \
                     give it by --bus-file, or by {VARIABLE} in the environment"
                ));
            }
            return Ok(Some(address));
        }
        let (from, text) = match file {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    Failure::Other(format!("cannot read the bus from {}: {error}", path.display()))
                })?;
                (path.display().to_string(), text)
            }
            None => match std::env::var_os(VARIABLE) {
                Some(text) => (VARIABLE.to_owned(), text.to_string_lossy().into_owned()),
                None => return Ok(None),
            },
        };
        text.trim().parse().map(Some).map_err(|why| usage(&from, why))
    }

    /// Removes the password from a text of Redis, which repeats words that it does not understand.
    pub fn without_password(&self, text: &str) -> String {
        self.passwords.iter().fold(text.to_owned(), |text, password| text.replace(password, "***"))
    }
}

impl fmt::Display for BusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl FromStr for BusAddress {
    /// A sentence without any part of the address.
    type Err = String;

    /// `redis://HOST:PORT/ROOM`, or with the number of a database, `redis://HOST:PORT/DB/ROOM`.
    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("redis://").ok_or(USAGE)?;
        let (server, room) = rest.rsplit_once('/').ok_or(USAGE)?;
        check_name(room).map_err(|why| format!("{USAGE}; the ROOM is like a name: {why}"))?;
        let (user, host) = server.rsplit_once('@').unwrap_or(("", server));
        // Such a character would end the password, and its rest would be taken for a host.
        if user.contains(['/', '@', '?', '#']) || host.contains(['?', '#']) {
            return Err(USAGE.to_owned());
        }
        let url = format!("redis://{server}");
        let info = url.into_connection_info().map_err(|_| USAGE.to_owned())?;
        let ConnectionAddr::Tcp(name, port) = info.addr().clone() else {
            return Err(USAGE.to_owned());
        };
        let settings = info.redis_settings().clone();
        let given = user.split_once(':').map(|(_, password)| password.to_owned());
        let sent = settings.password().map(str::to_owned);
        let passwords = given.into_iter().chain(sent).filter(|text| !text.is_empty()).collect();
        Ok(Self {
            shown: format!("redis://{host}/{room}"),
            host: name,
            port,
            settings,
            room: room.to_owned(),
            passwords,
        })
    }
}
