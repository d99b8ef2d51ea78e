//! Threads and pools of them: rows 54 to 67.

mod close;
mod failures;
mod limits;
mod threads;

/// Says why a test cannot run here, which is an error where nothing may be left out.
fn skipped(why: &str) {
    assert!(std::env::var_os("SOCKETSERVER_NO_SKIP").is_none_or(|set| set != "1"), "{why}");
    println!("skipped: {why}");
}
