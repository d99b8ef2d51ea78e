//! [`BusAddress`]: the address of the shared room and the secrets that open it, read anew at each connection, so that a
//! password, a certificate or a whole Redis can be exchanged under a running server. No message shows a password.

use std::cmp::Reverse;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::client::ClientTls;
use common::{Endpoint, Failure, variable, warn};
use parking_lot::Mutex;
use socketserver::tls::read_small_file;

use super::address::{Place, Target};
use super::options::BusArguments;

/// The environment variables for the address and the password, if the command line does not give them.
pub const ADDRESS_VARIABLE: &str = "CHAT_BUS";
pub const PASSWORD_VARIABLE: &str = "CHAT_BUS_PASSWORD";

/// The longest file that has an address or a password in it.
const FILE_BYTES: u64 = 64 * 1024;
/// The names of secrets in the errors about their files.
const PASSWORD: &str = "the password of the bus";
const SENTINEL_PASSWORD: &str = "the password of the Sentinels";
/// How many passwords are remembered, so that messages do not show them: a password that was exchanged lately may still
/// be in an error that is on its way.
const PASSWORDS: usize = 16;

/// The address of the shared room. A clone shares the secrets that are remembered.
#[derive(Clone)]
pub struct BusAddress {
    pub room: String,
    access: Arc<Access>,
}

struct Access {
    address: Source,
    /// Replaces the password in the address.
    password: Option<Source>,
    sentinel_user: Option<String>,
    sentinel_password: Option<Source>,
    tls: ClientTls,
    /// The index of the Sentinel that last knew the master, in the list of the address.
    sentinel: AtomicUsize,
    state: Mutex<State>,
}

/// A text that was read at the start, or a file that may change.
enum Source {
    Text { from: String, text: String },
    File(PathBuf),
}

#[derive(Default)]
struct State {
    shown: String,
    /// The passwords, which no message may show, in the forms in which they were given and are sent.
    passwords: Vec<String>,
}

/// The address and the secrets of one connection, as they are now.
pub struct Entrance {
    pub target: Target,
    /// The user and the password of the Sentinels.
    pub sentinel: (Option<String>, Option<String>),
    /// `None` for a connection without TLS.
    pub tls: Option<ClientTls>,
}

impl BusAddress {
    /// The address from the command line, a file, or the environment; the first that is given counts. All users of the
    /// machine can see its command lines, but neither the file nor the environment. Everything is read once here, so that
    /// a mistake is found at the start.
    pub fn given(arguments: &BusArguments) -> Result<Option<Self>, Failure> {
        let address = match (&arguments.bus, &arguments.bus_file) {
            (Some(text), _) => Source::Text { from: "--bus".to_owned(), text: text.clone() },
            (None, Some(file)) => Source::file(file, "the bus")?,
            (None, None) => match Source::variable(ADDRESS_VARIABLE) {
                Some(source) => source,
                None => return Ok(None),
            },
        };
        let file = |path: &Option<PathBuf>, what: &str| {
            path.as_deref().map(|path| Source::file(path, what)).transpose()
        };
        let BusArguments { bus_password_file, bus_sentinel_password_file, .. } = arguments;
        let password =
            file(bus_password_file, PASSWORD)?.or_else(|| Source::variable(PASSWORD_VARIABLE));
        let access = Access {
            address,
            password,
            sentinel_user: arguments.bus_sentinel_user.clone(),
            sentinel_password: file(bus_sentinel_password_file, SENTINEL_PASSWORD)?,
            tls: arguments.tls(),
            sentinel: AtomicUsize::new(0),
            state: Mutex::default(),
        };
        let Entrance { target, tls, .. } = access.read()?;
        if let Some(tls) = tls {
            let any = Endpoint::Tcp(target.place.first().to_owned());
            tls.session(&any).map_err(|failure| match failure {
                Failure::Usage(why) => Failure::Usage(tls_words(&why)),
                failure => Failure::Other(tls_words(&failure.to_string())),
            })?;
        }
        let shown = arguments.bus.as_ref().and_then(|text| text.parse().ok());
        if shown.is_some_and(|shown: Target| shown.password.is_some()) {
            warn(&format!(
                "all users of this machine can see the password in --bus, as they can list its processes: \
                 give it by --bus-password-file or --bus-file, or by {PASSWORD_VARIABLE} or {ADDRESS_VARIABLE} in the \
                 environment"
            ));
        }
        Ok(Some(Self { room: target.room, access: Arc::new(access) }))
    }

    /// Reads the files again. The error says which one cannot be used, and why.
    pub fn entrance(&self) -> Result<Entrance, Failure> {
        let entrance = self.access.read()?;
        if entrance.target.room == self.room {
            return Ok(entrance);
        }
        let (from, room) = (self.access.address.name(), &self.room);
        Err(Failure::Other(format!(
            "{from} names another room now, and this server is in the room {room}: start it again"
        )))
    }

    /// The Sentinel to be asked first, by its index in the list.
    pub fn first_sentinel(&self) -> usize {
        self.access.sentinel.load(Ordering::Relaxed)
    }

    /// Notes that this Sentinel knows the master.
    pub fn found_by(&self, sentinel: usize) {
        self.access.sentinel.store(sentinel, Ordering::Relaxed);
    }

    /// Removes the passwords from a text of Redis, which repeats words that it does not understand.
    pub fn without_password(&self, text: &str) -> String {
        let state = self.access.state.lock();
        // The longest comes first, because one password may begin with another.
        let mut passwords: Vec<&String> = state.passwords.iter().collect();
        passwords.sort_by_key(|password| Reverse(password.len()));
        passwords.into_iter().fold(text.to_owned(), |text, password| hide(&text, password))
    }
}

impl fmt::Display for BusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.access.state.lock().shown)
    }
}

impl Access {
    fn read(&self) -> Result<Entrance, Failure> {
        let (from, text) = (self.address.name(), self.address.read("the bus")?);
        let parsed = text.trim().parse::<Target>();
        let mut target =
            parsed.map_err(|why| Failure::Usage(format!("the bus that {from} names: {why}")))?;
        let secret = |source: &Option<Source>, what: &str| {
            source.as_ref().map(|source| source.password(what)).transpose()
        };
        let mut secrets = Vec::from_iter(target.written.take());
        secrets.extend(target.password.clone());
        if let Some(password) = secret(&self.password, PASSWORD)? {
            target.password = Some(password);
        }
        let sentinel =
            (self.sentinel_user.clone(), secret(&self.sentinel_password, SENTINEL_PASSWORD)?);
        secrets.extend(target.password.clone().into_iter().chain(sentinel.1.clone()));
        self.remember(&target.shown, secrets);
        if self.is_about_sentinels() && !matches!(target.place, Place::Sentinels { .. }) {
            let why = "--bus-sentinel-user and --bus-sentinel-password-file are for redis+sentinel:// and \
                       rediss+sentinel://";
            return Err(Failure::Usage(why.to_owned()));
        }
        let has_files = self.tls.ca.is_some() || self.tls.tls_cert.is_some();
        if !target.tls && (has_files || self.tls.tls_name.is_some()) {
            let why = format!(
                "--bus-ca, --bus-tls-name, --bus-tls-cert and --bus-tls-key are for TLS, and the bus that {from} names \
                 has none: write rediss:// or rediss+sentinel://"
            );
            return Err(Failure::Usage(why));
        }
        let tls = target.tls.then(|| self.tls.clone());
        Ok(Entrance { target, sentinel, tls })
    }

    fn is_about_sentinels(&self) -> bool {
        self.sentinel_user.is_some() || self.sentinel_password.is_some()
    }

    fn remember(&self, shown: &str, secrets: Vec<String>) {
        let mut state = self.state.lock();
        shown.clone_into(&mut state.shown);
        for secret in secrets.into_iter().filter(|secret| !secret.is_empty()) {
            // A password in use moves to the end, so that the oldest ones are forgotten first.
            state.passwords.retain(|known| *known != secret);
            state.passwords.push(secret);
        }
        let old = state.passwords.len().saturating_sub(PASSWORDS);
        state.passwords.drain(..old);
    }
}

impl Source {
    fn variable(name: &'static str) -> Option<Self> {
        let text = variable(name)?.to_string_lossy().into_owned();
        Some(Self::Text { from: name.to_owned(), text })
    }

    /// The source for a path. A pipe, such as a shell's `<(pass redis)`, can be read once, so its text is kept.
    fn file(path: &Path, what: &str) -> Result<Self, Failure> {
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let from = path.display().to_string();
            let text = read(path, what)?;
            return Ok(Self::Text { from, text });
        }
        Ok(Self::File(path.to_owned()))
    }

    fn name(&self) -> String {
        match self {
            Self::Text { from, .. } => from.clone(),
            Self::File(path) => path.display().to_string(),
        }
    }

    fn read(&self, what: &str) -> Result<String, Failure> {
        match self {
            Self::Text { text, .. } => Ok(text.clone()),
            Self::File(path) => read(path, what),
        }
    }

    /// The first line, as it is: blanks may belong to a password.
    fn password(&self, what: &str) -> Result<String, Failure> {
        let text = self.read(what)?;
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(line.to_owned()),
            _ => Err(Failure::Other(format!(
                "there is no password in {}: {what} is its first line",
                self.name()
            ))),
        }
    }
}

/// The text of a small file. By mistake the path may name any file.
fn read(path: &Path, what: &str) -> Result<String, Failure> {
    let text = read_small_file(path, FILE_BYTES).map_err(|error| error.to_string());
    text.and_then(|text| String::from_utf8(text).map_err(|_| "it is not text".to_owned()))
        .map_err(|why| Failure::Other(format!("cannot read {what} from {}: {why}", path.display())))
}

/// Removes a password from a text, in which it may be cut: Redis repeats no more than the beginning of a long word.
fn hide(text: &str, password: &str) -> String {
    /// How many characters of a password are searched for: a shorter beginning may be part of any word.
    const CHARACTERS: usize = 12;
    let end = password.char_indices().nth(CHARACTERS).map_or(password.len(), |(end, _)| end);
    let (beginning, rest) = password.split_at(end);
    let (mut shown, mut left) = (String::new(), text);
    while let Some((before, after)) = left.split_once(beginning) {
        let more = after.chars().zip(rest.chars()).take_while(|(one, other)| one == other);
        let more: usize = more.map(|(one, _)| one.len_utf8()).sum();
        shown.extend([before, "***"]);
        left = &after[more..];
    }
    shown + left
}

/// Renames the options of a client in a sentence about TLS: those of the bus have `bus-` before their names.
pub fn tls_words(text: &str) -> String {
    text.replace("--", "--bus-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_hidden_also_where_it_is_cut() {
        let long = "correct horse battery staple";
        for (text, shown) in [
            ("nothing of it", "nothing of it"),
            (long, "***"),
            ("AUTH correct horse battery staple x", "AUTH *** x"),
            // Redis cuts what it repeats.
            ("'correct horse batt' .. 'correct horse'", "'***' .. '***'"),
            ("the correct house", "the correct house"),
        ] {
            assert_eq!(hide(text, long), shown);
        }
        assert_eq!(hide("pass, pass", "pass"), "***, ***");
        assert_eq!(
            hide("p\u{e4}ssw\u{f6}rter \u{fc}ber", "p\u{e4}ssw\u{f6}rter \u{fc}ber alles"),
            "***"
        );
    }
}
