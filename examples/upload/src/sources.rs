//! The files to be sent: those that the user names, and those in the folders that the user names.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use common::Failure;

/// A file to be sent.
pub struct Source {
    /// Where it is.
    pub file: PathBuf,
    /// Its path on the server: the names of its folders, beginning with the one that the user has named, and its own name.
    pub path: Vec<Vec<u8>>,
    pub size: u64,
}

/// The files to be sent, and the entries that are not.
#[derive(Default)]
pub struct Sources {
    pub files: Vec<Source>,
    /// Folders without files, by their paths on the server.
    pub folders: Vec<Vec<Vec<u8>>>,
    /// Links, devices and the like in folders, which are left out.
    pub left_out: Vec<PathBuf>,
    /// Entries that cannot be read, by their paths on the server, and why. The others are sent.
    pub failed: Vec<(Vec<Vec<u8>>, String)>,
}

impl Source {
    /// Opens the file, if it still is one: a link or a pipe may have replaced it since the folder was read.
    pub fn open(&self) -> io::Result<File> {
        let follow = if self.path.len() == 1 { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | follow;
        let file = File::from(rustix::fs::open(&self.file, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file any more"));
        }
        Ok(file)
    }
}

impl Sources {
    /// Finds all files. A link is followed only if the user names it.
    ///
    /// # Errors
    ///
    /// If an entry that the user names does not exist, or is neither a file nor a folder. Nothing has been sent by then.
    pub fn find(asked: &[PathBuf]) -> Result<Self, Failure> {
        let mut sources = Self::default();
        for path in asked {
            let data = fs::metadata(path).map_err(|error| cannot_read(path, &error))?;
            if !data.is_file() && !data.is_dir() {
                let text = format!("cannot send {path:?}: it is neither a file nor a folder");
                return Err(Failure::Other(text));
            }
            let name = name_of(path).map_err(|error| cannot_read(path, &error))?;
            sources.add(path, vec![name], &data);
        }
        Ok(sources)
    }

    fn add(&mut self, file: &Path, path: Vec<Vec<u8>>, data: &Metadata) {
        if data.is_file() {
            self.files.push(Source { file: file.to_owned(), path, size: data.len() });
        } else if data.is_dir() {
            self.add_folder(file, path);
        } else {
            self.left_out.push(file.to_owned());
        }
    }

    fn add_folder(&mut self, folder: &Path, path: Vec<Vec<u8>>) {
        if path.len() == crate::protocol::DEPTH {
            let why = "what is in it is deeper than 32 folders".to_owned();
            return self.failed.push((path, why));
        }
        let (names, error) = names_in(folder);
        let found = self.found();
        for name in names {
            let below = folder.join(&name);
            let mut path = path.clone();
            path.push(name.as_bytes().to_vec());
            match fs::symlink_metadata(&below) {
                Ok(data) => self.add(&below, path, &data),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.failed.push((path, "it has vanished since its folder was read".into()));
                }
                Err(error) => self.failed.push((path, format!("it cannot be looked at: {error}"))),
            }
        }
        match error {
            Some(error) => self.failed.push((path, format!("it cannot be read: {error}"))),
            None if found == self.found() => self.folders.push(path),
            None => {}
        }
    }

    /// How many entries get a line of the report.
    fn found(&self) -> usize {
        self.files.len() + self.folders.len() + self.failed.len()
    }

    /// The bytes of all files. The sum saturates, because sparse files may claim more together than fits into the number.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, source| sum.saturating_add(source.size))
    }
}

/// The names in a folder, sorted, and the error that ended the reading, if there was one.
fn names_in(folder: &Path) -> (Vec<OsString>, Option<io::Error>) {
    let mut names = Vec::new();
    let mut error = None;
    match fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                match entry {
                    Ok(entry) => names.push(entry.file_name()),
                    Err(failed) => error = Some(failed),
                }
                if error.is_some() {
                    break;
                }
            }
        }
        Err(failed) => error = Some(failed),
    }
    names.sort();
    (names, error)
}

/// The last name of a path; for `.` and `..` the name of the folder itself.
fn name_of(path: &Path) -> io::Result<Vec<u8>> {
    if let Some(name) = path.file_name() {
        return Ok(name.as_bytes().to_vec());
    }
    let path = path.canonicalize()?;
    let no_name =
        || io::Error::new(io::ErrorKind::InvalidInput, "it has no name; name what is in it");
    path.file_name().map(|name| name.as_bytes().to_vec()).ok_or_else(no_name)
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::Other(format!("cannot read {path:?}: {error}"))
}
