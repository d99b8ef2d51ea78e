//! Answers from a folder: files, parts of files, listings, and errors.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use socketserver::{StreamRequest, offload};

use crate::answer::{Answer, Clock, Connection, HTML, error_page, http_date};
use crate::budget::Budget;
use crate::conditions::{Span, Version};
use crate::folder::{Folder, Root, Target, Thing, folder_url};
use crate::handler::BATCH_BYTES;
use crate::listing::{Listing, View};
use crate::media::Media;
use crate::protocol::{Head, Method, Status};

/// The files that are shown instead of a listing, as in Python.
const INDEX: [&str; 2] = ["index.html", "index.htm"];

/// Makes a browser ask each time whether the file is still the same: its author wants to see the last change.
const CAUTION: (&str, &str) = ("Cache-Control", "no-cache");
pub const NO_SNIFFING: (&str, &str) = ("X-Content-Type-Options", "nosniff");

/// After how long a client that got 503 may ask again.
const RETRY_AFTER_SECONDS: u32 = 5;

/// The policy of this server's own pages: they load nothing and run nothing, even if a file's name looks like a script.
pub const POLICY: (&str, &str) =
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:");

/// A request on its way to its answer.
pub struct Exchange<'a, 'h> {
    pub request: &'a mut StreamRequest,
    pub head: &'a Head<'h>,
    pub out: &'a mut Vec<u8>,
    pub clock: &'a Clock,
    pub connection: Connection,
}

/// An answer, for the log.
#[derive(Clone, Copy)]
pub struct Answered {
    pub status: Status,
    pub bytes: u64,
}

impl Exchange<'_, '_> {
    /// Answers from a folder. The result says how much of the answer was sent, and is an error if the connection or the
    /// file failed in the middle. Folders that are opened on the way to a file or a listing are closed before it is sent, so
    /// a client that takes an hour for a file holds one descriptor and that of its connection.
    pub fn answer(mut self, folder: &Folder, budget: &Budget) -> (Answered, io::Result<()>) {
        let Some(target) = Target::read(self.head.target) else { return whole(self.not_found()) };
        let root = match folder.open() {
            Ok(root) => root,
            Err(error) => return whole(self.folder_is_gone(folder, &error)),
        };
        match find(&root, &target) {
            Ok(Found::File(Some(found))) => {
                drop(root);
                self.file(&found)
            }
            Ok(Found::File(None)) => whole(self.not_found()),
            Ok(Found::Moved) => whole(self.moved(&target)),
            Ok(Found::Folder(thing)) => self.listing(root, thing, target.query, budget),
            Err(error) => whole(self.failed(&error)),
        }
    }

    /// Answers with a listing. Unless it is small, it is sent before the next request is read. While it waits for its
    /// client, its memory counts in the budget.
    fn listing(
        &mut self,
        root: Root<'_>,
        thing: Thing,
        query: Option<&str>,
        budget: &Budget,
    ) -> (Answered, io::Result<()>) {
        let view = View::read(query.unwrap_or_default());
        let Some(mut share) = budget.take(view.cost(), self.request.client_address().ip()) else {
            let why = "Too many listings are on their way. Please ask again in a few seconds.";
            return whole(self.unavailable(why));
        };
        let listing = match Listing::read(&root, &thing, view) {
            Ok(listing) => listing,
            Err(error) => return whole(self.failed(&error)),
        };
        let answered = self.page(Status::Ok, &listing.page());
        drop((listing, root, thing));
        if self.out.len() < BATCH_BYTES {
            return whole(answered);
        }
        share.resize(self.out.capacity());
        let sent = self.request.write_all(self.out);
        *self.out = Vec::new();
        (answered, sent)
    }

    fn file(&mut self, found: &FoundFile) -> (Answered, io::Result<()>) {
        let FoundFile { path, metadata, file } = found;
        let size = metadata.len();
        let version = Version::new(metadata.modified().ok(), size);
        if version.is_known(self.head) {
            self.begin(Status::NotModified).field("ETag", &version.etag).end();
            return whole(Answered { status: Status::NotModified, bytes: 0 });
        }
        let (status, part) = match Span::new(self.head, &version, size) {
            Span::Whole => (Status::Ok, 0..size),
            Span::Part(part) => (Status::PartialContent, part),
            Span::Nothing => return whole(self.no_such_part(size)),
        };
        let media = match Media::new(path, file) {
            Ok(media) => media,
            Err(error) => return whole(self.failed(&error)),
        };
        let length = part.end - part.start;
        let mut answer = self.begin(status).field("Content-Type", media.kind);
        if let Some(coding) = media.coding {
            answer = answer.field("Content-Encoding", coding);
        }
        let mut answer = answer
            .field("Content-Length", length)
            .field("Accept-Ranges", "bytes")
            .field("ETag", &version.etag);
        if let Some(date) = version.modified.and_then(http_date) {
            answer = answer.field("Last-Modified", date);
        }
        if status == Status::PartialContent {
            let (first, last) = (part.start, part.end - 1);
            answer = answer.field("Content-Range", format_args!("bytes {first}-{last}/{size}"));
        }
        answer.end();
        if self.head.method != Method::Get {
            return whole(Answered { status, bytes: length });
        }
        let mut at = part.start;
        let sent = self.send(file, &mut at, part.end);
        (Answered { status, bytes: at - part.start }, sent)
    }

    /// Sends a file from `at` on, through the buffer of the answers. A small file leaves together with its head. Of a
    /// large file at most one batch is in memory.
    fn send(&mut self, file: &File, at: &mut u64, end: u64) -> io::Result<()> {
        // A small part is nearly always in memory. A coroutine leaves the reads of a large one to another thread.
        let is_large = end - *at > LARGE_BYTES;
        let large = is_large.then(|| file.try_clone().map(Arc::new)).transpose()?;
        while *at < end {
            let begun = self.out.len();
            let room = BATCH_BYTES.saturating_sub(begun);
            let wanted = usize::try_from(end - *at).map_or(room, |left| left.min(room));
            if wanted > 0 {
                let result = match &large {
                    None => read_at(file, self.out, wanted, *at),
                    Some(file) => {
                        let (file, mut out, from) =
                            (Arc::clone(file), std::mem::take(self.out), *at);
                        let read = move || (read_at(&file, &mut out, wanted, from), out);
                        let (result, out) = offload(read)?;
                        *self.out = out;
                        result
                    }
                };
                match result {
                    Ok(0) => {
                        // The length is promised already, so only the end of the connection can tell the client that
                        // it was wrong.
                        let text = "the file has become shorter while it was being sent";
                        return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
                    }
                    Ok(count) => *at += count as u64,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            if self.out.len() >= BATCH_BYTES {
                self.request.write_all(self.out)?;
                self.out.clear();
            }
        }
        Ok(())
    }

    fn moved(&mut self, target: &Target<'_>) -> Answered {
        let mut url = folder_url(&target.path);
        if let Some(query) = target.query {
            url = format!("{url}?{query}");
        }
        let page = error_page(Status::MovedPermanently, "It is a folder.", &url);
        let head_only = self.head.method == Method::Head;
        // The value of a header has to be ASCII.
        let url = percent_encoding::utf8_percent_encode(&url, percent_encoding::CONTROLS);
        let answer = self.begin(Status::MovedPermanently).field("Location", url);
        answer.body(HTML, page.as_bytes(), head_only);
        Answered { status: Status::MovedPermanently, bytes: page.len() as u64 }
    }

    fn no_such_part(&mut self, size: u64) -> Answered {
        let status = Status::RangeNotSatisfiable;
        let head_only = self.head.method == Method::Head;
        let page = error_page(status, "The file has no such part.", self.head.target);
        let answer = self.begin(status).field("Content-Range", format_args!("bytes */{size}"));
        answer.body(HTML, page.as_bytes(), head_only);
        Answered { status, bytes: page.len() as u64 }
    }

    fn not_found(&mut self) -> Answered {
        self.error(Status::NotFound, "There is nothing here by this name.")
    }

    /// Answers an error of the file system: the client learns its kind, and the log the rest.
    fn failed(&mut self, error: &io::Error) -> Answered {
        match (error.kind(), error.raw_os_error()) {
            (ErrorKind::PermissionDenied, _) => {
                self.error(Status::Forbidden, "The server may not read this.")
            }
            (ErrorKind::NotFound | ErrorKind::NotADirectory, _)
            | (_, Some(libc::ELOOP | libc::ENAMETOOLONG)) => self.not_found(),
            _ => {
                let target = self.head.target;
                common::warn(&format!("cannot read the file or folder of {target:?}: {error}"));
                self.error(Status::InternalServerError, "The server cannot read this now.")
            }
        }
    }

    /// Answers that the folder, which existed at the start, cannot be opened. It may come back,
    /// as when a link is changed or a disk is mounted.
    fn folder_is_gone(&mut self, folder: &Folder, error: &io::Error) -> Answered {
        common::warn(&format!("cannot open {}: {error}", folder.path().display()));
        self.unavailable("What is served here cannot be reached now.")
    }

    fn unavailable(&mut self, why: &str) -> Answered {
        let status = Status::ServiceUnavailable;
        let page = error_page(status, why, "");
        let head_only = self.head.method == Method::Head;
        let answer = self.begin(status).field("Retry-After", RETRY_AFTER_SECONDS);
        answer.body(HTML, page.as_bytes(), head_only);
        Answered { status, bytes: page.len() as u64 }
    }

    fn error(&mut self, status: Status, why: &str) -> Answered {
        let asked = percent_encoding::percent_decode_str(self.head.target).decode_utf8_lossy();
        self.page(status, &error_page(status, why, &asked))
    }

    fn page(&mut self, status: Status, page: &str) -> Answered {
        let head_only = self.head.method == Method::Head;
        let answer = self.begin(status).field(POLICY.0, POLICY.1);
        answer.body(HTML, page.as_bytes(), head_only);
        Answered { status, bytes: page.len() as u64 }
    }

    fn begin(&mut self, status: Status) -> Answer<'_> {
        let answer = Answer::new(self.out, self.clock, status, self.connection);
        [CAUTION, NO_SNIFFING]
            .into_iter()
            .fold(answer, |answer, (name, value)| answer.field(name, value))
    }
}

/// A coroutine leaves the reads of a part that is larger than this to another thread.
const LARGE_BYTES: u64 = 256 * 1024;

/// Appends up to `wanted` bytes of a file to a buffer, by one read (`read_to_end` would make four). Returns how many
/// it has read.
fn read_at(file: &File, out: &mut Vec<u8>, wanted: usize, at: u64) -> io::Result<usize> {
    let begun = out.len();
    out.resize(begun + wanted, 0);
    let result = file.read_at(&mut out[begun..], at);
    out.truncate(begun + result.as_ref().map_or(0, |count| *count));
    result
}

/// The result for an answer that is sent, or is in the buffer as a whole.
fn whole(answered: Answered) -> (Answered, io::Result<()>) {
    (answered, Ok(()))
}

/// A file that may be read.
struct FoundFile {
    path: PathBuf,
    metadata: Metadata,
    file: File,
}

impl FoundFile {
    fn open(thing: Thing) -> io::Result<Self> {
        let file = thing.open()?;
        Ok(Self { path: thing.path, metadata: thing.metadata, file })
    }
}

enum Found {
    /// A file; none if the path ended in a slash.
    File(Option<FoundFile>),
    /// A folder whose path had no slash at its end: relative links in it would lead elsewhere.
    Moved,
    /// A folder without an index.
    Folder(Thing),
}

fn find(root: &Root<'_>, target: &Target<'_>) -> io::Result<Found> {
    let thing = root.find(&target.path)?;
    if !thing.metadata.is_dir() {
        let found = if target.is_folder { None } else { Some(FoundFile::open(thing)?) };
        return Ok(Found::File(found));
    }
    if !target.is_folder {
        return Ok(Found::Moved);
    }
    for name in INDEX {
        match root.find(&target.path.join(name)) {
            Ok(index) if index.metadata.is_file() => {
                return Ok(Found::File(Some(FoundFile::open(index)?)));
            }
            _ => {}
        }
    }
    Ok(Found::Folder(thing))
}
