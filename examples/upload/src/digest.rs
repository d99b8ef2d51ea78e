//! The digest of the beginning of a file, which both sides compute.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// How much is read at once.
pub const BLOCK: usize = 256 * 1024;

/// How many bytes are digested between two `Working` messages to the other side.
pub const WORKING_BYTES: u64 = 64 * 1024 * 1024;

/// Digests the first `length` bytes of a file, whose position is then after them.
///
/// # Errors
///
/// `UnexpectedEof` if the file is shorter; errors of reading, and of `working`, which is called every [`WORKING_BYTES`].
pub fn hash(
    file: &mut File,
    length: u64,
    mut working: impl FnMut() -> io::Result<()>,
) -> io::Result<blake3::Hasher> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BLOCK.min(usize::try_from(length).unwrap_or(BLOCK))];
    let mut done = 0;
    file.seek(SeekFrom::Start(0))?;
    while done < length {
        let count = buffer.len().min(usize::try_from(length - done).unwrap_or(BLOCK));
        file.read_exact(&mut buffer[..count])?;
        hasher.update(&buffer[..count]);
        if done / WORKING_BYTES != (done + count as u64) / WORKING_BYTES {
            working()?;
        }
        done += count as u64;
    }
    Ok(hasher)
}
