//! A connection to Redis that bounds each answer before it is kept: the program that listens there may not be Redis, or
//! other clients may fill it.
//!
//! It speaks RESP2, as far as Redis uses it for the commands here: no pushes, no maps. Lengths and counts are compared with
//! the bounds before memory is allocated. A value that is too long is read and discarded, so that a foreign entry in the
//! stream does not hide those after it.

use std::io::{self, BufRead, BufReader, Write};
use std::time::Duration;

use redis::{
    Cmd, ConnectionLike, ErrorKind, RedisError, RedisResult, Value, cmd, parse_redis_value,
};

use super::channel::Channel;

/// How long Redis may take for one read or write: it is in the same data centre, or on the same machine.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How long a whole command, or a whole answer, may take: a few megabytes over a slow link.
const WHOLE: Duration = Duration::from_secs(30);
/// How long a command of the login may take, and the handshake of TLS.
pub const ENTRY: Duration = Duration::from_secs(5);
/// The most bytes of a line: an error, a status or a number.
const LINE_BYTES: usize = 64 * 1024;
/// The most bytes of a value that is kept. The longest value is the list of a server's members: 10,000 names of 32
/// characters are 1.3 MB.
const VALUE_BYTES: usize = 2 << 20;
/// The most bytes that are kept of one answer. The reader asks for 2,500 entries; with the longest lines they are 21 MB.
const ANSWER_BYTES: usize = 32 << 20;
/// The most bytes that are read of one answer. A longer one is an error.
const READ_BYTES: usize = 64 << 20;
/// The most values in one answer: 2,500 entries have at most 65,000.
const VALUES: usize = 100_000;
/// The words for an answer in a form that Redis does not use.
const NO_REDIS: &str = "it does not speak as Redis does";
/// The first byte of an alert of TLS.
const TLS_ALERT: u8 = 21;
/// The most arrays within arrays: XREAD answers with streams of entries of fields.
const DEPTH: usize = 8;

/// A connection to Redis.
pub struct Wire {
    stream: BufReader<Channel>,
    db: i64,
    is_open: bool,
    /// How long a command, and its answer, may take.
    most: Duration,
}

/// The unused part of the bounds of an answer, or of the answers to several commands that were sent together.
struct Bounds {
    kept: usize,
    read: usize,
    values: usize,
}

impl Wire {
    /// A wire over this connection, before the login.
    pub(super) fn over(channel: Channel) -> Self {
        Self { stream: BufReader::new(channel), db: 0, is_open: true, most: ENTRY }
    }

    /// The wire after the login, with this database.
    pub(super) fn entered(mut self, db: i64) -> Self {
        (self.db, self.most) = (db, WHOLE);
        self
    }

    fn exchange(&mut self, bytes: &[u8], answers: usize) -> RedisResult<Vec<Value>> {
        let mut bounds = Bounds::new();
        let result = self.send(bytes).and_then(|()| {
            self.stream.get_mut().deadline_in(self.most);
            (0..answers).map(|_| self.value(&mut bounds, 0)).collect::<io::Result<Vec<_>>>()
        });
        // After a failed answer the beginning of the next one is unknown.
        self.is_open &= result.is_ok();
        Ok(result?)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.is_open || !self.stream.buffer().is_empty() {
            return Err(no_redis("it sends an answer that was not asked for"));
        }
        let channel = self.stream.get_mut();
        channel.deadline_in(self.most);
        channel.write_all(bytes)?;
        channel.flush()
    }

    fn value(&mut self, bounds: &mut Bounds, depth: usize) -> io::Result<Value> {
        bounds.values = bounds.values.checked_sub(1).ok_or_else(too_long)?;
        let line = self.line(bounds)?;
        let text = || String::from_utf8_lossy(line.get(1..).unwrap_or_default());
        let number =
            || text().parse::<i64>().map_err(|_| no_redis("it sends no number where one belongs"));
        match line.first() {
            Some(b'+') if &*text() == "OK" => Ok(Value::Okay),
            Some(b'+') => Ok(Value::SimpleString(text().into_owned())),
            Some(b'-') => refusal(&line),
            Some(b':') => Ok(Value::Int(number()?)),
            Some(b'$' | b'*') if number()? == -1 => Ok(Value::Nil),
            Some(b'$') => self.bulk(usize::try_from(number()?).map_err(|_| too_long())?, bounds),
            Some(b'*') => {
                let count = usize::try_from(number()?).map_err(|_| too_long())?;
                if depth >= DEPTH || count > bounds.values {
                    return Err(too_long());
                }
                // Memory grows with the received bytes, and not with the announced length.
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(bounds, depth + 1)?);
                }
                Ok(Value::Array(values))
            }
            _ => Err(no_redis(NO_REDIS)),
        }
    }

    fn line(&mut self, bounds: &mut Bounds) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let room = LINE_BYTES.saturating_sub(line.len()).min(bounds.read);
            if room == 0 {
                return Err(too_long());
            }
            let arrived = self.arrived()?;
            if line.is_empty() && arrived.starts_with(&[TLS_ALERT]) {
                return Err(no_redis("it speaks TLS: write rediss://"));
            }
            let end =
                arrived.iter().position(|byte| *byte == b'\n').map_or(arrived.len(), |at| at + 1);
            let count = end.min(room);
            line.extend_from_slice(&arrived[..count]);
            self.stream.consume(count);
            bounds.read -= count;
        }
        let content = line.strip_suffix(b"\r\n").map(<[u8]>::len);
        line.truncate(content.ok_or_else(|| no_redis(NO_REDIS))?);
        Ok(line)
    }

    /// Reads a value of this length. One that is too long counts as empty.
    fn bulk(&mut self, length: usize, bounds: &mut Bounds) -> io::Result<Value> {
        let keep = length <= VALUE_BYTES;
        let kept = if keep { length } else { 0 };
        bounds.kept = bounds.kept.checked_sub(kept).ok_or_else(too_long)?;
        let mut left = length.checked_add(2).ok_or_else(too_long)?;
        bounds.read = bounds.read.checked_sub(left).ok_or_else(too_long)?;
        let mut value = Vec::new();
        while left > 0 {
            let arrived = self.arrived()?;
            let count = arrived.len().min(left);
            if keep {
                value.extend_from_slice(&arrived[..count]);
            }
            self.stream.consume(count);
            left -= count;
        }
        value.truncate(kept);
        Ok(Value::BulkString(value))
    }

    fn arrived(&mut self) -> io::Result<&[u8]> {
        while self.stream.buffer().is_empty() {
            match self.stream.fill_buf() {
                Ok([]) => {
                    let why = "it has ended the connection";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
                }
                // Ctrl-Z and `fg` interrupt a read.
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
        Ok(self.stream.buffer())
    }
}

impl Bounds {
    fn new() -> Self {
        Self { kept: ANSWER_BYTES, read: READ_BYTES, values: VALUES }
    }
}

impl ConnectionLike for Wire {
    fn req_packed_command(&mut self, command: &[u8]) -> RedisResult<Value> {
        let answers = self.exchange(command, 1)?;
        Ok(answers.into_iter().next().unwrap_or(Value::Nil))
    }

    fn req_packed_commands(
        &mut self,
        commands: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let mut answers = self.exchange(commands, offset + count)?;
        Ok(answers.split_off(offset))
    }

    fn req_command(&mut self, command: &Cmd) -> RedisResult<Value> {
        self.req_packed_command(&command.get_packed_command())
    }

    fn get_db(&self) -> i64 {
        self.db
    }

    fn check_connection(&mut self) -> bool {
        cmd("PING").exec(self).is_ok()
    }

    fn is_open(&self) -> bool {
        self.is_open
    }
}

/// An error of Redis, which begins with a code. Its text may be cut in the middle of a character: Redis repeats the words
/// of a command only up to some length.
fn refusal(line: &[u8]) -> io::Result<Value> {
    let code = line[1..].split(|byte| *byte == b' ').next().unwrap_or_default();
    let has_code = code.iter().all(u8::is_ascii_uppercase);
    if code.is_empty() || !has_code && std::str::from_utf8(line).is_err() {
        return Err(no_redis(NO_REDIS));
    }
    let line = format!("{}\r\n", String::from_utf8_lossy(line));
    parse_redis_value(line.as_bytes()).map_err(|_| no_redis(NO_REDIS))
}

/// An error in the words of Redis, without its full stop and the place in a script; or in those of this program. The caller
/// has to clean it, to remove the passwords and to shorten it before it is shown.
pub fn words_of(error: &RedisError) -> String {
    if error.is_timeout() {
        return format!("it does not answer within {} s", PATIENCE.as_secs());
    }
    // The client library has its own words for answers in an unexpected form.
    if matches!(error.kind(), ErrorKind::Parse | ErrorKind::UnexpectedReturnType) {
        return NO_REDIS.to_owned();
    }
    // Commands that were sent together all have the same error.
    let said = error.clone().into_server_errors().and_then(|errors| {
        let (_, first) = errors.first()?;
        Some(format!("{} {}", first.code(), first.details().unwrap_or_default()))
    });
    let text = said.unwrap_or_else(|| error.to_string());
    let text = text.trim_end();
    text.split(" script: ").next().unwrap_or_default().trim_end_matches('.').to_owned()
}

fn too_long() -> io::Error {
    no_redis("its answer is longer than anything that belongs to a chat")
}

fn no_redis(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
