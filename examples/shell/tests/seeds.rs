//! Bytes from a peer of the shell program: in pieces of any size they are messages or an error, and each message is the
//! same after it is encoded and decoded again.

#[path = "../src/answer.rs"]
mod answer;
#[path = "../src/protocol.rs"]
#[allow(dead_code, reason = "the program uses the rest")]
mod protocol;

use answer::{Reading, read_answer};
use protocol::{Decoder, LONGEST_LOGIN, Message};

pub(crate) fn run(input: &[u8]) {
    let Some((&size, bytes)) = input.split_first() else { return };
    let mut decoder = Decoder::new(LONGEST_LOGIN);
    let mut held = 0;
    'pieces: for piece in bytes.chunks(usize::from(size).max(1)) {
        decoder.push(piece);
        held += piece.len();
        loop {
            match decoder.next_body() {
                Ok(Some(body)) => {
                    held -= 4 + body.len();
                    if let Ok(message) = Message::from_body(&body) {
                        assert_eq!(Message::from_body(&message.body()), Ok(message));
                    }
                }
                Ok(None) => break,
                Err(_) => break 'pieces,
            }
        }
        assert!(held < 4 + LONGEST_LOGIN, "what is not understood yet has a bound");
    }
    match read_answer(bytes) {
        Reading::Whole(at) | Reading::Perhaps(at) => {
            let length: usize = std::str::from_utf8(&bytes[..at]).unwrap().parse().unwrap();
            assert_eq!(bytes.len() - at, length);
        }
        Reading::Incomplete | Reading::Wrong => {}
    }
}

#[test]
fn saved_inputs() {
    test_support::replay(env!("CARGO_MANIFEST_DIR"), run);
}
