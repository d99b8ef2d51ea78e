//! The listing in a real browser. Headless Chromium runs a page of the test, which looks at the listing through frames and
//! reports what it has found.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use test_support::{folder, skip};

/// A page that looks at the listing in `list/` and puts what it finds into its own body.
const LOOK: &str = include_str!("look.html");

/// The name of a file that would run a script if it were not shown as text.
const EVIL: &str = "<img src=x onerror=parent.document.title='ran'>.txt";

pub(super) fn chromium() -> Option<&'static str> {
    let is_there = |name: &&str| Command::new(name).arg("--version").output().is_ok();
    let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(is_there);
    if found.is_none() {
        skip("chromium is not installed");
    }
    found
}

/// Loads a page, and returns it as it is after its scripts have run.
pub(super) fn dump(browser: &str, url: &str, options: &[&str]) -> String {
    let profile = folder();
    let mut command = headless(browser, &profile);
    command.args(["--virtual-time-budget=20000", "--dump-dom"]).args(options).arg(url);
    let ended = Process::start(&mut command).end_within(Duration::from_secs(120));
    assert_ends(&ended, 0);
    ended.out
}

/// The command of a browser without a window, which shares nothing with other tests.
pub(super) fn headless(browser: &str, profile: &tempfile::TempDir) -> Command {
    let mut command = Command::new(browser);
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg("--disable-dev-shm-usage")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

fn fill(path: &Path) {
    let list = path.join("list");
    fs::create_dir_all(list.join("folder")).unwrap();
    fs::write(path.join("look.html"), LOOK).unwrap();
    fs::write(list.join("b.txt"), "x".repeat(3_000_000)).unwrap();
    fs::write(list.join("a.txt"), "x".repeat(10)).unwrap();
    fs::write(list.join("0123456789".repeat(20)), "").unwrap();
    fs::write(list.join(EVIL), "").unwrap();
}

#[test]
fn a_listing_is_good_to_look_at_in_a_browser() {
    let Some(browser) = chromium() else { return };
    let folder = folder();
    fill(folder.path());
    let (_server, address) = web(&["--dir", folder.path().to_str().unwrap()]);
    let url = format!("http://{address}/look.html");
    let mut backs = Vec::new();
    for scheme in ["1", "0"] {
        let dom =
            dump(browser, &url, &[&format!("--blink-settings=preferredColorScheme={scheme}")]);
        assert!(dom.contains("<title>looked</title>"), "a name has run, or nothing has: {dom}");
        let found = |name: &str| -> String {
            let start = format!("<dt>{name}</dt><dd>");
            let at = dom.find(&start).unwrap_or_else(|| panic!("{name} is not in {dom}"));
            dom[at + start.len()..].split('<').next().unwrap().to_owned()
        };
        let number = |name: &str| -> f64 { found(name).parse().unwrap() };
        for width in ["320", "390", "1200"] {
            assert_eq!(
                found(&format!("overflow at {width}")),
                "0",
                "it has to be scrolled sideways"
            );
        }
        assert_eq!(number("rows"), 6.0);
        // WCAG demands this contrast of text.
        assert!(number("contrast of links") >= 4.5);
        assert!(number("contrast of headings") >= 4.5);
        assert!(number("contrast of details") >= 4.5);
        assert!(number("lowest link on a phone") >= 24.0, "too low for a finger");
        assert_eq!(found("focus is shown"), "true");
        assert_eq!(found("links reached by the keyboard"), "true");
        assert_eq!(found("first file after a click on Size"), "b.txt");
        assert_eq!(found("sorted after a click on Size"), "descending");
        assert_eq!(found("first file after a second click"), "0123456789".repeat(20));
        assert_eq!(found("sorted after a second click"), "ascending");
        backs.push(found("background"));
    }
    assert_ne!(backs[0], backs[1], "in the dark it looks as in the light");
}

#[test]
fn a_listing_is_sorted_in_a_browser_by_its_address_alone() {
    let Some(browser) = chromium() else { return };
    let folder = folder();
    fill(folder.path());
    let (_server, address) = web(&["--dir", folder.path().to_str().unwrap()]);
    let target = "/list/?sort=size&order=desc";
    // The listing has no script, and the browser would not run one.
    let answer = get(address, target, "");
    assert!(answer.header("Content-Security-Policy").unwrap().starts_with("default-src 'none';"));
    assert!(!answer.text().contains("<script"));
    let dom = dump(browser, &format!("http://{address}{target}"), &[]);
    let place = |name: &str| dom.find(name).unwrap_or_else(|| panic!("{name} is not in {dom}"));
    assert!(place("folder/") < place("b.txt") && place("b.txt") < place("a.txt"));
    assert!(dom.contains("aria-sort=\"descending\""));
}
