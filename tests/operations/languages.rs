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
