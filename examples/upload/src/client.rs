//! The client's side of a connection.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::Duration;

use common::Endpoint;
use common::client::Connection;

use crate::digest;
use crate::protocol::{
    DATA_BYTES, FINGERPRINT_BYTES, HEADER_BYTES, Message, OFFERS, Put, Refusal, VERSION,
    data_header,
};
use crate::report::Report;
use crate::sources::Source;
use common::Failure;

/// How long a server may take for its greeting.
const GREETING: Duration = Duration::from_secs(30);
/// How long a server may neither send nor read. It is silent while the last bytes reach its disk, which takes minutes
/// for a large file and a slow disk.
const PATIENCE: Duration = Duration::from_secs(600);

pub struct Client {
    connection: Connection,
    endpoint: Endpoint,
    resume: bool,
    /// Room for a frame, whose header and payload leave by one write.
    frame: Vec<u8>,
}

/// How a file was stored.
pub enum Stored {
    /// It was sent, and has this path on the server.
    As(Vec<Vec<u8>>),
    /// It was there already.
    Already,
}

/// Why a file was not stored.
pub enum Trouble {
    /// The server refused it. The connection can go on.
    Refused(Refusal),
    /// It cannot be read, or has changed. The connection can go on.
    File(String),
    /// The connection has failed.
    Broken(String),
}

impl Client {
    /// Greets the server.
    ///
    /// # Errors
    ///
    /// If it is not an upload server, or speaks another version.
    pub fn new(connection: Connection, endpoint: &Endpoint, resume: bool) -> Result<Self, Failure> {
        connection.set_read_timeout(Some(GREETING))?;
        connection.set_write_timeout(Some(PATIENCE))?;
        let client = Self { connection, endpoint: endpoint.clone(), resume, frame: Vec::new() };
        let answer = client.say(&Message::Hello { version: VERSION }).and_then(|()| client.hear());
        let why = match answer {
            Ok(Message::Hello { version: VERSION }) => {
                client.connection.set_read_timeout(Some(PATIENCE))?;
                return Ok(client);
            }
            Ok(Message::Refused(refusal)) => refusal.to_string(),
            Ok(_) => "it speaks another protocol".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "it has closed the connection at once: it may have too many clients".to_owned()
            }
            Err(error) => error.to_string(),
        };
        let text = format!(
            "{endpoint} does not answer as an upload server ({why}); is the address right? \
             The tutorial's server needs --wire document"
        );
        Err(Failure::Other(text))
    }

    /// Makes an empty folder on the server.
    ///
    /// # Errors
    ///
    /// Why it was not made.
    pub fn make_folder(&self, path: &[Vec<u8>]) -> Result<(), Trouble> {
        let folder = Message::Folder { path: path.to_vec() };
        self.say(&folder).map_err(|error| self.broken(&error))?;
        match self.hear().map_err(|error| self.broken(&error))? {
            Message::Done { .. } => Ok(()),
            Message::Refused(refusal) => Err(Trouble::Refused(refusal)),
            _ => Err(self.confused()),
        }
    }

    /// Sends one file, or its missing part, and waits until it is stored.
    ///
    /// # Errors
    ///
    /// Why the file was not stored.
    pub fn send(&mut self, source: &Source, report: &Report) -> Result<Stored, Trouble> {
        let cannot_read = |error: io::Error| Trouble::File(format!("it cannot be read: {error}"));
        let mut file = source.open().map_err(cannot_read)?;
        let before = file.metadata().map_err(cannot_read)?;
        let fingerprint = fingerprint(&mut file, before.len()).map_err(cannot_read)?;
        let path = source.path.clone();
        let put = Put { path, size: before.len(), fingerprint, resume: self.resume };
        self.say(&Message::Put(put)).map_err(|error| self.broken(&error))?;
        let (mut hasher, offset) = match self.agree(&mut file, before.len(), report)? {
            Some(agreed) => agreed,
            None => return Ok(Stored::Already),
        };
        let sent = self.send_bytes(&mut file, &mut hasher, before.len() - offset, report);
        let is_same = |after: &std::fs::Metadata| {
            after.len() == before.len() && after.modified().ok() == before.modified().ok()
        };
        match sent {
            Ok(()) if file.metadata().is_ok_and(|after| is_same(&after)) => {}
            Ok(()) => {
                return self.withdraw("it has changed while it was sent; send it again".into());
            }
            Err(Trouble::File(why)) => return self.withdraw(why),
            Err(trouble) => return Err(trouble),
        }
        let digest = *hasher.finalize().as_bytes();
        self.say(&Message::End(digest)).map_err(|error| self.broken(&error))?;
        match self.hear().map_err(|error| self.broken(&error))? {
            Message::Done { path } => Ok(Stored::As(path)),
            Message::Refused(refusal) => Err(Trouble::Refused(refusal)),
            _ => Err(self.confused()),
        }
    }

    /// Agrees with the server on the offset to begin at. Returns the digest of the bytes before it, and the offset, or
    /// `None` if the whole file is stored.
    fn agree(
        &mut self,
        file: &mut File,
        size: u64,
        report: &Report,
    ) -> Result<Option<(blake3::Hasher, u64)>, Trouble> {
        let cannot_read = |error: io::Error| Trouble::File(format!("it cannot be read: {error}"));
        // The most offers of a server: one of a whole file, some of a part, and one of nothing.
        let offers = if self.resume { OFFERS + 2 } else { 0 };
        for _ in 0..offers {
            let Message::Have { offset, whole } = self.answer()? else {
                return Err(self.confused());
            };
            if offset > size {
                return Err(self.confused());
            }
            // Both sides digest at the same time.
            let hasher = digest::hash(file, offset, || self.say(&Message::Working));
            let hasher = hasher.map_err(cannot_read)?;
            let Message::Digest(theirs) = self.answer()? else { return Err(self.confused()) };
            let is_same = theirs == *hasher.finalize().as_bytes();
            let from = if is_same { offset } else { 0 };
            self.say(&Message::From(from)).map_err(|error| self.broken(&error))?;
            if is_same {
                report.skip(offset);
            }
            match (is_same, whole) {
                (true, true) => {
                    let answer = self.answer()?;
                    let is_done = matches!(answer, Message::Done { .. });
                    return if is_done { Ok(None) } else { Err(self.confused()) };
                }
                (true, false) => return Ok(Some((hasher, offset))),
                (false, _) => {}
            }
        }
        if self.resume {
            return Err(self.confused());
        }
        digest::hash(file, 0, || Ok(())).map(|hasher| Some((hasher, 0))).map_err(cannot_read)
    }

    fn send_bytes(
        &mut self,
        file: &mut File,
        hasher: &mut blake3::Hasher,
        mut left: u64,
        report: &Report,
    ) -> Result<(), Trouble> {
        self.frame.resize(HEADER_BYTES + DATA_BYTES, 0);
        while left > 0 {
            // Before the end of the file the server answers only to refuse it.
            if self.connection.has_input() {
                return self.answer().and_then(|_| Err(self.confused()));
            }
            let count = DATA_BYTES.min(usize::try_from(left).unwrap_or(usize::MAX));
            let (header, room) = self.frame.split_at_mut(HEADER_BYTES);
            header.copy_from_slice(&data_header(count));
            file.read_exact(&mut room[..count]).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    Trouble::File("it has become shorter while it was sent; send it again".into())
                }
                _ => Trouble::File(format!("it cannot be read: {error}")),
            })?;
            hasher.update(&room[..count]);
            let sent = (&self.connection).write_all(&self.frame[..HEADER_BYTES + count]);
            sent.map_err(|error| self.broken(&error))?;
            left -= count as u64;
            report.sent(count as u64);
        }
        // The size of some files is unknown (/proc), and others grow.
        match file.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(Trouble::File("it is longer than its size says, or has grown".into())),
            Err(error) => Err(Trouble::File(format!("it cannot be read: {error}"))),
        }
    }

    /// Aborts the file, and reads the server's answer.
    fn withdraw(&mut self, why: String) -> Result<Stored, Trouble> {
        self.say(&Message::Abort)
            .and_then(|()| self.hear())
            .map_err(|error| self.broken(&error))?;
        Err(Trouble::File(why))
    }

    /// Reads a message of the server before the end of the file.
    fn answer(&self) -> Result<Message, Trouble> {
        match self.hear().map_err(|error| self.broken(&error))? {
            Message::Refused(refusal) => {
                // An error is ignored: if the server is gone, the next file meets the same failure.
                let _ = self.say(&Message::Abort);
                Err(Trouble::Refused(refusal))
            }
            message => Ok(message),
        }
    }

    fn say(&self, message: &Message) -> io::Result<()> {
        (&self.connection).write_all(&message.encode())
    }

    fn hear(&self) -> io::Result<Message> {
        loop {
            match Message::read(&mut &self.connection)? {
                Some(Message::Working) => {}
                Some(message) => return Ok(message),
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the server has closed it",
                    ));
                }
            }
        }
    }

    /// The failure of a broken connection, with the reason that the server may have sent first.
    fn broken(&self, error: &io::Error) -> Trouble {
        let last = if self.connection.has_input() { self.hear().ok() } else { None };
        let why = match last {
            Some(Message::Refused(refusal)) => refusal.to_string(),
            _ if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                format!("the server neither read nor sent for {} s", PATIENCE.as_secs())
            }
            _ => error.to_string(),
        };
        Trouble::Broken(format!("the connection to {} broke: {why}", self.endpoint))
    }

    fn confused(&self) -> Trouble {
        Trouble::Broken(format!("{} sent an answer that was not asked for", self.endpoint))
    }
}

/// The digest of the file's beginning, by which the server finds the part of an earlier upload.
fn fingerprint(file: &mut File, size: u64) -> io::Result<[u8; 32]> {
    let mut beginning = Vec::new();
    file.take(size.min(FINGERPRINT_BYTES as u64)).read_to_end(&mut beginning)?;
    Ok(*blake3::hash(&beginning).as_bytes())
}
