//! Addresses as users write them: reading one never panics, and a valid one that is displayed is read back as the same.

use common::Endpoint;

pub(crate) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        let shown = endpoint.to_string();
        assert_eq!(shown.parse::<Endpoint>().expect("what is shown can be read"), endpoint);
    }
}

#[test]
fn saved_inputs() {
    test_support::replay(env!("CARGO_MANIFEST_DIR"), run);
}
