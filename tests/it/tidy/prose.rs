//! Comments and documents: sentences begin with a noun, and DESIGN.md knows every file.

use std::collections::BTreeSet;

use super::{assert_none, read, sources};

/// Words that begin a clause in the place of a subject, and make a sentence that has to be read twice.
const CLAUSES: [&str; 6] = ["Who ", "Whoever ", "Whose ", "What ", "Whatever ", "Whom "];

/// The sentences of the comments, with the line in which each comment begins. Lines of one comment are one text.
fn sentences(text: &str) -> Vec<(usize, String)> {
    let mut comments: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in text.lines().enumerate() {
        let comment = line
            .trim_start()
            .strip_prefix("//")
            .map(|rest| rest.trim_start_matches(['/', '!']).trim());
        match comment {
            Some("") | None => goes_on = false,
            Some(more) if goes_on => {
                let (_, comment) = comments.last_mut().unwrap();
                *comment += " ";
                *comment += more;
            }
            Some(first) => {
                comments.push((number + 1, first.to_owned()));
                goes_on = true;
            }
        }
    }
    let ends = [". ", "? ", "! ", ": ", "; "];
    let cut = |(number, comment): (usize, String)| {
        let mut rest = &*comment;
        let mut found = Vec::new();
        while let Some(end) = ends.iter().filter_map(|end| rest.find(end)).min() {
            found.push((number, rest[..=end].to_owned()));
            rest = rest[end + 1..].trim_start();
        }
        found.push((number, rest.to_owned()));
        found
    };
    comments.into_iter().flat_map(cut).collect()
}

#[test]
fn no_sentence_has_a_clause_for_its_subject() {
    let mut found = Vec::new();
    for source in sources(&["src", "examples", "tests", "bench"], "rs") {
        for (line, sentence) in sentences(&source.text) {
            if CLAUSES.iter().any(|word| sentence.starts_with(word)) && !sentence.ends_with('?') {
                found.push(format!("{}:{line}: {sentence}", source.name));
            }
        }
    }
    assert_none(&found, "sentences that begin with a clause");
}

#[test]
fn a_sentence_with_a_clause_for_its_subject_is_noticed() {
    let text = "/// A noun. What comes\n/// next is a clause.\nlet x = 1;\n// Who asks?\n";
    let found: Vec<_> =
        sentences(text).into_iter().map(|(line, text)| format!("{line} {text}")).collect();
    assert_eq!(found, ["1 A noun.", "1 What comes next is a clause.", "4 Who asks?"]);
}

#[test]
fn the_tree_of_the_design_names_every_file_of_the_library() {
    let design = read("DESIGN.md");
    let (_, tree) = design.split_once("### The tree").expect("DESIGN.md has the tree");
    let tree = &tree[..tree.find("\n## ").unwrap()];
    let named: BTreeSet<_> = tree
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(file, _)| format!("src/{file}"))
        .collect();
    let there: BTreeSet<_> =
        sources(&["src"], "rs").into_iter().map(|source| source.name).collect();
    let wrong: Vec<_> = named.symmetric_difference(&there).cloned().collect();
    assert_none(&wrong, "files that are in the tree of DESIGN.md or in src/, and not in both");
}
