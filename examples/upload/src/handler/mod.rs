//! The server's side of a connection.
//!
//! ```text
//! client                                server
//! Hello                             ->
//!                                   <-  Hello
//! Put                               ->
//!                                   <-  Have, Digest  } only with `resume`, until the client
//! From (Working while it digests)   ->                } accepts an offer: see `resume`
//! Data, Data, ..., End              ->
//!                                   <-  Done, or Refused
//! ```
//!
//! Each `Put` and each `Folder` gets one answer. A refusal may cross the file that it refuses, and then [`Upload::skip`]
//! discards what still arrives. A connection that begins with `post|` comes from the tutorial's client: see
//! `document_wire`.

mod document_wire;
mod resume;

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use socketserver::{HandlerResult, StreamRequest, StreamRequestHandler, offload};

use crate::document;
use crate::pace::{PACE_BYTES, Pace};
use crate::partial::Partial;
use crate::protocol::{Code, DATA_BYTES, Message, OLDEST, Put, Refusal, VERSION, shown};
use crate::store::{Store, storage};
use common::{FirstWord, say};

/// How much of a refused file is discarded while its client has not read the refusal: the bytes that are on their way, and
/// no more.
const UNWANTED_BYTES: u64 = 64 * 1024 * 1024;

pub struct Upload {
    store: Arc<Store>,
    /// How long a client may be silent, and how long it may take for [`PACE_BYTES`] of a file.
    idle: Duration,
    /// How long the client may take for its greeting, or its first header.
    first_word: FirstWord,
    /// Room for one piece of a file; allocated when the first one arrives.
    buffer: Vec<u8>,
    /// Whether the file of the last `Put` has been sent to its end.
    is_all_said: bool,
    /// The version that the client speaks.
    version: u16,
}

/// Why a file is not stored.
enum Trouble {
    /// The server refuses the file, and tells the client.
    Refused(Refusal),
    /// The client has withdrawn the file.
    Withdrawn,
    /// The connection has failed.
    Lost(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Upload {
    pub fn new(store: &Arc<Store>, idle: Duration, first_word: FirstWord) -> Self {
        Self {
            store: Arc::clone(store),
            idle,
            first_word,
            buffer: Vec::new(),
            is_all_said: true,
            version: VERSION,
        }
    }
}

impl StreamRequestHandler for Upload {
    fn setup(&mut self, request: &mut StreamRequest) -> HandlerResult {
        self.first_word.expect(request);
        // Each new connection removes old partial files. If that fails, nothing is refused.
        let store = Arc::clone(&self.store);
        if let Err(error) = offload(move || store.sweep()).and_then(|result| result) {
            say(&format!("cannot remove old parts of uploads: {error}"));
        }
        Ok(())
    }

    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let result = match request.fill_buf()?.first() {
            None => Ok(()),
            Some(first) if *first == document::BEGIN[0] => self.serve_document(request),
            Some(_) => self.serve(request),
        };
        match result {
            // A client that leaves in the middle is no failure of the server. The log names its file.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            result => Ok(result?),
        }
    }
}

impl Upload {
    fn serve(&mut self, request: &mut StreamRequest) -> io::Result<()> {
        let greeting = Message::read(request);
        FirstWord::heard(request);
        match greeting {
            Ok(Some(Message::Hello { version: version @ OLDEST..=VERSION })) => {
                self.version = version;
                request.write_all(&Message::Hello { version }.encode())?;
            }
            Ok(Some(Message::Hello { version })) => {
                let text =
                    format!("this server speaks version {OLDEST} or {VERSION}, and not {version}");
                return refuse(request, Refusal::new(Code::Protocol, text));
            }
            result => return end(request, result),
        }
        loop {
            request.between_requests();
            match Message::read(request) {
                Ok(Some(Message::Put(put))) => {
                    if !self.put(request, &put)? {
                        return Ok(());
                    }
                }
                Ok(Some(Message::Folder { path })) => self.make_folder(request, path)?,
                result => return end(request, result),
            }
        }
    }

    /// Makes a folder, with one answer.
    fn make_folder(&self, request: &mut StreamRequest, path: Vec<Vec<u8>>) -> io::Result<()> {
        let (peer, name) = (request.client_address(), shown(&path));
        match self.store.make_folder(&path) {
            Ok(()) => {
                say(&format!("{peer} made the folder {name}"));
                request.write_all(&Message::Done { path }.encode())
            }
            Err(refusal) => {
                say(&format!("{peer} was refused the folder {name}: {refusal}"));
                refuse(request, refusal)
            }
        }
    }

    /// Serves one file, with one answer. Returns whether the connection can go on.
    fn put(&mut self, request: &mut StreamRequest, put: &Put) -> io::Result<bool> {
        let peer = request.client_address();
        let name = shown(&put.path);
        self.is_all_said = false;
        match self.receive(request, put) {
            Ok((path, word)) => {
                say(&format!("{peer} {word} {} ({} bytes)", shown(&path), put.size));
                request.write_all(&Message::Done { path }.encode())?;
                Ok(true)
            }
            Err(Trouble::Refused(refusal)) => {
                say(&format!("{peer} was refused {name}: {refusal}"));
                let goes_on = refusal.code != Code::Protocol;
                refuse(request, refusal)?;
                Ok(goes_on && (self.is_all_said || self.skip(request)?))
            }
            Err(Trouble::Withdrawn) => {
                say(&format!("{peer} withdrew {name}"));
                refuse(request, Refusal::new(Code::Withdrawn, "its client has withdrawn it"))?;
                Ok(true)
            }
            Err(Trouble::Lost(error)) => {
                say(&format!("{peer} broke off {name}: {error}"));
                if error.kind() != io::ErrorKind::TimedOut {
                    return Err(error);
                }
                let text = format!(
                    "no data arrived for {} s; the part so far is kept: go on with --resume",
                    self.idle.as_secs_f64()
                );
                refuse(request, Refusal::new(Code::Idle, text))?;
                Ok(false)
            }
        }
    }

    /// Receives a file. Returns its path in the folder, and a word for the log.
    fn receive(
        &mut self,
        request: &mut StreamRequest,
        put: &Put,
    ) -> Result<(Vec<Vec<u8>>, &'static str), Trouble> {
        self.store.check(put)?;
        if put.resume {
            if let Some(path) = self.offer_whole(request, put)? {
                return Ok((path, "had stored before"));
            }
        }
        let mut partial = self.begin(request, put)?;
        match self.fill(request, put, &mut partial) {
            Ok(()) => {
                // `commit` waits for the disk, which would block a coroutine's worker.
                let (store, put) = (Arc::clone(&self.store), put.clone());
                offload(move || match store.commit(&partial, &put) {
                    Ok(path) => {
                        store.remove_left(partial, &put);
                        Ok((path, "stored"))
                    }
                    Err(refusal) => {
                        store.leave(partial);
                        Err(refusal.into())
                    }
                })?
            }
            Err(trouble) => {
                let is_worthless = match &trouble {
                    Trouble::Refused(refusal) => {
                        matches!(refusal.code, Code::BadDigest | Code::Protocol)
                    }
                    Trouble::Withdrawn => true,
                    Trouble::Lost(_) => false,
                };
                if is_worthless {
                    self.store.discard(partial);
                } else {
                    self.store.leave(partial);
                }
                Err(trouble)
            }
        }
    }

    /// Receives the missing part of a file, and checks the whole.
    fn fill(
        &mut self,
        request: &mut StreamRequest,
        put: &Put,
        partial: &mut Partial,
    ) -> Result<(), Trouble> {
        let mut pace = Pace::new(self.idle);
        loop {
            match pace.watch(|| next(request))? {
                Message::Data(length) if length as u64 <= put.size - partial.len() => {
                    self.receive_piece(request, length, partial, &mut pace)?;
                }
                Message::End(digest) if partial.len() == put.size => {
                    self.is_all_said = true;
                    return if digest == partial.digest() {
                        Ok(())
                    } else {
                        let text = "the digest is wrong: the received bytes are not the ones that were sent";
                        Err(Refusal::new(Code::BadDigest, text).into())
                    };
                }
                Message::Abort => return Err(Trouble::Withdrawn),
                message => return Err(unexpected(&message)),
            }
        }
    }

    /// Receives `length` bytes. Bytes that arrive before a failure are kept.
    fn receive_piece(
        &mut self,
        request: &mut StreamRequest,
        length: usize,
        partial: &mut Partial,
        pace: &mut Pace,
    ) -> Result<(), Trouble> {
        let (count, result) = self.read_piece(request, length, pace);
        partial.append(&self.buffer[..count]).map_err(|error| storage("write", error))?;
        Ok(result?)
    }

    /// Reads `length` bytes into the buffer. Returns how many of them arrived in time.
    fn read_piece(
        &mut self,
        request: &mut StreamRequest,
        length: usize,
        pace: &mut Pace,
    ) -> (usize, io::Result<()>) {
        if self.buffer.is_empty() {
            self.buffer = vec![0; DATA_BYTES];
        }
        let mut count = 0;
        while count < length {
            match pace.watch(|| request.read(&mut self.buffer[count..length])) {
                Ok(0) => return (count, Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(more) => {
                    count += more;
                    if let Err(error) = pace.add(more) {
                        return (count, Err(error));
                    }
                }
                Err(error) => return (count, Err(error)),
            }
        }
        (count, Ok(()))
    }

    /// Discards the rest of a refused file. Returns whether its end arrived.
    fn skip(&mut self, request: &mut StreamRequest) -> io::Result<bool> {
        let mut left = UNWANTED_BYTES;
        let mut pace = Pace::new(self.idle);
        loop {
            match pace.watch(|| Message::read(request))? {
                Some(Message::Data(length)) if length as u64 <= left => {
                    left -= length as u64;
                    self.read_piece(request, length, &mut pace).1?;
                }
                // The client had sent this before it read the refusal.
                Some(Message::From(_) | Message::Working) if left >= PACE_BYTES as u64 => {
                    left -= PACE_BYTES as u64;
                }
                Some(Message::Abort | Message::End(_)) => return Ok(true),
                _ => return Ok(false),
            }
        }
    }
}

/// The next message in the middle of a file.
fn next(request: &mut StreamRequest) -> Result<Message, Trouble> {
    match Message::read(request) {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(Refusal::new(Code::Protocol, error.to_string()).into())
        }
        Err(error) => Err(error.into()),
    }
}

fn unexpected(message: &Message) -> Trouble {
    let text = match message {
        Message::Data(_) => "the file has more bytes than were announced",
        Message::End(_) => "the file has fewer bytes than were announced",
        _ => "another message was expected",
    };
    Refusal::new(Code::Protocol, text).into()
}

/// Refuses a message that begins no file, and ends the connection. The end of the input gets no answer.
fn end(request: &mut StreamRequest, result: io::Result<Option<Message>>) -> io::Result<()> {
    match result {
        Ok(None) => Ok(()),
        Ok(Some(_)) => refuse(request, Refusal::new(Code::Protocol, "a file was expected")),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            refuse(request, Refusal::new(Code::Protocol, error.to_string()))
        }
        Err(error) => Err(error),
    }
}

fn refuse(request: &mut StreamRequest, refusal: Refusal) -> io::Result<()> {
    // The client may go on sending until it reads this.
    request.expect_more_input();
    request.write_all(&Message::Refused(refusal).encode())
}

fn working(request: &mut StreamRequest) -> io::Result<()> {
    request.write_all(&Message::Working.encode())
}
