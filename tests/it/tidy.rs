//! Rules of the source that no compiler knows, held by reading it.

mod contributing;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

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
        // r"..", r#".."#; what comes before may have been the b of a byte string.
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

/// What each part of the library may use: only parts that stand before it
/// here, and of those only these.
const LAYERS: &[(&str, &[&str])] = &[
    ("process", &[]),
    ("sys", &["process"]),
    ("console", &["sys"]),
    ("wait", &["process", "sys"]),
    ("park", &["wait"]),
    ("write_stall", &["sys", "wait"]),
    ("socket_io", &["write_stall", "sys", "wait"]),
    ("lingering_close", &["process", "socket_io", "sys", "wait"]),
    ("peer_fault", &[]),
    ("error", &["peer_fault"]),
    ("address", &["error"]),
    ("events", &["address"]),
    ("limits", &[]),
    ("gate", &["limits", "wait"]),
    ("live", &["address", "events", "peer_fault", "limits", "sys", "wait"]),
    ("idle_reaper", &["live"]),
    ("shutdown", &["error", "wait"]),
    (
        "context",
        &[
            "address",
            "events",
            "gate",
            "limits",
            "live",
            "process",
            "shutdown",
            "wait",
            "idle_reaper",
        ],
    ),
    (
        "request",
        &[
            "address",
            "context",
            "error",
            "events",
            "peer_fault",
            "limits",
            "lingering_close",
            "live",
            "process",
            "socket_io",
            "shutdown",
            "write_stall",
            "sys",
            "wait",
        ],
    ),
    ("handler", &["error", "request"]),
    ("mixin", &["address", "console", "error", "events", "gate", "process", "sys", "wait"]),
    ("transport", &["address", "error", "process", "request", "sys", "wait"]),
    // The one room that knows all of them.
    ("server", &["*"]),
];

/// The parts of the library that a file names, with the lines where it does.
fn imports(source: &Source, exported: &BTreeMap<String, String>) -> Vec<(String, usize)> {
    let code = without_tests(source);
    let (own, depth) = place(&source.name);
    let mut found = Vec::new();
    for start in ["crate", "super"] {
        for at in words(code, start) {
            let rest = &code[at + start.len()..];
            let Some(mut path) = rest.strip_prefix("::") else { continue };
            let mut up = usize::from(start == "super");
            // Inside `mod name { .. }` one more step leads only to the file itself.
            while let Some(rest) = path.strip_prefix("super::") {
                path = rest;
                up += 1;
            }
            let leaves = start == "crate" || up > depth + inline_modules_around(code, at);
            let line = line_of(code, at);
            // `pub(in crate::..)` and the like name no part.
            for name in first_names(path) {
                let name = if leaves { name } else { own.clone() };
                let part = exported.get(&name).cloned().unwrap_or(name);
                if part != own {
                    found.push((part, line));
                }
            }
        }
    }
    found
}

/// The part that a file belongs to, and how many steps up from it lead to the crate's root, less one.
fn place(name: &str) -> (String, usize) {
    let path = name.strip_prefix("src/").unwrap().strip_suffix(".rs").unwrap();
    let path = path.strip_suffix("/mod").unwrap_or(path);
    let mut parts = path.split('/');
    (parts.next().unwrap().to_owned(), parts.count())
}

fn inline_modules_around(code: &str, at: usize) -> usize {
    let opens = words(&code[..at], "mod").filter(|start| {
        let name = code[start + 3..]
            .trim_start()
            .trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
        name.trim_start().starts_with('{')
    });
    opens.filter(|start| closing_brace(code, *start).is_none_or(|end| end > at)).count()
}

/// Where the block that begins after `from` ends; none if there is a semicolon first.
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

/// `a::b` is `a`; `{a::b, c::{d, e}}` are `a` and `c`.
fn first_names(path: &str) -> Vec<String> {
    let first = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![first(path)] };
    let (mut depth, mut names, mut rest) = (0, vec![first(group)], group);
    while let Some(at) = rest.find(['{', '}', ',']) {
        match rest.as_bytes()[at] {
            b'{' => depth += 1,
            b'}' if depth == 0 => break,
            b'}' => depth -= 1,
            _ if depth == 0 => names.push(first(&rest[at + 1..])),
            _ => {}
        }
        rest = &rest[at + 1..];
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The part that each name comes from which lib.rs exports: `crate::Error` is a use of `error`.
fn exported_by_lib() -> BTreeMap<String, String> {
    let code = code_of(&read("src/lib.rs"));
    let mut names = BTreeMap::new();
    for (at, _) in code.match_indices("\npub use ") {
        let statement = &code[at + 9..];
        let (part, rest) = statement[..statement.find(';').unwrap()].split_once("::").unwrap();
        for name in first_names(rest) {
            names.insert(name, part.trim().to_owned());
        }
    }
    names
}

#[test]
fn imports_point_down_only() {
    let exported = exported_by_lib();
    assert_eq!(exported["Error"], "error", "lib.rs was not understood");
    let place_of = |part: &str| LAYERS.iter().position(|(name, _)| *name == part);
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for source in sources(&["src"], "rs") {
        if source.name == "src/lib.rs" {
            continue;
        }
        let (own, _) = place(&source.name);
        let layer = place_of(&own).unwrap_or_else(|| panic!("{own} has no place in the layers"));
        let allowed = LAYERS[layer].1;
        for (part, line) in imports(&source, &exported) {
            let is_below = place_of(&part).is_some_and(|below| below < layer);
            if !is_below || !(allowed == ["*"] || allowed.contains(&&*part)) {
                wrong.push(format!("{}:{line}: {own} must not use {part}", source.name));
            }
            used.insert((own.clone(), part));
        }
    }
    assert_none(&wrong, "imports that the layers forbid");
    for (part, allowed) in LAYERS.iter().filter(|(_, allowed)| *allowed != ["*"]) {
        for name in *allowed {
            let is_used = used.contains(&((*part).to_owned(), (*name).to_owned()));
            assert!(is_used, "{part} no longer uses {name}: forbid it");
        }
    }
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
    names.retain(|name| name != "_documentation");
    assert!(names.contains(&"Server".to_owned()), "lib.rs was not understood: {names:?}");
    assert!(names.contains(&"transport".to_owned()), "lib.rs was not understood: {names:?}");
    assert!(names.len() <= 45, "{} names at the root: {names:?}", names.len());
}

#[test]
fn the_reader_of_imports_finds_them_all() {
    let source = |name: &str, text: &str| Source {
        name: name.into(),
        text: text.into(),
        code: code_of(text),
    };
    let exported = BTreeMap::from([("Error".to_owned(), "error".to_owned())]);
    let parts = |name: &str, text: &str| -> Vec<String> {
        imports(&source(name, text), &exported).into_iter().map(|(part, _)| part).collect()
    };
    assert_eq!(parts("src/a/b.rs", "use crate::x::{y, z};"), ["x"]);
    assert_eq!(parts("src/a/b.rs", "use crate::{x::y, z::{p, q}, w};"), ["x", "z", "w"]);
    assert_eq!(parts("src/a/b.rs", "fn f() -> crate::Error { crate::x::y() }"), ["error", "x"]);
    assert_eq!(parts("src/a/b.rs", "use super::c; use super::super::x::y;"), ["x"]);
    assert_eq!(parts("src/a/mod.rs", "use super::x; mod c { use super::d; }"), ["x"]);
    assert_eq!(parts("src/a.rs", "mod c { use super::super::x; } use super::y;"), ["x", "y"]);
    assert_eq!(
        parts("src/a.rs", "// crate::x\n/// [`Y`](crate::Y)\nconst C: &str = \"crate::z\";"),
        [""; 0]
    );
    assert_eq!(parts("src/a.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use crate::x; }"), [""; 0]);
}

/// The tests that may have `unsafe` in them: they switch stacks, send signals, and do to descriptors and
/// processes what nobody should. In the library that is `src/sys/`, and DESIGN.md names its files.
const UNSAFE_TESTS: [&str; 8] = [
    "tests/forking/support.rs",
    "tests/forking/system.rs",
    "tests/it/checklist/construction/options.rs",
    "tests/it/checklist/handle_request.rs",
    "tests/it/checklist/serving.rs",
    "tests/it/checklist/streams/output.rs",
    "tests/it/coroutines.rs",
    "tests/support/system.rs",
];

#[test]
fn unsafe_code_stands_in_few_files() {
    let design = read("DESIGN.md");
    let mut wrong = Vec::new();
    for source in sources(&["src", "examples", "tests"], "rs") {
        let name = &*source.name;
        let Some(first) = words(&source.code, "unsafe").next() else { continue };
        if !name.starts_with("src/sys/") && !UNSAFE_TESTS.contains(&name) {
            wrong.push(format!("{name}:{}", line_of(&source.code, first)));
        }
        let is_named = design.contains(&format!("`{name}`"));
        assert!(
            is_named || !name.starts_with("src/"),
            "DESIGN.md does not say that {name} is unsafe"
        );
    }
    assert_none(&wrong, "unsafe code in files that may have none");
}

#[test]
fn unsafe_code_says_why_it_is_sound() {
    let mut wrong = Vec::new();
    for source in sources(&["src", "examples", "tests"], "rs") {
        let lines: Vec<&str> = source.text.lines().collect();
        for at in words(&source.code, "unsafe") {
            let line = line_of(&source.code, at);
            if !says_why(&lines[..line - 1]) {
                wrong.push(format!("{}:{line}", source.name));
            }
        }
    }
    assert_none(&wrong, "unsafe code without a SAFETY comment before it");
}

/// Whether a comment with the reason comes right before, possibly with the beginning of the statement in
/// between.
fn says_why(before: &[&str]) -> bool {
    let is_comment = |line: &&&str| line.trim_start().starts_with("//");
    let ends = |line: &str| line.trim().is_empty() || line.trim_end().ends_with([';', '{', '}']);
    let mut above = before.iter().rev().peekable();
    while above.next_if(|line| !is_comment(line) && !ends(line)).is_some() {}
    above.take_while(is_comment).any(|line| line.contains("SAFETY:") || line.contains("# Safety"))
}

#[test]
fn nothing_is_left_for_later() {
    // In pieces, so that they do not find themselves.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("todo", "!"),
        concat!("unimplemented", "!"),
        concat!("#[ig", "nore"),
    ];
    let mut files = sources(&["src", "examples", "tests"], "rs");
    files.extend(sources(&["docs", "examples", "tests"], "md"));
    files.extend(sources(&["examples", "tests"], "toml"));
    let mut wrong = Vec::new();
    for name in ["README.md", "DESIGN.md", "CHANGELOG.md", "Cargo.toml", ".ci/run"] {
        // What is packed for others lacks some of them.
        let Ok(text) = fs::read_to_string(root().join(name)) else { continue };
        files.push(Source { name: name.into(), text, code: String::new() });
    }
    for source in files {
        for (number, line) in source.text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                wrong.push(format!("{}:{}: {line}", source.name, number + 1));
            }
        }
    }
    assert_none(&wrong, "work that is left for later");
}

/// What each fuzz target does with an input stands in a `seeds.rs`, beside a folder of the inputs that `cargo test` replays
/// by it.
#[test]
fn every_fuzz_target_is_replayed() {
    // What is packed for others has no fuzzers.
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

/// Conditions that `let` is a part of: Rust 1.88, and ours is 1.85. The compiler in use may be newer.
fn let_chains(code: &str) -> Vec<usize> {
    let mut found: Vec<usize> = words(code, "let")
        .filter(|at| {
            let before = code[..*at].trim_end();
            before.ends_with("&&") || before.ends_with("||")
        })
        .collect();
    for keyword in ["if", "while"] {
        for at in words(code, keyword) {
            let condition = code[at + keyword.len()..].trim_start();
            if condition.starts_with("let ") && has_and(condition) {
                found.push(at);
            }
        }
    }
    found
}

/// Whether there is an `&&` between the `=` of this `let` and the block that follows.
fn has_and(condition: &str) -> bool {
    let bytes = condition.as_bytes();
    let (mut depth, mut value) = (0, false);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'{' if value && depth == 0 => return false,
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            b'=' if depth == 0 => value = true,
            b'&' if value && depth == 0 && bytes.get(at + 1) == Some(&b'&') => {
                // `&&x` at the beginning of a value is a reference to a reference.
                let before = condition[..at].trim_end();
                if !before.ends_with(['=', '&', '(', ',', '|']) {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

#[test]
fn conditions_are_those_of_the_oldest_compiler() {
    assert_eq!(let_chains("if let Some(x) = y && x { }").len(), 1);
    assert_eq!(let_chains("while let S { a } = f(|b| b && c) && d { }").len(), 1);
    assert_eq!(let_chains("if a\n&& let Some(b) = c { }").len(), 1);
    assert_eq!(let_chains("if let Some(x) = (a && b) { c && d }; let e = f && g;").len(), 0);
    let mut wrong = Vec::new();
    for source in sources(&["src", "examples", "tests"], "rs") {
        for at in let_chains(&source.code) {
            wrong.push(format!("{}:{}", source.name, line_of(&source.code, at)));
        }
    }
    assert_none(&wrong, "conditions that Rust 1.85 does not know");
}

const LONGEST_FILE: usize = 500;
const LONGEST_FUNCTION: usize = 70;

#[test]
fn files_and_functions_are_short() {
    let mut wrong = Vec::new();
    let mut files = sources(&["src", "examples"], "rs");
    files.retain(|source| !source.name.contains("/tests/"));
    for source in files {
        let code = without_tests(&source);
        let lines = code.lines().count();
        if lines > LONGEST_FILE && source.name.starts_with("src/") {
            wrong.push(format!("{}: {lines} lines before its tests", source.name));
        }
        for at in words(code, "fn") {
            // Types of functions have no name, and required methods no body.
            let name = first_names(&code[at + 2..]).remove(0);
            let end = if name.is_empty() { None } else { closing_brace(code, at) };
            let lines = end.map_or(0, |end| line_of(code, end) - line_of(code, at) + 1);
            if lines > LONGEST_FUNCTION {
                wrong.push(format!("{}: {name} has {lines} lines", source.name));
            }
        }
    }
    assert_none(&wrong, "too long to be read at once");
}

/// The rows of the checklist, and whether this version has them.
fn rows() -> Vec<(u32, bool)> {
    let text = read("tests/it/checklist/README.md");
    let mut rows = Vec::new();
    for line in text.lines() {
        let Some((number, text)) = line.split_once(". ") else { continue };
        let Ok(number) = number.parse::<u32>() else { continue };
        assert!(text.ends_with('.') && text.len() > 20, "row {number} is no sentence");
        rows.push((number, !text.starts_with("*Not in this version yet.* ")));
    }
    rows
}

#[test]
fn the_checklist_has_a_hundred_rows() {
    let numbers: Vec<u32> = rows().into_iter().map(|(row, _)| row).collect();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
}

#[test]
fn every_row_of_the_checklist_has_a_test() {
    let mut tested = BTreeSet::new();
    for source in sources(&["tests"], "rs") {
        // By name and not by `fn`: a macro may make them.
        for (at, _) in source.code.match_indices("row_") {
            if is_word(source.code.as_bytes()[at - 1]) {
                continue;
            }
            let name = &source.code[at + 4..];
            let number = name.split_once('_').and_then(|(number, _)| number.parse::<u32>().ok());
            tested.insert(number.unwrap_or_else(|| panic!("{}: row_{name:.20}", source.name)));
        }
    }
    let rows = rows();
    let listed = |row| rows.iter().any(|(number, _)| *number == row);
    let unknown: Vec<_> = tested.iter().filter(|row| !listed(**row)).collect();
    assert!(unknown.is_empty(), "tests of rows that do not exist: {unknown:?}");
    let (mut missing, mut early) = (Vec::new(), Vec::new());
    for (row, is_here) in rows {
        match (is_here, tested.contains(&row)) {
            (true, false) => missing.push(row),
            (false, true) => early.push(row),
            _ => {}
        }
    }
    assert!(missing.is_empty(), "rows without a test: {missing:?}");
    assert!(
        early.is_empty(),
        "rows that have a test already, and a mark that denies it: {early:?}"
    );
}

/// Python's socket object, as the guide goes through it.
const SOCKET_CALLS: [&str; 21] = [
    "socket",
    "bind",
    "listen",
    "accept",
    "connect",
    "connect_ex",
    "recv",
    "send",
    "sendall",
    "recvfrom",
    "sendto",
    "close",
    "getpeername",
    "getsockname",
    "setsockopt",
    "getsockopt",
    "settimeout",
    "gettimeout",
    "fileno",
    "setblocking",
    "makefile",
];

const GUIDES: [&str; 2] = ["docs/guide.md", "docs/guide.zh.md"];

/// The blocks of code in a text: the word at each fence, and the lines without those that are comments.
fn blocks(text: &str) -> Vec<(&str, Vec<&str>)> {
    let mut pieces = text.split("\n```");
    pieces.next();
    let mut found = Vec::new();
    while let (Some(block), Some(_prose)) = (pieces.next(), pieces.next()) {
        let mut lines = block.lines();
        let word = lines.next().unwrap_or_default();
        let comment = if word.starts_with("rust") { "//" } else { "# " };
        found.push((word, lines.filter(|line| !line.trim_start().starts_with(comment)).collect()));
    }
    found
}

#[test]
fn every_socket_call_has_a_row_in_the_guide_and_a_program_that_runs() {
    let mut wrong = Vec::new();
    for name in GUIDES {
        let text = read(name);
        for call in SOCKET_CALLS {
            let row = format!("| [`{call}(");
            if text.lines().filter(|line| line.starts_with(&row)).count() != 1 {
                wrong.push(format!("{name}: {call} has not one row"));
            }
            let section =
                text.split_once(&format!("\n### `{call}`\n")).map_or("", |(_, rest)| rest);
            let section = section.split("\n## ").next().unwrap_or_default();
            let section = section.split("\n### ").next().unwrap_or_default();
            let asserts = |lines: &[&str]| lines.iter().any(|line| line.contains("assert"));
            if !blocks(section).iter().any(|(word, lines)| *word == "rust" && asserts(lines)) {
                wrong.push(format!("{name}: {call} has no program that checks itself"));
            }
        }
    }
    assert_none(&wrong, "calls that the guide does not explain");
}

#[test]
fn the_guide_has_the_same_code_in_both_languages() {
    let [one, other] = GUIDES.map(read);
    let (one, other) = (blocks(&one), blocks(&other));
    assert!(one.len() > SOCKET_CALLS.len(), "the blocks were not understood");
    for (number, (one, other)) in one.iter().zip(&other).enumerate() {
        assert_eq!(one, other, "block {} of {GUIDES:?}", number + 1);
    }
    assert_eq!(one.len(), other.len(), "blocks of {GUIDES:?}");
}

/// What a project needs for a block of the guide, beside std; the guide has it added by `cargo add`.
const OF_THE_GUIDE: [&str; 2] = ["socketserver", "socket2"];

/// That each block compiles is for `cargo test --doc` to see, with all that this crate's tests have at hand. A reader's
/// project has only what the guide says.
#[test]
fn a_block_of_the_guide_is_a_program_that_needs_no_more_than_its_instructions_add() {
    let mut wrong = Vec::new();
    for name in GUIDES {
        let text = read(name);
        let blocks = blocks(&text);
        let (_, instructions) = blocks.first().expect("there are blocks");
        let added = |which: &&str| {
            let command = format!("cargo add {which}");
            instructions.iter().any(|line| line.split(" --").next() == Some(&command))
        };
        let added: Vec<&str> = OF_THE_GUIDE.into_iter().filter(added).collect();
        assert!(instructions.contains(&"cargo new mine && cd mine"), "{name}: {instructions:?}");
        assert_eq!(added, OF_THE_GUIDE, "{name}: {instructions:?}");
        for (number, (_, lines)) in
            blocks.iter().filter(|(word, _)| word.starts_with("rust")).enumerate()
        {
            if !lines.iter().any(|line| line.starts_with("fn main()")) {
                wrong.push(format!("{name}: program {} has no main", number + 1));
            }
            let used = lines.iter().filter_map(|line| line.trim_start().strip_prefix("use "));
            let roots = used.filter_map(|path| path.split([':', ';']).next());
            let others = roots.filter(|root| *root != "std" && !added.contains(root));
            wrong.extend(others.map(|root| format!("{name}: program {} needs {root}", number + 1)));
        }
    }
    assert_none(&wrong, "blocks that a reader's project cannot build");
}

/// A text without its blocks of code.
fn prose(text: &str) -> String {
    let mut in_code = false;
    let mut kept = String::new();
    for line in text.lines() {
        let is_fence = line.trim_start().starts_with("```");
        if !is_fence && !in_code {
            kept += line;
        }
        kept += "\n";
        in_code ^= is_fence;
    }
    kept
}

/// What a text links to, and in which line.
fn links(text: &str) -> Vec<(usize, String)> {
    let prose = prose(text);
    let links = prose.match_indices("](").filter_map(|(at, open)| {
        let target = prose[at + open.len()..].split(')').next()?;
        Some((line_of(&prose, at), target.split_whitespace().collect()))
    });
    links.collect()
}

/// What a heading is called in a link: small letters, without marks, with hyphens for blanks.
fn anchors(text: &str) -> BTreeSet<String> {
    let slug = |heading: &str| -> String {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    prose(text).lines().filter(|line| line.starts_with('#')).map(slug).collect()
}

/// Whether a link of this file leads somewhere. Names of the crate are for rustdoc to find, and other
/// places of the world cannot be looked into by a test.
fn leads_somewhere(file: &str, link: &str) -> bool {
    if link.starts_with("crate::") || link.starts_with("https://") || link.starts_with("http://") {
        return true;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let from = root().join(file);
    let target = if path.is_empty() { from } else { from.with_file_name("").join(path) };
    if anchor.is_empty() {
        return target.exists();
    }
    fs::read_to_string(target).is_ok_and(|text| anchors(&text).contains(anchor))
}

const TEXTS: [&str; 5] =
    ["README.md", "DESIGN.md", "CHANGELOG.md", "bench/README.md", "bench/WHERE-THE-TIME-GOES.md"];

#[test]
fn every_link_leads_somewhere() {
    let mut texts: Vec<(String, String)> =
        TEXTS.iter().map(|name| ((*name).to_owned(), read(name))).collect();
    texts.extend(
        sources(&["docs", "examples"], "md").into_iter().map(|source| (source.name, source.text)),
    );
    let mut wrong = Vec::new();
    let mut count = 0;
    for (name, text) in &texts {
        for (line, link) in links(text) {
            count += 1;
            if !leads_somewhere(name, &link) {
                wrong.push(format!("{name}:{line}: {link}"));
            }
        }
    }
    assert!(count > 100, "the links were not understood");
    assert_none(&wrong, "links that lead nowhere");
}

#[test]
fn a_link_that_leads_nowhere_is_noticed() {
    let text = "See [a](README.md), [b](no.md),\n```text\n[c](no.md)\n```\n[d](#no) and [e](docs/guide.md#socket).";
    let dead: Vec<_> =
        links(text).into_iter().filter(|(_, link)| !leads_somewhere("README.md", link)).collect();
    assert_eq!(dead, [(1, "no.md".to_owned()), (5, "#no".to_owned())]);
}

#[test]
fn the_changelog_knows_this_version() {
    let heading = format!("## {}", env!("CARGO_PKG_VERSION"));
    let found = read("CHANGELOG.md").lines().any(|line| line.split(" (").next() == Some(&heading));
    assert!(found, "CHANGELOG.md has no {heading:?}");
}
