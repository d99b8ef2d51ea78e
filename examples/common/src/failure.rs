//! How a program ends: its status and its last words.

use std::fmt;
use std::io;
use std::process::ExitCode;

use crate::{log, warn};

/// Why a program ends, and with which status.
#[derive(Debug)]
pub enum Failure {
    /// Its command line is wrong. Status 2, as clap gives it.
    Usage(String),
    /// The reader of its stdout has gone, as behind `| head`. It ends silently, with the status that SIGPIPE would
    /// have given it.
    Unread,
    /// Any other reason. Status 1.
    Other(String),
}

impl Failure {
    /// The failure of a client that cannot write to its own stdout, because the reader has gone or the disk is full, for
    /// example. Neither the server nor the connection is at fault.
    pub fn of_stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::Other(format!("cannot write to stdout: {error}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Other(text) => f.write_str(text),
            Self::Unread => f.write_str("the reader of stdout has gone"),
        }
    }
}

impl From<socketserver::Error> for Failure {
    fn from(error: socketserver::Error) -> Self {
        let advice = if error.io_kind() == Some(io::ErrorKind::AlreadyExists) {
            "; choose another --bind"
        } else if error.is_address_in_use() {
            "; another server listens there: stop it, or choose another --bind"
        } else if error.is_permission_denied() {
            "; ports below 1024 and other users' folders need privileges: choose another --bind"
        } else if error.is_resource_limit() {
            "; allow this process more of it (ulimit -n for files, the limits of its service or container)"
        } else {
            ""
        };
        let text = format!("{error}{advice}");
        if error.is_bad_address() { Self::Usage(text) } else { Self::Other(text) }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Other(error.to_string())
    }
}

/// The status of a program that SIGPIPE has ended, as shells show it: 128 and the number of the signal.
const BROKEN_PIPE: u8 = 141;

/// Prints a failure as one line on stderr, writes the log out, and returns the exit status.
pub fn exit(result: Result<(), Failure>) -> ExitCode {
    let (status, text) = match result {
        Ok(()) => {
            log::finish();
            return ExitCode::SUCCESS;
        }
        Err(Failure::Unread) => return ExitCode::from(BROKEN_PIPE),
        Err(Failure::Usage(text)) => (2, text),
        Err(Failure::Other(text)) => (1, text),
    };
    warn(&format!("error: {text}"));
    log::finish();
    ExitCode::from(status)
}
