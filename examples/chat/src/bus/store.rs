//! Redis, as the bus uses it: the keys of a room, and the scripts, each of which is one step that is done as a whole or not
//! at all.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use redis::{Cmd, FromRedisValue, RedisError, RedisResult, Value, cmd, from_redis_value};

use super::access::BusAddress;
use super::clock::Clock;
use super::entry::Fields;
use super::link::refused;
use super::place::Seen;
use super::wire::Wire;

/// A connection to Redis, for one room.
pub struct Store {
    wire: Wire,
    keys: Keys,
    /// The hashes by which Redis knows the scripts.
    scripts: Vec<String>,
    /// The run of Redis, which differs after a restart and on another machine.
    pub run: String,
    /// The room's clock, from the first announcement on.
    pub clock: Clock,
}

/// The keys of a room. The braces keep them together in a cluster.
struct Keys {
    /// The stream.
    lines: String,
    /// The number of the last line of each server in it.
    last: String,
    /// The announcements of the servers, and when each was made.
    servers: String,
    /// The members of each server.
    members: String,
    /// How far each server has read: see [`Beat::heard`].
    heard: String,
    /// The server that has each name.
    names: String,
}

/// Texts by servers.
pub type ByServer = HashMap<String, String>;

#[derive(Clone, Copy)]
enum Script {
    Append,
    Beat,
    Heard,
    Look,
    Leave,
}

/// The scripts. Each begins with a line for Redis, `#!lua` and its flags.
const SCRIPTS: [&str; 5] = [
    concat!("#!lua\n", include_str!("room_clock.lua"), include_str!("append.lua")),
    concat!("#!lua flags=allow-oom\n", include_str!("room_clock.lua"), include_str!("beat.lua")),
    concat!("#!lua flags=allow-oom\n", include_str!("heard.lua")),
    concat!(
        "#!lua flags=no-writes,allow-oom\n",
        include_str!("room_clock.lua"),
        include_str!("look.lua")
    ),
    concat!("#!lua flags=allow-oom\n", include_str!("leave.lua")),
];

/// The first version of Redis in which a script may declare that it runs when the memory is full.
const VERSION: u32 = 7;

/// Lines that are to be appended.
#[derive(Default)]
pub struct Batch {
    args: Vec<String>,
    pub lines: usize,
    pub bytes: usize,
}

/// An announcement.
#[derive(Default)]
pub struct Beat<'a> {
    pub server: &'a str,
    /// The server's name, in the form that is compared.
    pub name: &'a str,
    /// `BEAT VERSION UPTIME NAME`, as `others.rs` reads it after the time of the announcement.
    pub shown: &'a str,
    /// The members; empty if they have not changed.
    pub members: &'a str,
    /// The server's place in the stream, and for each other server the number of the last line heard and the gaps before it;
    /// empty if the server does not follow the stream yet.
    pub heard: &'a str,
    /// About how many entries the stream keeps.
    pub length: usize,
    /// The server whose name this one takes, and the last announcement of that server; empty if there is none.
    pub instead: (&'a str, &'a str),
}

/// The answer to an announcement.
pub enum Beaten {
    /// The number of this server's last line in the stream, and what the others have heard.
    Announced(u64, ByServer),
    /// Another server has the name: its identifier, its announcement, and the age of the announcement.
    Taken(String, String, Duration),
    /// Redis has lost the members, and this announcement did not contain them.
    Unlisted,
}

/// Entries of the stream with their identifiers.
pub type Entries = Vec<(String, Fields)>;

impl Store {
    /// Connects to Redis.
    pub fn open(address: &BusAddress) -> RedisResult<Self> {
        let mut wire = Wire::open(address)?;
        let info: Vec<u8> = cmd("INFO").arg("server").query(&mut wire)?;
        let info = String::from_utf8_lossy(&info);
        let of =
            |key: &str| info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let version = of("redis_version").unwrap_or_default().trim();
        let major: Option<u32> = version.split('.').next().and_then(|major| major.parse().ok());
        if major.is_some_and(|major| major < VERSION) {
            let why = format!("it is Redis {version}, and the bus needs Redis {VERSION} or Valkey");
            return Err(refused(why));
        }
        let run = of("run_id").unwrap_or_default().trim().to_owned();
        let mut pipe = redis::pipe();
        for text in SCRIPTS {
            pipe.cmd("SCRIPT").arg("LOAD").arg(text);
        }
        let scripts: Vec<String> = pipe.query(&mut wire)?;
        Ok(Self { wire, keys: Keys::of(&address.room), scripts, run, clock: Clock::new() })
    }

    /// Adds to an error the key that it is about, which Redis does not name: one of the room's keys has a wrong type.
    pub fn explained(&mut self, error: RedisError) -> RedisError {
        if error.code() != Some("WRONGTYPE") {
            return error;
        }
        // Nothing more is known if Redis does not answer, or does not let this user ask.
        self.wrong_key().ok().flatten().map_or(error, refused)
    }

    fn wrong_key(&mut self) -> RedisResult<Option<String>> {
        let Keys { lines, last, servers, members, heard, names } = &self.keys;
        let hashes = [last, servers, members, heard, names].map(|key| (key, "hash"));
        for (key, kind) in [(lines, "stream")].into_iter().chain(hashes) {
            let found: String = cmd("TYPE").arg(key).query(&mut self.wire)?;
            if found != kind && found != "none" {
                return Ok(Some(format!(
                    "WRONGTYPE the key {key} is a {found}, and has to be a {kind}: remove it, or choose another room"
                )));
            }
        }
        Ok(None)
    }

    fn call(&self, script: Script, keys: &[&String]) -> Cmd {
        let mut command = cmd("EVALSHA");
        let hash = self.scripts.get(script as usize).map_or("", |hash| &**hash);
        command.arg(hash).arg(keys.len()).arg(keys);
        command
    }

    /// Appends lines of a server. `base` is the number of the oldest line that it has, `cap` a length that the stream never
    /// exceeds by much.
    pub fn append(
        &mut self,
        server: &str,
        base: u64,
        cap: usize,
        batch: &Batch,
    ) -> RedisResult<(u64, ByServer)> {
        let Keys { lines, last, heard, .. } = &self.keys;
        let mut call = self.call(Script::Append, &[lines, last, heard]);
        call.arg(server).arg(base).arg(cap).arg(&batch.args);
        let (last, heard) = call.query(&mut self.wire)?;
        Ok((last, by_server(heard)?))
    }

    /// Announces a server.
    pub fn beat(&mut self, beat: &Beat<'_>) -> RedisResult<Beaten> {
        let Keys { lines, last, servers, members, heard, names } = &self.keys;
        let mut call = self.call(Script::Beat, &[lines, last, heard, servers, members, names]);
        call.arg(&[beat.server, beat.name, beat.shown, beat.members, beat.heard]);
        call.arg(beat.length).arg(beat.instead.0).arg(beat.instead.1);
        let asked = Instant::now();
        let (kind, first, second, time): (u8, Value, Value, i64) = call.query(&mut self.wire)?;
        match kind {
            1 => {
                self.clock.answered(time, asked, Instant::now());
                Ok(Beaten::Announced(from_redis_value(first)?, by_server(second)?))
            }
            2 => Ok(Beaten::Unlisted),
            _ => {
                let mut words = text(second)?;
                let age = words.split_off(words.rfind(' ').unwrap_or(words.len()));
                let age = Duration::from_millis(age.trim().parse().unwrap_or_default());
                Ok(Beaten::Taken(text(first)?, words, age))
            }
        }
    }

    /// Announces what a server has heard. Returns what each server has heard.
    pub fn heard(&mut self, server: &str, heard: &str) -> RedisResult<ByServer> {
        let mut call = self.call(Script::Heard, &[&self.keys.heard]);
        by_server(call.arg(server).arg(heard).query(&mut self.wire)?)
    }

    /// Looks at the room, for the server with this name, which is in the form that is compared.
    pub fn look(&mut self, name: &str) -> RedisResult<Seen> {
        let Keys { lines, last, servers, names, .. } = &self.keys;
        let mut call = self.call(Script::Look, &[lines, last, servers, names]);
        let (time, offset, end, last, servers, holder): (u64, u64, Value, Value, Value, Value) =
            call.arg(name).query(&mut self.wire)?;
        let last = by_server(last)?;
        let last = last.into_iter().filter_map(|(id, number)| Some((id, number.parse().ok()?)));
        let (end, last) = (text(end)?, last.collect());
        let (servers, holder) = (by_server(servers)?, text(holder)?);
        Ok(Seen { time, offset, end, last, servers, holder })
    }

    /// The members of a server, as it has announced them.
    pub fn members_of(&mut self, server: &str) -> RedisResult<String> {
        text(cmd("HGET").arg(&self.keys.members).arg(server).query(&mut self.wire)?)
    }

    /// The entries after a place, at most `count`. Waits for the first one, at most for `time`.
    pub fn read(&mut self, after: &str, count: usize, time: Duration) -> RedisResult<Entries> {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(count).arg("BLOCK").arg(time.as_millis().max(1) as u64);
        read.arg("STREAMS").arg(&self.keys.lines).arg(after);
        // Streams with their entries; `None` if there are no entries.
        let streams: Option<Vec<(String, Entries)>> = read.query(&mut self.wire)?;
        Ok(streams.into_iter().flatten().flat_map(|(_, entries)| entries).collect())
    }

    /// The server that has this name, and its announcement. `name` is in the form that is compared.
    pub fn holder_of(&mut self, name: &str) -> RedisResult<Option<(String, String)>> {
        let holder = text(cmd("HGET").arg(&self.keys.names).arg(name).query(&mut self.wire)?)?;
        let shown: Option<Vec<u8>> =
            cmd("HGET").arg(&self.keys.servers).arg(&holder).query(&mut self.wire)?;
        Ok(shown.map(|shown| (holder, String::from_utf8_lossy(&shown).into_owned())))
    }

    /// Removes a server that ends.
    pub fn leave(&mut self, server: &str, name: &str) -> RedisResult<()> {
        let Keys { last, servers, members, heard, names, .. } = &self.keys;
        let mut call = self.call(Script::Leave, &[last, heard, servers, members, names]);
        call.arg(server).arg(name).exec(&mut self.wire)
    }
}

impl Keys {
    fn of(room: &str) -> Self {
        let key = |kind: &str| format!("chat:{{{room}}}:{kind}");
        Self {
            lines: key("lines"),
            last: key("last"),
            servers: key("servers"),
            members: key("members"),
            heard: key("heard"),
            names: key("names"),
        }
    }
}

impl Batch {
    /// Adds a line: its number, when it was said by the room's clock, and its fields.
    pub fn push(&mut self, number: u64, said: i64, fields: Vec<(&'static str, String)>) {
        self.args.extend([number.to_string(), said.to_string(), (fields.len() * 2).to_string()]);
        self.lines += 1;
        for (field, value) in fields {
            self.bytes += value.len();
            self.args.extend([field.to_owned(), value]);
        }
    }
}

/// A value as text. Other clients may have written any bytes.
fn text(value: Value) -> RedisResult<String> {
    let bytes = Option::<Vec<u8>>::from_redis_value(value)?;
    Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
}

fn by_server(value: Value) -> RedisResult<ByServer> {
    let pairs: Vec<(Vec<u8>, Vec<u8>)> = from_redis_value(value)?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(pairs.into_iter().map(|(id, shown)| (text(id), text(shown))).collect())
}
