//! [`Section`] and [`Block`]: the parts of a page.

use std::path::Path;

/// A part of a page under one heading `##`.
#[derive(Debug)]
pub struct Section {
    pub title: String,
    pub blocks: Vec<Block>,
}

/// A block of code.
#[derive(Debug)]
pub struct Block {
    /// The words after its fence.
    pub info: String,
    pub text: String,
}

impl Block {
    /// The name of the file, if the block is one.
    pub fn file(&self) -> Option<&str> {
        self.info.split_once(" file ").map(|(_, name)| name)
    }

    /// Whether its commands are run.
    pub fn runs(&self) -> bool {
        self.info == "sh run"
    }
}

impl Section {
    /// The files of its folder.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.blocks.iter().filter_map(|block| Some((block.file()?, &*block.text)))
    }
}

/// The text of a file of the repository.
pub fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The sections of a page. The part before the first heading has no title.
pub fn sections(text: &str) -> Vec<Section> {
    let mut sections = vec![Section { title: String::new(), blocks: Vec::new() }];
    let mut block: Option<Block> = None;
    for line in text.lines() {
        let section = sections.last_mut().unwrap();
        match (&mut block, line.strip_prefix("```")) {
            (Some(_), Some(_)) => section.blocks.extend(block.take()),
            (Some(block), None) => {
                block.text += line;
                block.text += "\n";
            }
            (None, Some(info)) => {
                block = Some(Block { info: info.to_owned(), text: String::new() });
            }
            (None, None) => {
                if let Some(title) = line.strip_prefix("## ") {
                    sections.push(Section { title: title.to_owned(), blocks: Vec::new() });
                }
            }
        }
    }
    assert!(block.is_none(), "a block of code has no end");
    sections
}

/// The sections of the page in English.
pub fn english() -> Vec<Section> {
    sections(&read("docs/operations.md"))
}

#[test]
fn a_page_is_cut_at_its_headings_and_fences() {
    let page =
        "# A\n```sh\nx\n```\n## B\ntext\n```ini file b.cfg\n## c\n\n[d]\n```\n```sh run\nls\n```\n";
    let [start, b] = &*sections(page) else { panic!("two sections") };
    assert_eq!((&*start.title, start.blocks.len()), ("", 1));
    assert_eq!((&*b.title, b.blocks.len()), ("B", 2));
    assert_eq!(b.files().collect::<Vec<_>>(), [("b.cfg", "## c\n\n[d]\n")]);
    assert!(b.blocks[1].runs() && !start.blocks[0].runs());
}
