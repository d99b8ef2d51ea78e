//! The units of `docs/systemd`, as systemd's own checker reads them.

use std::path::Path;
use std::process::Command;

use crate::support::skip;

#[test]
#[cfg_attr(under_green, ignore = "it runs no server")]
fn the_units_of_the_documentation_are_understood() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/systemd");
    let units = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_unit = |path: &std::path::PathBuf| {
        path.extension().is_some_and(|kind| kind == "service" || kind == "socket")
    };
    let units: Vec<_> = units.filter(is_unit).collect();
    assert_eq!(units.len(), 4);
    let checked = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(units).output();
    let Ok(checked) = checked else { return skip("there is no systemd-analyze") };
    let said = String::from_utf8(checked.stderr).unwrap();
    // The programs are not installed here.
    let wrong: Vec<_> =
        said.lines().filter(|line| !line.contains("is not executable: No such file")).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
