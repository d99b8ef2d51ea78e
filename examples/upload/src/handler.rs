//! The server's side of a connection, in either wire.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use socketserver::{HandlerResult, StreamRequest, StreamRequestHandler};

use crate::digest;
use crate::document::{self, Found, is_of_a_browser, read_header};
use crate::pace::{PACE_BYTES, Pace};
use crate::partial::Partial;
use crate::protocol::{Code, DATA_BYTES, Message, OFFERS, OLDEST, Put, Refusal, VERSION, shown};
use crate::store::{Store, storage};
use common::{FirstWord, say};

/// What a client goes on sending of a file that has been refused, before it has read so: what is on its way,
/// and no more.
const UNWANTED_BYTES: u64 = 64 * 1024 * 1024;

pub struct Upload {
    store: Arc<Store>,
    /// How long a client may be silent, and how long it may take for a piece of a file.
    idle: Duration,
    /// How long it may take for its greeting, or its first header.
    first_word: FirstWord,
    /// Room for one piece, when the first one comes.
    buffer: Vec<u8>,
    /// The client has said all that it says about the file of its last `Put`.
    is_all_said: bool,
    /// What the client speaks.
    version: u16,
}

/// Why a file does not go on.
enum Trouble {
    /// It is not taken, and the client is told.
    Refused(Refusal),
    /// The client does not want to send it any more.
    Withdrawn,
    /// The connection is of no use any more.
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
        // Whoever begins a new upload pays for the old ones; and none is refused because of them.
        if let Err(error) = self.store.sweep() {
            say(&format!("cannot look for what broken uploads have left: {error}"));
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
            // A client that leaves in the middle is no failure of the server. The file has been named.
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

    /// Serves one file, with one answer, and says whether the connection is still of use.
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
                    "nothing came for {} s; what has come is kept: go on with --resume",
                    self.idle.as_secs_f64()
                );
                refuse(request, Refusal::new(Code::Idle, text))?;
                Ok(false)
            }
        }
    }

    /// Receives a file, and says its path there and what has become of it.
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
            Ok(()) => match self.store.commit(&partial, put) {
                Ok(path) => {
                    self.store.remove_left(partial, put);
                    Ok((path, "stored"))
                }
                Err(refusal) => {
                    self.store.leave(partial);
                    Err(refusal.into())
                }
            },
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

    /// Offers the file that is there already, if there is one, and gives its path if it is the same.
    fn offer_whole(
        &self,
        request: &mut StreamRequest,
        put: &Put,
    ) -> Result<Option<Vec<Vec<u8>>>, Trouble> {
        let Some((mut file, path)) = self.store.stored_before(put) else { return Ok(None) };
        request.write_all(&Message::Have { offset: put.size, whole: true }.encode())?;
        let hasher = digest::hash(&mut file, put.size, || working(request));
        let hasher = hasher.map_err(|error| storage("read", error))?;
        let is_same = self.agree(request, put.size, *hasher.finalize().as_bytes())?;
        Ok(is_same.then_some(path))
    }

    /// Finds what of a file is there already, if its client wants to go on, or begins it anew.
    fn begin(&self, request: &mut StreamRequest, put: &Put) -> Result<Partial, Trouble> {
        if !put.resume {
            return Ok(self.store.begin(put)?);
        }
        self.store.check_name(put)?;
        // An old client takes one offer, and then sends its file.
        let offers = if self.version > OLDEST { OFFERS } else { 1 };
        let mut is_over = false;
        for left in self.store.left_of(put).iter().take(offers) {
            let Some(partial) = self.store.take(left, put)? else { continue };
            if let Some(partial) = self.offered(request, partial)? {
                return Ok(partial);
            }
            is_over = self.version == OLDEST;
        }
        let partial = self.store.begin(put)?;
        if is_over {
            return Ok(partial);
        }
        let nothing = || Refusal::new(Code::Protocol, "the offer of nothing is always taken");
        self.offered(request, partial)?.ok_or_else(|| nothing().into())
    }

    /// Offers the beginning of a file, and gives it back if the client goes on after it.
    fn offered(
        &self,
        request: &mut StreamRequest,
        mut partial: Partial,
    ) -> Result<Option<Partial>, Trouble> {
        let result = self.offer(request, &mut partial);
        if let Ok(true) = result {
            return Ok(Some(partial));
        }
        self.store.leave(partial);
        result.map(|_| None)
    }

    fn offer(&self, request: &mut StreamRequest, partial: &mut Partial) -> Result<bool, Trouble> {
        let offset = partial.offered();
        request.write_all(&Message::Have { offset, whole: false }.encode())?;
        let digest = partial.hash(|| working(request));
        let digest = digest.map_err(|error| storage("read", error))?;
        let is_taken = self.agree(request, offset, digest)?;
        if is_taken {
            partial.accept().map_err(|error| storage("go on with", error))?;
        }
        Ok(is_taken)
    }

    /// Says the digest of what was offered, and whether the client has taken it.
    fn agree(
        &self,
        request: &mut StreamRequest,
        offset: u64,
        digest: [u8; 32],
    ) -> Result<bool, Trouble> {
        request.write_all(&Message::Digest(digest).encode())?;
        // The client says so once for each step of its own calculation, and not for ever.
        let mut steps = offset / digest::WORKING_BYTES + 1;
        loop {
            match next(request)? {
                Message::Working if steps > 0 => steps -= 1,
                Message::From(from) if from == offset => return Ok(true),
                Message::From(0) => return Ok(false),
                message => return Err(unexpected(&message)),
            }
        }
    }

    /// Receives what is missing of a file, and checks the whole.
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
                        let text = "the digest is wrong: other bytes have come than were sent";
                        Err(Refusal::new(Code::BadDigest, text).into())
                    };
                }
                Message::Abort => return Err(Trouble::Withdrawn),
                message => return Err(unexpected(&message)),
            }
        }
    }

    /// Receives so many bytes, and keeps as many of them as come.
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

    /// Reads so many bytes into the buffer, or as many as there are in time.
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

    /// Throws away what is still coming of a file that has been refused, and says whether its end came.
    fn skip(&mut self, request: &mut StreamRequest) -> io::Result<bool> {
        let mut left = UNWANTED_BYTES;
        let mut pace = Pace::new(self.idle);
        loop {
            match pace.watch(|| Message::read(request))? {
                Some(Message::Data(length)) if length as u64 <= left => {
                    left -= length as u64;
                    self.read_piece(request, length, &mut pace).1?;
                }
                // It had not read the refusal when it agreed on where to go on.
                Some(Message::From(_) | Message::Working) if left >= PACE_BYTES as u64 => {
                    left -= PACE_BYTES as u64;
                }
                Some(Message::Abort | Message::End(_)) => return Ok(true),
                _ => return Ok(false),
            }
        }
    }

    /// Serves the document's client: files one after the other, and no answer. A file that is refused ends
    /// the connection, which is all that such a client can be told.
    fn serve_document(&mut self, request: &mut StreamRequest) -> io::Result<()> {
        let peer = request.client_address();
        let mut is_first = true;
        while let Some(put) = read_document_header(request, std::mem::take(&mut is_first))? {
            FirstWord::heard(request);
            match self.receive_document(request, &put) {
                Ok(path) => say(&format!("{peer} stored {} ({} bytes)", shown(&path), put.size)),
                Err(Trouble::Refused(refusal)) => {
                    say(&format!("{peer} was refused {}: {refusal}", shown(&put.path)));
                    return Ok(());
                }
                Err(Trouble::Withdrawn) => return Ok(()),
                Err(Trouble::Lost(error)) => {
                    say(&format!("{peer} broke off {}: {error}", shown(&put.path)));
                    return Err(error);
                }
            }
            request.between_requests();
        }
        Ok(())
    }

    fn receive_document(
        &mut self,
        request: &mut StreamRequest,
        put: &Put,
    ) -> Result<Vec<Vec<u8>>, Trouble> {
        self.store.check(put)?;
        let mut partial = self.store.begin(put)?;
        let mut pace = Pace::new(self.idle);
        while partial.len() < put.size {
            let left = usize::try_from(put.size - partial.len()).unwrap_or(usize::MAX);
            let length = left.min(DATA_BYTES);
            if let Err(trouble) = self.receive_piece(request, length, &mut partial, &mut pace) {
                // Such a client cannot go on where it was broken off.
                self.store.discard(partial);
                return Err(trouble);
            }
        }
        self.store.commit(&partial, put).map_err(|refusal| {
            self.store.discard(partial);
            refusal.into()
        })
    }
}

/// What the document's client sends next; none at the end.
fn read_document_header(request: &mut StreamRequest, is_first: bool) -> io::Result<Option<Put>> {
    let mut head = Vec::new();
    loop {
        let piece = request.fill_buf()?;
        if piece.is_empty() {
            return if head.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
        let (begun, received) = (head.len(), piece.len());
        head.extend_from_slice(piece);
        match read_header(&head) {
            Found::Header(header) if is_first && is_of_a_browser(&head[header.length..]) => {
                let peer = request.client_address();
                say(&format!("{peer} sent a request of HTTP, which is no file"));
                return Ok(None);
            }
            Found::Header(header) => {
                request.consume(header.length.saturating_sub(begun));
                let path = vec![header.name];
                let put = Put { path, size: header.size, fingerprint: [0; 32], resume: false };
                return Ok(Some(put));
            }
            Found::More => request.consume(received),
            Found::Nothing => {
                say(&format!("{} sent no header of a file", request.client_address()));
                return Ok(None);
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
        Message::Data(_) => "more bytes came than the file was said to have",
        Message::End(_) => "the file ended before all its bytes had come",
        _ => "another message was expected",
    };
    Refusal::new(Code::Protocol, text).into()
}

/// Ends a connection on what is no file, and says so unless it is the end.
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
    // It may send on before it reads that.
    request.expect_more_input();
    request.write_all(&Message::Refused(refusal).encode())
}

fn working(request: &mut StreamRequest) -> io::Result<()> {
    request.write_all(&Message::Working.encode())
}
