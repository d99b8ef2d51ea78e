//! Requests as a peer sends them: none causes a panic, and the same bytes give the same answers however they are cut.

#[path = "../src/protocol/mod.rs"]
#[allow(dead_code, reason = "the server uses all of it")]
mod protocol;

use protocol::{Decoder, Step};

/// All results of the decoder, as text, when it gets these pieces.
fn told<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let mut decoder = Decoder::default();
    let (mut told, mut bytes) = (Vec::new(), Vec::new());
    for piece in pieces {
        bytes.extend_from_slice(piece);
        loop {
            match decoder.step(&bytes) {
                Step::More => break,
                Step::Continue => told.push("continue".to_owned()),
                Step::Request(head, used) => {
                    assert!((1..=bytes.len()).contains(&used));
                    told.push(format!("{head:?} of {used}"));
                    bytes.drain(..used);
                }
                Step::Refused(refusal) => {
                    assert!(refusal.status.code() >= 400);
                    told.push(format!("{refusal:?}"));
                    return told;
                }
            }
        }
    }
    told
}

pub(crate) fn run(input: &[u8]) {
    let Some((&size, bytes)) = input.split_first() else { return };
    let whole = told(std::iter::once(bytes));
    assert_eq!(told(bytes.chunks(usize::from(size).max(1))), whole);
    assert_eq!(told(bytes.chunks(1)), whole);
}

#[test]
fn saved_inputs() {
    test_support::replay(env!("CARGO_MANIFEST_DIR"), run);
}
