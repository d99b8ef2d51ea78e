//! A file on its way: `.upload-KEY-SIZE.part` in the store's folder, until it is complete and gets its name.
//!
//! The key is made of the path, the size and the fingerprint, so that a client that comes back finds what it
//! has left. Whoever writes to such a file holds a lock on it, which ends with its process at the latest; a
//! second upload of the same at the same time gets `-1` after the size.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime};

use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::digest;
use crate::names::OWN_PREFIX;
use crate::protocol::{Digest, Put};

const ENDING: &str = ".part";
/// Hexadecimal digits: half of a digest is enough to tell files apart.
const KEY_LENGTH: usize = 32;

/// How many uploads of the same file there may be at once.
const AT_ONCE: u32 = 64;

pub struct Partial {
    file: File,
    name: String,
    /// How many bytes it has.
    length: u64,
    hasher: blake3::Hasher,
    /// The file of another connection that receives the same.
    busy: Option<String>,
}

impl Partial {
    /// Takes what there is of a file, or a place for it, for this process and connection alone. What is there
    /// stays as it is until `prepare`.
    ///
    /// # Errors
    ///
    /// If that fails.
    pub fn open(root: &OwnedFd, put: &Put) -> io::Result<Self> {
        let key = key(put);
        let mut busy = None;
        for number in 0..AT_ONCE {
            let mark = if number == 0 { String::new() } else { format!("-{number}") };
            let name = format!("{OWN_PREFIX}-{key}-{}{mark}{ENDING}", put.size);
            match open_locked(root, name.as_str(), OFlags::CREATE)? {
                Some(file) => {
                    let length = file.metadata()?.len();
                    return Ok(Self { file, name, length, hasher: blake3::Hasher::new(), busy });
                }
                None => drop(busy.get_or_insert(name)),
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "too many clients send this file just now"))
    }

    /// Begins with what has come before, if its client wants that, and otherwise anew.
    ///
    /// # Errors
    ///
    /// Those of the files.
    pub fn prepare(&mut self, root: &OwnedFd, put: &Put) -> io::Result<()> {
        if !put.resume || self.length > put.size {
            return self.restart();
        }
        match self.busy.take() {
            Some(busy) if self.length == 0 => self.copy(root, &busy, put.size),
            _ => Ok(()),
        }
    }

    /// Begins with what another connection has received. It may be one whose client has long gone, which
    /// nobody has told the server, and whose client is the one that wants to go on.
    fn copy(&mut self, root: &OwnedFd, busy: &str, size: u64) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(root, busy, flags, Mode::empty()) {
            Ok(other) => {
                self.length = io::copy(&mut File::from(other).take(size), &mut self.file)?;
                Ok(())
            }
            // It has ended well in the meantime.
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether there is nothing to go on with. The file is asked: a write that failed may have left bytes.
    pub fn is_empty(&self) -> bool {
        self.file.metadata().is_ok_and(|data| data.len() == 0)
    }

    /// Calculates the digest of what is there, and goes on after it.
    ///
    /// # Errors
    ///
    /// Those of reading, and of `working`, which is called again and again.
    pub fn hash(&mut self, working: impl FnMut() -> io::Result<()>) -> io::Result<Digest> {
        self.hasher = digest::hash(&mut self.file, self.length, working)?;
        Ok(self.digest())
    }

    /// Forgets what is there.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.length = 0;
        self.hasher.reset();
        Ok(())
    }

    /// Adds what comes next.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// The digest of all that is there.
    pub fn digest(&self) -> Digest {
        *self.hasher.finalize().as_bytes()
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

fn key(put: &Put) -> String {
    let mut hasher = blake3::Hasher::new();
    for name in &put.path {
        hasher.update(name);
        // No name contains it, so that no two paths make the same bytes.
        hasher.update(b"/");
    }
    hasher.update(&put.size.to_be_bytes());
    hasher.update(&put.fingerprint);
    hasher.finalize().to_hex()[..KEY_LENGTH].to_owned()
}

/// Opens a file and locks it; none if somebody else holds the lock, or if there is none and none is made.
fn open_locked<P: rustix::path::Arg + Copy>(
    root: impl AsFd,
    name: P,
    make: OFlags,
) -> io::Result<Option<File>> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | make;
    loop {
        let file = match fs::openat(&root, name, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) if make.is_empty() => return Ok(None),
            Err(Errno::NOENT) => {
                let text = "its folder has been removed";
                return Err(io::Error::new(io::ErrorKind::NotFound, text));
            }
            Err(error) => return Err(error.into()),
        };
        match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // Between the two it may have got its name, or have been removed: then it is not ours.
        let (ours, there) = (fs::fstat(&file)?, fs::statat(&root, name, AtFlags::SYMLINK_NOFOLLOW));
        if there.is_ok_and(|there| there.st_ino == ours.st_ino && there.st_dev == ours.st_dev) {
            return Ok(Some(file));
        }
    }
}

/// The size that a file of this name is to have, if it is one of these. Nothing else in the folder is taken
/// for one, whoever has put it there.
pub fn size_in(name: &[u8]) -> Option<u64> {
    let name = std::str::from_utf8(name).ok()?;
    let rest = name.strip_prefix(OWN_PREFIX)?.strip_prefix('-')?.strip_suffix(ENDING)?;
    let (key, rest) = rest.split_once('-')?;
    let size = rest.split_once('-').map_or(rest, |(size, _)| size);
    let is_key = key.len() == KEY_LENGTH && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    size.parse().ok().filter(|_| is_key)
}

/// For how much a file counts: one of these that somebody writes to for all that it is to have, and what a
/// broken upload has left for what it has. Otherwise a byte of a file that is said to be large would keep all
/// others out for as long as it is kept.
pub fn claim(root: impl AsFd, name: &CStr, now: u64) -> u64 {
    match size_in(name.to_bytes()) {
        // What cannot be opened may be written to by somebody else.
        Some(size)
            if size > now && !matches!(open_locked(root, name, OFlags::empty()), Ok(Some(_))) =>
        {
            size
        }
        _ => now,
    }
}

/// Removes a file that nobody writes to and nobody has written to for so long.
pub fn remove_if_older(root: &OwnedFd, name: &CStr, age: Duration) {
    let is_old = |changed: SystemTime| {
        SystemTime::now().duration_since(changed).is_ok_and(|since| since >= age)
    };
    // Whoever comes back to one that is not old must not find it locked by this look at it.
    let changed = |at: &fs::Stat| {
        let seconds = u64::try_from(at.st_mtime).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    };
    let there = fs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW);
    if !there.is_ok_and(|there| is_old(changed(&there))) {
        return;
    }
    let Ok(Some(file)) = open_locked(root, name, OFlags::empty()) else { return };
    // Somebody may have gone on with it in between.
    if file.metadata().and_then(|data| data.modified()).is_ok_and(is_old) {
        // It stays for the next sweep if that fails; the lock is held until then, so that nobody has
        // begun to write to it.
        let _ = fs::unlinkat(root, name, AtFlags::empty());
    }
}
