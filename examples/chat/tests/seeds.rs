//! Bytes from members of a chat give the same messages however they are cut, and none that a terminal would obey. The
//! text that waits for a client without lines is sent whole, in pieces that one read takes.

#[allow(dead_code)]
#[path = "../src/characters.rs"]
mod characters;
#[allow(dead_code)]
#[path = "../src/name.rs"]
mod name;
#[allow(dead_code)]
#[path = "../src/protocol.rs"]
mod protocol;

use name::check_name;
use protocol::{ANSWER_BYTES, Incoming, Kind, LINE_BYTES, Message, TooLong, Waiting, clean};

pub(crate) fn run(input: &[u8]) {
    let Some((&step, bytes)) = input.split_first() else { return };
    let step = usize::from(step);
    let whole = decode(bytes, bytes.len().max(1));
    assert_eq!(decode(bytes, step % 64 + 1), whole);
    let mut waiting = Waiting::default();
    let mut sent = String::new();
    for line in whole.iter().flatten() {
        assert!(line.len() <= LINE_BYTES && !line.chars().any(char::is_control));
        assert_eq!(clean(line.as_bytes()), *line);
        if let Message::Nick(name) | Message::Tell { to: name, .. } = Message::parse(line) {
            let _ = check_name(&name);
        }
        if sent.len() + line.len() < protocol::WAITING_BYTES / 2 {
            waiting.push(Kind::Said, &format!("{line}\n"));
            sent += line;
        }
    }
    let mut heard = String::new();
    while let Some(answer) = waiting.answer() {
        assert!(answer.len() <= ANSWER_BYTES);
        heard += &answer;
    }
    // The client itself adds the newlines at the ends of pieces.
    assert_eq!(heard.replace('\n', ""), sent);
}

fn decode(bytes: &[u8], step: usize) -> Result<Vec<String>, TooLong> {
    let mut incoming = Incoming::default();
    let mut lines = Vec::new();
    for piece in bytes.chunks(step) {
        incoming.push(piece);
        while let Some(line) = incoming.next_line()? {
            lines.push(line);
        }
    }
    lines.extend(incoming.rest()?);
    Ok(lines)
}

#[test]
fn saved_inputs() {
    test_support::replay(env!("CARGO_MANIFEST_DIR"), run);
}
