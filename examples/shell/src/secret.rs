//! The secret that a server and its clients share: 32 bytes in a file that only its owner can read.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tempfile::NamedTempFile;

use common::Failure;

/// The length of the secret, which is that of a pre-shared key of Noise.
pub const BYTES: usize = 32;

/// The secret. It has no `Debug`, so that no message shows it.
#[derive(Clone)]
pub struct Secret(pub [u8; BYTES]);

/// The default path of the secret: in the user's state folder, where a client of the same user finds it.
pub fn default_path() -> Result<PathBuf, Failure> {
    let state = common::variable("XDG_STATE_HOME").map(PathBuf::from);
    // The specification of these folders says that relative ones are ignored.
    let state = state.filter(|path| path.is_absolute()).or_else(|| {
        let home = common::variable("HOME").map(PathBuf::from);
        home.filter(|path| path.is_absolute()).map(|home| home.join(".local/state"))
    });
    let none =
        || Failure::Other("there is no HOME to look for the secret in: give --secret-file".into());
    Ok(state.ok_or_else(none)?.join("socketserver-shell/secret"))
}

/// Reads the secret for a server, and makes it first if the file does not exist.
pub fn read_or_make(path: &Path) -> Result<Secret, Failure> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        make(path).map_err(|error| {
            Failure::Other(format!("cannot make the secret {}: {error}", path.display()))
        })?;
    }
    read(path)
}

/// Reads the secret for a client.
///
/// A file that other users can read, or that belongs to another user, is refused.
pub fn read(path: &Path) -> Result<Secret, Failure> {
    let shown = path.display();
    // Without NONBLOCK a named pipe without a writer would make this wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map(File::from);
    let file = file.map_err(io::Error::from).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => {
                "; the server makes it at its first start: copy it from there, or give --secret-file"
            }
            _ => "",
        };
        Failure::Other(format!("cannot read the secret {shown}: {error}{advice}"))
    })?;
    let refuse = |why: String| Failure::Other(format!("the secret {shown} {why}"));
    let about = file.metadata().map_err(|error| refuse(format!("cannot be looked at: {error}")))?;
    let me = rustix::process::geteuid().as_raw();
    if !about.is_file() {
        return Err(refuse("is not a file: give another --secret-file".into()));
    }
    if about.uid() != me {
        let owner = about.uid();
        return Err(refuse(format!("belongs to user {owner}, and not to you ({me}): copy it")));
    }
    if about.mode() & 0o077 != 0 {
        let mode = about.mode() & 0o777;
        return Err(refuse(format!(
            "can be used by others (mode {mode:03o}): chmod 600 it, and if others have read it, \
             delete it and start the server anew"
        )));
    }
    let mut bytes = Vec::new();
    file.take(BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let found = bytes.len();
    let secret = bytes.try_into().map_err(|_| {
        let found = if found > BYTES { "more".to_owned() } else { found.to_string() };
        refuse(format!(
            "has to be {BYTES} bytes, and is {found}: delete it and start the server anew"
        ))
    })?;
    Ok(Secret(secret))
}

/// Makes the file completely or not at all, and never over an existing one: two servers that start at once must get
/// the same secret.
fn make(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut secret = [0; BYTES];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    // Only the owner can read the draft, from its beginning on, and the draft is removed if a step fails.
    let mut draft = NamedTempFile::new_in(folder)?;
    draft.write_all(&secret)?;
    draft.as_file().sync_all()?;
    match draft.persist_noclobber(path) {
        Err(failed) if failed.error.kind() != io::ErrorKind::AlreadyExists => Err(failed.error),
        _ => Ok(()),
    }
}
