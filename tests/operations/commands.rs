//! The commands of each section run, and print what the page says.

use std::process::Command;
use std::thread;

use test_support::skip_if;

use crate::page::{Block, Section, english};
use crate::session::run;

/// The tools that commands of the page need, besides the programs.
const TOOLS: [&str; 7] =
    ["curl", "haproxy", "nc", "openssl", "redis-cli", "redis-server", "systemd-socket-activate"];

/// The tool that a section needs and that this machine does not have.
fn lacks(section: &Section) -> Option<String> {
    let runs = section.blocks.iter().filter(|block| block.runs());
    let words: Vec<_> = runs.flat_map(|block| block.text.split_whitespace()).collect();
    let missing = |tool: &&str| {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool} >&2")]).output();
        !found.is_ok_and(|found| found.status.success())
    };
    let tool = TOOLS.into_iter().filter(|tool| words.contains(tool)).find(missing);
    tool.map(|tool| format!("{tool} is not installed"))
}

#[test]
fn the_commands_of_each_section_run() {
    let sections = english();
    let runnable = sections.iter().filter(|section| section.blocks.iter().any(Block::runs));
    let runnable: Vec<_> = runnable.filter(|section| !skip_if(lacks(section))).collect();
    let failed: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (runnable.iter().enumerate())
            .map(|(number, section)| {
                scope.spawn(move || {
                    let result = run(section, &format!("127.0.0.{}", 101 + number));
                    result.err().map(|error| format!("## {}\n{error}", section.title))
                })
            })
            .collect();
        running.into_iter().filter_map(|running| running.join().expect("a result")).collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
