//! What the fuzz targets of `fuzz/` do with an input, run with those that are saved: what has once been wrong, and what
//! leads far into the code. The fuzzers begin with the same ones.

use std::fs;
use std::path::{Path, PathBuf};

mod chat;
mod control;
mod endpoint;
mod shell;
mod upload;
mod web;

fn saved() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seeds/saved")
}

/// Runs all saved inputs of one target. The name of the one that fails is the last one that is printed.
fn run_all(target: &str, run: fn(&[u8])) {
    let mut count = 0;
    for entry in fs::read_dir(saved().join(target)).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        run(&fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 0, "nothing is saved for {target}");
}

macro_rules! targets {
    ($($test:ident: $target:ident;)*) => {
        $(#[test]
        fn $test() {
            run_all(stringify!($target), $target::run);
        })*

        const TARGETS: &[&str] = &[$(stringify!($target)),*];
    };
}

targets! {
    what_members_of_a_chat_have_sent: chat;
    control_messages_as_no_kernel_writes_them: control;
    addresses_as_users_have_written_them: endpoint;
    what_peers_of_the_shell_have_sent: shell;
    what_peers_of_the_upload_have_sent: upload;
    requests_as_browsers_and_others_have_sent_them: web;
}

#[test]
fn every_fuzz_target_is_replayed() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml");
    // What is packed for others has no fuzzers.
    let Ok(manifest) = fs::read_to_string(manifest) else { return };
    let path = |line: &str| {
        Some(line.strip_prefix("path = \"fuzz_targets/")?.split('.').next()?.to_owned())
    };
    let mut fuzzed: Vec<String> = manifest.lines().filter_map(path).collect();
    fuzzed.sort();
    assert_eq!(fuzzed, TARGETS);
}
