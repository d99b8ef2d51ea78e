//! The table of CONTRIBUTING.md: which files it takes to add something.

use std::collections::BTreeSet;

use super::{Source, assert_none, code_of, read, root, sources, without_tests, words};

/// A row: what is added, and the files that each column names.
struct Row {
    what: String,
    columns: Vec<Vec<String>>,
}

impl Row {
    fn files(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().flatten().map(String::as_str)
    }
}

/// The rows that begin with what they add: a mixin, a hook ..
fn rows() -> Vec<Row> {
    let text = read("CONTRIBUTING.md");
    let of_line = |line: &str| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let what = cells.next()?.strip_prefix("a ")?.to_owned();
        // In a cell, every second piece between backticks is code.
        let files = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Some(Row { what, columns: cells.map(files).collect() })
    };
    text.lines().filter_map(of_line).collect()
}

fn row(what: &str) -> Row {
    let found = rows().into_iter().find(|row| row.what == what);
    found.unwrap_or_else(|| panic!("CONTRIBUTING.md has no row for a {what}"))
}

fn names(source: &Source, name: &str) -> bool {
    words(without_tests(source), name).next().is_some()
}

#[test]
fn the_files_that_contributors_are_sent_to_exist() {
    assert!(rows().len() >= 6, "the table was not understood");
    let mut wrong = Vec::new();
    for row in rows() {
        let files = row.files().filter(|file| file.contains('/') && !file.contains("NAME"));
        let missing = files.filter(|file| !root().join(file).exists() && *file != "tests/");
        wrong.extend(missing.map(|file| format!("a {}: {file}", row.what)));
    }
    assert_none(&wrong, "files that CONTRIBUTING.md names and that do not exist");
}

/// Fails if a name stands in files other than the table says, or is not tested there. `own` has each name, and the file
/// that it is written in.
fn is_named_only_where_the_table_says(what: &str, own: &[(&str, &str)]) {
    let row = row(what);
    let [_write, named, tested] = &row.columns[..] else { panic!("three columns: {what}") };
    let all = sources(&["src"], "rs");
    let mut wrong = Vec::new();
    for (name, file) in own {
        let expected: BTreeSet<&str> = named.iter().map(String::as_str).chain([*file]).collect();
        let found: BTreeSet<&str> =
            all.iter().filter(|source| names(source, name)).map(|source| &*source.name).collect();
        if found != expected {
            wrong.push(format!("{name}: {found:?} in place of {expected:?}"));
        }
        // A name may also be a part of a server's name. `Forking` is tested
        // elsewhere: its tests have a process of their own.
        let forked = |file: &str| *name == "Forking" && file == "tests/it/checklist/matrix/mod.rs";
        let untested = tested.iter().filter(|file| !forked(file) && !read(file).contains(name));
        wrong.extend(untested.map(|file| format!("{name} is not tested by {file}")));
    }
    assert_none(&wrong, "names in other files than CONTRIBUTING.md says");
}

#[test]
fn a_mixin_is_named_in_the_files_that_contributing_says() {
    is_named_only_where_the_table_says(
        "mixin",
        &[
            ("Threading", "src/mixin/threading.rs"),
            ("Pool", "src/mixin/pool.rs"),
            ("Forking", "src/mixin/forking/mod.rs"),
        ],
    );
}

#[test]
fn a_transport_is_named_in_the_files_that_contributing_says() {
    // The transports of Unix sockets are left out: std has types of the same names.
    let own = [("Tcp", "src/transport/tcp.rs"), ("Udp", "src/transport/udp.rs")];
    is_named_only_where_the_table_says("transport", &own);
}

/// The names of public fields or of a trait's methods, by how their lines begin.
fn declared(file: &str, from: &str, begin: &str, end: char) -> Vec<String> {
    let code = code_of(&read(file));
    let body = code.split_once(from).unwrap_or_else(|| panic!("{file} has no {from:?}")).1;
    let body = body.split("\n}").next().unwrap_or_default();
    let lines = body.lines().filter_map(|line| line.strip_prefix(begin)?.split(end).next());
    lines.map(str::to_owned).collect()
}

#[test]
fn a_limit_has_a_setter_and_is_kept_and_tested() {
    let limits = declared("src/limits.rs", "pub struct Limits {", "    pub ", ':');
    assert!(limits.len() > 10, "the limits were not understood: {limits:?}");
    let code = code_of(&read("src/limits.rs"));
    let (_, setters) = code.split_once("\nsetters! {").expect("the setters");
    let all = sources(&["src"], "rs");
    let tests = row("limit").columns.remove(2);
    let mut wrong = Vec::new();
    for limit in &limits {
        if !setters.contains(&format!("\n    {limit}(limit: ")) {
            wrong.push(format!("{limit} has no setter"));
        }
        let keepers = all.iter().filter(|source| source.name != "src/limits.rs");
        if !keepers.clone().any(|source| names(source, limit)) {
            wrong.push(format!("{limit} is kept by nothing"));
        }
        let untested =
            tests.iter().filter(|file| words(&code_of(&read(file)), limit).next().is_none());
        wrong.extend(untested.map(|file| format!("{limit} is not in {file}")));
    }
    assert_none(&wrong, "limits that lack a part");
}

#[test]
fn a_hook_is_called_and_tested() {
    let hooks = declared("src/server/hooks.rs", "pub trait ServerHooks", "    fn ", '(');
    assert!(hooks.len() > 10, "the hooks were not understood: {hooks:?}");
    let (server, tests) = (sources(&["src/server"], "rs"), sources(&["tests/it"], "rs"));
    let mut wrong = Vec::new();
    for hook in &hooks {
        let mut callers = server.iter().filter(|source| source.name != "src/server/hooks.rs");
        if !callers.any(|source| source.code.contains(&format!(".{hook}("))) {
            wrong.push(format!("{hook} is never called"));
        }
        if !tests.iter().any(|source| source.code.contains(&format!("fn {hook}("))) {
            wrong.push(format!("{hook} is overridden by no test"));
        }
    }
    assert_none(&wrong, "hooks that lack a part");
}

#[test]
fn an_example_or_a_program_is_listed_and_tested() {
    let (readme, tests) = (read("examples/README.md"), read("tests/examples.rs"));
    let members = read("Cargo.toml");
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let missing = if path.extension().is_some_and(|ending| ending == "rs") {
            !readme.contains(&format!("({name}.rs)")) || !tests.contains(&format!("\"{name}\""))
        } else if path.is_dir() && name != "common" {
            let member = format!("\"examples/{name}\"");
            !readme.contains(&format!("[`{name}`]({name})"))
                || !members.contains(&member)
                || !path.join("tests").is_dir()
        } else {
            continue;
        };
        count += 1;
        if missing {
            wrong.push(name.to_owned());
        }
    }
    assert!(count > 10, "the examples were not understood");
    assert_none(&wrong, "examples that are not listed, not built or not tested");
}
