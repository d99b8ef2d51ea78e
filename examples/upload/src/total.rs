//! The bytes of all stored files.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, AtFlags, OFlags};
use rustix::io::Errno;

use crate::partial;

/// The depth down to which folders are counted: clients cannot make deeper ones.
const DEEPEST: usize = 64;

/// The bytes of all files below a folder. A file on its way counts with its whole size.
#[derive(Default)]
pub struct Total {
    pub bytes: u64,
    /// Folders that may not be read, by their paths, and why. Their files do not count: clients cannot have put them there.
    pub not_counted: Vec<(String, io::Error)>,
}

impl Total {
    /// Counts the files below a folder.
    ///
    /// # Errors
    ///
    /// Errors of the folder itself, and those of folders below it other than missing permissions.
    pub fn of(folder: impl AsFd) -> io::Result<Self> {
        let mut total = Self::default();
        total.add(folder.as_fd(), &mut Vec::new())?;
        Ok(total)
    }

    fn add(&mut self, folder: BorrowedFd<'_>, path: &mut Vec<String>) -> io::Result<()> {
        for entry in fs::Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // The entry was renamed or removed after the folder was read.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            match fs::FileType::from_raw_mode(stat.st_mode) {
                fs::FileType::Directory if path.len() < DEEPEST => {
                    path.push(name.to_string_lossy().into_owned());
                    let flags =
                        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    match fs::openat(folder, name, flags, fs::Mode::empty()) {
                        Ok(below) => self.add(below.as_fd(), path)?,
                        Err(error @ (Errno::ACCESS | Errno::PERM)) => {
                            self.not_counted.push((path.join("/"), error.into()));
                        }
                        // The entry was removed or replaced after its kind was read.
                        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                        Err(error) => return Err(error.into()),
                    }
                    path.pop();
                }
                fs::FileType::RegularFile => {
                    let now = u64::try_from(stat.st_size).unwrap_or(0);
                    let bytes = partial::claim(folder, name, now);
                    self.bytes = self.bytes.saturating_add(bytes);
                }
                _ => {}
            }
        }
        Ok(())
    }
}
