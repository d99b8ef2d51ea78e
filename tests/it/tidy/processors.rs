//! The processors that have `Green` are listed in several places, because Cargo and a program cannot ask `build.rs`.

use std::collections::BTreeSet;
use std::process::Command;

use super::{read, root};

/// Each `"word"` after a mark.
fn named(text: &str, mark: &str) -> BTreeSet<String> {
    let words = text.split(mark).skip(1).filter_map(|rest| rest.split('"').nth(1));
    words.map(str::to_owned).collect()
}

#[test]
fn every_list_of_the_processors_with_green_is_the_same() {
    let script = read("build.rs");
    let list = script.split_once("PROCESSORS: [&str; 7] =").unwrap().1.split_once(';').unwrap().0;
    let ours: BTreeSet<String> = list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert_eq!(ours.len(), 7);
    for file in ["Cargo.toml", "examples/common/src/green.rs"] {
        assert_eq!(named(&read(file), "target_arch = "), ours, "{file}");
    }
}

#[test]
fn a_processor_that_has_no_green_needs_no_crate_for_it() {
    for (target, has_it) in [
        ("x86_64-unknown-linux-gnu", true),
        ("loongarch64-unknown-linux-gnu", true),
        ("s390x-unknown-linux-gnu", false),
        ("powerpc64le-unknown-linux-gnu", false),
        ("x86_64-unknown-freebsd", false),
    ] {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["tree", "--locked", "-p", "socketserver", "--target", target]);
        let output = cargo.args(["-e", "normal"]).current_dir(root()).output().unwrap();
        let crates = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(crates.contains("corosensei"), has_it, "{target}:\n{crates}");
    }
}
