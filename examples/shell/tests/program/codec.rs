//! The frames and messages, and the answers of the tutorial's wire: encoded and cut anywhere, they are decoded as they were,
//! and arbitrary bytes do no harm.

#[path = "../../src/answer.rs"]
mod answer;
#[path = "../../src/protocol.rs"]
#[allow(dead_code, reason = "the program uses the rest")]
mod protocol;

use answer::{Reading, read_answer};
use proptest::prelude::*;
use protocol::*;

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 0..40).prop_map(|chars| chars.into_iter().collect())
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..200)
}

fn message() -> impl Strategy<Value = Message> {
    let proof = prop_oneof![Just(Proof::Nothing), Just(Proof::Secret)];
    let status = prop_oneof![
        any::<u8>().prop_map(Status::Exited),
        any::<u8>().prop_map(Status::Signalled),
        Just(Status::NotStarted),
    ];
    prop_oneof![
        (any::<u8>(), proof, bytes()).prop_map(|(version, proof, noise)| Message::Hello {
            version,
            proof,
            noise
        }),
        (any::<u8>(), bytes()).prop_map(|(version, noise)| Message::Welcome { version, noise }),
        text().prop_map(Message::Refused),
        Just(Message::Ready),
        (bytes(), any::<bool>()).prop_map(|(line, has_input)| Message::Run { line, has_input }),
        Just(Message::Interrupt),
        bytes().prop_map(Message::Input),
        any::<u32>().prop_map(Message::Room),
        bytes().prop_map(Message::Stdout),
        bytes().prop_map(Message::Stderr),
        text().prop_map(Message::Notice),
        (status, text()).prop_map(|(status, why)| Message::Ended(Ended { status, why })),
    ]
}

/// Gives bytes to a decoder in pieces of these sizes in rotation, and takes out the messages after each piece.
fn decode_in_pieces(bytes: &[u8], sizes: &[usize]) -> Vec<Message> {
    let mut decoder = Decoder::new(LONGEST_BODY);
    let (mut rest, mut sizes) = (bytes, sizes.iter().cycle());
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
        decoder.push(piece);
        rest = after;
        while let Some(body) = decoder.next_body().unwrap() {
            messages.push(Message::from_body(&body).unwrap());
        }
    }
    assert!(decoder.is_empty());
    messages
}

proptest! {
    #[test]
    fn messages_that_are_cut_anywhere_are_read_as_they_were(
        messages in proptest::collection::vec(message(), 0..8),
        sizes in proptest::collection::vec(1_usize..64, 1..8),
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| frame(&message.body())).collect();
        prop_assert_eq!(decode_in_pieces(&bytes, &sizes), messages);
    }

    #[test]
    fn no_frame_is_longer_than_allowed(length in any::<u32>(), limit in 0_usize..100_000) {
        let mut decoder = Decoder::new(limit);
        decoder.push(&length.to_be_bytes());
        let result = decoder.next_body();
        let bytes = length as usize;
        if bytes > limit {
            prop_assert_eq!(result, Err(Malformed::TooLong { bytes, limit }));
        } else {
            prop_assert_eq!(result, Ok((bytes == 0).then(Vec::new)));
        }
    }

    #[test]
    fn any_body_is_a_message_or_an_error(body in bytes()) {
        if let Ok(message) = Message::from_body(&body) {
            prop_assert_eq!(Message::from_body(&message.body()), Ok(message));
        }
    }

    #[test]
    fn an_answer_is_found_wherever_its_output_begins(
        output in prop_oneof![
            bytes(),
            proptest::collection::vec(b'0'..=b'9', 0..300),
            (0_usize..4, bytes()).prop_map(|(zeros, rest)| [vec![b'0'; zeros], rest].concat()),
        ],
    ) {
        let length = output.len().to_string();
        let whole = [length.as_bytes(), &output].concat();
        // When the whole answer is there, its output begins after the length and nowhere else.
        let at = length.len();
        let found = read_answer(&whole);
        prop_assert!(matches!(found, Reading::Whole(found) | Reading::Perhaps(found) if found == at));
        // An incomplete answer is never called whole or wrong.
        for end in 0..whole.len() {
            let found = read_answer(&whole[..end]);
            prop_assert!(!matches!(found, Reading::Whole(_) | Reading::Wrong), "{end} of {whole:?}");
        }
    }
}

#[test]
fn the_longest_payload_fits_a_sealed_frame() {
    let longest = vec![b'x'; LONGEST_PAYLOAD];
    let text = String::from_utf8(longest.clone()).unwrap();
    let ended = Ended { status: Status::Exited(0), why: text.clone() };
    for message in [
        Message::Stdout(longest),
        Message::Run { line: text.into_bytes(), has_input: true },
        Message::Ended(ended),
    ] {
        assert!(message.body().len() + 16 <= LONGEST_BODY);
    }
}

#[test]
fn an_answer_that_is_none_is_wrong() {
    assert_eq!(read_answer(b"hello"), Reading::Wrong);
    assert_eq!(read_answer(b"0x"), Reading::Wrong);
    assert_eq!(read_answer(b"3abcd"), Reading::Wrong);
    assert_eq!(read_answer(b""), Reading::Incomplete);
    assert_eq!(read_answer(b"0"), Reading::Whole(1));
    assert_eq!(read_answer(b"12"), Reading::Perhaps(1));
}
