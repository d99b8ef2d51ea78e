//! Unsafe code, conditions of the oldest compiler, sizes, and marks of unfinished work.

use std::collections::BTreeMap;
use std::fs;

use super::layers::first_names;
use super::{
    Source, assert_none, closing_brace, line_of, read, root, sources, without_tests, words,
};

/// The tests that may contain `unsafe`: they switch stacks, count memory, send signals, make taps, and break descriptors
/// and processes on purpose. In the library it is `src/sys/`, whose files DESIGN.md names.
const UNSAFE_TESTS: [&str; 12] = [
    "tests/forking/support.rs",
    "tests/forking/system.rs",
    "tests/it/checklist/construction/options.rs",
    "tests/it/checklist/handle_request.rs",
    "tests/it/checklist/serving.rs",
    "tests/it/checklist/streams/output.rs",
    "tests/it/coroutines.rs",
    "tests/it/forks.rs",
    "tests/it/green/forks.rs",
    "tests/room/tap.rs",
    "tests/soak/heap.rs",
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
    // The marks are split here, so that this test does not find them in its own file.
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
        // The package of the crate lacks some of these files.
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

/// Finds conditions with a `let` and an `&&`: they need Rust 1.88, and our oldest compiler is 1.85. The one in use may be
/// newer.
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

/// The most lines of a file, not counting tests.
const LONGEST_FILE: usize = 450;

/// The most lines of a function, in the library and in the programs.
const LONGEST_FUNCTION: usize = 60;

#[test]
fn files_and_functions_are_short() {
    let mut wrong = Vec::new();
    let mut files = sources(&["src", "examples", "tests/support"], "rs");
    files
        .retain(|source| !source.name.starts_with("examples/") || !source.name.contains("/tests/"));
    for source in files {
        let code = without_tests(&source);
        let lines = code.lines().count();
        if lines > LONGEST_FILE {
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

/// The name of the type that begins on this line. An associated type is indented, and does not count.
fn declared_type(line: &str) -> Option<&str> {
    let item =
        line.strip_prefix("pub").map_or(line, |rest| rest.split_once(' ').unwrap_or_default().1);
    let kinds = ["struct ", "enum ", "union ", "trait ", "type "];
    let name = kinds.iter().find_map(|kind| item.strip_prefix(kind))?;
    name.split(|letter: char| !letter.is_alphanumeric()).next()
}

#[test]
fn no_type_has_the_name_of_another() {
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources(&["src"], "rs") {
        // Such a file is compiled in place of another one with types of the same names: portable code for that of a system,
        // or no spans for spans.
        let stands_in = source.name.contains("/portable/") || source.name.contains("/no_");
        if stands_in || source.name.contains("tests") {
            continue;
        }
        for name in without_tests(&source).lines().filter_map(declared_type) {
            files.entry(name.to_owned()).or_default().push(source.name.clone());
        }
    }
    assert!(files.len() > 300, "declarations are found: {}", files.len());
    let twice: Vec<_> = files
        .iter()
        .filter(|(_, files)| files.len() > 1)
        .map(|(name, files)| format!("{name}: {}", files.join(", ")))
        .collect();
    assert_none(&twice, "type names that the library has twice");
}

/// The lines of a function without its comments.
fn lines_of<'a>(text: &'a str, function: &str) -> Vec<&'a str> {
    let body = &text[text.find(function).expect("the function is there")..];
    let body = &body[..body.find("\n}\n").expect("it ends")];
    body.lines().map(str::trim).filter(|line| !line.starts_with("//")).collect()
}

#[test]
fn the_programs_read_host_and_port_as_the_library_does() {
    let files = ["src/bind_address.rs", "examples/common/src/endpoint.rs"].map(read);
    let [library, programs] = files.each_ref().map(|text| lines_of(text, "fn host_and_port("));
    assert_eq!(programs, library);
}
