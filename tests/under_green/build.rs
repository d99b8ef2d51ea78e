//! Tells the tests that they run under `Green`, and that this system has it; and prepares the documents whose blocks run
//! under it.

use std::fs::{read_to_string, write};
use std::path::PathBuf;

/// Stands before a block that is about another mixin.
const NOT_HERE: &str = "<!-- not under green: ";

fn main() {
    println!("cargo:rustc-cfg=under_green");
    println!("cargo:rustc-check-cfg=cfg(has_green)");
    println!("cargo:rustc-cfg=has_green");
    println!("cargo:rerun-if-changed=build.rs");
    let to = PathBuf::from(std::env::var_os("OUT_DIR").expect("Cargo says where"));
    for (from, name) in [
        ("../../docs/guide.md", "guide.md"),
        ("../../docs/porting.md", "porting.md"),
        ("../../README.md", "README.md"),
    ] {
        println!("cargo:rerun-if-changed={from}");
        let text = read_to_string(from).expect("a document of the project");
        write(to.join(name), without_those_of_others(&text)).expect("room for a document");
    }
}

/// Marks the blocks that are not to be run. All lines stay where they are.
fn without_those_of_others(text: &str) -> String {
    let mut is_marked = false;
    let lines = text.lines().map(|line| match line.strip_prefix("```rust") {
        Some(_) if std::mem::take(&mut is_marked) => "```rust,ignore\n".to_owned(),
        _ => {
            is_marked |= line.starts_with(NOT_HERE);
            format!("{line}\n")
        }
    });
    lines.collect()
}
