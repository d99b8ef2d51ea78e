//! What a server was told at its start.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use encoding_rs::Encoding;
use socketserver::StreamRequest;

use crate::penalty::Penalty;
use crate::run::Bounds;
use crate::secret::Secret;
use common::warn;

/// What a server was told at its start.
pub struct Settings {
    pub wire: WireName,
    pub entry: Entry,
    /// The programs that may run; none: any line, in a shell.
    pub allow: Vec<String>,
    /// What the output, which is UTF-8, is turned into for the client.
    pub encoding: Option<&'static Encoding>,
    pub bounds: Bounds,
    /// How long a client may take for its login, or on the document's wire for its first command.
    pub first_word: Duration,
}

/// Which wire is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WireName {
    /// Frames: stdout and stderr as they come, the exit status, and Ctrl-C
    Frames,
    /// The length in decimal digits and then the output, with --no-auth only
    Document,
}

/// Who is let in.
pub enum Entry {
    /// Over a network who has the secret, and over a Unix socket the server's own user and root. Without a
    /// secret there are only Unix sockets.
    Proven(Option<(Secret, Penalty)>),
    /// Anyone.
    Anyone,
}

impl Settings {
    /// What to run for a line, or why it is not run. Its bytes stay what they are: names of files need not be
    /// UTF-8.
    pub fn arguments(&self, line: &[u8]) -> Result<Vec<OsString>, String> {
        if line.contains(&0) {
            return Err("it contains a NUL, which ends an argument".into());
        }
        if self.allow.is_empty() {
            return Ok(["/bin/sh".as_ref(), "-c".as_ref(), "--".as_ref(), OsStr::from_bytes(line)]
                .map(OsStr::to_owned)
                .to_vec());
        }
        let words = shlex::bytes::split(line).ok_or("its quotes do not match")?;
        let program = words.first().ok_or("it is empty")?;
        if !self.allow.iter().any(|allowed| allowed.as_bytes() == program) {
            let program = short(&String::from_utf8_lossy(program));
            return Err(format!("{program:?} is not among what this server allows"));
        }
        Ok(words.into_iter().map(OsString::from_vec).collect())
    }
}

/// One line on stderr about what was not served, and to whom. Whoever puts a client's words into it escapes
/// them, so that they cannot steer the operator's terminal.
pub fn log_refusal(request: &StreamRequest, why: &str) {
    // Nobody may be reading, and nobody waits for that.
    warn(&format!("refused {}: {why}", request.client_address()));
}

/// Why a command is not run, for the operator.
pub fn log_refused_command(request: &StreamRequest, line: &[u8], why: &str) {
    let line = short(&String::from_utf8_lossy(line));
    log_refusal(request, &format!("the command {line:?}: {why}"));
}

/// As much of a client's words as a message repeats.
pub fn short(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.to_owned(),
    }
}
