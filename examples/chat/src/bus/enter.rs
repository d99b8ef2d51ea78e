//! The way in: [`Wire::open`] connects to a server, or to the master that Sentinels know, logs in, and makes sure that
//! it is a master.
//!
//! ```text
//! an address of a server       connect ---------------------------------> AUTH, SELECT, ROLE: master?  use it
//! addresses of Sentinels       connect -> AUTH -> where is MASTER? --+         |
//!    ^                                                               +-> ... --+
//!    +-- the next Sentinel, if this one does not answer, knows no MASTER, or names a server that is not a master (any more)
//! ```
//!
//! Sentinels are asked at each connection, so that the first connection after a failover leads to the new master. A
//! Sentinel may not know of the failover yet: then the server that it names says in its answer to ROLE that it is a
//! replica, or does not answer.
//!
//! The crate `redis` has clients of its own for Sentinels and for TLS. They keep answers of any size, and no deadline bounds
//! their wait for a whole answer; [`Wire`] bounds size and time.

use std::io;
use std::time::{Duration, Instant};

use redis::{RedisError, RedisResult, Value, cmd};

use super::access::{BusAddress, Entrance};
use super::address::{Place, joined};
use super::channel::Channel;
use super::wire::{Wire, words_of};

/// How long Sentinels are asked, one after the other, before the attempt fails. The next attempt asks in the same order.
const SENTINELS: Duration = Duration::from_secs(15);

impl Wire {
    /// Connects as the address says, and as its files say now.
    pub fn open(address: &BusAddress) -> RedisResult<Self> {
        let entrance = address.entrance().map_err(|failure| refused(failure.to_string()))?;
        match &entrance.target.place {
            Place::Server(at) | Place::Unix(at) => enter(&entrance, at),
            Place::Sentinels { at, master } => enter_by(address, &entrance, at, master),
        }
        .map_err(refused)
    }
}

fn refused(why: String) -> RedisError {
    io::Error::other(why).into()
}

/// Enters the master that one of the Sentinels knows.
fn enter_by(
    address: &BusAddress,
    entrance: &Entrance,
    sentinels: &[String],
    master: &str,
) -> Result<Wire, String> {
    let (began, first) = (Instant::now(), address.first_sentinel());
    let mut faults = Vec::new();
    for turn in 0..sentinels.len() {
        let number = (first + turn) % sentinels.len();
        let sentinel = &sentinels[number];
        let entered = master_of(entrance, sentinel, master).and_then(|at| {
            enter(entrance, &at)
                .map_err(|why| format!("the Sentinel at {sentinel} says that it is at {at}: {why}"))
        });
        match entered {
            Ok(wire) => {
                address.found_by(number);
                return Ok(wire);
            }
            Err(why) => faults.push(why),
        }
        if began.elapsed() > SENTINELS {
            break;
        }
    }
    Err(format!("cannot find the master {master}: {}", faults.join("; ")))
}

/// Asks a Sentinel where the master is.
fn master_of(entrance: &Entrance, sentinel: &str, master: &str) -> Result<String, String> {
    let mut wire = Wire::over(Channel::open(sentinel, entrance.tls.as_ref())?);
    let (user, password) = &entrance.sentinel;
    log_in(&mut wire, sentinel, user.as_deref(), password.as_deref())?;
    let cannot = |why: String| format!("cannot ask the Sentinel at {sentinel}: {why}");
    let mut ask = cmd("SENTINEL");
    ask.arg("get-master-addr-by-name").arg(master);
    let answer: Option<(String, String)> = ask.query(&mut wire).map_err(|error| {
        cannot(match error.code() {
            Some("NOAUTH") => {
                format!("{}; give its password by --bus-sentinel-password-file", words_of(&error))
            }
            Some("NOPERM") => {
                format!("{}; its user needs +sentinel|get-master-addr-by-name", words_of(&error))
            }
            _ => format!("{}; is it a Sentinel?", words_of(&error)),
        })
    })?;
    let (host, port) = answer.ok_or_else(|| {
        cannot(format!("it knows no master {master}; `SENTINEL masters` lists those that it knows"))
    })?;
    match port.parse() {
        Ok(port) if !host.is_empty() && !host.contains('/') => Ok(joined(&host, port)),
        _ => Err(cannot("it answers with no address".to_owned())),
    }
}

/// Connects to a server, logs in, chooses the database, and makes sure that it is a master.
fn enter(entrance: &Entrance, at: &str) -> Result<Wire, String> {
    let target = &entrance.target;
    let mut wire = Wire::over(Channel::open(at, entrance.tls.as_ref())?);
    log_in(&mut wire, at, target.user.as_deref(), target.password.as_deref())?;
    if target.db != 0 {
        let selected = cmd("SELECT").arg(target.db).exec(&mut wire);
        selected.map_err(|error| cannot_use(at, target.tls, &error))?;
    }
    let role: Vec<Value> =
        cmd("ROLE").query(&mut wire).map_err(|error| cannot_use(at, target.tls, &error))?;
    let word = |at: usize| role.get(at).and_then(|value| redis::from_redis_value_ref(value).ok());
    match word(0).as_deref() {
        Some("master") => Ok(wire.entered(target.db)),
        Some("sentinel") => Err(format!(
            "cannot use {at}: it is a Sentinel; write redis+sentinel://{at}/MASTER/{}",
            target.room
        )),
        Some("slave") => {
            let port = role.get(2).and_then(|value| redis::from_redis_value_ref(value).ok());
            let (host, port): (String, u16) = (word(1).unwrap_or_default(), port.unwrap_or(0));
            Err(format!(
                "cannot use {at}: it is a replica, and only a master takes lines; its master is at {}, and \
                 redis+sentinel:// finds it after a failover as well",
                joined(&host, port)
            ))
        }
        _ => Err(format!("cannot use {at}: it does not say that it is a master")),
    }
}

fn log_in(
    wire: &mut Wire,
    at: &str,
    user: Option<&str>,
    password: Option<&str>,
) -> Result<(), String> {
    if user.is_none() && password.is_none() {
        return Ok(());
    }
    let mut login = cmd("AUTH");
    if let Some(user) = user {
        login.arg(user);
    }
    // A user that needs no password is accepted with any password.
    login.arg(password.unwrap_or_default());
    login.exec(wire).map_err(|error| {
        let advice = match error.code() {
            Some("WRONGPASS") => {
                "; if the password was changed, write the new one into its file, which is read at each connection"
            }
            _ => "",
        };
        format!("cannot log in at {at}: {}{advice}", words_of(&error))
    })
}

fn cannot_use(at: &str, is_tls: bool, error: &RedisError) -> String {
    let advice = match error.code() {
        Some("NOAUTH") => {
            "; give its password by --bus-password-file, or the user as well: redis://USER@HOST"
        }
        Some("NOPERM") => "; docs/operations.md has the rule of ACL that suffices",
        // Redis ends a connection like this when it waits for a handshake of TLS.
        _ if error.is_connection_dropped() && !is_tls => {
            "; if it speaks TLS there, write rediss://"
        }
        _ => "",
    };
    format!("cannot use {at}: {}{advice}", words_of(error))
}
