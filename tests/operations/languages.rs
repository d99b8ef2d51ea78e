//! Both languages of the page have the same code and files.

use crate::page::{read, sections};

#[test]
fn both_languages_have_the_same_blocks_but_for_comments() {
    let [one, other] =
        ["docs/operations.md", "docs/operations.zh.md"].map(|path| sections(&read(path)));
    assert_eq!(one.len(), other.len(), "sections");
    let code = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with(['#', '/']));
        lines
            .map(|line| line.split("  # ").next().unwrap_or_default().trim_end().to_owned())
            .collect()
    };
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(one.blocks.len(), other.blocks.len(), "blocks of {:?}", one.title);
        for (left, right) in one.blocks.iter().zip(&other.blocks) {
            assert_eq!(left.info, right.info, "in {:?}", one.title);
            assert_eq!(code(&left.text), code(&right.text), "in {:?}", one.title);
        }
    }
}

/// The block is a part of the program that a test of its own starts and stops.
#[test]
fn the_end_of_the_program_with_tokio_is_as_the_page_shows_it() {
    let program = read("examples/with-tokio/src/main.rs");
    let sections = sections(&read("docs/operations.md"));
    let blocks = sections.iter().flat_map(|section| &section.blocks);
    let shown: Vec<_> = blocks.filter(|block| block.text.contains("tokio::select!")).collect();
    assert!(!shown.is_empty() && shown.iter().all(|block| program.contains(&block.text)));
}
