//! [`Target`]: where the room is, as an address says it.

use std::str::FromStr;

use redis::{ConnectionAddr, IntoConnectionInfo};

use crate::name::check_name;

/// An address, taken apart.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address as it was given, for the operator, but without user and password.
    pub shown: String,
    pub room: String,
    pub place: Place,
    /// Whether the servers there speak TLS.
    pub tls: bool,
    pub db: i64,
    pub user: Option<String>,
    pub password: Option<String>,
    /// The password as it is written in the address.
    pub written: Option<String>,
}

/// Where Redis is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A server at a host and a port, as `HOST:PORT` with the brackets of IPv6.
    Server(String),
    /// A server at the path of a Unix socket.
    Unix(String),
    /// The master that these Sentinels know by its name, wherever it is.
    Sentinels { at: Vec<String>, master: String },
}

impl Place {
    /// The address that is connected to first.
    pub fn first(&self) -> &str {
        match self {
            Self::Server(at) | Self::Unix(at) => at,
            Self::Sentinels { at, .. } => at.first().map_or("", |at| at),
        }
    }
}

/// The most Sentinels that an address may list: three or five are usual.
const SENTINELS: usize = 16;
const SENTINEL_PORT: u16 = 26_379;

const USAGE: &str = "write redis://HOST:PORT/ROOM, rediss://HOST:PORT/ROOM for TLS, redis+unix:///PATH/ROOM for a Unix \
                     socket, or redis+sentinel://HOST:PORT,HOST:PORT/MASTER/ROOM for the master that Sentinels know; \
                     USER:PASSWORD@ comes before the host where Redis asks for a password, in which / @ : ? # are %2F \
                     %40 %3A %3F %23; and the number of a database before /ROOM";

impl FromStr for Target {
    /// A sentence that says how addresses are written. It repeats neither host nor password of the wrong one.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or(USAGE)?;
        let (rest, room) = rest.rsplit_once('/').ok_or(USAGE)?;
        check_name(room).map_err(|why| format!("{USAGE}; the ROOM is like a name: {why}"))?;
        let (user, server) = rest.rsplit_once('@').unwrap_or(("", rest));
        // Such a character would end the password, and the rest of the password would be taken for a host.
        if user.contains(['/', '@', '?', '#']) || server.contains(['?', '#']) {
            return Err(USAGE.to_owned());
        }
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let (server, db) = match server.rsplit_once('/') {
            Some((server, db)) if is_number(db) => (server, db),
            _ => (server, "0"),
        };
        let port = if scheme.ends_with("+sentinel") { SENTINEL_PORT } else { 6_379 };
        let place = match scheme {
            "redis" | "rediss" => Place::Server(host(server, port)?),
            "redis+unix" if server.len() > 1 && server.starts_with('/') => {
                Place::Unix(server.to_owned())
            }
            "redis+sentinel" | "rediss+sentinel" => {
                let (hosts, master) = server.split_once('/').ok_or(USAGE)?;
                let at: Vec<_> =
                    hosts.split(',').map(|text| host(text, port)).collect::<Result<_, _>>()?;
                if master.is_empty() || master.contains('/') || at.len() > SENTINELS {
                    return Err(USAGE.to_owned());
                }
                Place::Sentinels { at, master: master.to_owned() }
            }
            _ => return Err(USAGE.to_owned()),
        };
        // The crate `redis` reads user and password, as for every other client of Redis.
        let url = if user.is_empty() { String::new() } else { format!("{user}@") };
        let info = format!("redis://{url}localhost/{db}").into_connection_info();
        let info = info.map_err(|_| USAGE.to_owned())?;
        let settings = info.redis_settings();
        let written = user.split_once(':').map(|(_, password)| password.to_owned());
        Ok(Self {
            shown: format!("{scheme}://{server}/{room}"),
            room: room.to_owned(),
            place,
            tls: scheme.starts_with("rediss"),
            db: settings.db(),
            user: settings.username().map(str::to_owned),
            password: settings.password().map(str::to_owned),
            written: written.filter(|text| !text.is_empty()),
        })
    }
}

/// Reads `HOST` or `HOST:PORT`. Returns `HOST:PORT`, with `port` if the text has none.
fn host(text: &str, port: u16) -> Result<String, String> {
    let usage = |_| USAGE.to_owned();
    if text.contains(['/', ',']) {
        return Err(USAGE.to_owned());
    }
    let info = format!("redis://{text}").into_connection_info().map_err(usage)?;
    let ConnectionAddr::Tcp(host, given) = info.addr() else { return Err(USAGE.to_owned()) };
    let has_port =
        text.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    Ok(joined(host, if has_port { *given } else { port }))
}

/// `HOST:PORT`, with brackets around an address of IPv6.
pub fn joined(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Place {
        Place::Server(text.to_owned())
    }

    #[test]
    fn each_kind_of_address_is_taken_apart() {
        let sentinels = |at: &[&str], master: &str| Place::Sentinels {
            at: at.iter().map(|&at| at.to_owned()).collect(),
            master: master.to_owned(),
        };
        for (text, place, tls, db) in [
            ("redis://redis.example/lobby", server("redis.example:6379"), false, 0),
            ("redis://127.0.0.1:7000/3/lobby", server("127.0.0.1:7000"), false, 3),
            ("rediss://[::1]:7000/lobby", server("[::1]:7000"), true, 0),
            ("rediss://[::1]/2/lobby", server("[::1]:6379"), true, 2),
            ("redis+unix:///run/r.sock/lobby", Place::Unix("/run/r.sock".into()), false, 0),
            ("redis+unix:///run/r.sock/5/lobby", Place::Unix("/run/r.sock".into()), false, 5),
            (
                "redis+sentinel://a,b:7001,[::1]/mymaster/lobby",
                sentinels(&["a:26379", "b:7001", "[::1]:26379"], "mymaster"),
                false,
                0,
            ),
            ("rediss+sentinel://a/m/4/lobby", sentinels(&["a:26379"], "m"), true, 4),
        ] {
            let target: Target = text.parse().unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!((&target.place, target.tls, target.db), (&place, tls, db), "{text}");
            assert_eq!((&*target.room, target.user, target.password), ("lobby", None, None));
            let with = text.replace("://", "://me:s3cr%2Ft@");
            let target: Target = with.parse().unwrap_or_else(|why| panic!("{with}: {why}"));
            assert_eq!(target.place, place, "{with}");
            assert_eq!(target.user.as_deref(), Some("me"));
            assert_eq!(target.password.as_deref(), Some("s3cr/t"));
            assert!(!target.shown.contains("s3cr"), "{}", target.shown);
        }
        let target: Target = "redis://me@host/lobby".parse().unwrap();
        assert_eq!((target.user.as_deref(), target.password), (Some("me"), None));
    }

    #[test]
    fn an_address_that_is_none_is_told_how_it_is_written_and_not_repeated() {
        for text in [
            "s3cr3t",
            "redis://s3cr3t",
            "http://:s3cr3t@host/lobby",
            "redis://:s3cr3t@host/some/lobby",
            "redis://:s3cr3t@host:port/lobby",
            "redis://:s3cr3t@/lobby",
            "rediss+unix:///s3cr3t/lobby",
            "redis+unix://s3cr3t/lobby",
            "redis+unix:///lobby",
            "redis+sentinel://:s3cr3t@host/lobby",
            "redis+sentinel://:s3cr3t@host/5/lobby",
            "redis+sentinel://:s3cr3t@host,,other/m/lobby",
            "redis+sentinel://:s3cr3t@host/m/n/lobby",
            "redis://:s3cr3t@one,two/lobby",
        ] {
            let why = text.parse::<Target>().expect_err(text);
            assert!(why.contains("redis://HOST:PORT/ROOM") && !why.contains("s3cr3t"), "{why}");
        }
    }
}
