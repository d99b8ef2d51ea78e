//! The codecs: encoded messages that arrive in pieces are decoded, and other bytes do no harm.

use std::io::{self, Read};

use proptest::prelude::*;

use super::document::{Found, read_header};
use super::names;
use super::protocol::*;

fn path() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..DEPTH)
}

fn code() -> impl Strategy<Value = Code> {
    (1_u8..=10).prop_map(|byte| Code::try_from(byte).unwrap())
}

fn message() -> impl Strategy<Value = Message> {
    let put = (path(), any::<u64>(), any::<Digest>(), any::<bool>())
        .prop_map(|(path, size, fingerprint, resume)| Put { path, size, fingerprint, resume });
    prop_oneof![
        any::<u16>().prop_map(|version| Message::Hello { version }),
        put.prop_map(Message::Put),
        (any::<u64>(), any::<bool>()).prop_map(|(offset, whole)| Message::Have { offset, whole }),
        Just(Message::Working),
        any::<Digest>().prop_map(Message::Digest),
        any::<u64>().prop_map(Message::From),
        (1..=DATA_BYTES).prop_map(Message::Data),
        any::<Digest>().prop_map(Message::End),
        Just(Message::Abort),
        path().prop_map(|path| Message::Done { path }),
        path().prop_map(|path| Message::Folder { path }),
        (code(), ".{0,300}").prop_map(|(code, text)| Message::Refused(Refusal::new(code, text))),
    ]
}

/// Gives its bytes in pieces of these lengths, and the rest one by one.
struct Pieces<'a> {
    bytes: &'a [u8],
    lengths: Vec<usize>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.lengths.pop().unwrap_or(1).clamp(1, buffer.len().max(1));
        (&mut self.bytes).take(length as u64).read(buffer)
    }
}

fn decode_all(bytes: &[u8], lengths: Vec<usize>) -> io::Result<Vec<Message>> {
    let mut input = Pieces { bytes, lengths };
    std::iter::from_fn(|| Message::read(&mut input).transpose()).collect()
}

proptest! {
    #[test]
    fn what_is_encoded_and_cut_anywhere_is_decoded(
        messages in prop::collection::vec(message(), 0..8),
        lengths in prop::collection::vec(1..600_usize, 0..50),
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(Message::encode).collect();
        prop_assert_eq!(decode_all(&bytes, lengths).unwrap(), messages);
    }

    #[test]
    fn what_ends_in_the_middle_is_no_message(message in message(), at in any::<prop::sample::Index>()) {
        let bytes = message.encode();
        let cut = at.index(bytes.len());
        let result = Message::read(&mut &bytes[..cut]);
        match cut {
            0 => prop_assert_eq!(result.unwrap(), None),
            _ => prop_assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof),
        }
    }

    #[test]
    fn other_bytes_are_an_error_or_a_message_that_says_the_same(
        kind in "[HPOWGFDEAMKRp]", payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let bytes = [kind.as_bytes(), &(payload.len() as u32).to_be_bytes(), &payload].concat();
        if let Ok(Some(message)) = Message::read(&mut &bytes[..]) {
            let again = message.encode();
            prop_assert_eq!(Message::read(&mut &again[..]).unwrap(), Some(message));
        }
    }

    #[test]
    fn refusals_are_shown_without_control_characters(text in any::<String>()) {
        let shown = Refusal::new(Code::Storage, text).to_string();
        prop_assert!(!shown.contains(char::is_control), "{}", shown);
    }

    #[test]
    fn names_that_are_taken_for_good_lead_nowhere_else(name in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(name) = names::check(&name) {
            let path = std::path::Path::new(name);
            prop_assert_eq!(path.file_name(), Some(name.as_ref()));
            prop_assert!(!name.contains(char::is_control) && name.len() <= 255);
        }
    }

    #[test]
    fn other_names_for_a_name_that_is_taken_are_names(name in ".{1,120}\\.?.{0,120}", number in 1_u32..10_001) {
        if let Ok(name) = names::check(name.as_bytes()) {
            let other = names::candidate(name, number);
            prop_assert!(names::check(other.as_bytes()).is_ok(), "{} from {}", other, name);
            prop_assert_ne!(other, names::candidate(name, number + 1));
        }
    }

    #[test]
    fn a_documents_header_by_itself_is_read(name in "[^|\0]{0,60}", size in any::<u64>()) {
        let bytes = super::document::header(&name, size);
        let Found::Header(header) = read_header(&bytes) else { panic!("it is not found") };
        prop_assert_eq!((header.name, header.size), (name.into_bytes(), size));
        prop_assert_eq!(header.length, bytes.len());
    }

    #[test]
    fn a_documents_header_with_its_whole_file_is_read(content in "[0-9]{0,40}[^0-9].{0,40}") {
        let bytes = [super::document::header("a", content.len() as u64), content.clone().into()].concat();
        let Found::Header(header) = read_header(&bytes) else { panic!("it is not found") };
        let rest = &bytes[header.length..];
        let after = &rest[rest.len().min(header.size as usize)..];
        prop_assert!(header.size <= rest.len() as u64, "it is one of the readings that fit");
        prop_assert!(b"post|".starts_with(&after[..after.len().min(5)]));
    }

    #[test]
    fn other_bytes_are_no_harm_to_the_documents_wire(rest in prop::collection::vec(any::<u8>(), 0..600)) {
        let bytes = [b"post|", &rest[..]].concat();
        if let Found::Header(header) = read_header(&bytes) {
            prop_assert!(header.length <= bytes.len() && header.name.len() <= 255);
        }
        prop_assert!(read_header(&bytes) != Found::More || bytes.len() <= 5 + 256);
    }
}

#[test]
fn no_message_of_ours_is_taken_for_the_documents() {
    let first = Message::Hello { version: VERSION }.encode()[0];
    assert_ne!(first, b'p');
}

/// The fuzz target has found that such a name with a number would be one of the store's own.
#[test]
fn no_number_makes_a_name_one_of_the_stores_own() {
    for name in [".upload", ".upload.part", ".upload.- uplt"] {
        assert!(names::check(name.as_bytes()).is_err());
    }
    for name in ["upload.part", ".uploa", ".Upload.part"] {
        assert!(names::check(names::candidate(name, 1).as_bytes()).is_ok());
    }
}

#[test]
fn names_for_names_that_are_taken() {
    for (name, other) in [
        ("a.txt", "a-1.txt"),
        ("a", "a-1"),
        (".hidden", ".hidden-1"),
        ("a.tar.gz", "a.tar-1.gz"),
        ("a.", "a-1."),
    ] {
        assert_eq!(names::candidate(name, 0), name);
        assert_eq!(names::candidate(name, 1), other);
    }
    // The fuzz target has found this: the first alternative of a long name that ends with a number may be the name itself.
    // The second one is not.
    let longest = format!("{}-1.txt", "a".repeat(249));
    assert_eq!(names::candidate(&longest, 1), longest);
    assert_ne!(names::candidate(&longest, 2), longest);
    let long = format!("{}.txt", "ä".repeat(125));
    let other = names::candidate(&long, 10);
    assert!(other.len() <= 255 && other.ends_with("ä-10.txt"), "{other}");
}

#[test]
fn a_documents_header_is_read_in_the_most_sensible_way() {
    let read = |bytes: &[u8]| match read_header(bytes) {
        Found::Header(header) => Some((header.size, bytes.len() - header.length)),
        _ => None,
    };
    // A header by itself: all digits are the size, as the tutorial's server takes them.
    assert_eq!(read(b"post|a|12"), Some((12, 0)));
    // A header with the beginning of a file.
    assert_eq!(read(b"post|a|12xy"), Some((12, 2)));
    // A header with a whole file that begins with digits, and a header with the beginning of such a file.
    assert_eq!(read(b"post|a|51234x"), Some((5, 5)));
    assert_eq!(read(b"post|a|51234xyz"), Some((51234, 3)));
    // A header with a whole file that begins with digits, and the next header.
    assert_eq!(read(b"post|a|51234xpost|b|12"), Some((5, 14)));
    // A number that is too large, and no number at all.
    assert_eq!(read(b"post|a|99999999999999999999x"), None);
    assert_eq!(read(b"post|a|x"), None);
    assert_eq!(read_header(b"post|a|"), Found::More);
    assert_eq!(read_header(b"pos"), Found::More);
    assert_eq!(read_header(b"posh"), Found::Nothing);
}

#[test]
fn a_size_on_the_documents_wire_has_as_many_digits_as_the_largest() {
    let read = |digits: &str, rest: &str| read_header(format!("post|a|{digits}{rest}").as_bytes());
    let largest = u64::MAX.to_string();
    assert!(matches!(read(&largest, ""), Found::Header(header) if header.size == u64::MAX));
    // One digit more makes no size, even if a shorter number would fit the piece, or if the digit is a leading zero.
    for digits in ["0".to_owned() + &largest, "0".repeat(200_000), "1".repeat(21)] {
        for rest in ["", "x"] {
            assert_eq!(read(&digits, rest), Found::Nothing, "{} digits", digits.len());
        }
    }
}
