//! The folder that is served, and the way from the target of a request to a file in it and nowhere else.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// A folder and everything below it.
///
/// Two checks keep requests inside. A path with `..` or NUL in it is refused, however it is encoded. Then the path is
/// opened, through any symbolic links, without the right to read (`O_PATH`), and the *kernel* is asked where the opened
/// file is (`/proc/self/fd`). A check of the path before it is opened, or of its canonical form afterwards, would race
/// against a process that replaces a folder by a link at that moment; an opened file cannot be replaced. So links are
/// followed as long as they stay inside.
///
/// The folder is looked up for each request, so that it may be a link that a deployment changes.
///
/// All of this needs the `/proc` of Linux.
#[derive(Debug)]
pub struct Folder {
    /// The absolute path, as given: it may contain links.
    path: PathBuf,
    /// Whether names that begin with a dot are served.
    shows_dot_files: bool,
}

/// The folder as found for one request, and open, so that it stays the same until the answer.
pub struct Root<'a> {
    folder: &'a Folder,
    handle: File,
    /// The path that the kernel gives: no part of it is a link.
    real: PathBuf,
}

/// A file or folder below the served folder, and open, so that it stays the same until the answer.
pub struct Thing {
    /// Open without the right to read.
    handle: File,
    pub metadata: Metadata,
    /// Relative to the folder, as requested.
    pub path: PathBuf,
}

impl Folder {
    pub fn new(path: &Path, shows_dot_files: bool) -> io::Result<Self> {
        let folder = Self { path: std::path::absolute(path)?, shows_dot_files };
        let thing = folder.open()?.find(Path::new(""))?;
        // The operator learns here, and not from the first client, that the folder cannot be read.
        thing.entries()?;
        Ok(folder)
    }

    /// Its path, as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the folder for one request.
    pub fn open(&self) -> io::Result<Root<'_>> {
        let handle = open_without_rights(&self.path)?;
        if !handle.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let real = fs::read_link(name_of(&handle))?;
        Ok(Root { folder: self, handle, real })
    }

    /// Whether a name is hidden. `.well-known` never is: it is made for clients (RFC 8615).
    pub fn hides(&self, name: &OsStr) -> bool {
        !self.shows_dot_files && name.as_bytes().starts_with(b".") && name != ".well-known"
    }
}

impl Root<'_> {
    /// Opens a relative path. A path that leads out of the folder is `NotFound` too.
    pub fn find(&self, path: &Path) -> io::Result<Thing> {
        if path.iter().any(|name| self.folder.hides(name)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let handle = open_without_rights(&name_of(&self.handle).join(path))?;
        if !fs::read_link(name_of(&handle))?.starts_with(&self.real) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let metadata = handle.metadata()?;
        Ok(Thing { handle, metadata, path: path.to_owned() })
    }

    /// Whether a name is left out of listings.
    pub fn hides(&self, name: &OsStr) -> bool {
        self.folder.hides(name)
    }
}

/// Opens a file without the right to read. Opened in this way, a device does nothing and a pipe does not wait.
fn open_without_rights(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)
}

/// The name by which the kernel knows an open descriptor of this process.
fn name_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

impl Thing {
    /// Opens a regular file for reading. Other kinds are not found: a pipe could wait for ever.
    pub fn open(&self) -> io::Result<File> {
        if !self.metadata.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        File::open(name_of(&self.handle))
    }

    /// The entries of a folder.
    pub fn entries(&self) -> io::Result<fs::ReadDir> {
        fs::read_dir(name_of(&self.handle))
    }
}

/// The target of a request, as a path below the folder.
#[derive(Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Relative to the folder; empty for the folder itself.
    pub path: PathBuf,
    /// Whether it ends in a slash.
    pub is_folder: bool,
    pub query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Reads the target. Returns `None` if no file can have such a path.
    pub fn read(target: &'a str) -> Option<Self> {
        let target = without_authority(target);
        let target = target.split('#').next().unwrap_or_default();
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let mut found = PathBuf::new();
        let mut is_folder = true;
        // The path is decoded once, before it is split: an encoded slash is a slash.
        let decoded: Vec<u8> = percent_decode_str(path).collect();
        for part in decoded.split(|byte| *byte == b'/') {
            is_folder = matches!(part, b"" | b".");
            if part == b".." || part.contains(&0) {
                return None;
            }
            if !is_folder {
                found.push(OsStr::from_bytes(part));
            }
        }
        Some(Self { path: found, is_folder, query })
    }
}

/// The path in a target, which may have the form that proxies get: `http://host/path`.
fn without_authority(target: &str) -> &str {
    match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => {
            rest.find(['/', '?']).map_or("/", |at| &rest[at..])
        }
        _ => target,
    }
}

/// Characters that are not encoded in a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A name as a part of a URL: nothing in it can be taken for a separator, a scheme or a query.
pub fn encode(name: &OsStr) -> percent_encoding::PercentEncode<'_> {
    percent_encode(name.as_bytes(), PLAIN)
}

/// The path of a folder as a URL, from the root on, with one slash at each end.
pub fn folder_url(path: &Path) -> String {
    path.iter().fold("/".to_owned(), |url, name| format!("{url}{}/", encode(name)))
}
