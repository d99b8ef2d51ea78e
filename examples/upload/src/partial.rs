//! A file on its way: `.upload-KEY-SIZE.part` in the store's folder, until it is complete and gets its name.
//!
//! The key is made of the path, the size and the fingerprint, so that a client that resumes finds its part. Other
//! clients may know all three, and the server cannot tell clients apart. So no upload writes over the part of another
//! one: a new upload gets a file of its own, with `-1`, `-2` and so on after the size, and a client that resumes is
//! offered all parts of its key. The connection that writes to a part holds a lock on the file, which ends with the
//! process at the latest.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime};

use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::digest;
use crate::names::{OWN_PREFIX, random_mark};
use crate::protocol::{Digest, Put};

const ENDING: &str = ".part";
/// How many hexadecimal digits a key has: half of a digest is enough to tell files apart.
const KEY_LENGTH: usize = 32;

/// How many parts of one key have a number, by which they are found again. A client can make more of them only on
/// purpose. Those can be completed, but not resumed.
const NUMBERED: u32 = 64;

/// The flags to open a part: no link is followed, and with `RDWR` no pipe is waited for.
const OPEN: OFlags = OFlags::RDWR.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

pub struct Partial {
    file: File,
    name: String,
    /// How many bytes it has.
    length: u64,
    hasher: blake3::Hasher,
    /// Another connection's part, and how many bytes of it are offered. If the client accepts, they are copied to the
    /// beginning of this part. The other connection may be an earlier one of the same client, whose end the server
    /// has not noticed.
    other: Option<(File, u64)>,
}

/// The part of an earlier upload.
pub struct Left {
    name: String,
    length: u64,
}

/// Makes an empty part and removes it, to find out whether files can be made in the folder. If this process is killed in
/// between, a sweep removes it.
///
/// # Errors
///
/// If no file can be made, unless the disk is full at the moment.
pub fn try_folder(root: &OwnedFd) -> io::Result<()> {
    let name = format!("{OWN_PREFIX}-{:0KEY_LENGTH$}-0-{}{ENDING}", 0, random_mark());
    let flags = OPEN | OFlags::CREATE | OFlags::EXCL;
    match fs::openat(root, &*name, flags, Mode::from_raw_mode(0o600)) {
        Ok(_) => Ok(fs::unlinkat(root, &*name, AtFlags::empty())?),
        Err(Errno::NOSPC | Errno::DQUOT) => Ok(()),
        // The folder is one of the kernel's own, as /proc is.
        Err(Errno::NOENT) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "no file can be made in it"))
        }
        Err(error) => Err(error.into()),
    }
}

/// The parts of a file, the longest first.
pub fn left_of(root: &OwnedFd, put: &Put) -> Vec<Left> {
    let mut found: Vec<Left> = numbered(put)
        .filter_map(|name| {
            let stat = fs::statat(root, &*name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let length = u64::try_from(stat.st_size).ok()?;
            (0 < length && length <= put.size).then_some(Left { name, length })
        })
        .collect();
    found.sort_by_key(|left| std::cmp::Reverse(left.length));
    found
}

impl Partial {
    /// Makes a new part, which this connection alone writes to.
    ///
    /// # Errors
    ///
    /// If the part cannot be made.
    pub fn create(root: &OwnedFd, put: &Put) -> io::Result<Self> {
        let names = numbered(put).chain(std::iter::repeat_with(|| name_of(put, &random_mark())));
        for name in names {
            let flags = OPEN | OFlags::CREATE | OFlags::EXCL;
            let file = match fs::openat(root, &*name, flags, Mode::from_raw_mode(0o666)) {
                Ok(file) => File::from(file),
                Err(Errno::EXIST) => continue,
                Err(Errno::NOENT) => {
                    let text = "its folder has been removed";
                    return Err(io::Error::new(io::ErrorKind::NotFound, text));
                }
                Err(error) => return Err(error.into()),
            };
            // Other connections lock it for a moment, to see whether it is being written to.
            retry_on_intr(|| fs::flock(&file, FlockOperation::LockExclusive))?;
            if is_there(root, &name, &file)? {
                let (length, hasher, other) = (0, blake3::Hasher::new(), None);
                return Ok(Self { file, name, length, hasher, other });
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Takes over a part, or makes a new one if another connection still writes to it. Returns `None` if the part is
    /// gone.
    ///
    /// # Errors
    ///
    /// If the part cannot be opened, or a new one cannot be made.
    pub fn take(root: &OwnedFd, left: &Left, put: &Put) -> io::Result<Option<Self>> {
        if let Some(file) = open_locked(root, &*left.name)? {
            let length = file.metadata()?.len();
            let (name, hasher) = (left.name.clone(), blake3::Hasher::new());
            let partial = Self { file, name, length, hasher, other: None };
            // The length is checked again: another program, which knows nothing of the lock, may write to the part.
            return Ok((length <= put.size).then_some(partial));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match fs::openat(root, &*left.name, flags, Mode::empty()) {
            Ok(other) => {
                let mut new = Self::create(root, put)?;
                new.other = Some((File::from(other), left.length));
                Ok(Some(new))
            }
            // The upload has been completed since the part was found.
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// How many bytes the client need not send, if it accepts.
    pub fn offered(&self) -> u64 {
        self.other.as_ref().map_or(self.length, |(_, length)| *length)
    }

    /// Computes the digest of the offered bytes. The later bytes continue this digest.
    ///
    /// # Errors
    ///
    /// Errors of reading, and of `working`, which is called again and again.
    pub fn hash(&mut self, working: impl FnMut() -> io::Result<()>) -> io::Result<Digest> {
        let offered = self.offered();
        let file = self.other.as_mut().map_or(&mut self.file, |(other, _)| other);
        self.hasher = digest::hash(file, offered, working)?;
        Ok(self.digest())
    }

    /// Makes the offered bytes the beginning of this part.
    ///
    /// # Errors
    ///
    /// Those of the files.
    pub fn accept(&mut self) -> io::Result<()> {
        let Some((mut other, length)) = self.other.take() else { return Ok(()) };
        other.seek(SeekFrom::Start(0))?;
        self.length = io::copy(&mut other.take(length), &mut self.file)?;
        if self.length < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether it has no bytes to resume after. The file itself decides, because a failed write may have added some.
    pub fn is_empty(&self) -> bool {
        self.file.metadata().is_ok_and(|data| data.len() == 0)
    }

    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// Errors of the file.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// The digest of all its bytes.
    pub fn digest(&self) -> Digest {
        *self.hasher.finalize().as_bytes()
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Removes the other parts of this file, after it has got its name. If a part is not a beginning of this file, it
    /// belongs to another one, and stays.
    ///
    /// # Errors
    ///
    /// Errors of reading. A later sweep removes parts that could not be removed here.
    pub fn remove_left(mut self, root: &OwnedFd, put: &Put) -> io::Result<()> {
        // At most twice as many bytes as the file has are compared, however many parts there are.
        let mut budget = put.size.saturating_mul(2);
        for left in left_of(root, put) {
            let Some(file) = open_locked(root, &*left.name)? else { continue };
            let Some(rest) = budget.checked_sub(left.length) else { return Ok(()) };
            budget = rest;
            if is_beginning(file, &mut self.file)? {
                let _ = fs::unlinkat(root, &*left.name, AtFlags::empty());
            }
        }
        Ok(())
    }
}

/// Whether a file is the beginning of another one.
fn is_beginning(mut short: File, long: &mut File) -> io::Result<bool> {
    let mut blocks = [vec![0; digest::BLOCK], vec![0; digest::BLOCK]];
    let [one, two] = &mut blocks;
    short.seek(SeekFrom::Start(0))?;
    long.seek(SeekFrom::Start(0))?;
    loop {
        let count = short.read(one)?;
        if count == 0 {
            return Ok(true);
        }
        match long.read_exact(&mut two[..count]) {
            Ok(()) if one[..count] == two[..count] => {}
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            _ => return Ok(false),
        }
    }
}

/// The names by which the files of one key are found again.
fn numbered(put: &Put) -> impl Iterator<Item = String> {
    let [first, others] = [name_of(put, ""), name_of(put, "-")];
    let others = others.strip_suffix(ENDING).unwrap_or_default().to_owned();
    let others = (1..NUMBERED).map(move |number| format!("{others}{number}{ENDING}"));
    [first].into_iter().chain(others)
}

fn name_of(put: &Put, mark: &str) -> String {
    format!("{OWN_PREFIX}-{}-{}{mark}{ENDING}", key(put), put.size)
}

fn key(put: &Put) -> String {
    let mut hasher = blake3::Hasher::new();
    for name in &put.path {
        hasher.update(name);
        // No name contains a slash, so that no two paths make the same bytes.
        hasher.update(b"/");
    }
    hasher.update(&put.size.to_be_bytes());
    hasher.update(&put.fingerprint);
    hasher.finalize().to_hex()[..KEY_LENGTH].to_owned()
}

/// Opens a file and locks it. Returns `None` if another process or connection holds the lock, or if the file does not
/// exist.
fn open_locked<P: rustix::path::Arg + Copy>(root: impl AsFd, name: P) -> io::Result<Option<File>> {
    let file = match fs::openat(&root, name, OPEN | OFlags::NONBLOCK, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    Ok(is_there(root, name, &file)?.then_some(file))
}

/// Whether this file still has this name. Between its opening and its locking it may have been renamed or removed.
fn is_there<P: rustix::path::Arg>(root: impl AsFd, name: P, file: &File) -> io::Result<bool> {
    let (ours, there) = (fs::fstat(file)?, fs::statat(&root, name, AtFlags::SYMLINK_NOFOLLOW));
    Ok(there.is_ok_and(|there| there.st_ino == ours.st_ino && there.st_dev == ours.st_dev))
}

/// The size in the name of a part; `None` for any other file in the folder.
pub fn size_in(name: &[u8]) -> Option<u64> {
    let name = std::str::from_utf8(name).ok()?;
    let rest = name.strip_prefix(OWN_PREFIX)?.strip_prefix('-')?.strip_suffix(ENDING)?;
    let (key, rest) = rest.split_once('-')?;
    let size = rest.split_once('-').map_or(rest, |(size, _)| size);
    let is_key = key.len() == KEY_LENGTH && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    size.parse().ok().filter(|_| is_key)
}

/// How many bytes a file counts in `--max-total`. A part that is being written to counts with its whole size. The part
/// of a broken upload counts with its bytes: otherwise one byte of a large file would exclude all others until the part
/// is removed.
pub fn claim(root: impl AsFd, name: &CStr, now: u64) -> u64 {
    match size_in(name.to_bytes()) {
        // A file that cannot be opened may be in use.
        Some(size) if size > now && !matches!(open_locked(root, name), Ok(Some(_))) => size,
        _ => now,
    }
}

/// Removes a part that is not being written to, and has not been for this time.
pub fn remove_if_older(root: &OwnedFd, name: &CStr, age: Duration) {
    let is_old = |changed: SystemTime| {
        SystemTime::now().duration_since(changed).is_ok_and(|since| since >= age)
    };
    // Only old files are opened: a lock on a younger one, however short, could keep out its returning client.
    let changed = |at: &fs::Stat| {
        let seconds = u64::try_from(at.st_mtime).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    };
    let there = fs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW);
    if !there.is_ok_and(|there| is_old(changed(&there))) {
        return;
    }
    let Ok(Some(file)) = open_locked(root, name) else { return };
    // A client may have resumed it in between.
    if file.metadata().and_then(|data| data.modified()).is_ok_and(is_old) {
        // If the removal fails, the next sweep tries again. The lock is held until after the removal, so that no client
        // resumes the part in between.
        let _ = fs::unlinkat(root, name, AtFlags::empty());
    }
}
