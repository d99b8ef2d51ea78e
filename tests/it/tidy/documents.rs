//! Guides, links and the changelog.

use std::collections::BTreeSet;
use std::fs;

use super::{assert_none, line_of, read, root, sources};

/// The calls of Python's socket object that the guide goes through.
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

/// The crates that the guide's programs need; the guide adds them by `cargo add`.
const OF_THE_GUIDE: [&str; 2] = ["socketserver", "socket2"];

/// Fails if a program of the guide has no `main`, or uses a crate that the guide does not name: a reader's project has
/// no others. (`cargo test --doc` compiles the blocks with all that this crate's tests have at hand.)
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

/// The links of a text, with their lines.
fn links(text: &str) -> Vec<(usize, String)> {
    let prose = prose(text);
    let links = prose.match_indices("](").filter_map(|(at, open)| {
        let target = prose[at + open.len()..].split(')').next()?;
        Some((line_of(&prose, at), target.split_whitespace().collect()))
    });
    links.collect()
}

/// The anchors of a text's headings: small letters, without marks, with hyphens for blanks.
fn anchors(text: &str) -> BTreeSet<String> {
    let slug = |heading: &str| -> String {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    prose(text).lines().filter(|line| line.starts_with('#')).map(slug).collect()
}

/// Whether a link of this file leads somewhere. rustdoc checks names of the crate, and a test cannot check addresses on the
/// internet.
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
