//! The units of the page are read by systemd.

use std::path::Path;
use std::process::Command;

use test_support::program::built;
use test_support::{folder, skip_if};

use crate::page::{Section, english};

fn no_systemd() -> Option<&'static str> {
    let there = Command::new("systemd-analyze").arg("--version").output().is_ok();
    (!there).then_some("systemd-analyze is not installed")
}

#[test]
fn systemd_finds_no_fault_in_a_unit() {
    if skip_if(no_systemd()) {
        return;
    }
    let (folder, sections) = (folder(), english());
    let web = built(Path::new("web"), "cargo build --bins");
    let units = sections.iter().flat_map(Section::files);
    let is_unit = |name: &str| [".service", ".socket"].iter().any(|ending| name.ends_with(ending));
    let mut paths = Vec::new();
    for (name, text) in units.filter(|(name, _)| is_unit(name)) {
        let path = folder.path().join(name);
        // The program is not installed here.
        let text = text.replace("/usr/local/bin/web", web.to_str().unwrap());
        std::fs::write(&path, text).unwrap();
        paths.push(path);
    }
    assert!(!paths.is_empty(), "the page has no unit");
    let verified = Command::new("timeout")
        .args(["60", "systemd-analyze", "verify", "--man=no"])
        .args(&paths)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    // The checker looks at all units of the machine that ours name.
    let ours: Vec<_> =
        said.lines().filter(|line| line.contains(folder.path().to_str().unwrap())).collect();
    assert!(verified.status.success() && ours.is_empty(), "{said}");
}
