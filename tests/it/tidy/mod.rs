//! Rules of the source that the compiler does not know: these tests read it.

mod checklist;
mod code;
mod contributing;
mod documents;
mod layers;
mod processors;
mod prose;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use self::layers::first_names;

/// A text file of the project.
struct Source {
    /// Its path from the project's folder.
    name: String,
    text: String,
    /// The text with all comments and literals blanked out, so that positions and lines stay.
    code: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}

/// The files below some folders, with this ending.
fn sources(folders: &[&str], ending: &str) -> Vec<Source> {
    let mut files = Vec::new();
    for folder in folders {
        walk(&root().join(folder), &mut files);
    }
    files.retain(|path| path.extension().is_some_and(|found| found == ending));
    files.sort();
    let source = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        Source { code: code_of(&text), name, text }
    };
    files.into_iter().map(source).collect()
}

/// Rust without its comments, strings and characters: they are replaced by blanks, byte by byte.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = at + length_of_blank(&bytes[at..], at > 0 && is_word(bytes[at - 1]));
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(code).unwrap()
}

/// How long the comment or literal is that begins here; zero if none does.
fn length_of_blank(rest: &[u8], in_a_word: bool) -> usize {
    let until = |end: &[u8], from: usize| {
        let found = rest[from..].windows(end.len()).position(|window| window == end);
        found.map_or(rest.len(), |at| from + at + end.len())
    };
    match rest {
        [b'/', b'/', ..] => until(b"\n", 0) - 1,
        [b'/', b'*', ..] => until(b"*/", 2),
        [b'"', ..] => length_of_string(rest),
        // r"..", r#".."#; the byte before may be the b of a byte string.
        [b'r', b'"' | b'#', ..] if !in_a_word => {
            let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
            if rest.get(1 + hashes) != Some(&b'"') {
                return 0;
            }
            until(&[b"\"", &rest[1..=hashes]].concat(), 2 + hashes)
        }
        [b'\'', b'\\', ..] => until(b"'", 3),
        // A character, and not the beginning of a lifetime. It may be longer than a byte.
        [b'\'', ..] => match rest[1..].iter().take(5).position(|byte| *byte == b'\'') {
            Some(length @ 1..) if length == 1 || !rest[1].is_ascii() => length + 2,
            _ => 0,
        },
        _ => 0,
    }
}

fn length_of_string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where a word begins in the code, each time that it stands by itself.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let after = bytes.get(at + word.len());
        (*at == 0 || !is_word(bytes[at - 1])) && !after.is_some_and(|byte| is_word(*byte))
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The code before the unit tests, which stand at the end of their file and may use anything.
fn without_tests(source: &Source) -> &str {
    let end = source.code.find("#[cfg(test)]\nmod tests").unwrap_or(source.code.len());
    &source.code[..end]
}

/// Fails with all that was found, one line each.
#[track_caller]
fn assert_none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

/// Where the block that begins after `from` ends; `None` if there is a semicolon first.
fn closing_brace(code: &str, from: usize) -> Option<usize> {
    let (mut braces, mut others) = (0, 0);
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => others += 1,
            b')' | b']' => others -= 1,
            b'{' => braces += 1,
            b'}' => {
                braces -= 1;
                if braces == 0 {
                    return Some(at);
                }
            }
            b';' if braces == 0 && others == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The root page stays readable: everything else belongs to one of the modules.
#[test]
fn the_root_has_few_names() {
    let code = code_of(&read("src/lib.rs"));
    let mut names: Vec<String> = Vec::new();
    for (at, _) in code.match_indices("\npub ") {
        let statement = &code[at + 5..];
        if let Some(path) = statement.strip_prefix("use ") {
            let (_, rest) = path[..path.find(';').unwrap()].split_once("::").unwrap();
            names.extend(first_names(rest));
        } else if let Some(module) = statement.strip_prefix("mod ") {
            names.extend(first_names(&format!("{{{module}")).into_iter().take(1));
        }
    }
    assert!(names.contains(&"Server".to_owned()), "lib.rs was not understood: {names:?}");
    assert!(names.contains(&"transport".to_owned()), "lib.rs was not understood: {names:?}");
    assert!(names.len() <= 45, "{} names at the root: {names:?}", names.len());
}

/// A program gets these with the library and none of its features.
#[test]
fn the_core_has_six_dependencies() {
    let manifest = read("Cargo.toml");
    let (_, from) = manifest.split_once("\n[dependencies]\n").unwrap();
    let section = from.split_once("\n[").map_or(from, |(section, _)| section);
    let needed = section.lines().filter(|line| !line.contains("optional = true"));
    let names: Vec<&str> = needed.filter_map(|line| Some(line.split_once(" = ")?.0)).collect();
    let six = [
        "crossbeam-channel",
        "libc",
        "parking_lot",
        "signal-hook-registry",
        "socket2",
        "thiserror",
    ];
    assert_eq!(names, six);
}

#[test]
fn every_fuzz_target_is_replayed() {
    // A package of the crate has no fuzzers.
    let Ok(manifest) = fs::read_to_string(root().join("fuzz/Cargo.toml")) else { return };
    let target = |line: &str| {
        let path = line.strip_prefix("path = \"")?.strip_suffix("\"")?;
        path.starts_with("fuzz_targets/").then(|| format!("fuzz/{path}"))
    };
    let mut fuzzed = BTreeSet::new();
    for name in manifest.lines().filter_map(target) {
        let text = read(&name);
        let path = text.split("#[path = \"../../").nth(1).and_then(|rest| rest.split('"').next());
        fuzzed.insert(path.unwrap_or_else(|| panic!("{name} takes no file")).to_owned());
    }
    let all = sources(&["tests", "examples"], "rs").into_iter().map(|source| source.name);
    let replayed: BTreeSet<String> = all.filter(|name| name.ends_with("/seeds.rs")).collect();
    assert_eq!(fuzzed, replayed);
    for name in replayed {
        assert!(root().join(name.trim_end_matches(".rs")).is_dir(), "no inputs for {name}");
        assert!(read(&name).contains("test_support::replay("), "{name} replays nothing");
    }
}
