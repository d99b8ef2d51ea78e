//! The settings of a server.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use encoding_rs::Encoding;
use socketserver::StreamRequest;

use crate::penalty::Penalty;
use crate::run::Bounds;
use crate::secret::Secret;
use common::warn;

/// The settings of a server.
pub struct Settings {
    pub wire: WireName,
    pub entry: Entry,
    /// The programs that may run. If there are none, any line may run, in a shell.
    pub allow: Vec<String>,
    /// The encoding that output is converted to.
    pub encoding: Option<&'static Encoding>,
    pub bounds: Bounds,
    /// How long a client may take for its login, or on the tutorial's wire for its first command.
    pub first_word: Duration,
}

/// The protocol between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WireName {
    /// Frames: stdout and stderr as they are printed, the exit status, and Ctrl-C
    Frames,
    /// The length in decimal digits and then the output, with --no-auth only
    Document,
}

/// Which clients may run commands.
pub enum Entry {
    /// Over a network, clients with the secret; over a Unix socket, the server's own user and root. Without a
    /// secret there are only Unix sockets.
    Proven(Option<(Secret, Penalty)>),
    /// All clients.
    Anyone,
}

impl Settings {
    /// The program and its arguments for a line, or why the line is not run. The line's bytes are kept as they are: names
    /// of files need not be UTF-8.
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

/// Logs a refusal, with the client's address. The caller escapes text of the client, so that it cannot steer the operator's
/// terminal.
pub fn log_refusal(request: &StreamRequest, why: &str) {
    warn(&format!("refused {}: {why}", request.client_address()));
}

/// Logs why a command is not run.
pub fn log_refused_command(request: &StreamRequest, line: &[u8], why: &str) {
    let line = short(&String::from_utf8_lossy(line));
    log_refusal(request, &format!("the command {line:?}: {why}"));
}

/// The beginning of a client's text, for a message.
pub fn short(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.to_owned(),
    }
}
