//! Imports point down only: DESIGN.md, section 6.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Source, assert_none, closing_brace, code_of, line_of, read, sources, without_tests, words,
};

/// Each part of the library, with the parts that it may use. They stand above it in this list.
const LAYERS: &[(&str, &[&str])] = &[
    ("process", &[]),
    ("on_drop", &[]),
    ("panic_payload", &[]),
    ("run_phase", &[]),
    ("named_enum", &[]),
    ("peer_fault", &[]),
    ("sys", &["panic_payload", "process"]),
    ("console", &["sys"]),
    ("wait", &["on_drop", "panic_payload", "peer_fault", "process", "sys"]),
    ("park", &["wait"]),
    ("write_stall", &["sys", "wait"]),
    ("socket_io", &["write_stall", "sys", "wait"]),
    ("limits", &[]),
    ("lingering_close", &["limits", "socket_io", "sys", "wait"]),
    ("error", &["peer_fault"]),
    ("timed_out", &["named_enum", "peer_fault"]),
    ("address", &[]),
    ("bind_address", &["address", "error"]),
    ("refused", &[]),
    ("proxy_protocol", &["address", "error"]),
    ("events", &["named_enum", "timed_out", "address", "error", "refused", "run_phase"]),
    ("figures", &[]),
    ("gate", &["limits", "sys", "wait"]),
    (
        "live",
        &[
            "timed_out",
            "address",
            "events",
            "peer_fault",
            "proxy_protocol",
            "limits",
            "sys",
            "wait",
        ],
    ),
    ("idle_reaper", &["live"]),
    ("shutdown", &["error", "wait", "run_phase"]),
    ("systemd", &["console", "process"]),
    ("service_group", &["shutdown", "sys", "systemd"]),
    (
        "outgoing",
        &["bind_address", "address", "error", "live", "socket_io", "sys", "wait", "write_stall"],
    ),
    (
        "server_context",
        &[
            "address",
            "error",
            "events",
            "figures",
            "gate",
            "limits",
            "live",
            "process",
            "service_group",
            "run_phase",
            "shutdown",
            "sys",
            "idle_reaper",
        ],
    ),
    (
        "request",
        &[
            "timed_out",
            "address",
            "server_context",
            "error",
            "events",
            "peer_fault",
            "proxy_protocol",
            "limits",
            "lingering_close",
            "live",
            "outgoing",
            "process",
            "socket_io",
            "shutdown",
            "write_stall",
            "sys",
            "wait",
        ],
    ),
    ("handler", &["error", "request", "sys"]),
    (
        "mixin",
        &[
            "address",
            "console",
            "error",
            "events",
            "figures",
            "gate",
            "on_drop",
            "panic_payload",
            "process",
            "refused",
            "sys",
            "wait",
        ],
    ),
    (
        "transport",
        &["bind_address", "address", "error", "limits", "process", "request", "sys", "wait"],
    ),
    ("tls", &["error", "events", "limits", "live", "peer_fault", "request", "sys"]),
    // The one part that knows all of them.
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

/// `a::b` is `a`; `{a::b, c::{d, e}}` are `a` and `c`.
pub fn first_names(path: &str) -> Vec<String> {
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

/// For each name that lib.rs exports, the part that it comes from: `crate::Error` is a use of `error`.
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
