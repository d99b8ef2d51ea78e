//! The hundred rows of the checklist and their tests.

use std::collections::{BTreeMap, BTreeSet};

use super::{is_word, read, sources};

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
        // Tests are found by name and not by `fn`, because a macro may make them.
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

/// The tests that are left out under `Green`, by their reasons, as the page of the checklist lists them.
fn left_out_under_green() -> String {
    const MARK: &str = "#[cfg_attr(under_green, ignore = \"";
    let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources(&["tests/it"], "rs") {
        let module = source.name.trim_start_matches("tests/it/").trim_end_matches(".rs");
        let module = module.trim_end_matches("/mod").replace('/', "::");
        for (at, _) in source.text.match_indices(MARK).filter(|_| !module.starts_with("tidy")) {
            let rest = &source.text[at + MARK.len()..];
            let (reason, rest) = rest.split_once("\")]").expect("an attribute ends");
            let (_, name) = rest.split_once("fn ").expect("a test is a function");
            let name = name.split('(').next().expect("a function has a name");
            by_reason.entry(reason.to_owned()).or_default().push(format!("`{module}::{name}`"));
        }
    }
    let mut text = String::new();
    for (reason, tests) in by_reason {
        text += &format!("\n{}{}:\n\n", reason[..1].to_uppercase(), &reason[1..]);
        tests.iter().for_each(|test| text += &format!("- {test}\n"));
    }
    text
}

#[test]
fn the_tests_that_are_left_out_under_green_are_listed_with_their_reasons() {
    let page = read("tests/it/checklist/README.md");
    let (_, listed) = page.split_once("<!-- left out -->\n").expect("there is a list");
    let found = left_out_under_green();
    assert!(listed == found, "tests/it/checklist/README.md has to list:\n{found}");
}
