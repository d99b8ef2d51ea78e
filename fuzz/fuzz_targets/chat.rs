#![no_main]

#[path = "../../examples/chat/tests/seeds.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|input: &[u8]| target::run(input));
