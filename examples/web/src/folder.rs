//! The folder that is served, and the way from the address of a request to a file in it and in nothing else.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// A folder and all that is below it.
///
/// What is outside is kept out in two ways. A path with `..` or NUL in it is nobody's path, in whatever way it was
/// written. And what a path leads to, through whichever symbolic links, is first opened without any right to it,
/// and then the *kernel* is asked where the thing is that was opened. Looking at the path beforehand, or at its
/// canonical form afterwards, would be a race against whoever exchanges a folder for a link in that moment; the
/// opened thing cannot be exchanged. So links are followed as long as they stay inside.
///
/// The folder is looked up anew for each request, so that a link which names it can be exchanged for another
/// one, as deployments do.
///
/// It needs the `/proc` of Linux.
#[derive(Debug)]
pub struct Folder {
    /// As it was given, from the root on: it may be, or lead through, a link.
    path: PathBuf,
    /// Whether names that begin with a dot are served.
    shows_dot_files: bool,
}

/// The folder as it was found for one request, held so that nobody can exchange it meanwhile.
pub struct Root<'a> {
    folder: &'a Folder,
    handle: File,
    /// Where the kernel says that it is: no part of it is a link.
    real: PathBuf,
}

/// Something in the folder, held so that nobody can exchange it for something else.
pub struct Thing {
    /// Opened without the right to read.
    handle: File,
    pub metadata: Metadata,
    /// Relative to the folder, as it was asked for.
    pub path: PathBuf,
}

impl Folder {
    pub fn new(path: &Path, shows_dot_files: bool) -> io::Result<Self> {
        let folder = Self { path: std::path::absolute(path)?, shows_dot_files };
        let thing = folder.open()?.find(Path::new(""))?;
        // Whether it can be read is better known now than from the first visitor.
        thing.entries()?;
        Ok(folder)
    }

    /// Where it is, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finds the folder itself.
    pub fn open(&self) -> io::Result<Root<'_>> {
        let handle = open_without_rights(&self.path)?;
        if !handle.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let real = fs::read_link(name_of(&handle))?;
        Ok(Root { folder: self, handle, real })
    }

    /// Whether a name is not to be seen. `.well-known` is made to be found by visitors: RFC 8615.
    pub fn hides(&self, name: &OsStr) -> bool {
        !self.shows_dot_files && name.as_bytes().starts_with(b".") && name != ".well-known"
    }
}

impl Root<'_> {
    /// Finds what a relative path leads to. `NotFound` also if it leads out.
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

    /// Whether a name in a listing is not to be seen.
    pub fn hides(&self, name: &OsStr) -> bool {
        self.folder.hides(name)
    }
}

/// Without reading rights nothing happens to what is opened: no tape winds, no pipe waits.
fn open_without_rights(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)
}

/// The name by which the kernel knows an open descriptor of this process.
fn name_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

impl Thing {
    /// Opens a regular file to read it. All else is not found: a pipe could wait for ever.
    pub fn open(&self) -> io::Result<File> {
        if !self.metadata.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        File::open(name_of(&self.handle))
    }

    /// What is in a folder.
    pub fn entries(&self) -> io::Result<fs::ReadDir> {
        fs::read_dir(name_of(&self.handle))
    }
}

/// What a request's target means here.
#[derive(Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Relative to the folder; empty for the folder itself.
    pub path: PathBuf,
    /// Whether it was asked for as a folder, by a slash at its end.
    pub is_folder: bool,
    pub query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Reads it; none if no file can have such a path.
    pub fn read(target: &'a str) -> Option<Self> {
        let target = without_authority(target);
        let target = target.split('#').next().unwrap_or_default();
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let mut found = PathBuf::new();
        let mut is_folder = true;
        // Decoded once, and before it is taken apart: a slash is one in whatever way it is written.
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

/// The path of the form that proxies are sent, `http://host/path`.
fn without_authority(target: &str) -> &str {
    match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => {
            rest.find(['/', '?']).map_or("/", |at| &rest[at..])
        }
        _ => target,
    }
}

/// What stands for itself in a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A name as a part of a URL: nothing in it can be taken for a separator, a scheme or a query.
pub fn encode(name: &OsStr) -> percent_encoding::PercentEncode<'_> {
    percent_encode(name.as_bytes(), PLAIN)
}

/// The path of a folder as a URL, from the root on, with one slash at each end.
pub fn folder_url(path: &Path) -> String {
    path.iter().fold("/".to_owned(), |url, name| format!("{url}{}/", encode(name)))
}
