//! The client of the document's wire: it holds the whole of an answer against every length that it may begin with.

use std::io::{self, IsTerminal, Read, Write};
use std::time::Duration;

use encoding_rs::Encoding;
use socket2::Socket;
use socketserver::Endpoint;

use crate::answer::{Reading, read_answer};
use crate::client::{Leave, cannot_show};
use crate::common::Failure;
use crate::encoding::Transcoder;
use crate::prompt::Lines;

/// The document's server reads so much at once: a longer command would come in pieces, as several.
const LONGEST_COMMAND: usize = 1_024;

/// How much is kept of one answer.
const LONGEST_ANSWER: usize = 256 * 1024 * 1024;

/// How long nothing comes before an answer that may be whole is taken for it: longer than the pause of `serve`.
const QUIET: Duration = Duration::from_millis(300);

/// The client: what is typed, or one command, to a server of this wire. The wire has no exit status.
pub fn connect(
    socket: &Socket,
    endpoint: &Endpoint,
    command: Option<&[u8]>,
    encoding: Option<&'static Encoding>,
) -> Result<u8, Leave> {
    if let Some(line) = command {
        ask(socket, endpoint, line, encoding)?;
        return Ok(0);
    }
    let typed = io::stdin().is_terminal();
    let show_prompt = || if typed { io::stderr().write_all(b"> ") } else { Ok(()) };
    let mut lines = Lines::default();
    show_prompt()?;
    while let Some(line) = lines.next(|| Ok(()))? {
        match line.trim_ascii() {
            b"" => {}
            b"exit" => break,
            _ => ask(socket, endpoint, &line, encoding)?,
        }
        show_prompt()?;
    }
    Ok(0)
}

fn ask(
    socket: &Socket,
    endpoint: &Endpoint,
    line: &[u8],
    encoding: Option<&'static Encoding>,
) -> Result<(), Leave> {
    if line.len() > LONGEST_COMMAND {
        let why = format!("on this wire a command may have {LONGEST_COMMAND} bytes");
        return Err(Failure::Usage(why).into());
    }
    let failed = |what: String| Failure::Other(format!("{endpoint} {what}"));
    (&*socket).write_all(line).map_err(|error| failed(format!("is gone: {error}")))?;
    let answer = read_from(socket).map_err(|error| failed(format!("gave no answer: {error}")))?;
    let shown = match encoding {
        None => answer,
        Some(from) => {
            let mut turn = Transcoder::to_utf8(from);
            let mut text = turn.turn(&answer);
            text.extend(turn.finish());
            text
        }
    };
    let mut stdout = io::stdout();
    stdout.write_all(&shown).and_then(|()| stdout.flush()).map_err(|error| cannot_show(&error))
}

/// Reads one answer, and gives its output.
fn read_from(mut socket: &Socket) -> io::Result<Vec<u8>> {
    let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let mut answer = Vec::new();
    let mut piece = vec![0; 65_536];
    loop {
        let reading = read_answer(&answer);
        let begins = match reading {
            Reading::Whole(at) => return Ok(answer.split_off(at)),
            Reading::Wrong => return Err(invalid("it does not begin with its length")),
            Reading::Perhaps(at) => Some(at),
            Reading::Incomplete => None,
        };
        socket.set_read_timeout(begins.map(|_| QUIET))?;
        match (socket.read(&mut piece), begins) {
            (Ok(0), None) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (Ok(0), Some(at)) => return Ok(answer.split_off(at)),
            (Ok(count), _) => answer.extend_from_slice(&piece[..count]),
            (Err(error), Some(at)) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(answer.split_off(at));
            }
            (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => {}
            (Err(error), _) => return Err(error),
        }
        if answer.len() > LONGEST_ANSWER {
            return Err(invalid("it is too long to be kept"));
        }
    }
}
