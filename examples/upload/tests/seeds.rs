//! Bytes that the upload program reads from its peers: no bytes cause a panic, every message is the same after it is encoded
//! and read again, and no name that passes the check leads out of its folder.
#![allow(dead_code, reason = "only what reads is run here")]

#[path = "../src/document.rs"]
mod document;
#[path = "../src/names.rs"]
mod names;
#[path = "../src/protocol.rs"]
mod protocol;

use protocol::Message;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = bytes;
    while let Ok(Some(message)) = Message::read(&mut input) {
        let frame = message.encode();
        let again = Message::read(&mut &frame[..]);
        assert_eq!(again.expect("what is encoded can be read"), Some(message.clone()));
        match message {
            Message::Put(put) => put.path.iter().for_each(|name| check(name)),
            Message::Refused(refusal) => {
                assert!(!refusal.to_string().contains(char::is_control));
            }
            _ => {}
        }
    }
    if let document::Found::Header(header) = document::read_header(bytes) {
        assert!(header.length <= bytes.len());
        check(&header.name);
    }
}

fn check(name: &[u8]) {
    let Ok(name) = names::check(name) else { return };
    assert_eq!(std::path::Path::new(name).file_name(), Some(name.as_ref()));
    assert!(!protocol::shown(&[name.into()]).contains(char::is_control));
    for number in [1, 10_000] {
        let other = names::candidate(name, number);
        assert!(names::check(other.as_bytes()).is_ok());
    }
}

#[test]
fn saved_inputs() {
    test_support::replay(env!("CARGO_MANIFEST_DIR"), run);
}
