//! The folder that files are stored in. A client chooses names below it and nothing else: each component of a path is
//! opened separately, inside the previous one, and no link is followed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::digest;
use crate::names;
use crate::partial::{self, Left, Partial};
use crate::protocol::{Code, FINGERPRINT_BYTES, Put, Refusal, shown};
use crate::total::Total;

/// The action for a file whose name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Conflict {
    /// Keep the old one, and do not take the new one
    Refuse,
    /// Put the new one in its place
    Replace,
    /// Keep both: a.txt, a-1.txt
    Rename,
}

/// Which files are accepted, and how they are stored.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub conflict: Conflict,
    /// The most bytes of one file.
    pub max_file: u64,
    /// The most bytes of all files below the folder. Without it the disk is the limit.
    pub max_total: Option<u64>,
    /// How long the part of a broken upload is kept.
    pub keep: Duration,
}

pub struct Store {
    folder: PathBuf,
    root: OwnedFd,
    rules: Rules,
    /// When old parts were last removed.
    swept: Mutex<Option<Instant>>,
}

/// The interval at which a process removes old parts. Under `forking` each child is a process of its own.
const SWEEP: Duration = Duration::from_secs(60);

/// How many free names are tried, if other clients take them first. After that a random name is used.
const TRIES: u32 = 16;

/// A file that is resumed may be stored already, under its name or with a number: as `a.txt`, `a-1.txt`, `a-2.txt` and so on.
/// This many of the first of these files, and as many of the last, are compared with it. A client may have stored ten
/// thousand.
const LOOKED_AT: u32 = 16;

impl Store {
    /// Opens the folder; makes it if there is none.
    ///
    /// # Errors
    ///
    /// If the folder cannot be opened, made or written to.
    pub fn open(folder: &Path, rules: Rules) -> io::Result<Self> {
        std::fs::create_dir_all(folder).map_err(|error| match error.kind() {
            // A file or a dangling link is in the way: the system's own message would be about making the folder.
            io::ErrorKind::AlreadyExists => io::ErrorKind::NotADirectory.into(),
            _ => error,
        })?;
        let root = File::open(folder)?;
        if !root.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        // The operator learns here, and not from the first client, that the folder cannot be written to.
        fs::accessat(&root, ".", fs::Access::WRITE_OK | fs::Access::EXEC_OK, AtFlags::EACCESS)?;
        let (root, swept) = (OwnedFd::from(root), Mutex::new(None));
        // Permissions do not say everything: some folders are the kernel's own, and some file systems are read-only.
        partial::try_folder(&root)?;
        Ok(Self { folder: folder.to_owned(), root, rules, swept })
    }

    /// Removes the parts that have been kept for long enough. It does so at most once in [`SWEEP`], or in the time for
    /// which parts are kept if that is shorter, because it reads the whole folder.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read. Parts that cannot be removed are left.
    pub fn sweep(&self) -> io::Result<()> {
        let now = Instant::now();
        let often = self.rules.keep.min(SWEEP);
        match self.swept.lock() {
            Ok(swept) if swept.is_some_and(|swept| now.duration_since(swept) < often) => {
                return Ok(());
            }
            Ok(mut swept) => *swept = Some(now),
            // No code panics while the lock is held.
            Err(_) => {}
        }
        for entry in fs::Dir::read_from(&self.root)? {
            let entry = entry?;
            if partial::size_in(entry.file_name().to_bytes()).is_some() {
                partial::remove_if_older(&self.root, entry.file_name(), self.rules.keep);
            }
        }
        Ok(())
    }

    /// Whether a file may have this path and this size here.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    pub fn check(&self, put: &Put) -> Result<(), Refusal> {
        check_path(&put.path)?;
        if put.size > self.rules.max_file {
            let (size, most) = (put.size, self.rules.max_file);
            let text = format!(
                "it has {size} bytes, and a file may have {most} (the server's --max-file)"
            );
            return Err(Refusal::new(Code::TooLarge, text));
        }
        Ok(())
    }

    /// Makes a folder, and those that it is in, if they do not exist.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    pub fn make_folder(&self, path: &[Vec<u8>]) -> Result<(), Refusal> {
        check_path(path)?;
        self.folder_of(path, true).map(drop)
    }

    /// The file that an earlier upload of the same file may have stored, and its path: it has this name, or this name
    /// with a number, and the same size and beginning. If there are several, it is the newest.
    pub fn stored_before(&self, put: &Put) -> Option<(File, Vec<Vec<u8>>)> {
        let (name, folders) = put.path.split_last()?;
        let name = names::check(name).ok()?;
        let folder = self.folder_of(folders, false).ok()??;
        let size_of = |number| {
            let candidate = names::candidate(name, number);
            let stat = fs::statat(&folder, &*candidate, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            Some((candidate, u64::try_from(stat.st_size)))
        };
        // Names get their numbers in order, so the first free number is the end.
        let end = match self.rules.conflict {
            Conflict::Rename => {
                let end = names::next_number(|number| Ok::<_, Errno>(size_of(number).is_some()));
                end.ok()?.unwrap_or(u32::MAX)
            }
            Conflict::Refuse | Conflict::Replace => 1,
        };
        let (first, last) = (end.min(LOOKED_AT), end.saturating_sub(LOOKED_AT));
        let numbers = (0..first).chain(last.max(first)..end);
        let alike = numbers.filter_map(size_of).filter(|(_, size)| *size == Ok(put.size));
        let alike: Vec<String> = alike.map(|(candidate, _)| candidate).collect();
        alike.into_iter().rev().find_map(|candidate| {
            let file = open_like(&folder, &candidate, put)?;
            Some((file, folders.iter().cloned().chain([candidate.into_bytes()]).collect()))
        })
    }

    /// Makes a new part, which counts with its whole size from now on. A file that could not be stored in the end is
    /// refused here.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    pub fn begin(&self, put: &Put) -> Result<Partial, Refusal> {
        self.check_name(put)?;
        let partial = Partial::create(&self.root, put);
        self.count(partial.map_err(|error| storage("make a file for", error))?)
    }

    /// The parts of a file, the longest first.
    pub fn left_of(&self, put: &Put) -> Vec<Left> {
        partial::left_of(&self.root, put)
    }

    /// Takes over a part. Returns `None` if the part is gone.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    pub fn take(&self, left: &Left, put: &Put) -> Result<Option<Partial>, Refusal> {
        let partial = Partial::take(&self.root, left, put);
        partial.map_err(|error| storage("go on with", error))?.map(|it| self.count(it)).transpose()
    }

    /// Checks that the name of a file is free, or that the rules have a way to store a file whose name is taken.
    ///
    /// # Errors
    ///
    /// The refusal, if neither holds.
    pub fn check_name(&self, put: &Put) -> Result<(), Refusal> {
        let (name, folders) = put.path.split_last().ok_or_else(no_name)?;
        let folder = self.folder_of(folders, false)?;
        let (Some(folder), Conflict::Refuse) = (folder, self.rules.conflict) else { return Ok(()) };
        match fs::statat(&folder, &**name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(taken()),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(storage("look for", error)),
        }
    }

    /// Checks `max_total`. Called after the part exists, so that two clients at once, even in two processes, each
    /// count the other; and before anything is written.
    fn count(&self, partial: Partial) -> Result<Partial, Refusal> {
        match self.check_total() {
            Ok(()) => Ok(partial),
            Err(refusal) => {
                self.leave(partial);
                Err(refusal)
            }
        }
    }

    /// The folders that cannot be counted for `max_total`, such as `lost+found` on a disk of its own.
    ///
    /// # Errors
    ///
    /// If the store's own folder cannot be read.
    pub fn not_counted(&self) -> io::Result<Vec<(String, io::Error)>> {
        match self.rules.max_total {
            Some(_) => Ok(Total::of(&self.root)?.not_counted),
            None => Ok(Vec::new()),
        }
    }

    fn check_total(&self) -> Result<(), Refusal> {
        let Some(max_total) = self.rules.max_total else { return Ok(()) };
        let total = Total::of(&self.root).map_err(|error| storage("add up", error))?;
        if total.bytes <= max_total {
            return Ok(());
        }
        let full = "all files together would be larger than the server's --max-total";
        Err(Refusal::new(Code::TooMuch, full))
    }

    /// Gives a complete file its name, durably. Returns its path.
    ///
    /// # Errors
    ///
    /// Why the file could not be stored; the part still exists.
    pub fn commit(&self, partial: &Partial, put: &Put) -> Result<Vec<Vec<u8>>, Refusal> {
        partial.sync().map_err(|error| storage("write", error))?;
        let (name, folders) = put.path.split_last().ok_or_else(no_name)?;
        let name = names::check(name).map_err(|_| no_name())?;
        let folder = self.folder_of(folders, true)?.ok_or_else(no_name)?;
        let rename =
            |name: &str, flags| fs::renameat_with(&self.root, partial.name(), &folder, name, flags);
        let is_taken = |number| match fs::statat(
            &folder,
            &*names::candidate(name, number),
            AtFlags::SYMLINK_NOFOLLOW,
        ) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        };
        let mut tries = 0;
        let stored = loop {
            let (candidate, flags) = match self.rules.conflict {
                Conflict::Replace => (name.to_owned(), RenameFlags::empty()),
                Conflict::Refuse => (name.to_owned(), RenameFlags::NOREPLACE),
                // If two clients store files of one name, neither overwrites the other's.
                Conflict::Rename => {
                    let number =
                        if tries < TRIES { names::next_number(is_taken) } else { Ok(None) };
                    let number = number.map_err(|error| storage("find a name for", error))?;
                    let unlikely = || names::unlikely(name);
                    let candidate = number.map(|number| names::candidate(name, number));
                    (candidate.unwrap_or_else(unlikely), RenameFlags::NOREPLACE)
                }
            };
            match rename(&candidate, flags) {
                Ok(()) => break candidate,
                Err(Errno::EXIST) if self.rules.conflict == Conflict::Refuse => return Err(taken()),
                Err(Errno::EXIST) if tries <= TRIES => tries += 1,
                Err(error) => return Err(storage("give its name to", error)),
            }
        };
        fs::fsync(&folder).map_err(|error| storage("write the folder of", error))?;
        Ok(folders.iter().cloned().chain([stored.into_bytes()]).collect())
    }

    /// Removes the other parts of a file that has been stored. `partial` is the part that has become this file.
    pub fn remove_left(&self, partial: Partial, put: &Put) {
        // A part that cannot be removed here is removed by a later sweep.
        let _ = partial.remove_left(&self.root, put);
    }

    /// Closes an incomplete part, and keeps it for `--resume`.
    pub fn leave(&self, partial: Partial) {
        if partial.is_empty() {
            self.discard(partial);
        }
    }

    /// Removes an incomplete part.
    pub fn discard(&self, partial: Partial) {
        // If this fails, a later sweep removes the part.
        let _ = fs::unlinkat(&self.root, partial.name(), AtFlags::empty());
        // The lock ends here, after the removal, so that no client resumes the part in between.
        drop(partial);
    }

    /// Opens the folder at the end of a path. With `make`, missing folders are made; otherwise the result is `None` if one
    /// is missing.
    fn folder_of(&self, folders: &[Vec<u8>], make: bool) -> Result<Option<OwnedFd>, Refusal> {
        let mut folder =
            self.root.try_clone().map_err(|error| storage("open the folder of", error))?;
        for name in folders {
            let name = &name[..];
            folder = match open_folder(&folder, name) {
                Err(Errno::NOENT) if !make => return Ok(None),
                Err(Errno::NOENT) => make_folder(&folder, name),
                result => result,
            }
            .map_err(|error| match error {
                Errno::NOTDIR | Errno::LOOP => {
                    let shown = shown(&[name.to_vec()]);
                    Refusal::new(Code::Name, format!("{shown} is no folder there"))
                }
                error => storage("open the folder of", error),
            })?;
        }
        Ok(Some(folder))
    }

    /// The path of the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn check_path(path: &[Vec<u8>]) -> Result<(), Refusal> {
    if path.is_empty() {
        return Err(no_name());
    }
    for part in path {
        names::check(part).map_err(|why| {
            let part = shown(std::slice::from_ref(part));
            let text = format!("{part} is no name for a file here: {why}");
            Refusal::new(Code::Name, text)
        })?;
    }
    Ok(())
}

/// Opens a file if it has the size and the beginning of the announced one.
fn open_like(folder: &OwnedFd, name: &str, put: &Put) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(fs::openat(folder, name, flags, Mode::empty()).ok()?);
    let data = file.metadata().ok()?;
    if !data.is_file() || data.len() != put.size {
        return None;
    }
    let beginning = put.size.min(FINGERPRINT_BYTES as u64);
    let hasher = digest::hash(&mut file, beginning, || Ok(())).ok()?;
    (*hasher.finalize().as_bytes() == put.fingerprint).then_some(file)
}

fn open_folder(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::empty())
}

fn make_folder(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    match fs::mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
        // If the folder exists, another client has just made it.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    fs::fsync(parent)?;
    open_folder(parent, name)
}

fn no_name() -> Refusal {
    Refusal::new(Code::Name, "the file has no name")
}

fn taken() -> Refusal {
    Refusal::new(Code::Exists, "there is a file of that name, which is kept (--conflict refuse)")
}

/// A refusal for an error of the operating system.
pub fn storage(what: &str, error: impl Into<io::Error>) -> Refusal {
    let error = error.into();
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Code::NoSpace
        }
        _ => Code::Storage,
    };
    let advice =
        if code == Code::NoSpace { "; make room there, then go on with --resume" } else { "" };
    Refusal::new(code, format!("the server cannot {what} it: {error}{advice}"))
}
