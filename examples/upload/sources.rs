//! What a client is asked to send: files, and folders with everything in them.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::common::Failure;

/// A file to be sent.
pub struct Source {
    /// Where it is.
    pub file: PathBuf,
    /// Its name there, after those of its folders from the one on that was asked for.
    pub path: Vec<Vec<u8>>,
    pub size: u64,
}

/// What is to be sent, and what is not although it was found.
#[derive(Default)]
pub struct Sources {
    pub files: Vec<Source>,
    /// Links, devices and the like in folders: only files are sent.
    pub left_out: Vec<PathBuf>,
}

impl Sources {
    /// Finds all files. A link is followed where it is asked for by its own name, and nowhere else.
    ///
    /// # Errors
    ///
    /// What cannot be read, before anything has been sent.
    pub fn find(asked: &[PathBuf]) -> Result<Self, Failure> {
        let mut sources = Self::default();
        for path in asked {
            let data = fs::metadata(path).map_err(|error| cannot_read(path, &error))?;
            if !data.is_file() && !data.is_dir() {
                let text = format!("cannot send {path:?}: it is neither a file nor a folder");
                return Err(Failure::Other(text));
            }
            let name = name_of(path).map_err(|error| cannot_read(path, &error))?;
            sources.add(path, vec![name], &data)?;
        }
        Ok(sources)
    }

    fn add(&mut self, file: &Path, path: Vec<Vec<u8>>, data: &Metadata) -> Result<(), Failure> {
        if data.is_file() {
            self.files.push(Source { file: file.to_owned(), path, size: data.len() });
            return Ok(());
        }
        if !data.is_dir() {
            self.left_out.push(file.to_owned());
            return Ok(());
        }
        if path.len() == crate::protocol::DEPTH {
            let text = format!("cannot send {file:?}: it is deeper than 32 folders");
            return Err(Failure::Other(text));
        }
        let names = fs::read_dir(file).and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<io::Result<Vec<_>>>()
        });
        let mut names = names.map_err(|error| cannot_read(file, &error))?;
        names.sort();
        for name in names {
            let below = file.join(&name);
            let data = fs::symlink_metadata(&below).map_err(|error| cannot_read(&below, &error))?;
            let mut path = path.clone();
            path.push(name.as_bytes().to_vec());
            self.add(&below, path, &data)?;
        }
        Ok(())
    }

    /// The bytes of all. A few sparse files can claim to be larger than any number.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, source| sum.saturating_add(source.size))
    }
}

/// The last name of a path; of one as `.` or `..`, the name of the folder that it leads to.
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
