//! The table of all limits: each of them, with its default, its unit and its option, in both languages.

use std::path::Path;

use socketserver::Limits;
use test_support::program::{Program, built};

use crate::page::read;

/// A row: the cells of one limit, without their ornaments.
type Row = Vec<String>;

/// The rows of the table that has the limits of this page, under its heading.
fn rows(path: &str, heading: &str) -> Vec<Row> {
    let page = read(path);
    let section = page.split(&format!("\n## {heading}\n")).nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let cells = |line: &str| -> Row {
        let inner = line.trim_start_matches('|').trim_end_matches('|');
        inner.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    section.lines().filter(|line| line.starts_with("| `")).map(cells).collect()
}

fn english() -> Vec<Row> {
    rows("docs/operations.md", "All limits")
}

#[test]
fn the_table_has_each_limit_with_its_default_and_its_unit() {
    let rows = english();
    let names: Vec<_> = rows.iter().map(|row| &*row[0]).collect();
    assert_eq!(names, Limits::NAMES);
    let defaults = Limits::default();
    for row in &rows {
        let [name, default, unit, _, effect] = &row[..] else { panic!("five cells: {row:?}") };
        let mut limits = defaults;
        limits.set(name, default).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(limits.get(name), defaults.get(name), "the default of {name}");
        let allowed = limits.set(name, "?").expect_err("it has no such value").to_string();
        let kind = allowed.split("it takes ").nth(1).expect("what it takes");
        let expected = match kind.split([' ', ',']).take(4).collect::<Vec<_>>()[..] {
            ["a", "number", "of", "requests"] => "requests",
            ["a", "number", "of", "bytes"] => "bytes",
            ["seconds", ..] => "time",
            ["requests", "each", ..] => "requests/s",
            _ => panic!("{kind}"),
        };
        assert_eq!(unit, expected, "the unit of {name}");
        assert!(!effect.is_empty(), "{name}");
    }
}

#[test]
fn the_options_of_the_table_are_those_of_the_programs_and_change_their_limits() {
    let web = built(Path::new("web"), "cargo build --bins");
    let help = Program(web.to_str().unwrap()).run(&["serve", "--help"]).out;
    let with_option = english().into_iter().filter(|row| !row[3].is_empty());
    let options: Vec<_> = with_option.map(|row| row[3].clone()).collect();
    assert_eq!(options.len(), 5, "{options:?}");
    for option in options {
        assert!(help.contains(&format!("{option} <")), "{option} is no option of web");
    }
}

#[test]
fn both_languages_have_the_same_limits_defaults_and_options() {
    let (one, other) = (english(), rows("docs/operations.zh.md", "全部限制"));
    let facts = |rows: &[Row]| -> Vec<[String; 3]> {
        rows.iter().map(|row| [0, 1, 3].map(|at| row[at].clone())).collect()
    };
    assert_eq!(facts(&one), facts(&other));
    assert!(other.iter().all(|row| !row[2].is_empty() && !row[4].is_empty()));
}
