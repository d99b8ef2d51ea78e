//! Addresses as users write them: none panics, and one that is shown is read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use socketserver::Endpoint;

fuzz_target!(|text: &str| {
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        let shown = endpoint.to_string();
        assert_eq!(shown.parse::<Endpoint>().expect("what is shown can be read"), endpoint);
    }
});
