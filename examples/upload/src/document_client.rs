//! The client's side of the tutorial's wire.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use common::Endpoint;

use crate::document::header;
use crate::protocol::shown;
use crate::report::Report;
use crate::sources::{Source, Sources};
use common::Failure;
use common::client::{ClientTls, Connection, open};

/// How long the server may read nothing, and how long to wait for its end after the last file.
const PATIENCE: Duration = Duration::from_secs(60);
const BLOCK: usize = 256 * 1024;

/// Sends files to the tutorial's server, which appends each to the file of its name and answers nothing.
///
/// That server takes the bytes of one receive for a header, and then receives until the file is complete. So there is a
/// `pause` before and after each header. The wire does not say how long this pause has to be.
///
/// # Errors
///
/// The first failure: the wire cannot go on after it.
pub fn send(
    endpoint: &Endpoint,
    tls: &ClientTls,
    files: &[PathBuf],
    pause: Duration,
) -> Result<(), Failure> {
    let sources = Sources::find(files)?;
    for source in &sources.files {
        check(source)?;
    }
    if let Some(path) = sources.folders.first() {
        let text = format!("cannot send {}: the document's wire has no folders", shown(path));
        return Err(Failure::Other(text));
    }
    let connection = open(endpoint, tls)?;
    connection.set_write_timeout(Some(PATIENCE))?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut report = Report::new(&sources, "sent");
    for (number, source) in sources.files.iter().enumerate() {
        report.begin(&source.path);
        if number > 0 {
            thread::sleep(pause);
        }
        match send_file(&connection, source, pause, &report) {
            Ok(()) => report.stored(&source.path, &source.path),
            Err(error) => {
                let why = format!("it could not be sent to {endpoint}: {error}");
                report.failed(&source.path, &why);
                break;
            }
        }
    }
    // The end of the connection is the only sign that the server has read everything. The tutorial's server fails when
    // it sees that end, and resets the connection, which is no error here.
    if connection.shutdown(Shutdown::Write).is_ok() {
        let _ = io::copy(&mut (&connection).take(BLOCK as u64), &mut io::sink());
    }
    report.end()
}

/// Refuses a file that this wire cannot express.
fn check(source: &Source) -> Result<(), Failure> {
    let no_way = |why: &str| {
        Err(Failure::Other(format!(
            "cannot send {:?} over the document's wire: {why}",
            source.file
        )))
    };
    match &source.path[..] {
        [name] if std::str::from_utf8(name).is_err() => no_way("its name is not UTF-8"),
        [name] if name.contains(&b'|') => no_way("its name contains a '|'"),
        [_] => Ok(()),
        _ => no_way("it has no folders; name the files"),
    }
}

fn send_file(
    connection: &Connection,
    source: &Source,
    pause: Duration,
    report: &Report,
) -> io::Result<()> {
    let mut file = source.open()?;
    let size = file.metadata()?.len();
    let name = source.path.last().map_or(Default::default(), |name| String::from_utf8_lossy(name));
    (&mut &*connection).write_all(&header(&name, size))?;
    thread::sleep(pause);
    let mut buffer = vec![0; BLOCK];
    let mut left = size;
    while left > 0 {
        let count = BLOCK.min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut buffer[..count]).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it has become shorter"),
            _ => error,
        })?;
        (&mut &*connection).write_all(&buffer[..count])?;
        left -= count as u64;
        report.sent(count as u64);
    }
    match file.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than its size says")),
    }
}
